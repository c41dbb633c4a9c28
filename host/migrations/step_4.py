"""Chats with more than text: files, quotes, edits and reactions; people with two ids; replies that are tried again."""

from __future__ import annotations

from typing import Final

STATEMENTS: Final = (
    # `kind`: message, edit, deletion or reaction; the last three are about another message, and call nobody.
    # `context_only`: older than a message may be that is still answered. `extra`: what only prompts are made of
    # (quote, attachments, mentions), one JSON object.
    "ALTER TABLE messages ADD COLUMN kind TEXT NOT NULL DEFAULT 'message'"
    " CHECK (kind IN ('message', 'edit', 'deletion', 'reaction'))",
    "ALTER TABLE messages ADD COLUMN context_only INTEGER NOT NULL DEFAULT 0 CHECK (context_only IN (0, 1))",
    "ALTER TABLE messages ADD COLUMN extra TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE messages ADD COLUMN edited_at REAL",
    "ALTER TABLE messages ADD COLUMN deleted_at REAL",
    # Some channels know one person by two ids, and write now the one, now the other. `person` is the one of them
    # that the host uses: whichever it met first.
    """
    CREATE TABLE people (
        channel TEXT NOT NULL,
        id TEXT NOT NULL,
        person TEXT NOT NULL,
        PRIMARY KEY (channel, id)
    )
    """,
    # What the chat is: `group`, `direct` or `self` (an account's talk with itself); empty where nobody said.
    "ALTER TABLE chats ADD COLUMN kind TEXT NOT NULL DEFAULT ''",
    # `quote`: seq of the message that is answered. `file`: name of a file in the outbox's folder, and `file_name` what
    # people see. `next_at`: not to be tried before. `given_up`: why it never will be again.
    "ALTER TABLE outbox ADD COLUMN quote INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE outbox ADD COLUMN file TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE outbox ADD COLUMN file_name TEXT NOT NULL DEFAULT ''",
    # `text` is an emoji, to be put on the message `quote`.
    "ALTER TABLE outbox ADD COLUMN reaction INTEGER NOT NULL DEFAULT 0 CHECK (reaction IN (0, 1))",
    "ALTER TABLE outbox ADD COLUMN next_at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE outbox ADD COLUMN given_up TEXT NOT NULL DEFAULT ''",
    # What was sent, by the id that the channel gave it: it is not taken for a message when the channel repeats it.
    """
    CREATE TABLE sent (
        channel TEXT NOT NULL,
        id TEXT NOT NULL,
        outbox INTEGER NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (channel, id)
    )
    """,
)
