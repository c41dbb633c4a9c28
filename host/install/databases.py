"""Copies of the database from before a newer program changed it, and going back to one.

`data/backup/of-DIGEST.db` is the copy that was made when the program with that digest was about to be
replaced. The newer program makes another, beside the database, in the instant before it changes the schema
(`host.migrations`): that one holds what arrived in between. To go back, the fuller of those that the older program can
read is taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.store.database import BUSY_SECONDS, faults

NAME: Final = "nanoclaw.db"
_OF_SCHEMA: Final = re.compile(re.escape(NAME) + r"\.schema-[0-9]{1,6}")
_OF_PROGRAM: Final = re.compile(r"of-[0-9a-f]{16}\.db")


@dataclass(frozen=True)
class Contents:
    """How much is in a database."""

    path: Path
    schema: int
    messages: int
    turns: int
    last_message: int
    """The highest number that was given to a message: grows, whatever was removed, and needs no clock."""
    last_at: float
    """When that one arrived; 0 without any."""


def contents(path: Path) -> Contents | None:
    """None where there is no database."""
    if not path.exists():
        return None
    with faults(path), _reading(path) as db:
        schema: int = db.execute("PRAGMA user_version").fetchone()[0]
        if not schema:
            return Contents(path, 0, 0, 0, 0, 0.0)
        try:
            messages, last, at = db.execute(
                "SELECT count(*), ifnull(max(seq), 0), ifnull(max(arrived_at), 0) FROM messages"
            ).fetchone()
            turns = db.execute("SELECT count(*) FROM turns").fetchone()[0]
        except sqlite3.OperationalError:  # a much newer schema, where they have other names
            messages = turns = last = at = 0
        return Contents(path, schema, messages, turns, last, at)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    # Nobody writes to a copy: told so, SQLite puts no files of its own beside it.
    how = "mode=ro" if path.name == NAME else "mode=ro&immutable=1"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_SECONDS)
    with contextlib.closing(db):
        yield db


def back_up(data: Path, program: str) -> Path | None:
    """Copy the database, also of a host that runs. `program`: digest of the one that can read it. None without one."""
    source = data / NAME
    if not source.exists():
        return None
    folder = data / "backup"
    copy = folder / f"of-{program[:16]}.db"
    part = folder / f"of-{program[:16]}.part"
    with faults(source):
        folder.mkdir(mode=0o700, exist_ok=True)
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            with _reading(source) as db, contextlib.closing(sqlite3.connect(part)) as target:
                db.backup(target)
            _sync(part)
            part.rename(copy)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync(folder)
    return copy


def forget_others(data: Path, program: str) -> None:
    """Copies for programs that nobody can go back to any more."""
    folder = data / "backup"
    for path in folder.iterdir() if folder.is_dir() else ():
        ours = _OF_PROGRAM.fullmatch(path.name) or _OF_SCHEMA.fullmatch(path.name)
        if ours and path.name != f"of-{program[:16]}.db":
            path.unlink(missing_ok=True)


def best_copy(data: Path, program: str, schema: int) -> Contents:
    """The fullest copy that a program which knows `schema` can read; `UserError` if there is none."""
    candidates = [data / "backup" / f"of-{program[:16]}.db"]
    candidates += [path for path in data.iterdir() if _OF_SCHEMA.fullmatch(path.name)]
    found = [each for path in candidates if (each := contents(path)) and 0 < each.schema <= schema]
    if not found:
        raise UserError(
            f"the program before this one cannot read {data / NAME} any more, and no copy from before is there",
            "stay with this program",
        )
    return max(found, key=lambda each: (each.last_message, each.turns))


def restore(data: Path, copy: Contents) -> None:
    """The database becomes what the copy is, at once or not at all: it is one transaction. The caller holds the lock of
    the home."""
    live = data / NAME
    with faults(live):
        with _reading(copy.path) as source, contextlib.closing(sqlite3.connect(live, timeout=BUSY_SECONDS)) as db:
            db.execute("PRAGMA synchronous = FULL")
            source.backup(db)
        # The newer program, should it come back, makes such a copy only where there is none: this one is spent.
        spent = data / f"{NAME}.schema-{copy.schema}"
        if spent.exists():
            spent.rename(data / "backup" / spent.name)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
