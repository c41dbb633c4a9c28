"""One container: started, made to prove what it is, handed the payload, fed, and stopped for certain.

States, and what moves between them::

    starting ──hello verified──▶ ready ──hand_over──▶ running
        │                          │                     │
        └──────────────────────────┴── stop, or any ─────┴──▶ stopping ──▶ gone
                                       fault

`on_gone` is called once, from the loop, and nothing is called after it. Until hello is verified the only frame
is hello; from then until the payload there is none at all; a runner that says anything else is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from host import hello
from host.engines.base import Engine, clean_environment, kill_session, last_words, readable
from host.errors import EngineError
from host.loop import Loop, Pipe, Timer
from host.model import Launch, Spec
from runner.protocol import (
    HOST_LINE_LIMIT,
    MIB,
    RUNNER_LINE_LIMIT,
    TO_HOST,
    Check,
    Decoder,
    Frame,
    Hello,
    PeerError,
    Stop,
    ToRunner,
    Turn,
    encode,
)

START_SECONDS: Final = 60.0
"""From the launch to hello. A loaded Raspberry Pi takes several seconds."""
DRAIN_SECONDS: Final = 2.0
"""After the process ended: for what is still in its pipes. Something that it left behind may hold them open."""
KILL_SECONDS: Final = 5.0
"""For each push of the stop ladder, the engine's own program included."""
STDERR_BYTES: Final = 8 * 1024
# The payload, and what the gate may have under way to a runner that takes its time.
WRITE_LIMIT: Final = HOST_LINE_LIMIT + 16 * MIB

IDLE_GRACE_SECONDS: Final = 1.0
"""A sandbox that waits for its payload leaves at the end of its stdin: no need to start the engine's program."""


@dataclass(frozen=True)
class Gone:
    """Why a sandbox is no more. `kind` says who can do something about it.

    `engine`: it never came to life; `hello`: it is not what was asked for; `timeout`: it said nothing;
    `peer`: it broke the rules; `exited`: the runner ended by itself; `stopped`: we asked for it.
    """

    kind: str
    message: str
    """For a person."""
    status: int | None
    stderr_tail: str
    """The last that it, or its engine, wrote to stderr: not checked, not scrubbed."""


