"""A channel that is a program: started, spoken to in lines, ended when it hangs or breaks the rules, started again.

Its end is an event like any other: whatever was asked of it is answered with `Failed`, and a new one is started
after a while, longer each time. What it says is not checked here beyond its shape (`channel.wire`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from channel import wire
from channel.wire import Connected, Data, Disconnected, Done, Failed, Frame, Hello, PeerError
from host.engines.base import kill_session
from host.loop import Loop, Pipe, Timer
from runner.protocol import MIB

HELLO_SECONDS: Final = 60.0
"""From the start to its first word: a Raspberry Pi reads 60 MB from a slow card."""
PING_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 120.0
"""For every request that does not name its own time. A channel that exceeds it hangs, and is ended."""
STOP_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 2.0
BACK_OFF: Final = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds before it is started again; the last one from then on."""
STEADY_SECONDS: Final = 600.0
"""Who ran that long begins again with the first of them."""
STDERR_BYTES: Final = 4096
WRITE_LIMIT: Final = 4 * MIB
FILE_AHEAD: Final = 512 * 1024
"""Bytes of a file that wait in memory for the channel to take them."""

Answer = Done | Failed


@dataclass(frozen=True)
class Command:
    """How a channel is started. It inherits no environment but this."""

    argv: tuple[str, ...]
    folder: Path
    """Its working directory, made if it is not there, 0700: what it keeps is there."""
    env: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    """Why it cannot be started on this machine; then it is not."""


class Owner(Protocol):
    """Who a channel's frames go to. Each is called from the loop."""

    def channel_frame(self, name: str, untrusted_frame: Frame) -> None: ...
    def channel_changed(self, name: str) -> None:
        """`state`, `why` or `account` is another now."""


@dataclass
class _Open:
    """A request that waits for its answer."""

    on_answer: Callable[[Answer], None]
    on_more: Callable[[Frame], None] | None
    timer: Timer


