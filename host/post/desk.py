"""What the parts of the post work with, and words that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host.config.channels import ChannelSettings
from host.inbox import Inbox
from host.log import Log
from host.loop import Loop
from host.model import Message
from host.store import Store
from host.text import clean_text


@dataclass(frozen=True)
class Desk:
    """What the post works with."""

    loop: Loop
    store: Store
    settings: ChannelSettings
    inbox: Inbox
    outbox: Path
    log: Log
    receive: Callable[[Message], object]
    """S1, and a turn if it calls the agent. `UserError` if it could not be stored."""
    assistant: str = ""
    """What it is called where its account is also a person's own; empty: it does not say."""
    trouble: Callable[[str, str], None] = lambda channel, sentence: None
    """A channel's account is out of service for longer than a moment, and why."""


def stored_id(chat: str, own: str, *about: str) -> str:
    """A message's id in the store: a channel's own ids are its chat's alone. Neither holds a blank (docs/channels.md),
    so no choice of ids makes two messages one."""
    return " ".join((chat, own, *about))


def channels_id(message: Message) -> str:
    """What the channel calls it."""
    return message.id.removeprefix(f"{message.chat} ")


def one_line(untrusted_name: str) -> str:
    """One line, short: a name is for reading, and never identity."""
    return " ".join(clean_text(untrusted_name).split())[:100]
