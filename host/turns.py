"""Who runs when: at most one turn per group, at most `limit` in all, first come first served. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Start:
    """Start a turn for this group."""

    folder: str


@dataclass(frozen=True)
class Feed:
    """Give the group's running turn what has come since."""

    folder: str


Command = Start | Feed


class Turns:
    """Events in, commands out. A group that is told to `Start` runs until `turn_ended` is called for it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[str] = set()
        self._waiting: dict[str, None] = {}  # a dict is an ordered set

    def message_arrived(self, folder: str) -> list[Command]:
        """There are messages that want the agent."""
        if folder in self._running:
            return [Feed(folder)]
        self._waiting.setdefault(folder)  # one that waits already keeps its place
        return self._start_ready()

    def turn_ended(self, folder: str, more_pending: bool) -> list[Command]:
        """The place is free. `more_pending`: messages came that this turn did not take up. Then the group
        goes to the end of the queue, behind those that waited while it ran."""
        self._running.remove(folder)
        if more_pending:
            self._waiting.setdefault(folder)
        return self._start_ready()

    def _start_ready(self) -> list[Command]:
        ready = list(self._waiting)[: max(0, self._limit - len(self._running))]
        for folder in ready:
            del self._waiting[folder]
            self._running.add(folder)
        return [Start(folder) for folder in ready]
