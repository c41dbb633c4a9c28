"""Rows of the database as the values they stand for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from host.model import Attachment, Group, Mention, Message, Outgoing, Quoted, Stored

# The columns that the functions below expect, in their order.
GROUP: Final = "folder, channel, chat, name, is_main, needs_trigger, settings"
MESSAGE: Final = (
    "m.seq, m.channel, m.id, m.chat, m.sender, m.sender_name, m.text, m.sent_at, m.kind, m.context_only, m.extra,"
    " m.edited_at IS NOT NULL, m.deleted_at IS NOT NULL"
)
OF_GROUP: Final = "FROM groups g JOIN messages m ON m.channel = g.channel AND m.chat = g.chat WHERE g.folder = ?1"
OUTGOING: Final = "id, grp, channel, chat, text, turn, kind, upto, quote, file, file_name, reaction, attempts"


@dataclass(frozen=True)
class Context:
    """What the agent has not seen of its chat, oldest first."""

    messages: list[Stored]
    left_out: int
    """Older ones that did not fit."""


@dataclass(frozen=True)
class Line:
    """One line of the conversation as people see it."""

    at: float
    who: str
    """Name of the person; empty for the assistant."""
    kind: str
    """`message`, `reply`, `say` or `error`."""
    text: str


def as_group(row: Any) -> Group:
    folder, channel, chat, name, is_main, needs_trigger, settings = row
    return Group(folder, channel, chat, name, bool(is_main), bool(needs_trigger), json.loads(settings))


def as_stored(row: Any) -> Stored:
    seq, channel, number, chat, sender, name, text, sent_at, kind, context_only, extra, edited, deleted = row
    more = json.loads(extra)
    message = Message(
        channel, number, chat, sender, name, text, sent_at, kind, bool(context_only),
        quoted=Quoted(**more["quoted"]) if "quoted" in more else None,
        attachments=tuple(Attachment(**each) for each in more.get("attachments", ())),
        mentions=tuple(Mention(**each) for each in more.get("mentions", ())),
    )  # fmt: skip
    return Stored(seq, message, bool(edited), bool(deleted))


def extra_of(message: Message) -> str:
    """What only prompts are made of, as `as_stored` reads it."""
    more: dict[str, Any] = {}
    if message.quoted is not None:
        more["quoted"] = vars(message.quoted)
    if message.attachments:
        more["attachments"] = [vars(each) for each in message.attachments]
    if message.mentions:
        more["mentions"] = [vars(each) for each in message.mentions]
    return json.dumps(more, ensure_ascii=False, separators=(",", ":"))


def outgoing_of(db: sqlite3.Connection, row_id: int) -> Outgoing:
    return Outgoing(*db.execute(f"SELECT {OUTGOING} FROM outbox WHERE id = ?", (row_id,)).fetchone())


def as_turn(newest_first: Iterable[Any]) -> tuple[list[dict[str, Any]], int]:
    """The entries of one turn, oldest first, and their size, from (turn, role, content, bytes) rows."""
    rows = list(newest_first)[::-1]
    entries = [{"role": role, "content": json.loads(content)} for _, role, content, _ in rows]
    return entries, sum(row[3] for row in rows)
