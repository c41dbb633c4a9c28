"""What the checks of a built file (`selftest.py`, beside this) stand on: a temporary HOME, a host, a person at a
terminal, and what a program may leave behind. Needs nothing but Python 3.11."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 300.0
WATCHED: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108  # where a program may leave something
LEAVINGS: Final = re.compile(rf"nanoclaw-{os.getuid()}|_MEI.*|_PYI.*")
"""What this one could leave there: others on this machine may have files of other names."""


class FailedError(Exception):
    """A check did not find what it should."""


class SkippedError(Exception):
    """It cannot be checked here; why."""


def expect(truth: object, otherwise: str) -> None:
    if not truth:
        raise FailedError(otherwise)


@dataclass
class Ground:
    """One temporary HOME, and the file under test as a person has it: downloaded into a folder."""

    folder: Path
    original: Path
    newer: Path | None
    engines: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "download" / "nanoclaw"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def first_engine(self) -> str:
        if not self.engines:
            raise SkippedError("neither bubblewrap nor docker works here")
        return self.engines[0]

    def environment(self, **more: str) -> dict[str, str]:
        names = ("PATH", "LANG", "LC_ALL", "USER", "LOGNAME")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        return {**kept, "HOME": str(self.home), "TMPDIR": str(self.temporary), "NO_COLOR": "1", **more}

    def does(
        self, *args: str, program: Path | None = None, status: int = 0, seconds: float = SECONDS,
        env: dict[str, str] | None = None, stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run it; what it printed. `FailedError` if it exits otherwise than expected."""
        try:
            done = subprocess.run(
                [str(program or self.file), *args], env=env or self.environment(), cwd=self.folder, input=stdin,
                capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise FailedError(f"`{' '.join(args)}` did not end within {seconds:.0f} seconds") from None
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        expect(done.returncode == status, f"`{' '.join(args)}` exits {done.returncode}: {said}")
        expect("Traceback" not in done.stderr, f"`{' '.join(args)}` shows a traceback: {said}")
        return done

    def record(self, *args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.does(*args, "--json").stdout)
        return found


def installed(g: Ground) -> Path:
    return g.home / ".local" / "bin" / "nanoclaw"


@contextlib.contextmanager
def host(g: Ground) -> Iterator[subprocess.Popen[str]]:
    argv = [str(g.file), "--engine", g.first_engine, "run"]
    process = subprocess.Popen(
        argv, env=g.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        assert process.stderr is not None
        said = ""
        while not (line := process.stderr.readline()).startswith("nanoclaw: ready"):
            said += line
            expect(line, f"`run` does not start: {said[-600:]}")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Look until it is so: for what another process does and sends no event of."""
    until = time.monotonic() + 30
    while not condition():
        expect(time.monotonic() < until, f"waited for {what}")
        time.sleep(0.05)


def processes(g: Ground) -> list[int]:
    """That run from this HOME's cache."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(entry.path, "exe").readlink().is_relative_to(g.folder):
                found.append(int(entry.name))
    return found


def leavings(g: Ground) -> set[str]:
    """All in this run's own folder for temporary files, and in the machine's what has such a name."""
    found = {str(path) for path in g.temporary.rglob("*")}
    for folder in WATCHED:
        with contextlib.suppress(OSError):
            found |= {entry.path for entry in os.scandir(folder) if LEAVINGS.fullmatch(entry.name)}
    return found


def engine_state() -> set[str]:
    """Containers and images of docker; empty where it does not answer."""
    found: set[str] = set()
    for kind in (["ps", "--all", "--quiet", "--filter", "name=nanoclaw"], ["images", "--quiet", "--no-trunc"]):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(["docker", *kind], capture_output=True, text=True, timeout=20, check=False)
            found |= set(done.stdout.split())
    return found


class Terminal:
    """A person at a pseudo-terminal."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, env)  # noqa: S606  # there is no shell to be wanted
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, pattern: str) -> None:
        until = time.monotonic() + 60
        while not (found := re.search(pattern, self._seen, re.DOTALL)):
            self._seen += self._more(until).decode(errors="replace")
        self._seen = self._seen[found.end() :]

    def wait(self) -> int:
        until = time.monotonic() + 60
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer has gone
            while self._more(until):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _more(self, until: float) -> bytes:
        ready, _, _ = select.select([self._fd], [], [], max(0, until - time.monotonic()))
        expect(ready, f"the terminal shows nothing more after {self._seen[-300:]!r}")
        return os.read(self._fd, 65536)
