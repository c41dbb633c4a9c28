"""Runs the product as a person does: a process, its arguments, what it prints, how it exits."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[2]
SOURCE: Final = (sys.executable, str(ROOT / "nanoclaw.py"))
"""NanoClaw as this tree has it; a built file is another program."""
SECONDS = 120


def environment(**more: str) -> dict[str, str]:
    """The test's own environment without anything that would change what the product does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "NANOCLAW_"))}
    return {**kept, "NO_COLOR": "1", **more}


def command(home: Path, engine: str, *args: str, program: Sequence[str] = SOURCE) -> list[str]:
    return [*program, "--home", str(home), "--engine", engine, *args]


def nanoclaw(
    home: Path, engine: str, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None, seconds: int = SECONDS,
    program: Sequence[str] = SOURCE,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    argv = command(home, engine, *args, program=program)
    given = env or environment()
    done = subprocess.run(argv, input=stdin, env=given, capture_output=True, timeout=seconds, check=False)
    out, err = (stream.decode("utf-8", "backslashreplace") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@contextlib.contextmanager
def running(home: Path, engine: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A host in the background that answers `status`; stopped at the end."""
    process = subprocess.Popen(
        command(home, engine, *args, "run"), env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: process.poll() is not None or (home / "data" / "host.sock").exists())
        assert process.poll() is None, "the host did not start"
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Look until it is so. Used only where what changes is another process's state, which sends no event."""
    end = time.monotonic() + seconds
    code = inspect.unwrap(condition).__code__
    line, place = code.co_firstlineno, Path(code.co_filename).name
    while not condition():
        assert time.monotonic() < end, f"it did not happen in time: line {line} of {place}"
        time.sleep(0.02)


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    """What is on disk, read beside whatever runs."""
    with contextlib.closing(sqlite3.connect(f"file:{home}/data/nanoclaw.db?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(query).fetchall()


def reply_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(done.stdout)
    return record


class Terminal:
    """A person at a pseudo-terminal."""

    def __init__(self, *argv: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, environment(TERM="xterm"))
        self.seen = self.all = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, pattern: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            more = os.read(self._fd, 65536).decode("utf-8", "replace")
            self.seen += more
            self.all += more
        self.seen = self.seen[re.search(pattern, self.seen).end() :]  # type: ignore[union-attr]

    def wait(self) -> int:
        end = time.monotonic() + 60
        while True:  # reading on, so that it never blocks on a full terminal
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, "it does not leave"
            try:
                if not os.read(self._fd, 65536):
                    break
            except OSError:  # Linux says EIO when the last writer has gone
                break
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


# --- commands that need no engine ------------------------------------------------------------------------------

BARE = environment(PATH="/nonexistent")
"""Where no engine could be found by anyone."""

Record = dict[str, Any]


def told(home: Path, *args: str) -> str:
    done = nanoclaw(home, "bubblewrap", *args, env=BARE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def answer(home: Path, *args: str) -> Record:
    record: Record = json.loads(told(home, *args, "--json"))
    return record
