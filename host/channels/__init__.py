"""Where messages come from and replies go to. A channel takes outbox rows and acks them; `console` is the terminal."""

from __future__ import annotations

from typing import Protocol

from host.model import Outgoing


class Channel(Protocol):
    """One way to reach people. Calls never block; what cannot be delivered now stays in the outbox."""

    name: str

    @property
    def takes_files(self) -> bool: ...
    @property
    def takes_reactions(self) -> bool: ...

    def deliver(self, outgoing: Outgoing) -> None:
        """Say it. The channel's ack, whenever it comes, is what makes the row S4 (sent); until then the row
        may be delivered again, after a restart or when someone connects."""
        ...
