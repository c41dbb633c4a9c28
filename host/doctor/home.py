"""The home: its folders, files and settings, the database, the room that is left, the clock."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from host import config as configuration
from host import control, credentials
from host.allowlist import FILE, Allowlist
from host.config import values
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning
from host.errors import UserError
from host.migrations import STEPS
from host.model import Group
from host.store.rows import GROUP, as_group

MIB: Final = 1024 * 1024
FEW_BYTES: Final = 200 * MIB
LOW_BYTES: Final = 1024 * MIB
LOW_FILES: Final = 10_000
DATABASE: Final = "nanoclaw.db"
REGISTERED: Final = f"SELECT {GROUP} FROM groups WHERE removed_at IS NULL"  # noqa: S608 (the columns are a constant)
BUILT: Final = 1_767_225_600
"""2026-01-01: a clock that says less was never set. A Raspberry Pi has none that survives without power."""
QUICK_SECONDS: Final = 10.0


def folders(subject: Subject) -> Iterator[Finding]:
    """Nobody else may look into them."""
    for kind, folder in vars(subject.home).items():
        name = f"{kind} folder"
        try:
            seen = folder.lstat()
        except FileNotFoundError:
            yield ok(name, f"{folder} is not there yet: it is made when it is needed")
            continue
        except OSError as e:
            yield failure(name, f"{folder}: {e.strerror}", "choose another: --home DIR")
            continue
        if not folder.is_dir():
            yield failure(name, f"{folder} is not a folder", "move it away, or choose another: --home DIR")
        elif seen.st_uid != os.geteuid():
            yield failure(name, f"{folder} belongs to user {seen.st_uid}", "run NanoClaw as that user")
        elif folder.stat().st_mode & 0o077:
            mode = stat.S_IMODE(folder.stat().st_mode)
            yield failure(name, f"{folder} can be entered by others (mode {mode:o})", f"chmod 700 {folder}")
        elif kind != "config" and not os.access(folder, os.W_OK):
            yield failure(name, f"{folder} cannot be written", f"chmod 700 {folder}")
        else:
            yield ok(name, f"{folder}, closed to others")


def secrets(subject: Subject) -> Iterator[Finding]:
    """`.env` is read as it is for a turn, and nothing of it is shown but that it is there."""
    path = subject.home.config / ".env"
    found = credentials.read(path)
    if found.secrets:
        yield ok("key", f"in {path}, closed to others")
    elif found.base_url is not None:
        yield ok("key", "none, for a model server that asks for none")
    else:
        yield warning("key", "none: a rehearsal script answers, not an AI", f"put ANTHROPIC_API_KEY=… into {path}")
    for name in (FILE, "config.toml"):
        each = subject.home.config / name
        with contextlib.suppress(OSError):
            seen = each.stat()
            if seen.st_mode & 0o022 or seen.st_uid not in (os.geteuid(), 0):
                yield failure(name, f"{each} can be changed by others", f"chmod go-w {each}")


def settings(subject: Subject) -> Iterator[Finding]:
    subject.config = configuration.load(subject.home)
    path = subject.home.config / "config.toml"
    yield ok("settings", f"{path} is understood" if path.exists() else "no config.toml: all as by default")
    zone = subject.config.timezone
    if values.is_zone(zone):
        yield ok("time zone", zone)
    else:
        yield failure("time zone", f"this machine does not know {zone!r}", "install tzdata, or name another")


def allowlist(subject: Subject) -> Iterator[Finding]:
    path = subject.home.config / FILE
    if not os.path.lexists(path):
        yield ok("allowlist", "none: no group is given any folder of this machine")
        return
    found = Allowlist.load(path)
    if found.error:
        yield failure("allowlist", found.error, "mend it; until then no extra folder is mounted")
    else:
        yield ok("allowlist", f"{path} is understood ({len(found.roots)} folders)")


def groups(subject: Subject) -> Iterator[Finding]:
    """Settings in the database that mean nothing any more, such as a zone that this machine does not know."""
    found = registered(subject)
    for group in found:
        try:
            subject.settings.group(group)
        except UserError as e:
            yield failure(f"group {group.folder}", str(e), f"nanoclaw groups set {group.folder} …")
    known = {group.folder.lower() for group in found} | {"main"}
    for folder in sorted(subject.settings.groups.keys() - known):
        yield warning("groups", f"config.toml has a section for {folder}, and there is no such group")
    yield ok("groups", f"{len(found)}")


def registered(subject: Subject) -> list[Group]:
    """None where the database is an older program's, which knew less of groups."""
    with _database(subject) as db:
        if db is None or db.execute("PRAGMA user_version").fetchone()[0] != len(STEPS):
            return []
        return [as_group(row) for row in db.execute(REGISTERED)]


