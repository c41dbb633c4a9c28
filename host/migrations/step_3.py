"""Tasks, and the log of their runs."""

from __future__ import annotations

from typing import Final

STATEMENTS: Final = (
    # `made_in`: the task whose run asked for this one; empty for all others. `zone`: what `next_run` was computed
    # with. `queued_for`: the time that a run was due at which has begun to wait and has not ended. `begun_at`: its turn
    # has begun, and `tries` counts how often, since a crash may interrupt it.
    """
    CREATE TABLE tasks (
        id TEXT NOT NULL PRIMARY KEY,
        grp TEXT NOT NULL COLLATE NOCASE REFERENCES groups (folder),
        prompt TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('cron', 'interval', 'once')),
        schedule TEXT NOT NULL,
        context TEXT NOT NULL CHECK (context IN ('group', 'isolated')),
        check_command TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'done')),
        created_by TEXT NOT NULL,
        created_at REAL NOT NULL,
        next_run REAL CHECK (next_run IS NULL OR state = 'active'),
        queued_for REAL,
        zone TEXT NOT NULL,
        anchor REAL NOT NULL,
        made_in TEXT NOT NULL,
        begun_at REAL CHECK (begun_at IS NULL OR queued_for IS NOT NULL),
        tries INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX tasks_by_group ON tasks (grp)",
    "CREATE INDEX tasks_due ON tasks (next_run) WHERE next_run IS NOT NULL AND queued_for IS NULL",
    # Names its task without referring to it: what was done stays on record when a task is cancelled.
    """
    CREATE TABLE task_runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task TEXT NOT NULL,
        grp TEXT NOT NULL COLLATE NOCASE,
        turn TEXT NOT NULL,
        due REAL NOT NULL,
        started_at REAL NOT NULL,
        seconds REAL NOT NULL,
        outcome TEXT NOT NULL,
        tokens INTEGER NOT NULL
    )
    """,
    "CREATE INDEX task_runs_by_task ON task_runs (task, id)",
)
