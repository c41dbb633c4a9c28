"""The loop's timers and the wall clock, standing still until they are moved: a year takes as long as what happens in
it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from host.loop import Timer


class Clock:
    """`call_later` and `call_soon` of the loop; `wall` may be set apart from it, as people and NTP do."""

    def __init__(self, now: float) -> None:
        self.wall = now
        self.ran = 0.0
        """Seconds on the clock that only goes forward."""
        self.calls = 0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def time(self) -> float:
        return self.wall

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.ran + seconds, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_later(0.0, callback)

    def run(self, seconds: float) -> None:
        """Let this much time pass, and all that is due in it happen."""
        end = self.ran + seconds
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self._pass(at - self.ran)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self.calls += 1
                callback()
        self._pass(end - self.ran)

    def forget(self) -> None:
        """A crash: nothing that waited happens."""
        self._timers.clear()

    @property
    def waiting(self) -> bool:
        return any(timer.callback for *_, timer in self._timers)

    def _pass(self, seconds: float) -> None:
        self.ran += seconds
        self.wall += seconds
