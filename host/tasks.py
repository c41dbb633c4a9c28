"""The scheduler: sees to it that what is due is queued, once, soon after its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from host.errors import UserError
from host.log import Log
from host.loop import Loop, Timer
from host.model import TaskRun
from host.store import Store

# The loop's clock stands still while the machine sleeps, and the wall clock may be set: look again at least so often.
LOOK_SECONDS: Final = 60.0
DAY: Final = 86_400.0


class Scheduler:
    """One timer for the next run that is due. `due` is called from the loop, never from within `changed`."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        zone_of: Callable[[str], str],
        due: Callable[[TaskRun], None],
        log: Log,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loop, self._tasks, self._zone_of, self._due, self._log = loop, store.tasks, zone_of, due, log
        self._clock = clock
        self._timer: Timer | None = None
        self._last = clock()
        self._running = self._asked = False

    def start(self) -> None:
        """Queue again what an earlier host left unfinished, then what became due meanwhile: of each task one run."""
        self._running = True
        again, given_up = self._tasks.unfinished()
        for run in given_up:
            self._log.warning("a task's run was interrupted, and is given up", task=run.task.id, group=run.task.group)
        self._follow_zones(self._clock())
        self._realign(self._clock())
        for run in again:
            self._due(run)
        self._look()

    def changed(self) -> None:
        """Tasks, a group's time zone, or what runs: look again, soon."""
        if self._running and not self._asked:
            self._asked = True
            self._loop.call_soon(self._look)

    def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._asked = False
        if not self._running:
            return
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock()
        try:
            if now < self._last - DAY:
                self._realign(now)
            self._last = now
            self._follow_zones(now)
            runs = self._tasks.claim_due(now)
            next_due = self._tasks.next_due()
        except UserError as e:  # the disk: what is due stays due
            self._log.warning("cannot look for tasks that are due", why=str(e))
            runs, next_due = [], now + LOOK_SECONDS
        for run in runs:
            self._due(run)
        if next_due is not None:
            self._timer = self._loop.call_later(min(LOOK_SECONDS, max(0.0, next_due - now)), self._look)

    def _follow_zones(self, now: float) -> None:
        for folder, zone in self._tasks.zones():
            try:
                chosen = self._zone_of(folder)
            except UserError:  # its settings are not right, and its turns say so; until then, the zone it had
                continue
            if chosen != zone:
                self._tasks.rezone(folder, chosen, now)

    def _realign(self, now: float) -> None:
        if count := self._tasks.realign(now):
            self._log.warning("the clock was wrong: times of tasks were computed anew", tasks=count)
