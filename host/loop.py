"""The one loop of the host: file descriptors, timers, children, and work handed over by other threads.

Everything that waits in the host waits here, in one `select`. Nothing in a callback may block.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

Callback = Callable[[], None]

CHUNK: Final = 64 * 1024
REST_CHUNKS: Final = 64


class Timer:
    """A callback that is due; `cancel` may be called any number of times, also after it ran."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Calls back when a descriptor is ready, a time has come, a child has ended or a signal was sent.

    Made on the main thread. An exception in a callback is a bug: it ends `run` and the program.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()  # equal times run in the order they were set, and Timers are never compared
        self._soon: deque[Callback] = deque()
        self._children: dict[int, tuple[subprocess.Popen[bytes], Callable[[int], None]]] = {}
        self._signals: dict[int, Callback] = {}
        self._stopping = False
        # Other threads and signal handlers cannot touch the selector while it sleeps. They write one byte
        # here, and the sleep ends. Both ends are non-blocking: a full pipe already says "wake up".
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, (self._drain_wake, None))
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        # The handler itself does nothing: the byte from set_wakeup_fd is what matters. Without a handler
        # SIGCHLD is ignored by default and writes no byte.
        self._old_child_handler = signal.signal(signal.SIGCHLD, lambda *_: None)

    @staticmethod
    def now() -> float:
        """Seconds on a clock that only goes forward."""
        return time.monotonic()

    def watch(self, fd: int, readable: Callback | None = None, writable: Callback | None = None) -> None:
        """Call back while `fd` is ready. Replaces what was asked for this fd before; neither means unwatch.

        Regular files and /dev/null are always ready and epoll refuses them: `PermissionError`.
        """
        events = (selectors.EVENT_READ if readable else 0) | (selectors.EVENT_WRITE if writable else 0)
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, (readable, writable))
        else:
            self._selector.register(fd, events, (readable, writable))

    def unwatch(self, fd: int) -> None:
        self.watch(fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now() + seconds, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callback) -> None:
        """After the callbacks that run now, before the next sleep."""
        self._soon.append(callback)

    def call_threadsafe(self, callback: Callback) -> None:
        """`call_soon` from another thread."""
        self._soon.append(callback)  # deque.append is atomic
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def watch_child(self, process: subprocess.Popen[bytes], callback: Callable[[int], None]) -> None:
        """Call back once with the return code when `process` has ended, also if it already has."""
        self._children[process.pid] = (process, callback)
        self.call_soon(self._reap)

    @property
    def children(self) -> int:
        """How many children are still watched: programs that were started aside and have not ended."""
        return len(self._children)

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Run `callback` from the loop (not from the signal's context) each time `signum` comes."""
        self._signals[signum] = callback
        signal.signal(signum, lambda *_: None)

    def stop(self) -> None:
        """`run` returns after the callbacks that are due now, or at once if it is yet to be called."""
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            self.step()
        self._stopping = False

    def step(self) -> None:
        """One round: sleep until something is due, then run all that is."""
        for key, mask in self._selector.select(self._sleep_seconds()):
            self._dispatch(key, mask)
        self._run_timers()
        for _ in range(len(self._soon)):  # what these add runs in the next round, so none can starve the rest
            self._soon.popleft()()

    def settle(self, seconds: float) -> None:
        """Go on until every child that is watched has ended, at most for so long."""
        late: list[bool] = []
        timer = self.call_later(seconds, lambda: late.append(True))
        while self._children and not late:
            self.step()
        timer.cancel()

    def close(self) -> None:
        """Give the process's signals back. The descriptors that are still watched belong to others."""
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGCHLD, self._old_child_handler)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _dispatch(self, key: selectors.SelectorKey, mask: int) -> None:
        # An earlier callback of this round may have closed this fd, or a new one may have its number by
        # now: only what is still registered as it was when we slept is called.
        for event, index in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
            current: Any = self._selector.get_map().get(key.fd)
            if mask & event and current is not None and current.data is key.data and key.data[index]:
                key.data[index]()

    def _sleep_seconds(self) -> float | None:
        if self._soon:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else None

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()

    def _drain_wake(self) -> None:
        signums: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._wake_read, 512):
                signums.update(data)  # set_wakeup_fd writes the signal's number
        if signal.SIGCHLD in signums:
            self._reap()
        for signum in signums & self._signals.keys():
            self._signals[signum]()

    def _reap(self) -> None:
        for pid, (process, callback) in list(self._children.items()):
            if (code := process.poll()) is not None:
                del self._children[pid]
                callback(code)


