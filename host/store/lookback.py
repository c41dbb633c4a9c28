"""What the agent is shown of its chat, and people of the conversation: the newest, while there is room for it."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import Any, Final

from host import intake
from host.model import Stored
from host.store.rows import MESSAGE, OF_GROUP, Context, Line, as_stored, as_turn

# What one prompt may hold; the newest messages win, and the agent is told how many it was not shown.
CONTEXT_MESSAGES: Final = 200
CONTEXT_BYTES: Final = 256 * 1024
RECENT_BYTES: Final = 1024 * 1024
"""Most text of the conversation that a terminal is shown when it opens."""


def context(db: sqlite3.Connection, folder: str, upto: int | None = None) -> Context:
    """What the agent has not seen; `upto`: of the messages up to this one."""
    unseen = f"{OF_GROUP} AND m.seq > g.seen_upto AND (?2 IS NULL OR m.seq <= ?2)"
    query = f"SELECT {MESSAGE} {unseen} ORDER BY m.seq DESC LIMIT {CONTEXT_MESSAGES}"
    chosen: list[Stored] = []
    size = 0
    with contextlib.closing(db.execute(query, (folder, upto))) as newest_first:
        for row in newest_first:
            found = as_stored(row)
            size += len(found.message.text.encode())
            if chosen and size > CONTEXT_BYTES:
                break
            chosen.append(found)
    count: int = db.execute(f"SELECT count(*) {unseen}", (folder, upto)).fetchone()[0]
    return Context(chosen[::-1], count - len(chosen))


def history(db: sqlite3.Connection, folder: str, budget: int) -> list[dict[str, Any]]:
    """The newest whole turns that fit into `budget` bytes; the transcript is read no further back than that."""
    query = "SELECT turn, role, content, bytes FROM transcript WHERE grp = ? ORDER BY id DESC"
    with contextlib.closing(db.execute(query, (folder,))) as newest_first:
        turns = itertools.groupby(newest_first, key=lambda row: row[0])
        return intake.fit_history((as_turn(rows) for _, rows in turns), budget)


def recent_lines(db: sqlite3.Connection, folder: str, count: int) -> list[Line]:
    rows = db.execute(
        "SELECT * FROM (SELECT m.arrived_at, m.sender_name, 'message', m.text"
        f" {OF_GROUP} ORDER BY m.seq DESC LIMIT ?2)"
        " UNION ALL SELECT * FROM (SELECT created_at, '', kind, text"
        " FROM outbox WHERE grp = ?1 ORDER BY id DESC LIMIT ?2)",
        (folder, count),
    )
    lines = (Line(*row) for row in rows)
    newest_first = sorted(lines, key=lambda line: (line.at, line.kind != "message"), reverse=True)
    sizes = itertools.accumulate(len(line.text.encode()) for line in newest_first)
    fitting = [line for line, size in zip(newest_first, sizes, strict=True) if size <= RECENT_BYTES]
    return fitting[:count][::-1]
