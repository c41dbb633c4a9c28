"""The first schema."""

from __future__ import annotations

from typing import Final

STATEMENTS: Final = (
    # `answered_upto`: no turn starts by itself for messages up to this seq. `seen_upto`: the agent was shown
    # them in a turn that ended well (or was stopped). What lies between was met by a turn that failed, and
    # is shown again with the next one.
    """
    CREATE TABLE groups (
        folder TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
        channel TEXT NOT NULL,
        chat TEXT NOT NULL,
        name TEXT NOT NULL,
        is_main INTEGER NOT NULL CHECK (is_main IN (0, 1)),
        needs_trigger INTEGER NOT NULL CHECK (needs_trigger IN (0, 1)),
        answered_upto INTEGER NOT NULL,
        seen_upto INTEGER NOT NULL CHECK (seen_upto <= answered_upto),
        UNIQUE (channel, chat)
    )
    """,
    "CREATE UNIQUE INDEX groups_one_main ON groups (is_main) WHERE is_main = 1",
    # Autoincrement: a seq is never given twice, so a cursor never points at another message than it meant.
    """
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        id TEXT NOT NULL,
        chat TEXT NOT NULL,
        sender TEXT NOT NULL,
        sender_name TEXT NOT NULL,
        text TEXT NOT NULL,
        sent_at REAL NOT NULL,
        arrived_at REAL NOT NULL,
        UNIQUE (channel, id)
    )
    """,
    "CREATE INDEX messages_by_chat ON messages (channel, chat, seq)",
    # Chats that wrote and are not registered: that they did, and never what.
    """
    CREATE TABLE chats (
        channel TEXT NOT NULL,
        chat TEXT NOT NULL,
        name TEXT NOT NULL,
        last_seen REAL NOT NULL,
        PRIMARY KEY (channel, chat)
    )
    """,
    """
    CREATE TABLE turns (
        id TEXT NOT NULL PRIMARY KEY,
        grp TEXT NOT NULL COLLATE NOCASE REFERENCES groups (folder),
        from_seq INTEGER NOT NULL,
        upto INTEGER,
        started_at REAL NOT NULL,
        finished_at REAL,
        outcome TEXT CHECK ((outcome IS NULL) = (finished_at IS NULL)),
        tokens_in INTEGER NOT NULL DEFAULT 0,
        tokens_out INTEGER NOT NULL DEFAULT 0,
        reply INTEGER
    )
    """,
    "CREATE INDEX turns_open ON turns (grp) WHERE finished_at IS NULL",
    """
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        grp TEXT NOT NULL COLLATE NOCASE REFERENCES groups (folder),
        channel TEXT NOT NULL,
        chat TEXT NOT NULL,
        text TEXT NOT NULL,
        turn TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('reply', 'say', 'error')),
        upto INTEGER NOT NULL,
        created_at REAL NOT NULL,
        sent_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX outbox_unsent ON outbox (channel, id) WHERE sent_at IS NULL",
    "CREATE INDEX outbox_by_group ON outbox (grp, id)",
    # Whatever the code does: a turn ends once, with one reply or one error.
    "CREATE UNIQUE INDEX outbox_one_end ON outbox (turn) WHERE kind IN ('reply', 'error')",
    """
    CREATE TABLE transcript (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        grp TEXT NOT NULL COLLATE NOCASE REFERENCES groups (folder),
        turn TEXT NOT NULL,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        bytes INTEGER NOT NULL
    )
    """,
    "CREATE INDEX transcript_by_group ON transcript (grp, id)",
    # The audit names groups without referring to them: it outlives them.
    """
    CREATE TABLE connections (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        grp TEXT NOT NULL,
        turn TEXT NOT NULL,
        kind TEXT NOT NULL,
        host TEXT NOT NULL,
        port INTEGER NOT NULL,
        address TEXT NOT NULL,
        sent INTEGER NOT NULL,
        received INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        started_at REAL NOT NULL,
        seconds REAL NOT NULL
    )
    """,
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        grp TEXT NOT NULL,
        turn TEXT NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL
    )
    """,
)