def database(subject: Subject) -> Iterator[Finding]:
    path = subject.home.data / DATABASE
    with _database(subject) as db:
        if db is None:
            yield ok("database", "not there yet: it is made when it is needed")
            return
        if path.stat().st_mode & 0o077:
            yield failure("database", f"{path} can be read by others", f"chmod 600 {path}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(STEPS):
            yield failure("database", f"written by a newer NanoClaw (schema {version})", "use the newer program")
            return
        until = time.monotonic() + QUICK_SECONDS
        db.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError as e:
            if time.monotonic() <= until:
                raise
            yield warning("database", f"too large to be checked in {QUICK_SECONDS:.0f} seconds ({e})")
            return
        if verdict == "ok":
            yield ok("database", f"{path.stat().st_size / MIB:.1f} MB, schema {version}, no damage found")
        else:
            yield failure("database", f"damaged: {str(verdict)[:200]}", f"put back a backup of {path}")


@contextlib.contextmanager
def _database(subject: Subject) -> Iterator[sqlite3.Connection | None]:
    """To read from, beside a host that may be running; None where there is none."""
    path = subject.home.data / DATABASE
    if not path.exists():
        yield None
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2)) as db:
            yield db
    except sqlite3.Error as e:
        raise UserError(f"{path}: {e}", "put back a backup of it") from e


def room(subject: Subject) -> Iterator[Finding]:
    for kind in ("data", "cache"):
        folder = _existing(getattr(subject.home, kind))
        name, found = f"room for {kind}", os.statvfs(folder)
        free, files = found.f_bavail * found.f_frsize, found.f_favail
        shown = f"{free / MIB:.0f} MB free on the disk of {folder}"
        if found.f_files and files < LOW_FILES:
            yield (failure if files < LOW_FILES // 100 else warning)(name, f"{shown}, and room for {files} files only",
                                                                     "remove files that are not needed")  # fmt: skip
        elif free < FEW_BYTES:
            yield failure(name, shown, "make room: messages cannot be stored soon")
        elif free < LOW_BYTES:
            yield warning(name, shown, "make room before it is full")
        else:
            yield ok(name, shown)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def clock(subject: Subject) -> Iterator[Finding]:
    now = time.time()
    newest = 0.0
    with _database(subject) as db:
        if db is not None:
            newest = db.execute("SELECT max(arrived_at) FROM messages").fetchone()[0] or 0.0
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now)) + " UTC"
    if now < BUILT:
        yield failure("clock", f"it says {shown}, which is past", "set it: sudo timedatectl set-ntp true")
    elif newest > now + 3600:
        yield warning("clock", f"it says {shown}, and a message arrived later than that", "was it set back?")
    else:
        yield ok("clock", shown)


def host(subject: Subject) -> Iterator[Finding]:
    connection = control.connect(subject.home.data / "host.sock")
    if connection is None:
        yield ok("host", "none runs; tasks wait until one does (nanoclaw run)")
    else:
        connection.close()
        yield ok("host", "one runs for this home")
