"""What must not be lost, in one SQLite database with one writer, and the lock that makes it the only one.

A message moves through four states, and each change of state is one committed transaction:

- **S1 kept**: `add_message` has returned. Only then may a channel be told that the message arrived.
- **S2 claimed**: in memory only, never here. A crash forgets it, and the turn is run again.
- **S3 answered**: `finish_turn`, `fail_turn` or `stop_turn` has returned: outcome, both cursors, transcript
  and what is to be said are on disk together, or none of them.
- **S4 sent**: `mark_sent` has returned. A crash between the channel's ack and this instant sends a reply twice.

`say` is the exception: what the agent says during a turn is queued at once, so a turn that a crash interrupts
and that is run again may say it again. Its reply comes once.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from host import intake
from host.migrations import migrate
from host.model import Connection, Group, Message, Outgoing, Stored, TaskRun
from host.store import lookback, upkeep
from host.store.database import faults, open_database
from host.store.groups import Registry
from host.store.lock import Lock, lock
from host.store.messages import Messages
from host.store.outbox import Outbox
from host.store.rows import Context, Line, outgoing_of
from host.store.tasks import Tasks

__all__ = ["Context", "Line", "Lock", "Store", "lock"]


class Store:
    """The database at `path`. Every method is one transaction; a `UserError` means that it changed nothing."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._db = open_database(path, lambda db: migrate(db, path))
        self.registry = Registry(self._transaction, self._rows, clock)
        self.messages = Messages(self._transaction, self._rows, clock)
        self.outbox = Outbox(self._transaction, self._rows, clock)
        self.tasks = Tasks(self._transaction, self._rows, clock)

    def close(self) -> None:
        self._db.close()

    # --- groups -----------------------------------------------------------------------------------

    def add_group(self, group: Group) -> None:
        """Register a chat, as `Registry.add` does."""
        self.registry.add(group)

    def groups(self) -> list[Group]:
        """In the order of their registration."""
        return self.registry.all()

    def group(self, folder: str) -> Group | None:
        return self.registry.get(folder)

    def group_of(self, channel: str, chat: str) -> Group | None:
        return self.registry.of_chat(channel, chat)

    # --- messages in ------------------------------------------------------------------------------

    def add_message(self, message: Message) -> Stored | None:
        """S1, as `Messages.add` does."""
        return self.messages.add(message)

    def groups_with_pending(self) -> list[str]:
        """Folders of groups with messages that no turn has ended for; who has waited longest comes first."""
        rows = self._rows(
            "SELECT folder, (SELECT min(seq) FROM messages m WHERE m.channel = g.channel AND m.chat = g.chat"
            " AND m.seq > g.answered_upto) AS first FROM groups g WHERE first IS NOT NULL ORDER BY first"
        )
        return [folder for folder, _ in rows]

    def pass_over(self, folder: str) -> None:
        """None of the pending messages called the agent, and none of them will: it sees them with the next one that
        does. A power cut may bring them back, to be looked at again."""
        with self._transaction(durable=False) as db:
            db.execute(
                "UPDATE groups SET answered_upto = max(answered_upto, (SELECT ifnull(max(seq), 0) FROM messages m"
                " WHERE m.channel = groups.channel AND m.chat = groups.chat)) WHERE folder = ?",
                (folder,),
            )

    def tokens_since(self, folder: str, since: float) -> int:
        """Tokens that the group's turns used which began at `since` or later."""
        query = "SELECT ifnull(sum(tokens_in + tokens_out), 0) FROM turns WHERE grp = ? AND started_at >= ?"
        return int(self._rows(query, folder, since)[0][0])

    def pending(self, folder: str) -> Iterator[Stored]:
        return self.messages.pending(folder)

    def context(self, folder: str) -> Context:
        """What the next prompt is made of: all that the agent has not seen, also of turns that failed."""
        with faults(self._path):
            return lookback.context(self._db, folder)

    # --- turns ------------------------------------------------------------------------------------

    def begin_turn(self, folder: str, turn: str, run: TaskRun | None = None) -> None:
        """Note that a turn runs, so that one that a crash interrupted can be seen. The claim is in memory:
        this row keeps nobody from running the messages again. `run`: the turn is this run of a task."""
        with self._transaction(durable=False) as db:
            begun = db.execute(
                "INSERT INTO turns (id, grp, from_seq, started_at)"
                " SELECT ?, folder, seen_upto + 1, ? FROM groups WHERE folder = ? ON CONFLICT (id) DO NOTHING",
                (turn, self._clock(), folder),
            )
            if run is not None and begun.rowcount:
                self.tasks.begin(db, run)

    def finish_turn(
        self,
        folder: str,
        turn: str,
        upto: int,
        text: str,
        entries: Collection[dict[str, Any]],
        usage: tuple[int, int],
        run: TaskRun | None = None,
    ) -> Outgoing | None:
        """S3, answered: the reply (none if `text` is empty), both cursors, the transcript and the turn's row.

        Like the two below it may be called again when it raised: a turn ends once, and what it is to say
        is returned again.
        """
        with self._transaction() as db:
            if not self._ended(db, turn):
                reply = self._queue(db, folder, turn, "reply", text, upto) if text else None
                self._append(db, folder, turn, entries, run)
                self._end(db, turn, "done", upto, reply, usage)
                if run is not None:  # without an answer and without a word of the model, its check said no
                    self.tasks.end(db, run, turn, "done" if text or entries else "nothing to do")
            return self._end_of(db, turn)

    def fail_turn(
        self,
        folder: str,
        turn: str,
        upto: int,
        kind: str,
        text: str,
        run: TaskRun | None = None,
        usage: tuple[int, int] = (0, 0),
    ) -> Outgoing | None:
        """S3, but without an answer: `text` tells the people why. No turn starts by itself for these messages
        again, or a failure would run in circles; and the agent has not seen them, so the next prompt has them."""
        with self._transaction() as db:
            if not self._ended(db, turn):
                error = self._queue(db, folder, turn, "error", text, upto)
                self._end(db, turn, f"failed:{kind}", upto, error, usage)
                if run is not None:
                    self.tasks.end(db, run, turn, f"failed:{kind}")
            return self._end_of(db, turn)

    def stop_turn(
        self, folder: str, turn: str, upto: int, run: TaskRun | None = None, usage: tuple[int, int] = (0, 0)
    ) -> None:
        """S3, by a person's wish: nothing is said, and the agent will know that it was asked and stopped."""
        with faults(self._path):
            asked = lookback.context(self._db, folder, upto)
        prompt = intake.render_task(run, run.task.zone) if run else intake.render(asked.messages, "UTC", asked.left_out)
        entries = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": "(I was stopped before I had finished; some of it may be done.)"},
        ]
        with self._transaction() as db:
            if not self._ended(db, turn):
                self._append(db, folder, turn, entries if asked.messages or run else [], run)
                self._end(db, turn, "stopped", upto, None, usage)
                if run is not None:
                    self.tasks.end(db, run, turn, "stopped")

    def recover(self) -> int:
        """At start: turns that a crash left open are marked `interrupted`. How many there were."""
        with self._transaction() as db:
            return db.execute(
                "UPDATE turns SET outcome = 'interrupted', finished_at = ? WHERE finished_at IS NULL", (self._clock(),)
            ).rowcount

    @staticmethod
    def _ended(db: sqlite3.Connection, turn: str) -> bool:
        row = db.execute("SELECT finished_at FROM turns WHERE id = ?", (turn,)).fetchone()
        if row is None:
            raise ValueError(f"turn {turn} was never begun")
        return row[0] is not None

    def _end(
        self,
        db: sqlite3.Connection,
        turn: str,
        outcome: str,
        upto: int,
        reply: int | None = None,
        usage: tuple[int, int] = (0, 0),
    ) -> None:
        db.execute(
            "UPDATE turns SET outcome = ?, upto = ?, finished_at = ?, reply = ?, tokens_in = ?, tokens_out = ?"
            " WHERE id = ?",
            (outcome, upto, self._clock(), reply, *usage, turn),
        )
        seen = "seen_upto" if outcome.startswith("failed:") else "max(seen_upto, ?1)"
        db.execute(
            f"UPDATE groups SET answered_upto = max(answered_upto, ?1), seen_upto = {seen}"
            " WHERE folder = (SELECT grp FROM turns WHERE id = ?2)",
            (upto, turn),
        )

    @staticmethod
    def _append(
        db: sqlite3.Connection, folder: str, turn: str, entries: Iterable[dict[str, Any]], run: TaskRun | None
    ) -> None:
        for entry in entries if run is None or run.task.context == "group" else ():
            content = json.dumps(entry.get("content"), ensure_ascii=False, separators=(",", ":"))
            db.execute(
                "INSERT INTO transcript (grp, turn, role, content, bytes) VALUES (?, ?, ?, ?, ?)",
                (folder, turn, str(entry.get("role")), content, len(content.encode())),
            )

    # --- replies out ------------------------------------------------------------------------------

    def add_say(self, folder: str, turn: str, text: str) -> Outgoing:
        """Something for the chat before the turn ends. It claims no message as answered."""
        with self._transaction() as db:
            return outgoing_of(db, self._queue(db, folder, turn, "say", text, 0))

    def add_file(self, folder: str, turn: str, file: tuple[str, str], caption: str) -> Outgoing:
        """A file for the chat, by its name in the outbox's folder and the one that people see."""
        with self._transaction() as db:
            row = self.outbox.queue(db, self._clock(), folder, turn, "say", caption, 0, file=file)
            return outgoing_of(db, row)

    def _queue(self, db: sqlite3.Connection, folder: str, turn: str, kind: str, text: str, upto: int) -> int:
        return self.outbox.queue(db, self._clock(), folder, turn, kind, text, upto)

    @staticmethod
    def _end_of(db: sqlite3.Connection, turn: str) -> Outgoing | None:
        row = db.execute("SELECT reply FROM turns WHERE id = ?", (turn,)).fetchone()
        return None if row[0] is None else outgoing_of(db, row[0])

    # --- looking back -----------------------------------------------------------------------------

    def history(self, folder: str, budget: int) -> list[dict[str, Any]]:
        """The newest whole turns of the transcript that fit into `budget` bytes, oldest entry first."""
        with faults(self._path):
            return lookback.history(self._db, folder, budget)

    def recent_lines(self, folder: str, count: int) -> list[Line]:
        """The last lines of the conversation, oldest first, as a terminal shows them."""
        with faults(self._path):
            return lookback.recent_lines(self._db, folder, count)

    def add_connection(self, connection: Connection) -> None:
        with self._transaction(durable=False) as db:
            db.execute(
                "INSERT INTO connections (grp, turn, kind, host, port, address, sent, received, outcome, started_at,"
                " seconds) VALUES (:group, :turn, :kind, :host, :port, :address, :sent, :received, :outcome,"
                " :started_at, :seconds)",
                vars(connection),
            )

    def add_event(self, folder: str, turn: str, what: str, detail: str) -> None:
        """Something to be found later: a request that was refused."""
        with self._transaction(durable=False) as db:
            db.execute(
                "INSERT INTO events (at, grp, turn, what, detail) VALUES (?, ?, ?, ?, ?)",
                (self._clock(), folder, turn, what, detail),
            )

    def stats(self) -> dict[str, int]:
        """Numbers for `status`."""
        with faults(self._path):
            return upkeep.stats(self._db, self._clock())

    def prune(self) -> None:
        """Bound what grows and is only looked back on. Never a message, never what was not sent."""
        with self._transaction() as db:
            upkeep.prune(db, self._clock())

    # --- the database -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it. What is not `durable` survives a kill at once, and a power cut
        together with the next commit that is: the sync of one covers the whole log before it."""
        db = self._db
        with faults(self._path):
            if not durable:
                db.execute("PRAGMA synchronous = NORMAL")
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if not durable:
                    db.execute("PRAGMA synchronous = FULL")

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with faults(self._path):
            return self._db.execute(query, values).fetchall()
