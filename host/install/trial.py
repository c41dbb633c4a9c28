"""Whether a program starts on this machine, and what it says of itself then; and having it write what comes along."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.errors import UserError

SECONDS: Final = 120.0
"""A first start unpacks itself: a second on a PC, and far more on a Pi's card that is busy."""


@dataclass(frozen=True)
class Answer:
    version: str
    schema: int | None
    """Of the database, the last that it knows; None if it does not tell."""


def start(program: Path, home: str | None) -> Answer:
    """Run `version --json`. It is our own program by now: its signature was checked."""
    try:
        out = _run(program, home, "version", "--json")
    except _FailedError as e:
        raise _does_not_start(str(e)) from None
    try:
        said = json.loads(out)
        version, schema = said["version"], said.get("schema")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _does_not_start("it does not say its version") from None
    return Answer(str(version), schema if isinstance(schema, int) else None)


def refreshed(program: Path, home: str | None) -> str:
    """Have an installed program write its own completions and man page; why it did not, or empty. Only it has their
    texts. Who calls does not hold the program's place, which `install` takes."""
    try:
        _run(program, home, "install", "--to", str(program.parent), "--json")
    except _FailedError as e:
        return str(e)
    return ""


class _FailedError(Exception):
    """It did not do what it was started for; why, in a line."""


def _run(program: Path, home: str | None, *args: str) -> bytes:
    argv = [str(program), *(["--home", home] if home else []), *args]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as e:
        raise _FailedError(e.strerror or str(e)) from e
    try:
        out, err = process.communicate(timeout=SECONDS)
    except BaseException as e:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(e, subprocess.TimeoutExpired):
            raise _FailedError(f"it did not answer within {SECONDS:.0f} seconds") from None
        raise
    if process.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines()
        raise _FailedError((lines[0] if lines else f"exit status {process.returncode}")[:300])
    return out


def _does_not_start(why: str) -> UserError:
    why = why.removeprefix("nanoclaw: error: ")
    return UserError(f"it does not start on this machine: {why[:300]}", "nothing was changed: the old one goes on")
