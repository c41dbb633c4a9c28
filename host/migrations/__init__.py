"""The database's schema as numbered steps, and how a database is brought to the last of them.

A step is a tuple of SQL statements; it and the new `user_version` are one transaction, so a database is
always at one version and never between two. A released step is never edited: a change is a further step.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.migrations import step_1, step_2, step_3, step_4

Step = Sequence[str]
STEPS: Final[tuple[Step, ...]] = (
    step_1.STATEMENTS,
    step_2.STATEMENTS,
    step_3.STATEMENTS,
    step_4.STATEMENTS,
)


def migrate(db: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """Apply the steps that the database at `path` lacks, after a copy of it if it holds anything."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == len(steps):
        return
    if version > len(steps):
        raise UserError(
            f"{path} was written by a newer NanoClaw (schema {version}; this one knows {len(steps)})",
            "use the newer program, or put back the copy that it made beside the file before it changed it",
        )
    if version:
        _keep_copy(db, path.with_name(f"{path.name}.schema-{version}"))
    elif db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise UserError(f"{path} is a database, but not one of NanoClaw's", "move it away, or choose another --home")
    for number, statements in enumerate(steps[version:], version + 1):
        _apply(db, statements, number)


def _apply(db: sqlite3.Connection, statements: Step, number: int) -> None:
    db.execute("BEGIN EXCLUSIVE")
    try:
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number:d}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _keep_copy(db: sqlite3.Connection, copy: Path) -> None:
    """Whole or not at all, and never in anyone else's sight. An earlier copy of this version stays: it was
    made before a step was first tried, and what is there now may be what went wrong since."""
    if copy.exists():
        return
    part = copy.with_name(copy.name + ".part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part)) as target:
        db.backup(target)
    part.rename(copy)
