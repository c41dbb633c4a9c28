"""Runners that were turned themselves: each breaks one rule of the pipe, and the host must not mind.

The program runs in a real sandbox in the runner's place and says a true hello, read back from the kernel by
the runner's own code, unless its act is to lie in it.
"""

from __future__ import annotations

import contextlib
import os
import select
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
acts = sys.argv[1].split(",")

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
if "early-frame" in acts:
    frame(protocol.Say("early"))
if "false-build" in acts:
    hello = dataclasses.replace(hello, build="0" * 64)
if "false-checks" in acts:
    hello = dataclasses.replace(hello, checks={**hello.checks, "uid": 0})
frame(hello)
wait()
if "oversize-line" in acts:
    say(b'{"frame":"say","text":"' + b"x" * (5 << 20) + b'"}\n')
if "deep-line" in acts:
    say(b'{"frame":"entries","entries":' + b"[" * 100000 + b"]" * 100000 + b"}\n")
if "double-key" in acts:
    say(b'{"frame":"say","text":"one","text":"two"}\n')
if "unknown-frame" in acts:
    say(b'{"frame":"grant","mounts":"all"}\n')
if "forged-frame" in acts:
    say(b'{"frame":"call","id":1,"method":"list_groups","params":{},"caller":"main"}\n')
if "unopened-stream" in acts:
    frame(protocol.Bytes(7, b"x"))
if "frame-flood" in acts:
    for _ in range(512):
        frame(protocol.Progress("text", "x" * 65536))
if "stderr-flood" in acts:
    for _ in range(512):
        say(b"x" * 65536, to=2)
frame(protocol.Progress("status", "went on"))
if "ignored-stop" in acts:
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    for _ in range(300):
        with open("/workspace/group/.alive", "w") as f:
            f.write(str(time.monotonic()))
        time.sleep(0.1)
wait()
"""
TAKEN: Final = {
    "early-frame": b'"text":"early"',
    "oversize-line": b"x" * (4 * MIB + 1),
    "deep-line": b"[" * 100_000,
    "double-key": b'"text":"one","text":"two"',
    "unknown-frame": b'"frame":"grant"',
    "forged-frame": b'"caller":"main"',
    "unopened-stream": b'"stream":7',
}
"""Acts that send one thing which must not be taken, and how a reader that takes everything finds it."""
FLOOD: Final = 32 * MIB
BEFORE_HANDOVER: Final = frozenset({"true-hello", "false-build", "false-checks", "swapped-mount", "mount-swapped"})
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
        """What the host made of it; with `RAN` only if the act came to be played as it was meant."""
        assert self.gone is not None
        kind, message = self.gone.kind, self.gone.message
        if self.name in BEFORE_HANDOVER:
            why = message.rpartition("given nothing: ")[2]
            return f"handed over\n{RAN}" if self.ready else _proven(why, kind == "hello")
        if self.name in TAKEN:
            return f"taken, and it went on\n{RAN}" if self.went_on else _proven(message, kind == "peer")
        if self.name == "frame-flood":
            return _proven(f"grew by {self.grown // MIB} MB over {self.frames} frames", self.went_on or kind == "peer")
        if self.name == "stderr-flood":
            return _proven(f"kept {len(self.gone.stderr_tail)} bytes of {FLOOD // MIB} MB", self.went_on)
        return _proven("still there" if is_beating(self.spec) else "it is gone", self.went_on)


def _proven(text: str, proven: bool) -> str:
    return f"{text}\n{RAN}" if proven else text


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
    if name == "mount-swapped":
        spec = ground.shelf.swapped(spec)
    act = Act(name, spec)
    gates: list[Gate] = []
    started = resident()

    def ready() -> None:
        act.ready = True
        if name in BEFORE_HANDOVER:
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
    return beats(spec.mounts[0].source)


def beats(folder: Path) -> bool:
    """Whether the program in a sandbox still writes its sign of life. Looks at the file's time, never into it."""
    sign = folder / ".alive"
    with contextlib.suppress(OSError):
        before = sign.lstat().st_mtime_ns
        time.sleep(0.5)
        return sign.lstat().st_mtime_ns != before
    return False


# --- the same programs, and nobody who minds ------------------------------------------------------------


def credulous(ground: Ground, acts: tuple[str, ...]) -> dict[str, str]:
    """What a reader that takes everything is given by the same program, all its acts in one sandbox."""
    spec = ground.spec("credulous")
    process, stdin, stdout, stderr = spawn(playing(ground.engine.launch(spec), ",".join(acts)))
    try:
        os.write(stdin, encode(a_turn(spec.group, "go", key_of(ground.canary[::-1]), NOWHERE)))
        kept, count, said = _read_all(stdout, stderr)
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        finish(ground.engine, spec.name, process)
    texts = {name: f"taken: {len(kept)} bytes with it\n{RAN}" for name in acts if TAKEN.get(name, b"\0") in kept}
    texts |= {"frame-flood": f"grew by {count // MIB} MB\n{RAN}", "stderr-flood": f"kept {said} bytes\n{RAN}"}
    return texts


def _read_all(stdout: int, stderr: int) -> tuple[bytes, int, int]:
    """The first of what came before the program went on; how much it was; how much came on stderr."""
    kept, tail, count, said = b"", b"", 0, 0
    end = time.monotonic() + ACT_SECONDS
    while b"went on" not in tail and time.monotonic() < end:
        ready, _, _ = select.select([stdout, stderr], [], [], 1.0)
        if stderr in ready:
            said += len(os.read(stderr, 1 << 20))
        if stdout in ready:
            data = os.read(stdout, 1 << 20)
            if not data:
                break
            count, tail = count + len(data), tail[-32:] + data
            kept += data if len(kept) < 8 * MIB else b""
    return kept, count, said


def _first_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MIB and (data := os.read(fd, 1 << 16)):
        line += data
    return line


def stubborn(ground: Ground) -> str:
    """Whether a program that ignores everything is still there when its pipe was closed, and nobody killed it."""
    spec = ground.spec("stubborn")
    process, stdin, stdout, stderr = spawn(playing(ground.engine.launch(spec), "ignored-stop"))
    try:
        os.write(stdin, b"{}\n")
        while (line := _first_line(stdout)) and b"went on" not in line:
            pass
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
        hello = _first_line(stdout)
        if b'"frame":"hello"' not in hello:
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
