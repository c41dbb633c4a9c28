"""TCP connections carried over the pipe, each direction within a window of credit.

The reader thread calls `take`, and must never wait: so nothing here sends while it holds a lock that `take`
needs. Everybody else may wait, with a time limit.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Final

from runner.protocol import CHUNK, MAX_STREAMS, WINDOW, Bytes, Close, Credit, Frame, Open, Opened, PeerError

CREDIT_STEP: Final = WINDOW // 4
"""Bytes consumed before the other end is told: fewer frames, and the window never runs dry."""


class StreamError(Exception):
    """The connection was refused, could not be made, or broke. The text says which, for a person."""


class Stream:
    def __init__(self, number: int, send: Callable[[Frame], None], forget: Callable[[int], None]) -> None:
        self.number = number
        self._send = send
        self._forget = forget
        self._changed = threading.Condition()
        self._opened = False
        self._error = ""
        """Why the other end broke it off."""
        self._got_end = False
        self._sent_end = False
        self._gone = False
        """Closed from here, both ways."""
        self._held = bytearray()
        self._may_send = WINDOW
        self._may_come = WINDOW
        self._consumed = 0

    # --- the reader thread's side ---

    def opened(self) -> None:
        with self._changed:
            if self._opened:
                raise PeerError("opened twice")
            self._opened = True
            self._changed.notify_all()

    def came(self, data: bytes) -> None:
        with self._changed:
            if not self._opened or self._got_end:
                raise PeerError("bytes on a stream that is not open")
            self._may_come -= len(data)
            if self._may_come < 0:
                raise PeerError("bytes beyond the credit")
            if not self._gone:
                self._held += data
            self._changed.notify_all()

    def credited(self, count: int) -> None:
        with self._changed:
            self._may_send += count
            if not 0 < count <= WINDOW or self._may_send > WINDOW:
                raise PeerError("credit out of range")
            self._changed.notify_all()

    def closed(self, error: str) -> bool:
        """The other end closed; whether the stream is over."""
        with self._changed:
            if not error and (self._got_end or not self._opened):
                raise PeerError("a clean close of a stream that is not open")
            self._got_end = True
            self._error = error
            self._changed.notify_all()
            return bool(error) or self._sent_end

    # --- everybody else's ---

    def wait_open(self, timeout: float | None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._opened or self._error, timeout):
                raise TimeoutError
            if self._error:
                raise StreamError(self._error)

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """Up to `size` bytes; none at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._held or self._got_end or self._gone, timeout):
                raise TimeoutError
            data = bytes(self._held[:size])
            del self._held[:size]
            if not data and self._error:
                raise StreamError(self._error)
            credit = self._earn(len(data))
        if credit:
            self._send(Credit(self.number, credit))
        return data

    def _earn(self, count: int) -> int:
        self._consumed += count
        if self._consumed < CREDIT_STEP or self._got_end:
            return 0
        credit, self._consumed = self._consumed, 0
        self._may_come += credit
        return credit

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """All of `data`, as fast as credit comes; the time limit is for each wait."""
        view = memoryview(data)
        while view:
            piece = view[: self._reserve(len(view), timeout)]
            self._send(Bytes(self.number, bytes(piece)))
            view = view[len(piece) :]

    def _reserve(self, wanted: int, timeout: float | None) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._may_send or self._error or self._gone, timeout):
                raise TimeoutError
            if self._error or self._sent_end or self._gone:
                raise StreamError(self._error or "the stream is closed")
            count = min(wanted, self._may_send, CHUNK)
            self._may_send -= count
            return count

    def finish(self) -> None:
        """No more bytes from here; the other direction goes on."""
        with self._changed:
            if self._over or self._sent_end:
                return
            self._sent_end = True
            over = self._over
        self._send(Close(self.number))
        if over:
            self._forget(self.number)

    def close(self, error: str = "closed") -> None:
        """Gone, both ways. Never fails, and may be called twice."""
        with self._changed:
            over, self._gone = self._over, True
            self._changed.notify_all()
        if not over:
            self._forget(self.number)
            self._send(Close(self.number, error))

    @property
    def _over(self) -> bool:
        return self._gone or bool(self._error) or (self._sent_end and self._got_end)

    @property
    def readable(self) -> bool:
        """Whether a read would not wait: there is data, or the end."""
        with self._changed:
            return bool(self._held) or self._got_end or self._gone


class Streams:
    """The table of open streams. Numbers only rise, so a late frame for a closed one is known as such."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._numbers = itertools.count(1)
        self._last = 0
        self._open: dict[int, Stream] = {}

    def open(self, kind: str, host: str, port: int, timeout: float | None) -> Stream:
        with self._opening:  # two threads' numbers must not overtake each other on the pipe
            with self._lock:
                if len(self._open) >= MAX_STREAMS:
                    raise StreamError(f"refused: {MAX_STREAMS} connections are open already")
                number = self._last = next(self._numbers)
                stream = self._open[number] = Stream(number, self._send, self._forget)
            self._send(Open(number, kind, host, port))
        try:
            stream.wait_open(timeout)
        except TimeoutError:
            stream.close("no answer in time")
            raise
        return stream

    def take(self, frame: Opened | Bytes | Credit | Close) -> None:
        with self._lock:
            stream = self._open.get(frame.stream)
            if stream is None:
                if 1 <= frame.stream <= self._last:
                    return  # it crossed our close on its way
                raise PeerError("a frame for a stream that was never opened")
        match frame:
            case Opened():
                stream.opened()
            case Bytes():
                stream.came(frame.data)
            case Credit():
                stream.credited(frame.bytes)
            case Close():
                if stream.closed(frame.error):
                    self._forget(frame.stream)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._open.pop(number, None)
