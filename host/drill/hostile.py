"""Runners that were turned themselves: each breaks one rule of the pipe, and the host must not mind.

The program runs in a real sandbox in the runner's place and says a true hello, read back from the kernel by
the runner's own code, unless its act is to lie in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from host.drill.ground import Edited, Ground, key_of
from host.drill.standin import ISOLATED, finish, with_command
from host.drill.turn import a_turn
from host.drill.words import RAN
from host.engines.base import Engine
from host.gate import Gate
from host.loop import Loop
from host.model import Endpoint, Launch, Spec
from host.resolver import Resolver
from host.sandbox import Gone, Sandbox, spawn
from runner.protocol import MIB, Bytes, Frame, Progress, encode

PROGRAM: Final = r"""
import ctypes, dataclasses, os, resource, signal, sys, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path[:0] = ["/opt/nanoclaw"]
from runner import protocol, seal
act = sys.argv[1]

def say(data, to=1):
    data = memoryview(data)
    while data:
        data = data[os.write(to, data):]

def frame(value):
    say(protocol.encode(value))

def wait():
    while (data := os.read(0, 65536)) and not data.endswith(b"\n"):
        pass

hello = seal.hello()
if act == "early-frame":
    frame(protocol.Say("early"))
if act == "false-build":
    hello = dataclasses.replace(hello, build="0" * 64)
if act == "false-checks":
    hello = dataclasses.replace(hello, checks={**hello.checks, "uid": 0})
frame(hello)
wait()
if act == "oversize-line":
    say(b'{"frame":"say","text":"' + b"x" * (5 << 20) + b'"}\n')
if act == "deep-line":
    say(b'{"frame":"entries","entries":' + b"[" * 100000 + b"]" * 100000 + b"}\n")
if act == "double-key":
    say(b'{"frame":"say","text":"one","text":"two"}\n')
if act == "unknown-frame":
    say(b'{"frame":"grant","mounts":"all"}\n')
if act == "unopened-stream":
    frame(protocol.Bytes(7, b"x"))
if act == "frame-flood":
    for _ in range(1024):
        frame(protocol.Progress("text", "x" * 65536))
if act == "stderr-flood":
    for _ in range(1024):
        say(b"x" * 65536, to=2)
frame(protocol.Progress("status", "went on"))
if act in ("ignored-stop", "stubborn"):
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    for _ in range(300):
        with open("/workspace/group/.alive", "w") as f:
            f.write(str(time.monotonic()))
        time.sleep(0.1)
wait()
"""
TAKEN: Final = frozenset(
    {"early-frame", "oversize-line", "deep-line", "double-key", "unknown-frame", "unopened-stream"}
)
AT_ONCE: Final = 3
ACT_SECONDS: Final = 40.0
NOWHERE: Final = Endpoint("http://127.0.0.1:9", "127.0.0.1", 9, tls=False)


def playing(launch: Launch, act: str) -> Launch:
    return with_command(launch, (*ISOLATED, "-c", PROGRAM, act))


@dataclass
class Act:
    """One such runner under the real host's care, and what became of it."""

    name: str
    spec: Spec
    ready: bool = False
    went_on: bool = False
    gone: Gone | None = None
    grown: int = 0
    frames: int = 0

    def text(self) -> str:
        assert self.gone is not None
        message = self.gone.message
        end = message.rpartition("given nothing: ")[2] if self.gone.kind == "hello" else message
        if self.name in TAKEN:
            return f"taken, and it went on\n{RAN}" if self.went_on else f"{end}\n{RAN}"
        if self.name == "frame-flood":
            return f"grew by {self.grown // MIB} MB over {self.frames} frames\n{RAN}"
        if self.name == "stderr-flood":
            return f"kept {len(self.gone.stderr_tail)} bytes of 64 MB\n{RAN}"
        if self.name == "ignored-stop":
            return f"{'still there' if is_beating(self.spec) else 'it is gone'}\n{RAN}"
        return f"handed over\n{RAN}" if self.ready else f"{end}\n{RAN}"


def play_acts(
    loop: Loop, resolver: Resolver, ground: Ground, acts: tuple[str, ...], progress: Callable[[str], None]
) -> dict[str, str]:
    """What the host did with each, a few at a time."""
    waiting = list(acts)
    live: list[Act] = []
    done: list[Act] = []
    while waiting or live:
        while waiting and len(live) < AT_ONCE:
            progress(waiting[0])
            live.append(_begin(loop, resolver, ground, waiting.pop(0)))
        loop.step()
        done += [act for act in live if act.gone]
        live = [act for act in live if not act.gone]
    return {act.name: act.text() for act in done}