class Sandbox:
    """The actor around one container. Never blocks the loop, and always ends: see `_push`."""

    def __init__(
        self,
        loop: Loop,
        engine: Engine,
        spec: Spec,
        *,
        expect_build: str,
        on_ready: Callable[[], None],
        on_frame: Callable[[Frame], None],
        on_gone: Callable[[Gone], None],
    ) -> None:
        self.spec = spec
        self.state = "starting"
        self.hello: Hello | None = None
        """What it reported, once verified."""
        self._loop, self._engine, self._expect_build = loop, engine, expect_build
        self._on_ready, self._on_frame, self._on_gone = on_ready, on_frame, on_gone
        self._decoder = Decoder(TO_HOST, RUNNER_LINE_LIMIT)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._errors: Pipe | None = None
        self._untrusted_stderr = b""
        self._status: int | None = None
        self._exited = False
        self._outcome: tuple[str, str] | None = None
        """Kind and message, from the moment they are known."""
        self._timer: Timer | None = None

    # --- what its owner does --------------------------------------------------------------------------

    def start(self) -> None:
        """Launch it. A failure to do so is reported like any other end, through `on_gone`."""
        try:
            launch = self._engine.launch(self.spec)
            self._process, stdin, stdout, stderr = spawn(launch)
        except (OSError, EngineError) as e:
            self._outcome = ("engine", f"cannot start a sandbox with {self._engine.name}: {e}")
            self.state = "stopping"
            self._loop.call_soon(self._finish)
            return
        self._pipe = Pipe(self._loop, stdout, stdin, self._on_data, self._on_pipe_closed, WRITE_LIMIT)
        self._errors = Pipe(self._loop, stderr, None, self._on_stderr, lambda _: self._finish_if_drained(), 0)
        self._loop.watch_child(self._process, self._on_exit)
        late = f"no word from the sandbox within {START_SECONDS:.0f} seconds"
        self._timer = self._loop.call_later(START_SECONDS, lambda: self._fail("timeout", late))

    def hand_over(self, payload: Turn | Check) -> None:
        """Send the payload, the only frame with secrets, to a sandbox that was verified."""
        if self.state != "ready":
            raise RuntimeError(f"hand_over to a sandbox that is {self.state}")
        self.state = "running"
        self._write(payload)

    def send(self, frame: ToRunner) -> None:
        """A frame of the running turn. After the end it is dropped: the turn's owner may not know yet."""
        if self.state == "running":
            self._write(frame)

    def stop(self, reason: str, grace: float) -> None:
        """End it; `on_gone` follows. Frames that it still sends are dropped. After `grace` seconds, force."""
        if self.state in {"stopping", "gone"}:
            return
        was, self.state = self.state, "stopping"
        self._outcome = ("stopped", reason)
        if self._pipe is not None:
            if was == "running":
                self._write(Stop(reason))
            self._pipe.finish()  # the end of its stdin is an order to leave, in every state
        self._push(max(grace, IDLE_GRACE_SECONDS) if was == "ready" else grace)

    # --- what it says -----------------------------------------------------------------------------------

    def _on_data(self, untrusted: bytes) -> None:
        if self.state in {"stopping", "gone"}:
            return
        try:
            for untrusted_frame in self._decoder.feed(untrusted):
                self._on_untrusted_frame(untrusted_frame)
                if self.state in {"stopping", "gone"}:  # a frame made its owner, or us, end it
                    return
        except PeerError as e:
            self._fail("peer", f"the sandbox broke the rules of its pipe: {e}")

    def _on_untrusted_frame(self, untrusted_frame: Frame) -> None:
        if self.state == "running" and not isinstance(untrusted_frame, Hello):
            self._on_frame(untrusted_frame)
        elif self.state == "starting" and isinstance(untrusted_frame, Hello):
            self._on_hello(untrusted_frame)
        else:
            raise PeerError(f"{type(untrusted_frame).__name__.lower()} while {self.state}")

    def _on_hello(self, untrusted_hello: Hello) -> None:
        claims, own_mounts = self._engine.claims(self.spec), self._engine.own_mounts
        fault = hello.fault(
            untrusted_hello,
            self.spec,
            self._expect_build,
            claims,
            own_mounts,
            same_kernel=self._engine.verifies_mounts,
        )
        if fault:
            self._fail("hello", f"the sandbox is not what was asked for, and was given nothing: {fault}")
            return
        self.hello = untrusted_hello
        self._cancel_timer()
        self.state = "ready"
        self._on_ready()

    def _on_stderr(self, untrusted: bytes) -> None:
        self._untrusted_stderr = (self._untrusted_stderr + untrusted)[-STDERR_BYTES:]

    def _write(self, frame: ToRunner) -> None:
        if self._pipe is not None:
            self._pipe.write(encode(frame))

    # --- how it ends ------------------------------------------------------------------------------------

    def _fail(self, kind: str, message: str) -> None:
        if self.state in {"stopping", "gone"}:
            return
        self.state = "stopping"
        self._outcome = (kind, message)
        if self._pipe is not None:
            self._pipe.close()
        self._push(0)

    def _on_pipe_closed(self, reason: str) -> None:
        if self._exited:
            self._finish_if_drained()
        elif reason == "write buffer full":
            self._fail("peer", "the sandbox did not take what was sent to it")
        elif self.state not in {"stopping", "gone"}:
            # Its process usually ends in the same moment; one that closed its output and lives on is killed.
            self._cancel_timer()
            self._timer = self._loop.call_later(
                DRAIN_SECONDS, lambda: self._fail("peer", "the sandbox closed its output and went on")
            )

    def _on_exit(self, status: int) -> None:
        self._exited, self._status = True, status
        self._cancel_timer()
        self._timer = self._loop.call_later(DRAIN_SECONDS, self._finish)
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        pipes = (self._pipe, self._errors)
        if self._exited and all(pipe is None or pipe.closed for pipe in pipes):
            self._finish()

    def _finish(self) -> None:
        if self.state == "gone":
            return
        self._cancel_timer()
        was, self.state = self.state, "gone"
        for pipe in (self._pipe, self._errors):
            if pipe is not None:
                pipe.close()
        tail = self._untrusted_stderr.decode(errors="replace")
        kind, message = self._outcome or explain_exit(was, self._status, tail, self.spec, self._engine.name)
        if self._status != 0:
            # A container that was created and never ran, or whose program was killed, would stay.
            run_aside(self._loop, self._engine.remove(self.spec.name))
        self._on_gone(Gone(kind, message, self._status, tail))

    def _push(self, grace: float) -> None:
        """The stop ladder: each rung pushes harder, and a timer, not an answer, leads to the next.

        The engine's program is not the container: killing it only closes our pipes. So the engine is asked
        first, then the program goes. If the engine hangs, so does its kill, and no rung waits for it.
        """
        self._cancel_timer()
        if self._process is None:
            self._loop.call_soon(self._finish)
            return
        # Asked twice: the first time, the container may not exist yet.
        asked = [(grace, self._ask_engine_to_kill), (KILL_SECONDS / 3, self._ask_engine_to_kill)]
        rungs = [*asked, (KILL_SECONDS * 2 / 3, self._terminate), (1.0, self._kill)]
        if self._engine.kill(self.spec.name) is None:
            rungs = [(grace, self._kill)]
        self._climb([*rungs, (KILL_SECONDS, self._give_up)])

    def _climb(self, rungs: list[tuple[float, Callable[[], None]]]) -> None:
        (seconds, push), *rest = rungs

        def step() -> None:
            if self._exited or self.state == "gone":
                return
            push()
            if rest:
                self._climb(rest)

        if seconds <= 0:
            step()
        else:
            self._timer = self._loop.call_later(seconds, step)

    def _ask_engine_to_kill(self) -> None:
        run_aside(self._loop, self._engine.kill(self.spec.name))

    def _terminate(self) -> None:
        assert self._process is not None
        with contextlib.suppress(OSError):
            self._process.terminate()

    def _kill(self) -> None:
        assert self._process is not None
        kill_session(self._process)
        with contextlib.suppress(OSError):
            self._process.kill()

    def _give_up(self) -> None:
        assert self._outcome is not None
        kind, message = self._outcome
        self._outcome = (kind, f"{message} (it did not end when killed and may linger)")
        self._finish()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


