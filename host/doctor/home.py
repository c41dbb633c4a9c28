"""The home: its folders, files and settings, the database, the room that is left, the clock."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Final

from host import config as configuration
from host import control, credentials
from host.allowlist import FILE, Allowlist
from host.config import values
from host.doctor.machine import clock_is_kept
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
FEW_FILES: Final = 100
DATABASE: Final = "nanoclaw.db"
REGISTERED: Final = f"SELECT {GROUP} FROM groups WHERE removed_at IS NULL"  # noqa: S608 (the columns are a constant)
BUILT: Final = 1_767_225_600
"""2026-01-01: a clock that says less was never set. A Raspberry Pi has none that survives without power."""
AHEAD_SECONDS: Final = 3600.0
SET: Final = "set it: sudo timedatectl set-ntp true"
QUICK_SECONDS: Final = 10.0
QUICK_STEPS: Final = 10_000
"""Of SQLite's machine, from one look at the time to the next."""
HOST_SECONDS: Final = 10.0
"""A host that starts a sandbox, or waits for its database, answers a little later."""


def folders(subject: Subject) -> Iterator[Finding]:
    """Nobody else may look into them."""
    for kind, folder in subject.home._asdict().items():
        try:
            yield _folder(f"{kind} folder", folder, writable=kind != "config")
        except FileNotFoundError:
            yield ok(f"{kind} folder", f"{folder} is not there yet: it is made when it is needed")
        except OSError as e:
            yield failure(f"{kind} folder", f"{folder}: {e.strerror}", "choose another: --home DIR")


def _folder(name: str, folder: Path, *, writable: bool) -> Finding:
    folder.lstat()  # a link to nowhere is there
    try:
        seen = folder.stat()
    except FileNotFoundError:
        return failure(name, f"{folder} is a link to nowhere", "remove it, or make what it leads to")
    if fault := _fault(folder, seen, writable=writable):
        return failure(name, f"{folder} {fault[0]}", fault[1])
    return ok(name, f"{folder}, closed to others")


def _fault(folder: Path, seen: os.stat_result, *, writable: bool) -> tuple[str, str] | None:
    """What is wrong with it, and what to do."""
    mode, close = stat.S_IMODE(seen.st_mode), f"chmod 700 {quote(str(folder))}"
    needed = os.R_OK | os.X_OK | (os.W_OK if writable else 0)
    fault = None
    if not stat.S_ISDIR(seen.st_mode):
        fault = "is not a folder", "move it away, or choose another: --home DIR"
    elif seen.st_uid != os.geteuid():
        fault = f"belongs to user {seen.st_uid}, and you are user {os.geteuid()}", "run NanoClaw as that user"
    elif mode & 0o077:
        fault = f"can be entered by others (mode {mode:o})", close
    elif writable and os.statvfs(folder).f_flag & os.ST_RDONLY:
        fault = "lies on a read-only file system", "choose another: --home DIR"
    elif not os.access(folder, needed):
        fault = f"cannot be {'written' if writable else 'read'} (mode {mode:o})", close
    return fault


def key(subject: Subject) -> Iterator[Finding]:
    """`.env` is read as it is for a turn, and nothing of it is shown but that it is there."""
    path = subject.home.config / ".env"
    found = credentials.read(path)
    if found.secrets:
        yield ok("key", f"in {path}, closed to others")
    elif found.base_url is not None:
        yield ok("key", "none, for a model server that asks for none")
    elif subject.settings.key_from_environment:
        yield ok("key", f"none in {path}: the environment's is used, where it has one")
    else:
        yield warning("key", "none: a rehearsal script answers, not an AI", f"put ANTHROPIC_API_KEY=… into {path}")


