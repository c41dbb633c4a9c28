"""Counting what is stored, and ending what would grow for ever."""

from __future__ import annotations

import sqlite3
from typing import Final

DAY: Final = 86_400.0
# What is kept only for looking back has an end; messages and unsent replies have none.
KEEP_AUDIT_DAYS: Final = 90
KEEP_AUDIT_ROWS: Final = 200_000
KEEP_SENT_DAYS: Final = 365
KEEP_TRANSCRIPT_BYTES: Final = 64 * 1024 * 1024
"""Of each group; a turn is shown far less of it than this."""
KEEP_CHATS: Final = 10_000


def prune(db: sqlite3.Connection, now: float) -> None:
    for table, when in (("connections", "started_at"), ("events", "at"), ("task_runs", "started_at")):
        db.execute(
            f"DELETE FROM {table} WHERE {when} < ? OR id <= (SELECT max(id) FROM {table}) - ?",
            (now - KEEP_AUDIT_DAYS * DAY, KEEP_AUDIT_ROWS),
        )
    db.execute("DELETE FROM outbox WHERE sent_at < ?", (now - KEEP_SENT_DAYS * DAY,))
    db.execute(
        "DELETE FROM transcript WHERE id IN (SELECT id FROM (SELECT id,"
        " sum(bytes) OVER (PARTITION BY grp ORDER BY id DESC) AS size FROM transcript) WHERE size > ?)",
        (KEEP_TRANSCRIPT_BYTES,),
    )
    db.execute(
        "DELETE FROM chats WHERE rowid NOT IN (SELECT rowid FROM chats ORDER BY last_seen DESC LIMIT ?)",
        (KEEP_CHATS,),
    )


def stats(db: sqlite3.Connection, now: float) -> dict[str, int]:
    names = ("messages", "unanswered", "unsent", "turns", "failed_turns", "tokens_last_day", "database_bytes")
    row = db.execute(
        "SELECT (SELECT count(*) FROM messages),"
        " (SELECT ifnull(sum((SELECT count(*) FROM messages m WHERE m.channel = g.channel AND m.chat = g.chat"
        "  AND m.seq > g.answered_upto)), 0) FROM groups g),"
        " (SELECT count(*) FROM outbox WHERE sent_at IS NULL),"
        " count(*), ifnull(sum(outcome LIKE 'failed:%'), 0),"
        " ifnull(sum((tokens_in + tokens_out) * (started_at > ?)), 0),"
        " (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size) FROM turns",
        (now - DAY,),
    ).fetchone()
    return dict(zip(names, row, strict=True))
