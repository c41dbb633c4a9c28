"""Opening the database: its file, its settings, and what its errors mean to a person."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from host.errors import UserError

# Only another program (a backup, someone's sqlite3) ever holds the lock; the loop stands still meanwhile.
BUSY_SECONDS: Final = 2.0

# Settings of one connection. SQLite's defaults trade safety for speed in each of these places.
SETTINGS: Final = (
    "PRAGMA synchronous = FULL",  # a commit that returned survives a power cut: the channel was acked on it
    "PRAGMA fullfsync = ON",  # macOS: fsync alone stops at the drive's own cache
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",  # nothing in the file itself may call functions
    "PRAGMA journal_size_limit = 16777216",  # one large transaction must not leave a large file for ever
)

# SQLite's primary result code → what happened, and what to do. Codes that are not here are bugs of ours.
_MEANINGS: Final = {
    sqlite3.SQLITE_FULL: ("the disk is full: {path} cannot be written", "make room on the disk of {folder}"),
    sqlite3.SQLITE_BUSY: ("another program keeps {path} locked", "find it and end it: fuser -v {path}"),
    sqlite3.SQLITE_LOCKED: ("another program keeps {path} locked", "find it and end it: fuser -v {path}"),
    sqlite3.SQLITE_CORRUPT: ("{path} is damaged", "put back a backup, or save what is left: sqlite3 {path} .recover"),
    sqlite3.SQLITE_NOTADB: ("{path} is not a database, or damaged", "put back a backup of it, or move it away"),
    sqlite3.SQLITE_READONLY: ("{path} cannot be written", "is it yours, and on a file system that can be written?"),
    sqlite3.SQLITE_PERM: ("{path} cannot be used", "is it yours?"),
    sqlite3.SQLITE_CANTOPEN: ("{path} cannot be opened", "is its folder there, and yours?"),
    sqlite3.SQLITE_IOERR: ("the disk failed under {path}", "look at its quota (quota -s) and its health (dmesg)"),
}
# A full disk met while the log's index grows has a code of its own.
_ALSO_FULL: Final = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE})


def open_database(path: Path, migrate: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """The database at `path`, made if it is not there, brought to today's schema by `migrate`.

    It leaves transactions to whoever uses it: none is ever begun behind their back.
    """
    with faults(path):
        fresh = not path.exists()
        if fresh:  # here and not by SQLite: the mode must hold from the first instant, and -wal, -shm copy it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _set_up(db, path)
            migrate(db)
        except BaseException:
            db.close()
            raise
        if fresh:
            _sync_folder(path.parent)
        return db


def _set_up(db: sqlite3.Connection, path: Path) -> None:
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise UserError(
            f"{path} lies on a file system that cannot hold it (no shared memory between processes)",
            "choose a --home on a local disk",
        )
    for setting in SETTINGS:
        db.execute(setting)


def _sync_folder(folder: Path) -> None:
    """SQLite syncs the file, not the folder entry that a new file has to be found by."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def faults(path: Path) -> Iterator[None]:
    """What the disk and other programs can do to us, as a `UserError`. Anything else is a bug, and passes."""
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorcode", -1)  # absent where the module itself refused a call of ours
        meaning = _meaning(path, _primary(e, code))
        if meaning is None:
            raise
        raise meaning from e
    except OSError as e:
        code = sqlite3.SQLITE_FULL if e.errno in (errno.ENOSPC, errno.EDQUOT) else -1
        raise _meaning(path, code) or UserError(f"cannot use {path}: {e.strerror}") from e


def _primary(error: sqlite3.Error, code: int) -> int:
    if code == -1 and str(error).startswith("Could not decode to UTF-8"):
        return sqlite3.SQLITE_CORRUPT  # all text went in as UTF-8; SQLite does not look into its pages, Python does
    return sqlite3.SQLITE_FULL if code in _ALSO_FULL else code & 0xFF


def _meaning(path: Path, code: int) -> UserError | None:
    if code not in _MEANINGS:
        return None
    error, hint = (text.format(path=path, folder=path.parent) for text in _MEANINGS[code])
    return UserError(error, hint)
