"""Channels that are programs: how they are, linking an account, which chat is main. The person's alone."""

from __future__ import annotations

from typing import Any, Final

from host.calls.base import Caller, Desk, Line, Method, Param
from host.errors import UserError

CHANNEL: Final = Param("string", "Name of the channel.", required=True)


def channel_status(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"channels": {name: line.status() | {"linking": vars(line.linking)} for name, line in desk.lines().items()}}


def link_channel(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """Only begins it: `channel_status` tells what to show, and how it ended."""
    phone = params.get("phone", "")
    if phone and not (phone.startswith("+") and phone[1:].isdecimal() and 7 <= len(phone) <= 16):
        raise UserError(f"{phone!r} is not a phone number", "write it with its country: +4915112345678", status=2)
    _line(desk, params["channel"]).link(phone)
    return {}


def unlink_channel(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    _line(desk, params["channel"]).unlink()
    return {}


def move_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """The group's folder, memory and conversation stay; the chat that they belong to is another."""
    channel = params["channel"]
    if channel not in desk.channels:
        there = f"there is: {', '.join(sorted(desk.channels))}"
        raise UserError(f"there is no channel {channel[:60]!r}", there, status=2)
    chat = chat_of(desk, channel, params["chat"])
    desk.stop_group(target)
    try:
        desk.store.registry.move(target, channel, chat)
    finally:
        desk.group_changed(target)
    return {"group": target, "channel": channel, "chat": chat}


def chat_of(desk: Desk, channel: str, wish: str) -> str:
    """A chat by its id or, where only one is called so, by its name."""
    known = [(chat, name) for where, chat, name in desk.store.messages.chats() if where == channel]
    named = [chat for chat, name in known if name.casefold() == wish.casefold()]
    if len(named) == 1 and wish not in {chat for chat, _ in known}:
        return named[0]
    if len(named) > 1:
        ids = ", ".join(named[:5])
        raise UserError(f"{len(named)} chats are called {wish!r}", f"name one by its id: {ids}", status=2)
    return wish


def _line(desk: Desk, channel: str) -> Line:
    line = desk.lines().get(channel)
    if line is None:
        there = ", ".join(desk.lines()) or "none"
        raise UserError(f"no channel {channel[:60]!r} runs here", f"of those that can be linked there is: {there}")
    return line


METHODS: Final[dict[str, Method]] = {
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
    "move_group": Method(
        "Let a group be another chat.",
        {"channel": CHANNEL, "chat": Param("string", "Id or name of the chat.", required=True)},
        move_group,
        offered="nobody",
    ),
}
