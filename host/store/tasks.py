"""Tasks on disk: when each is due, which run waits or works, and what became of the runs before.

A run's states, each change one transaction:

- **due**: `next_run` has passed. Nothing else says so: a host that was down finds it so.
- **queued**: `claim_due` or `claim` has returned: `queued_for` is set and `next_run` moved on, together. A crash from
  here on leaves `queued_for`, and the next host queues the run again (`unfinished`).
- **begun**: `begin`, with its turn. Times that passed while it waited are answered by it.
- **ended**: logged, and `queued_for` cleared, in the transaction that ends its turn.

What is queued is never claimed again: times that pass while a run works stay due, and are one late run after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from host import schedule
from host.errors import UserError
from host.model import Task, TaskRun
from host.store.groups import Transaction

MAX_PER_GROUP: Final = 100
MAX_TASKS: Final = 1000
MAX_MADE_BY_RUNS: Final = 10
"""Tasks of one group that its tasks' runs asked for: what makes more of its kind does not get far."""
MAX_TRIES: Final = 3
"""A run that was interrupted so often may be what ends the host: it is given up."""
KEEP_DONE: Final = 100
"""Finished tasks of a group that can still be looked at."""
DAY: Final = 86_400.0

# The fields of Task, in its order.
_TASK: Final = (
    "id, grp, prompt, kind, schedule, context, check_command, state, created_by, created_at, next_run, queued_for,"
    " zone, anchor, made_in"
)


