"""Whether a program starts on this machine, and what it says of itself then."""

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
    argv = [str(program), *(["--home", home] if home else []), "version", "--json"]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as e:
        raise _does_not_start(e.strerror or str(e)) from e
    try:
        out, err = process.communicate(timeout=SECONDS)
    except BaseException as e:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(e, subprocess.TimeoutExpired):
            raise _does_not_start(f"it did not answer within {SECONDS:.0f} seconds") from None
        raise
    lines = err.decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise _does_not_start(lines[0] if lines else f"exit status {process.returncode}")
    try:
        said = json.loads(out)
        version, schema = said["version"], said.get("schema")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _does_not_start("it does not say its version") from None
    return Answer(str(version), schema if isinstance(schema, int) else None)


def _does_not_start(why: str) -> UserError:
    why = why.removeprefix("nanoclaw: error: ")
    return UserError(f"it does not start on this machine: {why[:300]}", "nothing was changed: the old one goes on")