# --- words ---------------------------------------------------------------------------------------------


def explain_exit(state: str, status: int | None, untrusted_tail: str, spec: Spec, engine: str) -> tuple[str, str]:
    """Kind and message for a sandbox that ended by itself."""
    untrusted_words = last_words(untrusted_tail)
    said = f": {_printable(untrusted_words)}" if untrusted_words else ""
    if state == "starting":
        return "engine", f"{engine} did not start the sandbox (status {status}){said}"
    if status == 125:  # docker's own word for it: not the runner ended, but the daemon or the connection to it
        return "engine", f"{engine} lost the sandbox (status 125){said}"
    if status in {137, -9}:
        megabytes = spec.resources.memory_bytes // MIB
        return "exited", f"the sandbox was killed, most likely for using more than its {megabytes} MiB of memory"
    return "exited", f"the sandbox ended without an answer (status {status}){said}"


def _printable(untrusted_text: str) -> str:
    return re.sub(r"[^ -~\u00a1-\U0010ffff]", "?", untrusted_text)[:300]


# --- processes -----------------------------------------------------------------------------------------


def spawn(launch: Launch) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """The process, and our ends of its stdin, stdout and stderr. It inherits those, the launch's inputs, and
    no other descriptor; a session of its own keeps the terminal's Ctrl-C from it."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        inputs = [_readable(data, theirs) for data in launch.inputs]
        stdin, our_stdin = _channel(theirs, ours)
        our_stdout, stdout = _channel(ours, theirs)
        our_stderr, stderr = _channel(ours, theirs)
        process = subprocess.Popen(
            [_filled_in(argument, inputs) for argument in launch.argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=clean_environment(),
            cwd="/",
            pass_fds=inputs,
            start_new_session=True,
        )
        ours.pop_all()  # ours from here on
    return process, our_stdin, our_stdout, our_stderr


def _channel(read_end: contextlib.ExitStack, write_end: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()  # neither is inherited (PEP 446); macOS has no pipe2
    read_end.callback(os.close, reading)
    write_end.callback(os.close, writing)
    return reading, writing


def _readable(data: bytes, stack: contextlib.ExitStack) -> int:
    fd = readable(data)
    stack.callback(os.close, fd)
    return fd


def _filled_in(argument: str, inputs: list[int]) -> str:
    match = re.fullmatch(r"\{fd:(\d+)\}", argument)
    return str(inputs[int(match[1])]) if match else argument


def run_aside(loop: Loop, argv: tuple[str, ...] | None) -> None:
    """Start a program of the engine's and look after it for as long as it may take, without waiting."""
    if argv is None:
        return
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return  # nothing to ask; the next start reaps what is left
    late = loop.call_later(4 * KILL_SECONDS, lambda: kill_session(process))
    loop.watch_child(process, lambda _: late.cancel())
