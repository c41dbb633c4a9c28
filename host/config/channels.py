"""What config.toml says of channels: WhatsApp's own settings, and programs that are channels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.config import values
from host.config.values import fail
from runner.protocol import MIB

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
OURS: Final = frozenset({"console", "whatsapp", "removed"})
"""Names of channels that NanoClaw brings itself, or uses for something else."""
MAX_ARGUMENTS: Final = 64
PROXY: Final = re.compile(r"(http|socks5)://[!-~]{1,300}\Z")


@dataclass(frozen=True)
class ChannelSettings:
    """What holds for every channel that is a program."""

    # A message that waited longer is shown to the agent with the next one, and not answered by itself: nobody expects
    # an answer to yesterday's question from a machine that was switched off.
    max_age_seconds: float = 24 * 3600.0
    # A photo or a voice note is a few MB, a document rarely more.
    attachment_bytes: int = 20 * MIB
    # Of each group's inbox: a family sends some hundred photos a month.
    inbox_bytes: int = 1024 * MIB
    commands: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Channel's name, and the command line that is it."""
    whatsapp_proxy: str = ""
    """http://… or socks5://…, for all that the WhatsApp program sends; empty: straight."""


def parse(given: dict[str, Any], document: dict[str, Any]) -> ChannelSettings:
    """`given`: the plain settings by dotted name. `document`: the tables below [channels]."""
    settings = ChannelSettings(
        max_age_seconds=given.get("messages.max_age_hours", ChannelSettings.max_age_seconds / 3600) * 3600,
        attachment_bytes=given.get("messages.attachment", ChannelSettings.attachment_bytes),
        inbox_bytes=given.get("messages.inbox", ChannelSettings.inbox_bytes),
        commands=tuple((name, _command(name, table)) for name, table in document.items()),
        whatsapp_proxy=given.get("whatsapp.proxy", ""),
    )
    if settings.whatsapp_proxy and not PROXY.match(settings.whatsapp_proxy):
        fail(
            "whatsapp.proxy", f"is {settings.whatsapp_proxy!r}", "write it so: http://host:port, or socks5://host:port"
        )
    for key, value, low, high in (
        ("messages.max_age_hours", settings.max_age_seconds / 3600, 0, 24 * 365),
        ("messages.attachment", settings.attachment_bytes, 0, 512 * MIB),
        ("messages.inbox", settings.inbox_bytes, 0, 1024 * 1024 * MIB),
    ):
        if not low <= value <= high:
            fail(key, f"is {value:g}", f"choose {low:g} to {high:g}")
    return settings


def _command(name: str, table: Any) -> tuple[str, ...]:
    where = f"channels.{name}"
    if not NAME.fullmatch(name) or name in OURS:
        fail(where, "cannot be the name of a channel", "choose another: small letters, digits and -")
    if not isinstance(table, dict) or set(table) != {"command"}:
        example = f'write [channels.{name}] and below it: command = ["/path/to/it"]'
        fail(where, "needs a command, and nothing else", example)
    command = values.texts(f"{where}.command", table["command"])
    if not 0 < len(command) <= MAX_ARGUMENTS or not Path(command[0]).is_absolute():
        example = 'such as ["/usr/local/bin/it", "-v"]'
        fail(f"{where}.command", "does not begin with the full path of a program", example)
    return tuple(command)
