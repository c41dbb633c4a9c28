"""Channels that are programs: how they are, linking an account, which chat is main. The person's alone."""

from __future__ import annotations

import re
from typing import Any, Final

from host.calls.base import Caller, Desk, Line, Method, Param
from host.channels import whatsapp
from host.errors import UserError
from host.store.messages import KnownChat

SELF: Final = "self"
MAX_CHATS: Final = 10_000
CHANNEL: Final = Param("string", "Name of the channel.", required=True)


def channel_status(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"channels": {name: line.status() | {"linking": vars(line.linking)} for name, line in desk.lines().items()}}


def link_channel(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """Only begins it: `channel_status` tells what to show, and how it ended. The channel that NanoClaw brings itself
    is there from now on, if it was not."""
    phone = params.get("phone", "")
    if phone and not (phone.startswith("+") and phone[1:].isdecimal() and 7 <= len(phone) <= 16):
        raise UserError(f"{phone!r} is not a phone number", "write it with its country: +4915112345678", status=2)
    if params["channel"] == whatsapp.NAME and whatsapp.NAME not in desk.lines():
        desk.begin_line(whatsapp.NAME)
    _line(desk, params["channel"]).link(phone)
    return {}


def unlink_channel(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    _line(desk, params["channel"]).unlink()
    return {}


def forget_channel(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """Have a channel no longer that NanoClaw brings itself: its program ends, and what it kept is removed."""
    if params["channel"] != whatsapp.NAME:
        raise UserError(f"{params['channel'][:60]!r} is not WhatsApp", "other channels are removed from config.toml")
    desk.forget_line(whatsapp.NAME, lambda: whatsapp.forget(desk.home))
    return {}


def move_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """The group's folder, memory and conversation stay; the chat that they belong to is another."""
    channel = params["channel"]
    if channel not in desk.channels():
        there = f"there is: {', '.join(sorted(desk.channels()))}"
        raise UserError(f"there is no channel {channel[:60]!r}", there, status=2)
    chat = chat_of(desk, channel, params["chat"])
    desk.stop_group(target, "the group becomes another chat")
    try:
        desk.store.registry.move(target, channel, chat)
    finally:
        desk.group_changed(target)
    return {"group": target, "channel": channel, "chat": chat}


def list_chats(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """All that are known, and the groups that are none of them: those of the terminal."""
    known = desk.store.messages.chats(MAX_CHATS)
    seen = {(each.channel, each.chat) for each in known}
    groups = [g for g in desk.store.groups() if (g.channel, g.chat) not in seen]
    others = [KnownChat(g.channel, g.chat, g.name, "", g.folder) for g in groups]
    return {"chats": [each._asdict() for each in [*others, *known]]}


def chat_of(desk: Desk, channel: str, wish: str) -> str:
    """A chat by its id, by its name where only one is called so, or `self`: the account's talk with itself."""
    messages = desk.store.messages
    if wish == SELF and channel != "console":
        return messages.person(channel, *_account(desk, channel))
    person = messages.person(channel, wish)  # whichever of its two ids it was
    if messages.knows_chat(channel, person):
        return person  # first of all: a chat may call itself by another's id
    named = messages.chats_called(channel, wish)
    if len(named) == 1:
        return named[0]
    if len(named) > 1:
        ids = ", ".join(named[:5])
        raise UserError(f"{len(named)} chats are called {wish!r}", f"name one by its id: {ids}", status=2)
    if channel == whatsapp.NAME and "@" not in wish:
        number = re.fullmatch(r"\+([0-9]{7,15})", re.sub(r"[ ()/.-]", "", wish))
        if number is None:
            raise UserError(f"no chat of WhatsApp is called {wish[:60]!r}", "nanoclaw chats lists them", status=2)
        return messages.person(channel, f"{number[1]}@s.whatsapp.net")
    return person


def _account(desk: Desk, channel: str) -> tuple[str, str]:
    """The two ids of the account that is linked."""
    line = desk.lines().get(channel)
    found = line.status()["account"] if line is not None else None
    if found is not None:
        return found["id"], found["alt"]
    linked = whatsapp.account(desk.home) if channel == whatsapp.NAME else None
    if linked is None:
        raise UserError(f"{channel} is not connected, so it is not known whose chat that is", "nanoclaw status")
    user, _, server = linked.partition("@")
    return f"{user.partition(':')[0]}@{server}", ""


def _line(desk: Desk, channel: str) -> Line:
    line = desk.lines().get(channel)
    if line is None:
        there = ", ".join(desk.lines()) or "none"
        raise UserError(f"no channel {channel[:60]!r} runs here", f"of those that can be linked there is: {there}")
    return line


METHODS: Final[dict[str, Method]] = {
    "list_chats": Method("All chats that are known.", {}, list_chats, whose="home", offered="nobody"),
    "channel_status": Method("How the channels are.", {}, channel_status, whose="home", offered="nobody"),
    "link_channel": Method(
        "Link an account to a channel.",
        {"channel": CHANNEL, "phone": Param("string", "Number of the phone, for a code in the place of a QR code.")},
        link_channel,
        whose="home",
        offered="nobody",
    ),
    "unlink_channel": Method(
        "Take the account off a channel.", {"channel": CHANNEL}, unlink_channel, whose="home", offered="nobody"
    ),
    "forget_channel": Method(
        "Have a channel no longer.", {"channel": CHANNEL}, forget_channel, whose="home", offered="nobody"
    ),
    "move_group": Method(
        "Let a group be another chat.",
        {"channel": CHANNEL, "chat": Param("string", "Id or name of the chat.", required=True)},
        move_group,
        offered="nobody",
    ),
}