class Tasks:
    """The table of tasks. Each method is one transaction, but for `begin` and `end`, which are part of their turn's;
    a `UserError` means that it changed nothing."""

    def __init__(self, transaction: Transaction, rows: Callable[..., list[Any]], clock: Callable[[], float]) -> None:
        self._transaction, self._rows, self._clock = transaction, rows, clock

    # --- what is there ----------------------------------------------------------------------------

    def get(self, untrusted_id: str) -> Task | None:
        rows = self._rows(f"SELECT {_TASK} FROM tasks WHERE id = ?", untrusted_id)
        return Task(*rows[0]) if rows else None

    def all(self, folder: str = "") -> list[Task]:
        """Of one group, or of all; what comes next first, what rests or is done last."""
        return self._select("?1 = '' OR grp = ?1 ORDER BY state, next_run IS NULL, next_run, created_at, id", folder)

    def runs(self, task_id: str, count: int) -> list[dict[str, Any]]:
        """The last runs that ended, the latest first; also of a task that was cancelled."""
        names = ("due", "started_at", "seconds", "outcome", "tokens", "turn")
        rows = self._rows(
            f"SELECT {', '.join(names)} FROM task_runs WHERE task = ? ORDER BY id DESC LIMIT ?", task_id, count
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def next_due(self) -> float | None:
        """When something is next to be claimed."""
        found: float | None = self._rows(
            "SELECT min(next_run) FROM tasks WHERE next_run IS NOT NULL AND queued_for IS NULL"
        )[0][0]
        return found

    def stats(self) -> dict[str, int]:
        """Numbers for `status`."""
        names = ("active", "paused", "done", "queued")
        row = self._rows(
            "SELECT ifnull(sum(state = 'active'), 0), ifnull(sum(state = 'paused'), 0), ifnull(sum(state = 'done'), 0),"
            " ifnull(sum(queued_for IS NOT NULL), 0) FROM tasks"
        )[0]
        return dict(zip(names, row, strict=True))

    # --- what people and agents do ----------------------------------------------------------------

    def add(self, task: Task) -> None:
        with self._transaction() as db:
            self._check_room(db, task)
            db.execute(
                f"INSERT INTO tasks ({_TASK}) SELECT ?1, folder, {', '.join(f'?{n}' for n in range(3, 16))}"
                " FROM groups WHERE folder = ?2",
                tuple(vars(task).values()),
            )
            db.execute(
                "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE grp = ? AND state = 'done'"
                " AND queued_for IS NULL ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
                (task.group, KEEP_DONE),
            )

    @staticmethod
    def _check_room(db: sqlite3.Connection, task: Task) -> None:
        every, own, made = db.execute(
            "SELECT count(*), ifnull(sum(grp = ?1), 0), ifnull(sum(grp = ?1 AND made_in <> ''), 0)"
            " FROM tasks WHERE state <> 'done' AND id <> ?2",
            (task.group, task.id),
        ).fetchone()
        hint = "cancel one that is no longer needed (list_tasks shows them)"
        if task.made_in and made >= MAX_MADE_BY_RUNS:
            raise UserError(f"{made} tasks that tasks made are there already, which is the most for one group", hint)
        if own >= MAX_PER_GROUP:
            raise UserError(f"the group {task.group} has {own} tasks already, which is the most", hint)
        if every >= MAX_TASKS:
            raise UserError(f"there are {every} tasks already, which is the most", hint)

    def update(self, task: Task) -> None:
        """What it does and when, as they are in `task`; whether a run of it waits stays as it is."""
        with self._transaction() as db:
            if task.state != "done":  # one that is done does not count, until it is given a new time
                self._check_room(db, task)
            db.execute(
                "UPDATE tasks SET (prompt, kind, schedule, context, check_command, state, next_run, zone, anchor)"
                " = (?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ?",
                (task.prompt, task.kind, task.schedule, task.context, task.check, task.state, task.next_run,
                 task.zone, task.anchor, task.id),
            )  # fmt: skip

    def pause(self, task_id: str) -> None:
        """A run of it that waits does not wait any more; one that has begun goes on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE tasks SET state = 'paused', next_run = NULL,"
                " queued_for = CASE WHEN begun_at IS NULL THEN NULL ELSE queued_for END WHERE id = ?",
                (task_id,),
            )

    def cancel(self, task_id: str) -> None:
        """It is gone, also from the queue. Its log stays, and a run of it that has begun still gets there."""
        with self._transaction() as db:
            db.execute("DELETE FROM tasks WHERE id = ?", (task_id,))

    # --- runs -------------------------------------------------------------------------------------

    def claim(self, task_id: str, now: float) -> TaskRun | None:
        """A run at this moment, beside the schedule; None if one waits or works already."""
        with self._transaction() as db:
            db.execute("UPDATE tasks SET queued_for = ?, tries = 0 WHERE id = ? AND queued_for IS NULL", (now, task_id))
            changed: int = db.execute("SELECT changes()").fetchone()[0]
        task = self.get(task_id)
        return TaskRun(task, now) if changed and task else None

    def claim_due(self, now: float) -> list[TaskRun]:
        """The runs that are due, longest first, and their tasks' next times; however many times a task's schedule
        has passed, it is one run."""
        if (first := self.next_due()) is None or first > now:
            return []
        found = self._select("next_run <= ? AND queued_for IS NULL ORDER BY next_run, created_at, id", now)
        claimed = [
            replace(task, queued_for=task.next_run, next_run=schedule.next_run(schedule.of(task), now))
            for task in found
        ]
        with self._transaction() as db:
            db.executemany(
                "UPDATE tasks SET queued_for = ?, next_run = ?, tries = 0 WHERE id = ?",
                [(task.queued_for, task.next_run, task.id) for task in claimed],
            )
        return [TaskRun(task, task.queued_for) for task in claimed if task.queued_for is not None]

    def unfinished(self) -> tuple[list[TaskRun], list[TaskRun]]:
        """At start: the runs that an earlier host left, to be queued again, and those that it gives up, which are
        logged as failed. Of a task that rests none is queued again."""
        left = self._select("queued_for IS NOT NULL ORDER BY queued_for, created_at, id")
        known = self._rows("SELECT id, tries, begun_at FROM tasks WHERE queued_for IS NOT NULL")
        tries, begun = {row[0]: row[1] for row in known}, {row[0]: row[2] or self._clock() for row in known}
        given_up = [task for task in left if task.state == "paused" or tries[task.id] >= MAX_TRIES]
        again = [task for task in left if task not in given_up]
        lost = [TaskRun(task, task.queued_for or 0.0) for task in given_up]
        with self._transaction() as db:
            db.execute("UPDATE tasks SET begun_at = NULL")
            for run in lost:
                self._log(db, run, "failed:interrupted", begun[run.task.id], 0.0)
        return [TaskRun(task, task.queued_for or 0.0) for task in again], lost

    def begin(self, db: sqlite3.Connection, run: TaskRun) -> None:
        """Its turn has begun. Times that have passed until now are answered by this run."""
        now = self._clock()
        task = self.get(run.task.id)
        if task is None or task.queued_for != run.due:
            return  # cancelled while it was on its way
        passed = task.next_run is not None and task.next_run <= now
        next_run = schedule.next_run(schedule.of(task), now) if passed else task.next_run
        db.execute(
            "UPDATE tasks SET begun_at = ?, tries = tries + 1, next_run = ? WHERE id = ?", (now, next_run, task.id)
        )

    def end(self, db: sqlite3.Connection, run: TaskRun, turn: str, outcome: str) -> None:
        """Its turn has ended, and its row in `turns` says when it began and what it used."""
        started, finished, tokens = db.execute(
            "SELECT started_at, finished_at, tokens_in + tokens_out FROM turns WHERE id = ?", (turn,)
        ).fetchone()
        # A clock that was set meanwhile makes no negative length.
        self._log(db, run, outcome, started, max(0.0, finished - started), tokens, turn)

    def record_run(self, run: TaskRun, outcome: str, seconds: float = 0.0) -> None:
        """The end of a run that never had a turn."""
        with self._transaction() as db:
            self._log(db, run, outcome, self._clock() - seconds, seconds)

    @staticmethod
    def _log(
        db: sqlite3.Connection,
        run: TaskRun,
        outcome: str,
        started: float,
        seconds: float,
        tokens: int = 0,
        turn: str = "",
    ) -> None:
        db.execute(
            "INSERT INTO task_runs (task, grp, turn, due, started_at, seconds, outcome, tokens)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (run.task.id, run.task.group, turn, run.due, started, seconds, outcome, tokens),
        )
        db.execute(
            "UPDATE tasks SET queued_for = NULL, begun_at = NULL, tries = 0,"
            " state = CASE WHEN kind = 'once' AND state = 'active' AND next_run IS NULL THEN 'done' ELSE state END"
            " WHERE id = ? AND queued_for = ?",
            (run.task.id, run.due),
        )

    # --- time zones and clocks --------------------------------------------------------------------

    def zones(self) -> list[tuple[str, str]]:
        """(group, zone that its tasks' times were computed with); a group may have several."""
        return [(group, zone) for group, zone in self._rows("SELECT DISTINCT grp, zone FROM tasks")]

    def rezone(self, folder: str, zone: str, now: float) -> None:
        """The group lives by another clock from now on. A time that has passed by the old one stays due; what is due
        once, and has passed by the new one, is due now."""
        tasks = [replace(task, zone=zone) for task in self._select("grp = ? AND zone <> ?", folder, zone)]
        with self._transaction() as db:
            for task in tasks:
                next_run = task.next_run
                if next_run is not None and next_run > now:
                    next_run = schedule.next_run(schedule.of(task), now)
                    next_run = schedule.instant(schedule.of(task)) if task.kind == "once" else next_run
                db.execute("UPDATE tasks SET zone = ?, next_run = ? WHERE id = ?", (zone, next_run, task.id))

    def realign(self, now: float) -> int:
        """Take back times that were computed while the clock was wrong: those that lie over a day later than the
        schedule says. Less than that is left alone, or a clock that is set back a little would do things twice. How
        many they were."""
        late = []
        for task in self._select("next_run > ?", now):
            right = schedule.next_run(schedule.of(task), now)
            if right is not None and task.next_run is not None and task.next_run > right + DAY:
                late.append((right, task.id))
        if late:
            with self._transaction() as db:
                db.executemany("UPDATE tasks SET next_run = ? WHERE id = ?", late)
        return len(late)

    def _select(self, where: str, *values: Any) -> list[Task]:
        return [Task(*row) for row in self._rows(f"SELECT {_TASK} FROM tasks WHERE {where}", *values)]
