"""The runner's end of the pipe: one writer for all threads, one reader thread, and the ways to end.

The pipe is a lease. When it ends, or breaks the rules, the process exits at once, whatever it was doing: the
process is PID 1, and all that the agent started goes with it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

from runner import children, protocol
from runner.streams import Streams

READ: Final = 64 * 1024
FLUSH_SECONDS: Final = 5.0
"""How long a last frame may wait for a host that does not read."""
MAX_INPUTS: Final = 1000
MAX_CALL: Final = protocol.MIB
"""Most bytes of a request to the host."""

EXIT_DONE: Final = 0
EXIT_BUG: Final = 70
EXIT_LATE: Final = 75
EXIT_PEER: Final = 76


def take_stdio() -> tuple[int, int]:
    """Move the pipe to private, close-on-exec descriptors that no child inherits.

    What is left at 0 and 1 is harmless: a stray `print` goes to stderr, and a read finds the end.
    """
    sys.stdout.flush()
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for fd in (source, sink):
        os.set_blocking(fd, True)
    return source, sink


class Wire:
    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._writing = threading.Lock()
        self.payload: protocol.Turn | protocol.Check | None = None
        """What the host sent, once it has."""
        self._payload_came = threading.Event()
        self.streams = Streams(self.send)
        self._calls = 0
        self._open_call = 0
        self._answers: queue.SimpleQueue[protocol.Result | protocol.Refused] = queue.SimpleQueue()
        self._inputs: collections.deque[str] = collections.deque()

    def start(self) -> None:
        threading.Thread(target=self._guarded_read, name="pipe", daemon=True).start()

    def wait_for_payload(self, seconds: float | None) -> protocol.Turn | protocol.Check | None:
        """None if it did not come within `seconds` (None: as long as it takes)."""
        self._payload_came.wait(seconds)
        return self.payload

    def take_inputs(self) -> list[str]:
        """The follow-ups that came since the last time."""
        return [self._inputs.popleft() for _ in range(len(self._inputs))]

    def call(self, method: str, params: dict[str, Any]) -> protocol.Result | protocol.Refused:
        """Ask the host, one thing at a time. It waits no longer than the turn lasts: the deadline ends the process.
        `ValueError` if the request is too long for the pipe, or holds what has no UTF-8."""
        self._calls += 1
        frame = protocol.Call(self._calls, method, params)
        if len(protocol.encode(frame)) > MAX_CALL:
            raise ValueError(f"a request of more than {MAX_CALL} bytes")
        self._open_call = self._calls
        self.send(frame)
        return self._answers.get()

    def send_file(self, name: str, caption: str, data: bytes) -> protocol.Result | protocol.Refused:
        """Hand a file over for the chat; the host's answer."""
        self._calls += 1
        self._open_call = self._calls
        for start in range(0, max(1, len(data)), protocol.CHUNK):
            piece, last = data[start : start + protocol.CHUNK], start + protocol.CHUNK >= len(data)
            self.send(protocol.File(self._calls, name, caption, piece, last))
        return self._answers.get()

    def send(self, frame: protocol.Frame) -> None:
        line = protocol.encode(frame)
        if len(line) > protocol.RUNNER_LINE_LIMIT:
            raise ValueError(f"a {type(frame).__name__} frame of {len(line)} bytes is over the limit")
        with self._writing:
            self._write(line)

    def finish(self, frame: protocol.Done | protocol.Failed | protocol.Checked) -> NoReturn:
        """Say the last word and leave. The first caller wins; the lock is never given back."""
        line = protocol.encode(frame)
        with contextlib.suppress(RuntimeError):  # the agent may have used up all threads
            start_timer(FLUSH_SECONDS, lambda: leave(EXIT_LATE))
        self._writing.acquire()
        self._write(line)
        leave(EXIT_DONE)

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._sink, view) :]
        except OSError:
            leave(EXIT_DONE)  # nobody reads any more: the lease is over

    def _guarded_read(self) -> None:
        try:
            self._read()
        except protocol.PeerError as e:
            sys.stderr.write(f"runner: the host broke the rules of the pipe: {e}\n")
            leave(EXIT_PEER)
        except BaseException as e:  # noqa: BLE001 (without this thread the process would outlive its lease)
            sys.stderr.write(f"runner: reading the pipe failed: {type(e).__name__}\n")
            leave(EXIT_BUG)

    def _read(self) -> None:
        decoder = protocol.Decoder(protocol.TO_RUNNER, protocol.HOST_LINE_LIMIT)
        while data := os.read(self._source, READ):
            for frame in decoder.feed(data):
                self._take(frame)
        leave(EXIT_DONE)

    def _take(self, frame: protocol.Frame) -> None:
        match frame:
            case protocol.Turn() | protocol.Check():
                if self.payload is not None:
                    raise protocol.PeerError("a second payload")
                self.payload = frame
                self._payload_came.set()
            case protocol.Input():
                if len(self._inputs) >= MAX_INPUTS:
                    raise protocol.PeerError("too many inputs")
                self._inputs.append(frame.text)
            case protocol.Stop():
                # Not from this thread: it must go on reading, or a host that writes could block for ever.
                stopped = protocol.Failed("stopped", frame.reason[:500] or "stopped")
                threading.Thread(target=self.finish, args=(stopped,), daemon=True).start()
            case protocol.Opened() | protocol.Bytes() | protocol.Credit() | protocol.Close():
                self.streams.take(frame)
            case protocol.Result() | protocol.Refused():
                if frame.id != self._open_call:
                    raise protocol.PeerError(f"{type(frame).__name__.lower()} for no call")
                self._open_call = 0
                self._answers.put(frame)
            case _:
                raise protocol.PeerError(f"{type(frame).__name__.lower()} is no frame for a runner")


def leave(status: int) -> NoReturn:
    """Exit now. The interpreter's own way out takes long and waits for threads."""
    children.kill_all()
    os._exit(status)


class Deadline:
    """Ends the process by itself: a dead container engine gives no end of file."""

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._timer = start_timer(seconds, late)

    def extend(self, seconds: float, late: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = start_timer(seconds, late)


def start_timer(seconds: float, late: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    return timer
