"""The registered groups: who they are, what was chosen for them, and what is left of those that were removed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from host import names
from host.errors import UserError
from host.model import Group
from host.store.rows import GROUP, as_group

REMOVED: Final = "removed"
"""The channel that a removed group's row has: no real one is called so."""


class Transaction(Protocol):
    def __call__(self, *, durable: bool = True) -> AbstractContextManager[sqlite3.Connection]: ...


class Registry:
    """The table of groups. Each method is one transaction; a `UserError` means that it changed nothing."""

    def __init__(self, transaction: Transaction, rows: Callable[..., list[Any]], clock: Callable[[], float]) -> None:
        self._transaction, self._rows, self._clock = transaction, rows, clock

    def all(self) -> list[Group]:
        """In the order of their registration."""
        rows = self._rows(f"SELECT {GROUP} FROM groups WHERE removed_at IS NULL ORDER BY rowid")
        return [as_group(row) for row in rows]

    def get(self, folder: str) -> Group | None:
        """Upper and lower case make no difference."""
        rows = self._rows(f"SELECT {GROUP} FROM groups WHERE folder = ? AND removed_at IS NULL", folder)
        return as_group(rows[0]) if rows else None

    def of_chat(self, channel: str, chat: str) -> Group | None:
        rows = self._rows(f"SELECT {GROUP} FROM groups WHERE channel = ? AND chat = ?", channel, chat)
        return as_group(rows[0]) if rows and channel != REMOVED else None

    def removed(self) -> list[str]:
        """Folders of groups that were removed, and whose conversation is kept."""
        return [row[0] for row in self._rows("SELECT folder FROM groups WHERE removed_at IS NOT NULL ORDER BY folder")]

    def add(self, group: Group) -> None:
        """Register a chat. Messages that came before do not call the agent. A group that was removed comes back
        with its conversation if it is the same chat; another chat never gets that folder."""
        with self._transaction() as db:
            former = db.execute(
                "SELECT (former_channel, former_chat) = (?2, ?3) FROM groups"
                " WHERE folder = ?1 AND removed_at IS NOT NULL",
                (group.folder, group.channel, group.chat),
            ).fetchone()
            self._check_free(db, group, returns=bool(former and former[0]))
            settings = json.dumps(dict(group.settings), ensure_ascii=False)
            row = (group.folder, group.channel, group.chat, group.name, group.is_main, group.needs_trigger, settings)
            upto = "(SELECT ifnull(max(seq), 0) FROM messages WHERE channel = ?2 AND chat = ?3)"
            if former:
                db.execute(
                    "UPDATE groups SET channel = ?2, chat = ?3, name = ?4, is_main = ?5, needs_trigger = ?6,"
                    f" settings = ?7, removed_at = NULL, answered_upto = {upto}, seen_upto = {upto} WHERE folder = ?1",
                    row,
                )
            else:
                db.execute(
                    f"INSERT INTO groups ({GROUP}, answered_upto, seen_upto)"
                    f" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {upto}, {upto})",
                    row,
                )

    def _check_free(self, db: sqlite3.Connection, group: Group, *, returns: bool) -> None:
        folders = db.execute("SELECT folder, removed_at IS NOT NULL FROM groups").fetchall()
        taken = [folder for folder, _ in folders if not (returns and folder.lower() == group.folder.lower())]
        gone = {folder.lower() for folder, removed in folders if removed}
        if reason := names.refusal(group.folder, taken):
            kept = group.folder.lower() in gone and not returns
            hint = (
                f"a group of that name was removed, and what it left belongs to another chat; to throw that away: "
                f"nanoclaw groups remove {group.folder} --trash"
            )
            raise UserError(reason, *([hint] if kept else []), status=2)
        other = db.execute(
            "SELECT folder FROM groups WHERE (channel, chat) = (?, ?) OR (is_main AND ? AND removed_at IS NULL)",
            (group.channel, group.chat, group.is_main),
        ).fetchone()
        if other:
            raise UserError(f"the group {other[0]} already has this chat, or the role of main", status=2)

    def move(self, folder: str, channel: str, chat: str) -> None:
        """The group is this chat from now on. What was written there before does not call the agent."""
        with self._transaction() as db:
            other = db.execute("SELECT folder FROM groups WHERE (channel, chat) = (?, ?)", (channel, chat)).fetchone()
            if other and other[0].lower() != folder.lower():
                raise UserError(f"the group {other[0]} already is this chat", status=2)
            # Cursors only ever go forward, and messages of all chats are numbered together.
            db.execute(
                "UPDATE groups SET channel = ?1, chat = ?2, answered_upto = (SELECT ifnull(max(seq), 0) FROM messages),"
                " seen_upto = (SELECT ifnull(max(seq), 0) FROM messages) WHERE folder = ?3 AND removed_at IS NULL",
                (channel, chat, folder),
            )

    def change(self, folder: str, *, name: str, needs_trigger: bool, settings: Mapping[str, Any]) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE groups SET name = ?, needs_trigger = ?, settings = ? WHERE folder = ? AND removed_at IS NULL",
                (name, needs_trigger, json.dumps(dict(settings), ensure_ascii=False), folder),
            )

    def remove(self, folder: str) -> None:
        """No longer a group: its chat is free, its tasks are gone, what was said stays with its folder's name."""
        with self._transaction() as db:
            db.execute(
                "UPDATE groups SET removed_at = ?, former_channel = channel, former_chat = chat, channel = ?,"
                " chat = folder, is_main = 0 WHERE folder = ? AND removed_at IS NULL",
                (self._clock(), REMOVED, folder),
            )
            db.execute("DELETE FROM tasks WHERE grp = ?", (folder,))

    def forget(self, folder: str) -> None:
        """Delete all that is stored of a group that was removed. The audit of its connections stays."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM messages WHERE (channel, chat) IN (SELECT former_channel, former_chat FROM groups g"
                " WHERE folder = ?1 AND removed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM groups n"
                " WHERE (n.channel, n.chat) = (g.former_channel, g.former_chat)))",
                (folder,),
            )
            for table in ("transcript", "outbox", "turns", "task_runs"):
                db.execute(f"DELETE FROM {table} WHERE grp = ?", (folder,))
            db.execute("DELETE FROM groups WHERE folder = ? AND removed_at IS NOT NULL", (folder,))
