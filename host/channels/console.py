"""The terminal as a channel: `chat` and `ask`, connected through the control socket."""

from __future__ import annotations

from host.control import Control
from host.model import Outgoing


class Console:
    """Says outbox rows to every client that watches the group. A client's `ack` makes the row sent; with
    nobody watching it waits in the outbox for the next `chat`."""

    name = "console"
    takes_files = False  # a file is in the group's folder, on this very machine
    takes_reactions = False

    def __init__(self, control: Control) -> None:
        self._control = control

    def deliver(self, outgoing: Outgoing) -> None:
        self._control.broadcast(
            outgoing.group, outgoing.kind, out=outgoing.id, text=outgoing.text, turn=outgoing.turn, upto=outgoing.upto
        )
