"""A stand-in for the runner: takes the agent's seat in a sandbox whose controls are off, where the real runner
would refuse to live, and no real key is ever sent.

`PROGRAM` goes in as an argument of the image's own Python. It runs one command after another, like the tool
`bash`, and prints each result as a JSON line. As `naive` it makes every mistake that the runner avoids: the key
in its environment and arguments, in a file and in an open descriptor, its pipes on 0 and 1, itself dumpable. As
`careful` it does what the runner does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from host.drill.words import wrapped
from host.engines.base import Engine, kill_session, run
from host.errors import EngineError
from host.model import Launch
from host.sandbox import spawn

PYTHON: Final = "/usr/bin/python3"
ISOLATED: Final = (PYTHON, "-I", "-S", "-B")
START_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 90.0
MAX_LINE: Final = 64 * 1024 * 1024
MAX_STDERR: Final = 64 * 1024

PROGRAM: Final = r"""
import ctypes, json, os, subprocess, sys
mode, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
libc = ctypes.CDLL(None)
source, sink = 0, 1

def line():
    data = b""
    while not data.endswith(b"\n"):
        byte = os.read(source, 1)
        if not byte:
            os._exit(0)
        data += byte
    return data

def answer(record):
    data = json.dumps(record).encode() + b"\n"
    while data:
        data = data[os.write(sink, data):]

if mode == "careful":
    libc.prctl(4, 0, 0, 0, 0)
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(2, 1)
    key = json.loads(line())["key"]
elif not key:
    key = json.loads(line())["key"]
    os.execve(sys.executable, [*sys.orig_argv, key], {**os.environ, "API_KEY": key})
else:
    held = os.memfd_create("key", 0)
    os.write(held, key.encode())
    for path in ("/tmp/key", "/workspace/group/.key"):
        with open(path, "w") as f:
            f.write(key)
    print(key, file=sys.stderr)
answer({"ready": True})
while True:
    try:
        asked = json.loads(line())
    except ValueError:
        continue
    text = None
    if "read" in asked:
        try:
            with open(asked["read"], errors="replace") as f:
                text = f.read()
        except OSError as e:
            text = str(e)
    elif "run" in asked:
        child = subprocess.run(["/bin/bash", "-c", asked["run"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, close_fds=mode == "careful")
        text = child.stdout.decode(errors="replace")
    if text is not None:
        answer({"text": text})
"""


def with_command(launch: Launch, command: tuple[str, ...]) -> Launch:
    """The launch with another program in the runner's place, started in the same way."""
    at = len(launch.argv) - 1 - launch.argv[::-1].index(PYTHON)
    return replace(launch, argv=(*launch.argv[:at], *command))


def seat(launch: Launch, mode: str, isolated: bool = True) -> Launch:
    """The launch with the stand-in in the runner's place."""
    return with_command(launch, (*(ISOLATED if isolated else (PYTHON,)), "-c", PROGRAM, mode))


class StandIn:
    """One running stand-in, spoken to in turn: blocking, each step bounded. `EngineError` if it breaks off."""

    def __init__(self, engine: Engine, name: str, launch: Launch, key: str) -> None:
        self._engine, self._name, self._key = engine, name, key
        self._pending = b""
        self.stderr = b""
        self._process, self._in, self._out, self._err = spawn(launch)
        os.set_blocking(self._err, False)
        # Where root starts a sandbox for another user, that user could not open root's pipes again: a
        # protection by chance, which must not hide that there is no other.
        for fd in (self._in, self._out):
            os.fchmod(fd, 0o666)

    def __enter__(self) -> StandIn:
        try:
            self._send({"key": self._key})
            self._receive("ready", START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, command: str, *, bait: bool = False) -> str:
        """The output of one command. `bait`: a line with the key waits in its stdin meanwhile, to be stolen."""
        self._send({"run": wrapped(command)}, *([{"next key": self._key}] if bait else []))
        return str(self._receive("text", COMMAND_SECONDS))

    def read(self, path: str) -> str:
        self._send({"read": path})
        return str(self._receive("text", COMMAND_SECONDS))

    def close(self) -> None:
        """Ask the engine first: its program is not the container."""
        for fd in (self._in, self._out, self._err):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._in = self._out = self._err = -1
        if self._process.poll() is None:
            finish(self._engine, self._name, self._process)

    def _send(self, *records: dict[str, Any]) -> None:
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            while data:
                data = data[os.write(self._in, data) :]
        except OSError as e:
            raise EngineError(self._why(f"it does not take commands ({e.strerror})")) from e

    def _receive(self, wanted: str, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while True:
            line, found, rest = self._pending.partition(b"\n")
            if not found:
                self._more(end - time.monotonic())
                continue
            self._pending = rest
            # Where the controls are off, its commands write into our pipe as they like: only answers count.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return json.loads(line)[wanted]

    def _more(self, seconds: float) -> None:
        ready, _, _ = select.select([self._out, self._err], [], [], max(0.0, seconds))
        if not ready:
            raise EngineError(self._why("it did not answer in time"))
        if self._err in ready:
            with contextlib.suppress(BlockingIOError):
                self.stderr = (self.stderr + os.read(self._err, 65536))[-MAX_STDERR:]
        if self._out in ready:
            data = os.read(self._out, 1 << 20)
            self._pending += data
            if not data or len(self._pending) > MAX_LINE:
                raise EngineError(self._why("it ended"))

    def _why(self, what: str) -> str:
        with contextlib.suppress(OSError):
            self.stderr += os.read(self._err, 65536)
        said = self.stderr.decode(errors="replace").strip().splitlines()
        return f"{what}: {said[0]}" if said else what


def finish(engine: Engine, name: str, process: subprocess.Popen[bytes]) -> None:
    """End a sandbox of the drill's own, in bounded time."""
    for argv in (engine.kill(name), engine.remove(name)):
        if argv is not None:
            with contextlib.suppress(EngineError):
                run(argv, 10)
    kill_session(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
