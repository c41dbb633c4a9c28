"""Saying something in another chat, and putting an emoji on a message of one's own."""

from __future__ import annotations

from typing import Any, Final

from host import intake
from host.calls.base import Caller, Desk, Method, Param
from host.errors import UserError
from host.text import clean_text
from runner.protocol import MAX_TEXT

MAX_EMOJI: Final = 16
"""Code points: a family of four with their skin tones has eleven."""
REACTIONS_A_MINUTE: Final = 10
"""Of one group: they wait in the same line as replies, and a channel paces what it sends."""
KEYCAP: Final = "\u20e3"


def send(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    text = clean_text(params["text"]).strip()
    if not text:
        raise UserError("the text is empty", status=2)
    desk.deliver(desk.store.add_say(target, "", text))
    return {"sent_to": target}


def react(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """It goes through the outbox: after what was said before it in this chat, and over a crash like a reply."""
    group = desk.store.group(target)
    line = desk.lines().get(group.channel) if group else None
    if line is None or not line.takes_reactions:
        raise UserError("this chat takes no reactions: answer in words")
    emoji = params["emoji"]
    if not _is_emoji(emoji):
        raise UserError("emoji is not one emoji; an empty text takes the reaction back", status=2)
    if desk.store.outbox.reactions_since(target, desk.now() - 60) >= REACTIONS_A_MINUTE:
        raise UserError(f"more than {REACTIONS_A_MINUTE} reactions in a minute")
    desk.deliver(desk.store.outbox.react(target, _named(desk, target, params["message"]), emoji))
    return {}


def _named(desk: Desk, group: str, untrusted_ref: str) -> int:
    """Seq of the message of this group's chat that the agent calls so."""
    for stored in desk.store.messages.recent(group):
        if intake.reference(stored.message.channel, stored.message.id) == untrusted_ref:
            return stored.seq
    raise UserError(
        "there is no such message in this chat, or it is too long ago",
        "give the ref of a <message> that you were shown",
        status=2,
    )


def _is_emoji(text: str) -> bool:
    """No words and no blanks, so that a reaction is not a way to say something that nobody sees as a message."""
    plain = text[:-1].rstrip("\ufe0f") if text.endswith(KEYCAP) else text
    if plain != text and len(plain) == 1 and plain in "0123456789#*":
        return True
    return len(text) <= MAX_EMOJI and not any(c.isalnum() or c.isspace() or c.isascii() for c in text)


METHODS: Final[dict[str, Method]] = {
    "send": Method(
        "Say something in the chat of another registered group, in the assistant's name.",
        {
            "text": Param("string", "What to say there.", required=True, most=MAX_TEXT),
        },
        send,
        offered="main",
    ),
    "react": Method(
        "Put an emoji on a message of this chat: where that says enough, it is better than an answer in words. An"
        " empty emoji takes yours back. What people do themselves is shown to you as <reaction>, <edit> and"
        " <deletion>, each with the message that it is about as <quoted>.",
        {
            "message": Param("string", "The `ref` of the <message>.", required=True, most=64),
            "emoji": Param("string", "One emoji, or empty.", required=True, most=64),
        },
        react,
        offered="reacts",
        names_group=False,
    ),
}
