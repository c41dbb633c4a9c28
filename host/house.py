"""What the parts of a running host work with, and the words between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from host.access import Access
from host.config import Config, GroupSettings
from host.errors import UserError
from host.gate import Gate
from host.log import Log
from host.loop import Loop
from host.model import Connection, Endpoint, Group, Outgoing
from host.pool import Pool
from host.resolver import Resolver
from host.sandbox import Sandbox
from host.store import Store

MAIN: Final = Group(folder="main", channel="console", chat="main", name="main", is_main=True)
"""Where everything begins: the terminal's own chat, until another channel's is made main."""
OWNER: Final = "owner"
"""Sender id of the person at the terminal: whoever may open the control socket."""


def registered(store: Store) -> list[Group]:
    """The groups of this home. A new home has one, main."""
    if not store.groups():
        store.add_group(MAIN)
    return store.groups()


class Tell(Protocol):
    """Tell whoever watches a group."""

    def __call__(self, group: str, event: str, **values: Any) -> None: ...


class Asked(Protocol):
    """Carry out what this group's agent asks for; `UserError` if it may not or cannot be."""

    def __call__(self, group: Group, untrusted_method: str, untrusted_params: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class House:
    """What an attempt works with; one for the whole host."""

    loop: Loop
    store: Store
    pool: Pool
    resolver: Resolver
    config: Config
    log: Log
    tell: Tell
    access: Callable[[], Access]
    deliver: Callable[[Outgoing], None]
    settings: Callable[[Group], GroupSettings]
    """What holds for a group; `UserError` where the machine cannot keep to it."""
    asked: Asked
    outbox: Path
    """Where files wait that are to be sent."""
    takes_reactions: Callable[[str], bool]
    """Whether emojis can be put on messages of this channel."""
    takes_files: Callable[[str], bool]
    """Whether files can be sent to this channel."""

    def open_gate(
        self,
        sandbox: Sandbox,
        turn: str,
        settings: GroupSettings,
        endpoint: Endpoint,
        on_fault: Callable[[str], None],
    ) -> Gate:
        """The way out of a sandbox that is about to be handed its payload. What leaves is written down, or does
        not leave: `on_fault` is called from the loop, with the reason, when a row cannot be written."""

        def audit(connection: Connection) -> None:
            try:
                self.store.add_connection(connection)
            except UserError as e:
                why = str(e)
                self.loop.call_soon(lambda: on_fault(why))

        return Gate(
            self.loop,
            self.resolver,
            group=sandbox.spec.group,
            turn=turn,
            endpoint=endpoint,
            allowed=settings.allow_hosts,
            send=sandbox.send,
            audit=audit,
        )