class Pipe:
    """Two non-blocking descriptors (or one, or one for both) with a bounded buffer for what goes out.

    `on_data` is given what came, at most `CHUNK` bytes a time, so that one chatty peer cannot keep the loop.
    `on_closed` is called once, with why: the other end closed, an error, or more than `limit` bytes waiting
    to be written. It is called from the loop, never from inside `write`. Until then this object owns the
    descriptors.
    """

    def __init__(
        self,
        loop: Loop,
        read_fd: int | None,
        write_fd: int | None,
        on_data: Callable[[bytes], None],
        on_closed: Callable[[str], None],
        limit: int,
    ) -> None:
        self._loop = loop
        self._read_fd, self._write_fd = read_fd, write_fd
        self._on_data, self._on_closed = on_data, on_closed
        self._limit = limit
        self._out = bytearray()  # not a list of pieces: many small ones would cost far more than their bytes
        self._finishing = self._paused = self._silent = False
        self.closed = False
        self.on_drained: Callback | None = None
        """Called once when all that was queued has left."""
        for fd in {read_fd, write_fd} - {None}:
            os.set_blocking(fd, False)  # type: ignore[arg-type]  # None was taken out
        self._watch()

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written."""
        return len(self._out)

    def write(self, data: bytes) -> None:
        """Queue `data`; it leaves as the other end takes it. After `close` or `finish` it is dropped."""
        if self.closed or self._finishing or self._write_fd is None:
            return
        if self.buffered + len(data) > self._limit:
            self._end("write buffer full")
            return
        idle = not self._out
        self._out += data
        if idle:
            self._writable()

    def pause(self) -> None:
        """Stop reading; the other end is held back by the kernel's buffer."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        self._paused = False
        self._watch()

    def take_rest(self) -> None:
        """Hand on what came so far and was not read yet: whoever said it has ended, and there is not much more than a
        buffer of the kernel's."""
        for _ in range(REST_CHUNKS):
            if self._read_fd is not None:
                self._readable()

    def finish(self) -> None:
        """Close the write side when all that is queued has left; reading goes on."""
        self._finishing = True
        self._finish_if_flushed()

    def close(self) -> None:
        """Close both sides now, without calling `on_closed`."""
        self._silent = True
        self._shut()

    def _shut(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._out.clear()
        for fd in {self._read_fd, self._write_fd} - {None}:
            self._loop.unwatch(fd)  # type: ignore[arg-type]  # None was taken out
            os.close(fd)  # type: ignore[arg-type]
        self._read_fd = self._write_fd = None

    def _end(self, reason: str) -> None:
        if not self.closed:
            self._shut()
            self._loop.call_soon(lambda: None if self._silent else self._on_closed(reason))

    def _watch(self) -> None:
        if self.closed:
            return
        readable = None if self._paused else self._readable
        writable = self._writable if self._out else None
        if self._read_fd == self._write_fd and self._read_fd is not None:
            self._loop.watch(self._read_fd, readable, writable)
            return
        if self._read_fd is not None:
            self._loop.watch(self._read_fd, readable)
        if self._write_fd is not None:
            self._loop.watch(self._write_fd, writable=writable)

    def _readable(self) -> None:
        assert self._read_fd is not None
        try:
            data = os.read(self._read_fd, CHUNK)
        except BlockingIOError:
            return
        except OSError as e:
            self._end(e.strerror or "read error")
            return
        if data:
            self._on_data(data)
        else:
            self._end("closed by the other end")

    def _writable(self) -> None:
        assert self._write_fd is not None
        try:
            while self._out:
                sent = os.write(self._write_fd, self._out[:CHUNK])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError as e:
            # The reader went away. What it said before is still to be read: only the write side is gone.
            self._drop_write_side(e.strerror or "write error")
            return
        self._finish_if_flushed()
        self._watch()
        if not self._out and self.on_drained is not None:
            drained, self.on_drained = self.on_drained, None
            self._loop.call_soon(drained)

    def _finish_if_flushed(self) -> None:
        if self._finishing and not self._out and self._write_fd is not None:
            self._drop_write_side("finished")

    def _drop_write_side(self, reason: str) -> None:
        self._out.clear()
        if self._read_fd is None or self._read_fd == self._write_fd:
            self._end(reason)
            return
        assert self._write_fd is not None
        self._loop.unwatch(self._write_fd)
        os.close(self._write_fd)
        self._write_fd = None
