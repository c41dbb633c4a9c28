"""What is to be said: queued with the turn that says it, and there until a channel has it or it is given up."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

from host.model import Outgoing
from host.store.messages import Transaction
from host.store.rows import OUTGOING, outgoing_of

KEEP_SENT_IDS: Final = 50_000
"""Ids of sent messages that are remembered: what a channel repeats, it repeats soon."""


class Outbox:
    def __init__(self, transaction: Transaction, rows: Callable[..., list[Any]], clock: Callable[[], float]) -> None:
        self._transaction, self._rows, self._clock = transaction, rows, clock

    @staticmethod
    def queue(
        db: sqlite3.Connection, now: float, folder: str, turn: str, kind: str, text: str, upto: int,
        *, file: tuple[str, str] = ("", ""),
    ) -> int:  # fmt: skip
        """Add a row; a reply quotes the message that it answers. `file`: its name in the outbox's folder, and the one
        that people see."""
        added = db.execute(
            "INSERT INTO outbox (grp, channel, chat, text, turn, kind, upto, created_at, quote, file, file_name)"
            " SELECT folder, channel, chat, ?, ?, ?, ?, ?, ?, ?, ? FROM groups WHERE folder = ?",
            (text, turn, kind, upto, now, upto if kind == "reply" else 0, *file, folder),
        )
        assert added.lastrowid is not None
        return added.lastrowid

    def react(self, folder: str, seq: int, emoji: str) -> Outgoing:
        """An emoji on the message `seq`, in its place among what is said to this chat."""
        now = self._clock()
        with self._transaction() as db:
            added = db.execute(
                "INSERT INTO outbox (grp, channel, chat, text, turn, kind, upto, created_at, quote, reaction)"
                " SELECT folder, channel, chat, ?, '', 'say', 0, ?, ?, 1 FROM groups WHERE folder = ?",
                (emoji, now, seq, folder),
            )
            assert added.lastrowid is not None
            return outgoing_of(db, added.lastrowid)

    def reactions_since(self, folder: str, since: float) -> int:
        query = "SELECT count(*) FROM outbox WHERE grp = ? AND reaction AND created_at >= ?"
        return int(self._rows(query, folder, since)[0][0])

    def pending(self, channel: str) -> list[Outgoing]:
        """What this channel has not acked and may still deliver, oldest first."""
        unsent = "WHERE channel = ? AND sent_at IS NULL AND given_up = '' ORDER BY id"
        rows = self._rows(f"SELECT {OUTGOING} FROM outbox {unsent}", channel)
        return [Outgoing(*row) for row in rows]

    def next_try(self, outgoing: Outgoing) -> float:
        """Seconds since the epoch before which it is not to be tried again; 0 if there is no such."""
        rows = self._rows("SELECT next_at FROM outbox WHERE id = ?", outgoing.id)
        return float(rows[0][0]) if rows else 0.0

    def mark_sent(self, untrusted_id: int, sent_as: Iterable[tuple[str, str]] = ()) -> None:
        """S4: the channel has it. A number that is no row's changes nothing. `sent_as`: channel, and id there,
        of each message that it became."""
        if not 0 < untrusted_id < 2**63:
            return
        now = self._clock()
        with self._transaction() as db:
            db.execute("UPDATE outbox SET sent_at = ? WHERE id = ? AND sent_at IS NULL", (now, untrusted_id))
            for each in sent_as:
                db.execute("INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?)", (*each, untrusted_id, now))
                db.execute("DELETE FROM sent WHERE rowid <= (SELECT max(rowid) FROM sent) - ?", (KEEP_SENT_IDS,))

    def was_sent(self, channel: str, message_id: str) -> bool:
        return bool(self._rows("SELECT 1 FROM sent WHERE channel = ? AND id = ?", channel, message_id))

    def mark_attempt(self, outgoing: Outgoing, next_at: float = 0.0) -> None:
        """The channel was given it, and nobody knows yet whether it arrived; or it failed, and is tried again later."""
        with self._transaction(durable=False) as db:
            db.execute("UPDATE outbox SET attempts = attempts + 1, next_at = ? WHERE id = ?", (next_at, outgoing.id))

    def give_up(self, outgoing: Outgoing, why: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE outbox SET given_up = ? WHERE id = ?", (why, outgoing.id))

    def given_up(self, limit: int = 20) -> list[tuple[Outgoing, str]]:
        """For `status`: what could not be delivered, the latest first."""
        query = f"SELECT {OUTGOING}, given_up FROM outbox WHERE given_up <> '' ORDER BY id DESC LIMIT ?"
        rows = self._rows(query, limit)
        return [(Outgoing(*row[:-1]), row[-1]) for row in rows]
