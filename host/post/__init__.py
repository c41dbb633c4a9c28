"""The post: what channels that are programs bring in, in order, and what is in the outbox for them, until they have it.

A message is on disk before its channel is told that it was kept; a crash of either brings it again, and the store
knows it by its id. A reply leaves in order, and is S4 when the channel says that its service has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from host.channels.program import Command
from host.errors import UserError
from host.model import Group, Message
from host.post.desk import Desk
from host.post.line import Line, Linking
from host.sending import sweep

__all__ = ["Desk", "Line", "Linking", "Post"]


class Post:
    """All lines of this host."""

    def __init__(self, desk: Desk, commands: Mapping[str, Command]) -> None:
        self._desk = desk
        self.lines = {name: Line(desk, name, command) for name, command in commands.items()}
        self._ending: dict[str, list[Callable[[], None]]] = {}
        """Lines that were told to stop, and who is to be told when they have."""

    def open(self) -> None:
        unsent = (row.file for name in self.lines for row in self._desk.store.outbox.pending(name))
        sweep(self._desk.outbox, {file for file in unsent if file})
        for line in self.lines.values():
            line.start()

    def close(self, then: Callable[[], None]) -> None:
        """`then` is called when all are gone."""
        left = set(self.lines)

        def gone(name: str) -> None:
            left.discard(name)
            if not left:
                then()

        for name in list(self.lines):
            self._end(name, lambda name=name: gone(name))  # type: ignore[misc]  # a default binds it now
        if not self.lines:
            self._desk.loop.call_soon(then)

    def begin(self, name: str, command: Command) -> None:
        """A channel that this host did not have so far."""
        if name in self._ending:
            raise UserError(f"{name} is just being ended", "try again in a moment")
        if name not in self.lines:
            self.lines[name] = Line(self._desk, name, command)
            self.lines[name].start()

    def forget(self, name: str, then: Callable[[], None]) -> None:
        """End a channel and have it no longer; `then` is called when its program is gone."""

        def gone() -> None:
            self.lines.pop(name, None)
            then()

        if name in self.lines:
            self._end(name, gone)
        else:
            then()

    def _end(self, name: str, then: Callable[[], None]) -> None:
        if name in self._ending:
            self._ending[name].append(then)
            return
        self._ending[name] = [then]

        def ended() -> None:
            for each in self._ending.pop(name):
                each()

        self.lines[name].stop(ended)

    def typing(self, group: Group, on: bool) -> None:
        if line := self.lines.get(group.channel):
            line.typing(group.chat, on)

    def mark_read(self, message: Message) -> None:
        if line := self.lines.get(message.channel):
            line.mark_read(message)

    def status(self) -> dict[str, Any]:
        return {name: line.status() for name, line in self.lines.items()}
