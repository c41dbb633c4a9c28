"""One outgoing TCP connection on the loop: connect to the first address that answers, then carry bytes."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from typing import Final, Protocol

from host.loop import Callback, Loop, Timer

CONNECT_SECONDS: Final = 10.0
"""For all addresses together: each may use its share of what is left."""
WRITE: Final = 64 * 1024


class Owner(Protocol):
    """Who the link reports to. `ended`, `finished` and `failed` come at most once; after `failed`, nothing."""

    def connected(self, address: str) -> None: ...
    def room(self) -> int: ...
    def read(self, data: bytes) -> None: ...
    def wrote(self, count: int) -> None: ...
    def ended(self) -> None: ...
    def finished(self) -> None: ...
    def failed(self, why: str) -> None: ...


class Link:
    """Reads only while its owner has room, so the far side is held back by TCP itself; buffers what the far
    side does not take yet, which the owner bounds. `idle_seconds` without a byte either way is a failure."""

    def __init__(
        self, loop: Loop, addresses: list[str], port: int, owner: Owner, idle_seconds: float | None = None
    ) -> None:
        self._loop, self._port, self._owner = loop, port, owner
        self._addresses = deque(addresses)
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._idle, self._last_byte = idle_seconds, loop.now()
        self._connected = self._read_ended = self._finishing = self._write_broken = False
        self._watched: tuple[bool, bool] | None = None
        self._why = "no address"
        # One buffer and not a queue of pieces: half a million pieces of one byte would cost a hundred times that.
        self._out = bytearray()
        self.sent = 0
        self.flushed = False
        """Whether the write side was closed after all that was queued had left."""

    # --- connecting ---

    def connect(self, seconds: float) -> None:
        self._next_address(self._loop.now() + seconds)

    def _next_address(self, until: float) -> None:
        while self._addresses:
            share = max(0.0, until - self._loop.now()) / len(self._addresses)
            address = self._addresses.popleft()
            if self._try(address, until):
                self._set_timer(share, lambda: self._attempt_failed("no answer in time", until))
                return
        self._fail(self._why)

    def _try(self, address: str, until: float) -> bool:
        """Whether a connection is under way."""
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = self._socket.connect_ex((address, self._port))
        except OSError as e:
            code = e.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS) or self._socket is None:
            self._why = os.strerror(code)
            self._close_socket()
            return False
        self._loop.watch(self._socket.fileno(), writable=lambda: self._answered(address, until))
        return True

    def _answered(self, address: str, until: float) -> None:
        assert self._socket is not None
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._attempt_failed(os.strerror(code), until)
            return
        self._connected = True
        self._last_byte = self._loop.now()
        self._set_timer(self._idle, self._check_idle)
        self._owner.connected(address)
        self.watch()

    def _attempt_failed(self, why: str, until: float) -> None:
        self._why = why
        self._close_socket()
        self._next_address(until)

    # --- carrying ---

    def write(self, data: bytes) -> None:
        if self._write_broken:
            self._owner.wrote(len(data))
            return
        waiting = bool(self._out)
        self._out += data
        if not waiting:
            self._writable()

    def finish(self) -> None:
        """Close the write side when all that is queued has left."""
        self._finishing = True
        self._finish_if_empty()
        self.watch()

    def watch(self) -> None:
        """Look again at what there is to wait for; the owner calls it when it has room again."""
        if self._socket is None or not self._connected:
            return
        wanted = (not self._read_ended and self._owner.room() > 0, bool(self._out))
        if wanted != self._watched:  # else each piece would cost a system call that changes nothing
            self._watched = wanted
            fd, (readable, writable) = self._socket.fileno(), wanted
            self._loop.watch(fd, self._readable if readable else None, self._writable if writable else None)

    def close(self) -> None:
        """Gone, both ways, without another word to the owner."""
        self._addresses.clear()
        self._out.clear()
        self._set_timer(None, self.close)
        self._close_socket()

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(self._owner.room())
        except BlockingIOError:
            return
        except OSError as e:
            self._fail(e.strerror or "read error")
            return
        if data:
            self._last_byte = self._loop.now()
            self._owner.read(data)
        else:
            self._read_ended = True
            self._owner.ended()
        self.watch()

    def _writable(self) -> None:
        assert self._socket is not None
        try:
            while self._out:
                self._took(self._socket.send(self._out[:WRITE]))
        except BlockingIOError:
            pass
        except OSError:
            self._drop_writes()
        self._finish_if_empty()
        self.watch()

    def _took(self, count: int) -> None:
        self.sent += count
        self._last_byte = self._loop.now()
        del self._out[:count]
        self._owner.wrote(count)

    def _drop_writes(self) -> None:
        # The far side takes no more, which an answer may explain ("413") that is still to be read: so go on
        # reading, and let what follows that was meant for it disappear.
        self._write_broken = True
        dropped = len(self._out)
        self._out.clear()
        if dropped:
            self._owner.wrote(dropped)

    def _finish_if_empty(self) -> None:
        if not self._finishing or self._out or self.flushed or self._socket is None:
            return
        self.flushed = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._write_broken = True
        self._owner.finished()

    # --- ends ---

    def _check_idle(self) -> None:
        assert self._idle is not None
        left = self._last_byte + self._idle - self._loop.now()
        if left > 0:
            self._set_timer(left, self._check_idle)
        else:
            self._fail("idle for too long")

    def _set_timer(self, seconds: float | None, then: Callback) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, then)

    def _fail(self, why: str) -> None:
        self.close()
        self._owner.failed(why)

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
