"""Messages as they arrive: kept once, followed when their authors change them, and found again by their chats."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from host.model import Message, Quoted, Stored
from host.store.rows import MESSAGE, OF_GROUP, as_stored, extra_of

PAGE: Final = 32
EXCERPT: Final = 200
"""Characters of a message that stand for it where another one is about it."""
MAX_PEOPLE: Final = 100_000
RECENT: Final = 500
"""Messages of a chat that can still be named, and among whose writers somebody can be."""


class KnownChat(NamedTuple):
    channel: str
    chat: str
    name: str
    """That anyone may have chosen."""
    kind: str
    """`group`, `direct` or `self`; empty where the channel did not say."""
    group: str
    """As which it is registered; empty if it is not."""


class Transaction(Protocol):
    def __call__(self, *, durable: bool = True) -> AbstractContextManager[sqlite3.Connection]: ...


class Messages:
    """Shares the store's connection, and its rule: every method is one transaction."""

    def __init__(self, transaction: Transaction, rows: Callable[..., list[Any]], clock: Callable[[], float]) -> None:
        self._transaction, self._rows, self._clock = transaction, rows, clock

    def add(self, message: Message) -> Stored | None:
        """S1: committed when this returns. None for a repeat, for what changed a message that the agent has not seen
        yet, and for a chat that is not registered: of those the store notes that they wrote, and not what."""
        now = self._clock()
        group = self._rows("SELECT seen_upto FROM groups WHERE channel = ? AND chat = ?", message.channel, message.chat)
        if not group:
            self._note_chat(message, now)
            return None
        with self._transaction() as db:
            about = self._about(db, message)
            changes = message.kind in ("edit", "deletion") and about is not None
            if about is not None and changes and not self._follow(db, message, about, now, seen_upto=group[0][0]):
                return None
            if about is not None:
                taken_back = message.kind == "deletion" and about.message.sender == message.sender
                text = "" if taken_back else about.message.text[:EXCERPT]
                message = replace(message, quoted=Quoted(about.message.id, about.message.sender, text))
            seq = self._insert(db, message, now)
        return Stored(seq, message) if seq else None

    @staticmethod
    def _insert(db: sqlite3.Connection, m: Message, now: float) -> int:
        added = db.execute(
            "INSERT INTO messages (channel, id, chat, sender, sender_name, text, sent_at, arrived_at, kind,"
            " context_only, extra) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel, id) DO NOTHING",
            (m.channel, m.id, m.chat, m.sender, m.sender_name, m.text, m.sent_at, now, m.kind, m.context_only,
             extra_of(m)),
        )  # fmt: skip
        return added.lastrowid or 0 if added.rowcount else 0

    @staticmethod
    def _about(db: sqlite3.Connection, message: Message) -> Stored | None:
        """The stored message that this one is about, of the same chat."""
        if message.kind == "message" or message.quoted is None:
            return None
        row = db.execute(
            f"SELECT {MESSAGE} FROM messages m WHERE m.channel = ? AND m.chat = ? AND m.id = ? AND m.kind = 'message'",
            (message.channel, message.chat, message.quoted.id),
        ).fetchone()
        return None if row is None else as_stored(row)

    @staticmethod
    def _follow(db: sqlite3.Connection, message: Message, about: Stored, now: float, seen_upto: int) -> bool:
        """Change the message as its author wishes. Whether there is anything to tell the agent: not of what it has
        yet to see; an edit of another's message is a lie; another's that someone removed stays, with a word of it."""
        if about.message.sender != message.sender:
            return message.kind == "deletion"
        if message.kind == "edit":
            db.execute("UPDATE messages SET text = ?, edited_at = ? WHERE seq = ?", (message.text, now, about.seq))
        else:
            db.execute("UPDATE messages SET text = '', extra = '{}', deleted_at = ? WHERE seq = ?", (now, about.seq))
            # Nor does what was about it keep its words.
            db.execute(
                "UPDATE messages SET text = CASE kind WHEN 'edit' THEN '' ELSE text END,"
                " extra = json_set(extra, '$.quoted.text', '') WHERE (channel, chat) = (?, ?) AND seq > ?"
                " AND kind <> 'message' AND json_extract(extra, '$.quoted.id') = ?",
                (about.message.channel, about.message.chat, about.seq, about.message.id),
            )
        return about.seq <= seen_upto

    def _note_chat(self, m: Message, now: float) -> None:
        """Its sender's name is the chat's where no channel said what that is called."""
        with self._transaction(durable=False) as db:
            db.execute(
                "INSERT INTO chats (channel, chat, name, last_seen) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (channel, chat)"
                " DO UPDATE SET name = CASE kind WHEN '' THEN ?3 ELSE name END, last_seen = ?4",
                (m.channel, m.chat, m.sender_name, now),
            )

    def name_chats(self, channel: str, chats: Mapping[str, tuple[str, str]]) -> None:
        """What the channel says its chats are: names that anyone may have chosen, and `group`, `direct` or `self`."""
        with self._transaction(durable=False) as db:
            for chat, (name, kind) in chats.items():
                db.execute(
                    "INSERT INTO chats (channel, chat, name, last_seen, kind) VALUES (?1, ?2, ?3, 0, ?4)"
                    " ON CONFLICT (channel, chat)"
                    " DO UPDATE SET name = CASE ?3 WHEN '' THEN name ELSE ?3 END, kind = ?4",
                    (channel, chat, name, kind),
                )

    def chats(self, limit: int = 200) -> list[KnownChat]:
        """Chats that are known, registered ones among them; who wrote last comes first, and groups before people."""
        rows = self._rows(
            "SELECT c.channel, c.chat, c.name, c.kind, ifnull(g.folder, '') FROM chats c LEFT JOIN groups g"
            " ON (g.channel, g.chat) = (c.channel, c.chat)"
            " ORDER BY g.folder IS NULL, last_seen DESC, c.kind <> 'self', c.kind <> 'group', c.name LIMIT ?",
            limit,
        )
        return [KnownChat(*row) for row in rows]

    def knows_chat(self, channel: str, chat: str) -> bool:
        return bool(self._rows("SELECT 1 FROM chats WHERE (channel, chat) = (?, ?)", channel, chat))

    def chats_called(self, channel: str, name: str) -> list[str]:
        """Their ids. Upper and lower case make no difference, in any script."""
        rows = self._rows("SELECT chat, name FROM chats WHERE channel = ?", channel)
        return [chat for chat, each in rows if each.casefold() == name.casefold()]

    def person(self, channel: str, named: str, also: str = "") -> str:
        """Who this is: one id for each person, however the channel names them today. `also`: the other id that it
        gave for the same person, if any."""
        query = "SELECT id, person FROM people WHERE channel = ? AND id IN (?, ?)"
        known: dict[str, str] = dict(self._rows(query, channel, named, also))
        person = known.get(named) or known.get(also) or named
        missing = {each for each in (named, also) if each not in known} if also else set()
        if missing:
            with self._transaction() as db:
                for each in missing:
                    db.execute(
                        "INSERT INTO people (channel, id, person)"
                        " SELECT ?, ?, ? WHERE (SELECT count(*) FROM people) < ?",
                        (channel, each, person, MAX_PEOPLE),
                    )
                    # What came before the two were known to be one: who wrote it may still edit it.
                    db.execute(
                        "UPDATE messages SET sender = ? WHERE channel = ? AND sender = ?", (person, channel, each)
                    )
        return person

    def seq_of(self, channel: str, message_id: str) -> int:
        """0 if no such message is stored."""
        rows = self._rows("SELECT seq FROM messages WHERE channel = ? AND id = ?", channel, message_id)
        return int(rows[0][0]) if rows else 0

    def get(self, seq: int) -> Stored | None:
        rows = self._rows(f"SELECT {MESSAGE} FROM messages m WHERE m.seq = ?", seq)
        return as_stored(rows[0]) if rows else None

    def by_id(self, channel: str, message_id: str) -> Stored | None:
        rows = self._rows(f"SELECT {MESSAGE} FROM messages m WHERE m.channel = ? AND m.id = ?", channel, message_id)
        return as_stored(rows[0]) if rows else None

    def recent(self, folder: str) -> Iterator[Stored]:
        """Messages of this group's chat that were written and not taken back, the newest first; not all that ever
        were."""
        query = f"SELECT {MESSAGE} {OF_GROUP} AND m.kind = 'message' AND m.deleted_at IS NULL ORDER BY m.seq DESC"
        yield from map(as_stored, self._rows(f"{query} LIMIT {RECENT}", folder))

    def people(self, channel: str, chat: str) -> dict[str, str]:
        """Who wrote in this chat lately, by id, and what they called themselves last."""
        rows = self._rows(
            "SELECT sender, sender_name FROM (SELECT seq, sender, sender_name FROM messages"
            f" WHERE channel = ? AND chat = ? AND kind = 'message' ORDER BY seq DESC LIMIT {RECENT}) ORDER BY seq",
            channel,
            chat,
        )
        return dict(rows)

    def pending(self, folder: str) -> Iterator[Stored]:
        """Messages that no turn has ended for, oldest first; read as they are asked for, since a chat
        that never calls the agent can have any number of them."""
        after = -1
        while True:
            page = self._rows(
                f"SELECT {MESSAGE} {OF_GROUP} AND m.seq > max(g.answered_upto, ?) ORDER BY m.seq LIMIT {PAGE}",
                folder,
                after,
            )
            yield from map(as_stored, page)
            if len(page) < PAGE:
                return
            after = page[-1][0]
