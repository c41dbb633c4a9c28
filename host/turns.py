"""Who runs when: at most one turn per group, at most `limit` in all, first come first served. No I/O.

Messages and tasks wait in one queue of groups. A group's own things are done in the order in which they came; one
turn done, what is left of them goes behind the groups that waited meanwhile, so that nobody waits for more than one
turn of each other group, however much that group has to do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True)
class Start:
    """Start a turn for this group: for this task, or else for its messages."""

    folder: str
    task: str | None = None


@dataclass(frozen=True)
class Feed:
    """Give the group's running turn what has come since."""

    folder: str


Command = Start | Feed


class Turns:
    """Events in, commands out. A group that is told to `Start` runs until `turn_ended` is called for it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[str, str | None] = {}
        """Group → the task that its turn is for; None: its messages."""
        self._lines: dict[str, OrderedDict[str | None, None]] = {}
        """Group → what waits for a turn of it, oldest first: a task's id, or None for its messages. Never empty."""
        self._ready: OrderedDict[str, None] = OrderedDict()
        """The groups of `_lines` that do not run, in the order of the queue."""
        self._groups: dict[str, str] = {}
        """Task that waits → its group."""

    def message_arrived(self, folder: str) -> list[Command]:
        """There are messages that want the agent. A task's turn is not about them: they wait for their own."""
        if folder in self._running and self._running[folder] is None:
            return [Feed(folder)]
        return self._wait(folder, None)

    def task_due(self, folder: str, task: str) -> list[Command]:
        """One run of it; nothing if a run of it waits or works already."""
        if task in self._groups or self._running.get(folder) == task:
            return []
        self._groups[task] = folder
        return self._wait(folder, task)

    def cancel_task(self, task: str) -> bool:
        """Out of the queue; whether it was in it. A run that works already is not touched."""
        folder = self._groups.pop(task, None)
        if folder is not None:
            self._leave(folder, task)
        return folder is not None

    def forget(self, folder: str) -> None:
        """Nothing of this group waits any more."""
        for item in self._lines.pop(folder, {}):
            if item is not None:
                del self._groups[item]
        self._ready.pop(folder, None)

    def turn_ended(self, folder: str, more_pending: bool) -> list[Command]:
        """The place is free. `more_pending`: there are messages that no turn took up. Then, and for tasks that
        wait, the group goes to the end of the queue, behind those that waited while it ran."""
        del self._running[folder]
        if more_pending:
            self._lines.setdefault(folder, OrderedDict()).setdefault(None)
        else:
            self._leave(folder, None)
        if folder in self._lines:
            self._ready[folder] = None
        return self._start_ready()

    def _wait(self, folder: str, item: str | None) -> list[Command]:
        self._lines.setdefault(folder, OrderedDict()).setdefault(item)
        if folder in self._running:
            return []
        self._ready.setdefault(folder)  # a group that waits already keeps its place
        return self._start_ready()

    def _leave(self, folder: str, item: str | None) -> None:
        line = self._lines.get(folder)
        if line is not None and item in line:
            del line[item]
            if not line:
                self.forget(folder)

    def _start_ready(self) -> list[Command]:
        started: list[Command] = []
        while self._ready and len(self._running) < self._limit:
            folder, _ = self._ready.popitem(last=False)
            line = self._lines[folder]
            item, _ = line.popitem(last=False)
            if not line:
                del self._lines[folder]
            if item is not None:
                del self._groups[item]
            self._running[folder] = item
            started.append(Start(folder, item))
        return started
