"""Groups have settings, and may be removed without what they said being lost."""

from __future__ import annotations

from typing import Final

STATEMENTS: Final = (
    # One JSON object, of the names that `groups set` knows.
    "ALTER TABLE groups ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",
    # A removed group keeps its row, and with it its folder's name: what it left behind belongs to its chat, and
    # is not handed to another chat that is registered under the same name.
    # Its chat is free for another registration at once: `channel` and `chat` then read ('removed', folder).
    "ALTER TABLE groups ADD COLUMN removed_at REAL",
    "ALTER TABLE groups ADD COLUMN former_channel TEXT",
    "ALTER TABLE groups ADD COLUMN former_chat TEXT",
    # How many tokens a group used today is asked before each of its turns.
    "CREATE INDEX turns_by_group ON turns (grp, started_at)",
)