def _begin(loop: Loop, resolver: Resolver, ground: Ground, name: str) -> Act:
    spec = ground.swapped(name) if name == "swapped-mount" else ground.spec(name)
    act = Act(name, spec)
    gates: list[Gate] = []
    started = resident()

    def ready() -> None:
        act.ready = True
        if name in ("true-hello", "false-build", "false-checks", "swapped-mount"):
            sandbox.stop("seen enough", 0)
        else:
            sandbox.hand_over(a_turn(spec.group, "go", key_of(ground.canary), NOWHERE))

    def frame(untrusted_frame: Frame) -> None:
        act.frames += 1
        act.grown = max(act.grown, resident() - started)
        if isinstance(untrusted_frame, Bytes):
            gates[0].handle(untrusted_frame)
        elif untrusted_frame == Progress("status", "went on"):
            act.went_on = True
            loop.call_later(0.2, lambda: sandbox.stop("seen enough", 0.2))

    def gone(reason: Gone) -> None:
        gates[0].close()
        act.gone = reason

    engine = cast(Engine, Edited(ground.engine, lambda launch: playing(ground.tamper(launch), name)))
    sandbox = Sandbox(loop, engine, spec, expect_build=ground.image.build, on_ready=ready, on_frame=frame, on_gone=gone)
    gates.append(
        Gate(
            loop,
            resolver,
            group=spec.group,
            turn="drill",
            endpoint=NOWHERE,
            allowed=(),
            send=sandbox.send,
            audit=lambda connection: None,
        )
    )
    loop.call_later(ACT_SECONDS, lambda: sandbox.stop("it took too long", 0))
    sandbox.start()
    return act


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_beating(spec: Spec) -> bool:
    """Whether the program in a sandbox still writes its sign of life. Looks at the file's time, never into it."""
    sign = spec.mounts[0].source / ".alive"
    with contextlib.suppress(OSError):
        before = sign.lstat().st_mtime_ns
        time.sleep(0.5)
        return sign.lstat().st_mtime_ns != before
    return False


# --- the same programs, and nobody who minds ------------------------------------------------------------


def credulous(ground: Ground, name: str) -> str:
    """What a reader that takes everything is given by the same program."""
    spec = ground.spec(f"credulous-{name}")
    process, stdin, stdout, stderr = spawn(playing(ground.engine.launch(spec), name))
    try:
        os.write(stdin, encode(a_turn(spec.group, "go", key_of(ground.canary[::-1]), NOWHERE)))
        # 64 MB of "x" on stderr have no end to wait for but their number.
        source, most = (stderr, 64 * MIB) if name == "stderr-flood" else (stdout, 80 * MIB)
        data, count = _read_until(source, b"went on", most)
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        finish(ground.engine, spec.name, process)
    if name == "stderr-flood":
        return f"kept {count} bytes\n{RAN}"
    if name == "frame-flood":
        return f"grew by {count // MIB} MB\n{RAN}"
    lines = [line for line in data.split(b"\n")[:-1] if b'"hello"' not in line and b"went on" not in line]
    return f"taken: a line of {len(lines[0])} bytes\n{RAN}" if lines else f"nothing came\n{RAN}"


def _read_until(fd: int, mark: bytes, most: int) -> tuple[bytes, int]:
    """What came before `mark`, and how much it was; of a flood only the beginning is kept."""
    kept, count, tail = b"", 0, b""
    end = time.monotonic() + ACT_SECONDS
    while count < most and mark not in tail and time.monotonic() < end:
        data = os.read(fd, 1 << 20)
        if not data:
            break
        count += len(data)
        tail = tail[-32:] + data
        if len(kept) < 8 * MIB:
            kept += data
    return kept, count


def stubborn(ground: Ground) -> str:
    """Whether a program that ignores everything is still there when its pipe was closed, and nobody killed it."""
    spec = ground.spec("stubborn")
    process, stdin, stdout, stderr = spawn(playing(ground.engine.launch(spec), "stubborn"))
    try:
        os.write(stdin, b"{}\n")
        _read_until(stdout, b"went on", MIB)
        os.close(stdin)
        time.sleep(0.5)
        return f"{'still there' if is_beating(spec) else 'it is gone'}\n{RAN}"
    finally:
        for fd in (stdout, stderr):
            os.close(fd)
        finish(ground.engine, spec.name, process)


def left_alone(ground: Ground, *, deadline: int, close: bool, seconds: float) -> str:
    """Whether the real runner is still there, some time after it was left without a turn, or without a host."""
    spec = ground.spec("alone", deadline_seconds=deadline)
    process, stdin, stdout, stderr = spawn(ground.tamper(ground.engine.launch(spec)))
    try:
        hello, _ = _read_until(stdout, b"\n", MIB)
        with contextlib.suppress(ValueError):
            if json.loads(hello)["frame"] != "hello":
                return f"it did not say hello: {hello[:100]!r}"
        if close:
            os.close(stdin)
            stdin = -1
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return f"{'still there' if process.poll() is None else 'it left by itself'}\n{RAN}"
    finally:
        for fd in (stdin, stdout, stderr):
            if fd >= 0:
                os.close(fd)
        finish(ground.engine, spec.name, process)