class Program:
    """The actor around one channel. `state` is `starting`, `up` (it runs, and nothing is known of its service),
    `connected`, `disconnected` or `down` (it ended; it is started again at some time), `stopped`."""

    def __init__(self, loop: Loop, name: str, command: Command, owner: Owner) -> None:
        self.name, self.state, self.why, self.reason = name, "stopped", "", ""
        self.hello: Hello | None = None
        self.account: wire.Person | None = None
        self.restarts = 0
        self._loop, self._command, self._owner = loop, command, owner
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._errors: Pipe | None = None
        self._decoder = wire.Decoder(wire.TO_HOST)
        self._untrusted_stderr = b""
        self._open: dict[int, _Open] = {}
        self._numbers = 0
        self._timer: Timer | None = None
        self._failures = 0
        self._since = 0.0
        self._wanted = False
        self._then: Callable[[], None] | None = None

    # --- what its owner does ----------------------------------------------------------------------------

    def start(self) -> None:
        if self._command.problem:
            self._set("down", self._command.problem)
            return
        self._wanted = True
        if self._process is None:
            self._launch()

    def stop(self, then: Callable[[], None]) -> None:
        """End it: asked first, then made to. `then` is called when it is gone."""
        self._wanted = False
        self._then = then
        if self._process is None:
            self._cancel_timer()
            self._set("stopped", "")
            self._loop.call_soon(self._tell_stopped)
            return
        if self._pipe is not None and not self._pipe.closed:
            self._numbers += 1
            self._write(wire.Stop(self._numbers))
        self._cancel_timer()
        self._timer = self._loop.call_later(STOP_SECONDS, self._kill)

    def request(
        self,
        build: Callable[[int], Frame],
        on_answer: Callable[[Answer], None],
        *,
        seconds: float = ANSWER_SECONDS,
        on_more: Callable[[Frame], None] | None = None,
    ) -> None:
        """Ask for something: `build` is given the number. There is one answer, also if it ends. `on_more` is given what
        comes before it."""
        self._numbers += 1
        number = self._numbers
        if self._pipe is None or self.hello is None:
            self._loop.call_soon(lambda: on_answer(Failed(number, "offline", "the channel does not run", 30)))
            return
        timer = self._loop.call_later(seconds, lambda: self._fault("it did not answer in time"))
        self._open[number] = _Open(on_answer, on_more, timer)
        self._write(build(number))

    def request_with_file(
        self, build: Callable[[int], Frame], path: Path, on_answer: Callable[[Answer], None], seconds: float
    ) -> None:
        """The same, and the bytes of a file after it, as the channel takes them."""
        try:
            file = path.open("rb")
        except OSError as e:
            why = f"the file cannot be read: {e.strerror}"
            self._loop.call_soon(lambda: on_answer(Failed(0, "gone", why, wire.NEVER)))
            return
        number = self._numbers + 1

        def answered(answer: Answer) -> None:
            file.close()
            on_answer(answer)

        def pump() -> None:
            while not file.closed and self._pipe is not None and self._pipe.buffered < FILE_AHEAD:
                data = file.read(wire.CHUNK)
                if not data:
                    return
                self._write(Data(number, data))
            if not file.closed and self._pipe is not None:
                self._pipe.on_drained = pump

        self.request(build, answered, seconds=seconds)
        pump()

    def can(self, ability: str) -> bool:
        """What it said in its hello."""
        return self.hello is not None and ability in self.hello.can

    def kept(self, seq: int) -> None:
        self._write(wire.Kept(seq))

    # --- its life ---------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self._decoder = wire.Decoder(wire.TO_HOST)
        self._untrusted_stderr = b""
        self._since = self._loop.now()
        self._set("starting", "")
        try:
            self._process, fd, errors = spawn(self._command)
        except OSError as e:
            self._failures += 1
            self._retire(f"cannot start {self._command.argv[0]}: {e.strerror}")
            return
        self._pipe = Pipe(self._loop, fd, fd, self._on_data, self._on_closed, WRITE_LIMIT)
        self._errors = Pipe(self._loop, errors, None, self._on_stderr, lambda _: None, 0)
        self._loop.watch_child(self._process, self._on_exit)
        late = f"no word from it within {HELLO_SECONDS:.0f} seconds"
        self._timer = self._loop.call_later(HELLO_SECONDS, lambda: self._fault(late))

    def _on_closed(self, why: str) -> None:
        if why == "write buffer full":
            self._fault("it did not take what was sent to it")
            return
        # Its process usually ends in the same moment, and its status says more.
        self._cancel_timer()
        self._timer = self._loop.call_later(DRAIN_SECONDS, lambda: self._fault("it closed its socket and went on"))

    def _fault(self, why: str) -> None:
        """It broke the rules, or hangs: it is killed, and its end does the rest."""
        if self._process is not None and not self.why.startswith("ended: "):
            self.why = f"ended: {why}"
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            kill_session(self._process)

    def _on_exit(self, status: int) -> None:
        for pipe in (self._pipe, self._errors):  # its end may be known before its last words are read
            if pipe is not None:
                pipe.take_rest()
        words = self._untrusted_stderr.decode(errors="replace").strip().splitlines()
        said = f": {words[-1][:200]}" if words else ""
        why = f"it ended with status {status}{said}"
        if self.why.startswith("ended: ") or (self.reason == "internal" and self.why):
            why = self.why  # known already, or told by itself
        self._failures = 1 if self._loop.now() - self._since > STEADY_SECONDS else self._failures + 1
        self._retire(why)

    def _retire(self, why: str) -> None:
        self._cancel_timer()
        for pipe in (self._pipe, self._errors):
            if pipe is not None:
                pipe.close()
        self._process = self._pipe = self._errors = None
        self.hello = None
        waiting, self._open = self._open, {}
        for number, request in waiting.items():
            request.timer.cancel()
            request.on_answer(Failed(number, "internal", "the channel ended", 1))
        if not self._wanted:
            self._set("stopped", "")
            self._tell_stopped()
            return
        seconds = BACK_OFF[min(self._failures, len(BACK_OFF)) - 1]
        self.restarts += 1
        self._timer = self._loop.call_later(seconds, self._launch)
        self._set("down", f"{why}; it is started again in {seconds:.0f} s")

    def _tell_stopped(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    def _set(self, state: str, why: str, reason: str = "") -> None:
        self.state, self.why, self.reason = state, why, reason
        if state in {"down", "stopped"}:
            self.account = None
        self._owner.channel_changed(self.name)

    # --- what it says -----------------------------------------------------------------------------------

    def _on_data(self, untrusted: bytes) -> None:
        try:
            for untrusted_frame in self._decoder.feed(untrusted):
                self._take(untrusted_frame)
                if self._pipe is None or self._pipe.closed:
                    return
        except PeerError as e:
            self._fault(f"it broke the rules: {e}")

    def _take(self, untrusted_frame: Frame) -> None:
        match untrusted_frame:
            case Hello(version):
                if self.hello is not None or version != wire.VERSION:
                    raise PeerError(f"a second hello, or version {version} (this is {wire.VERSION})")
                self.hello = untrusted_frame
                self._cancel_timer()
                self._timer = self._loop.call_later(PING_SECONDS, self._ping)
                linked = untrusted_frame.linked
                self._set("up", "" if linked else "no account is linked", "" if linked else "unlinked")
            case _ if self.hello is None:
                raise PeerError(f"{type(untrusted_frame).__name__.lower()} before hello")
            case Done(number) | Failed(number):
                request = self._open.pop(number, None)
                if request is None and number != self._numbers:
                    raise PeerError("an answer to no request")
                if request is not None:
                    request.timer.cancel()
                    request.on_answer(untrusted_frame)
                return
            case wire.Qr(number) | wire.Code(number) | Data(number):
                request = self._open.get(number)
                if request is None or request.on_more is None:
                    raise PeerError(f"{type(untrusted_frame).__name__.lower()} for no request")
                request.on_more(untrusted_frame)
                return
            case Connected(account):
                self.account = account
                self._set("connected", "")
            case Disconnected(reason, text):
                self._set("disconnected", text, reason)
        self._owner.channel_frame(self.name, untrusted_frame)

    def _ping(self) -> None:
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)
        self.request(wire.Ping, lambda _: None)

    def _on_stderr(self, untrusted: bytes) -> None:
        self._untrusted_stderr = (self._untrusted_stderr + untrusted)[-STDERR_BYTES:]

    def _write(self, frame: Frame) -> None:
        if self._pipe is not None:
            self._pipe.write(wire.encode(frame))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def spawn(command: Command) -> tuple[subprocess.Popen[bytes], int, int]:
    """The process, our end of its socket, and what it writes to stderr. Descriptor 3 is its end: the shell moves it
    there from 0 and is replaced, because nothing may run between fork and exec in a process with threads."""
    command.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        here, there = socket.socketpair()
        ours.callback(here.close)
        theirs.callback(there.close)
        reading, writing = os.pipe()
        ours.callback(os.close, reading)
        theirs.callback(os.close, writing)
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {wire.FD}<&0 </dev/null', "sh", *command.argv],
            stdin=there.fileno(),
            stdout=writing,
            stderr=writing,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", **command.env},
            cwd=command.folder,
            start_new_session=True,
            umask=0o077,
        )
        ours.pop_all()
        return process, here.detach(), reading