def settings(subject: Subject) -> Iterator[Finding]:
    for name in (FILE, "config.toml"):
        each = subject.home.config / name
        with contextlib.suppress(OSError):  # one that cannot be read is told of where it is read
            seen = each.stat()
            if seen.st_mode & 0o022 or seen.st_uid not in (os.geteuid(), 0):
                yield failure(name, f"{each} can be changed by others", f"chmod go-w {quote(str(each))}")
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
        return
    yield ok("allowlist", f"{path} is understood ({len(found.roots)} folders)")
    for root in found.roots:
        if root.real is None:
            yield warning("allowlist", f"{root.path} is not there, so nothing in it is mounted", "nanoclaw mounts list")


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
        # Beside it: its log and index, and copies that were made before the schema changed.
        for each in sorted(path.parent.glob(f"{DATABASE}*")):
            if each.lstat().st_mode & 0o077:
                yield failure("database", f"{each} can be read by others", f"chmod 600 {quote(str(each))}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(STEPS):
            yield failure("database", f"written by a newer NanoClaw (schema {version})", "use the newer program")
            return
        yield _integrity(db, path, version)


def _integrity(db: sqlite3.Connection, path: Path, version: int) -> Finding:
    until = time.monotonic() + QUICK_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > until, QUICK_STEPS)
    try:
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as e:
        if time.monotonic() <= until:
            raise
        return warning("database", f"too large to be checked in {QUICK_SECONDS:.0f} seconds ({e})")
    finally:
        db.set_progress_handler(None, 0)
    if verdict != "ok":
        return failure("database", f"damaged: {str(verdict)[:200]}", f"put back a backup of {path}")
    schema = f"schema {version}" if version == len(STEPS) else f"schema {version}, brought to {len(STEPS)} at the start"
    return ok("database", f"{path.stat().st_size / MIB:.1f} MB, {schema}, no damage found")


@contextlib.contextmanager
def _database(subject: Subject) -> Iterator[sqlite3.Connection | None]:
    """To read from, beside a host that may be running; None where there is none."""
    path = subject.home.data / DATABASE
    try:
        is_there = path.exists()
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}", "is its folder yours?") from e
    if not is_there:
        yield None
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2)) as db:
            yield db
    except sqlite3.Error as e:
        raise UserError(f"{path}: {e}", "put back a backup of it") from e


def room(subject: Subject) -> Iterator[Finding]:
    for kind in ("data", "cache"):
        try:
            yield _room(f"room for {kind}", _existing(getattr(subject.home, kind)))
        except OSError as e:
            yield failure(f"room for {kind}", f"cannot be looked at: {e.strerror}", "is the folder yours?")


def _room(name: str, folder: Path) -> Finding:
    found = os.statvfs(folder)
    free, files = found.f_bavail * found.f_frsize, found.f_favail
    shown = f"{free / MIB:.0f} MB free on the disk of {folder}"
    if found.f_files and files < LOW_FILES:
        state = failure if files < FEW_FILES else warning
        return state(name, f"{shown}, and room for {files} files only", "remove files that are not needed")
    if free < FEW_BYTES:
        return failure(name, shown, "make room: messages cannot be stored soon")
    if free < LOW_BYTES:
        return warning(name, shown, "make room before it is full")
    return ok(name, shown)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def clock(subject: Subject) -> Iterator[Finding]:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now)) + " UTC"
    if now < BUILT:
        yield failure("clock", f"it says {shown}, which is past", SET)
    elif _newest(subject) > now + AHEAD_SECONDS:
        yield warning("clock", f"it says {shown}, and a message arrived later than that", f"was it set back? {SET}")
    else:
        words = {None: "", True: ", kept in step with others", False: "; the kernel knows of nothing that keeps it so"}
        yield ok("clock", shown + words[clock_is_kept()])


def _newest(subject: Subject) -> float:
    """When the last message arrived, by the clock of then; 0 where that is not known."""
    with contextlib.suppress(UserError), _database(subject) as db:  # a bad database is told of where it is looked at
        if db is not None:
            return float(db.execute("SELECT max(arrived_at) FROM messages").fetchone()[0] or 0)
    return 0.0


def host(subject: Subject) -> Iterator[Finding]:
    """Whether one runs, and is not stuck. Its lock is left alone: a host that starts now must get it."""
    connection = control.connect(subject.home.data / "host.sock")
    if connection is None:
        yield ok("host", "none runs; tasks wait until one does (nanoclaw run)")
        return
    subject.host_runs = True
    with contextlib.closing(connection):
        subject.status = control.status_of(connection, HOST_SECONDS)
    pid = _holder(subject.home.data / "host.lock")
    if subject.status is not None:
        yield ok("host", f"one runs for this home{f' (pid {pid})' if pid else ''}")
    else:
        yield failure("host", f"one runs{f' (pid {pid})' if pid else ''} and does not answer",
                      f"look at {subject.home.data / 'log'}; to end it: kill {pid or 'PID'}")  # fmt: skip


def _holder(lock: Path) -> str:
    """The pid in a lock that is held; empty where it is not told."""
    with contextlib.suppress(OSError):
        first, *_ = [*lock.read_bytes()[:64].split(), b""]
        return first.decode() if first.isdigit() else ""
    return ""
