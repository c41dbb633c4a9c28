"""`nanoclaw update --from FILE`: another program takes the place of this one.

The file comes from anywhere. Nothing of it counts before a key that this program holds has signed it, and then only
what was copied to where it will run from: the original is read once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from host import carried, release
from host import config as configuration
from host.cli.out import Progress, emit
from host.config import Home
from host.errors import UserError
from host.install import databases, extras, place, trial
from host.install.hosts import RESTART, host_pid
from host.release import NOT_GENUINE, Statement

SMALLEST: Final = 4096


def update(args: argparse.Namespace) -> int:
    asked = ["update", "--from", args.file]
    path = place.running(asked)
    if not carried.KEYS:
        raise UserError(
            "this build knows no keys: it cannot tell whether an update is genuine",
            "it was built without one (scripts/build --key); build the newer one, and run its `install`",
        )
    home, progress = configuration.locate(args.home, os.environ), Progress(args.quiet or args.json)
    try:
        with _opened(Path(args.file), SMALLEST, release.MAX_FILE) as source:
            statement = release.verified(_signature(Path(args.file)), carried.KEYS)
            judge(statement, args.allow_older)
            with place.taken(path, shlex.join([str(path), *asked])) as here:
                record = _replace(args, home, here, source, statement, progress)
        if record["changed"] and extras.installed(home.data, path):
            record |= {"installed": True, "not_refreshed": trial.refreshed(path, args.home)}
    finally:
        progress.clear()
    return emit(args.json, record, as_text(record))


def judge(statement: Statement, allow_older: bool) -> None:
    """Whether what is signed is for this machine, and not older than what runs; `UserError` if not."""
    if statement.arch != os.uname().machine:
        raise UserError(
            f"it is for another kind of processor ({statement.arch}), and this machine has {os.uname().machine}",
            f"get nanoclaw-linux-{os.uname().machine}",
        )
    if release.order(statement.version) < release.order(carried.VERSION) and not allow_older:
        raise UserError(
            f"it is older ({statement.version}) than what runs ({carried.VERSION})",
            "to go back to the program before the last update: nanoclaw rollback",
            "if you mean it: --allow-older",
        )


def _replace(
    args: argparse.Namespace, home: Home, here: place.Place, source: int, statement: Statement, progress: Progress
) -> dict[str, Any]:
    old = place.digest_of(here, here.name)
    record = {"from": carried.VERSION, "to": statement.version, "program": str(here.path), "changed": True}
    if old is None:
        raise UserError(f"{here.path} is gone", f"put the new one there: {shlex.quote(args.file)} install")
    if old == statement.sha256:
        return {**record, "changed": False}
    if os.fstat(source).st_size != statement.size:
        raise UserError("the file is not the one that was signed: it was cut, or added to", NOT_GENUINE)
    progress("copying …")
    with place.copied(here, source, statement.size, os.stat(here.name, dir_fd=here.fd)) as copy:
        progress("checking the signature …")
        check(copy, statement)
        progress("starting it once …")
        answer = trial.start(here.folder / here.new, args.home)
        if answer.version != statement.version:
            raise UserError(f"it says that it is {answer.version}, and is {statement.version}", NOT_GENUINE)
        _refuse_unreadable(home, answer)
        progress("copying the database …")
        backup = databases.back_up(home.data, old)
        place.swap(here, here.new)
    databases.forget_others(home.data, old)
    return {
        **record,
        "previous": str(here.folder / here.previous),
        "backup": str(backup) if backup else None,
        "installed": False,
        "host_pid": host_pid(home.data),
    }


def check(copy: int, statement: Statement) -> None:
    """That the copy is, byte by byte, what was signed, and says the same of itself."""
    if os.fstat(copy).st_size != statement.size or place.digest(copy) != statement.sha256:
        raise UserError("the file is not the one that was signed: it was altered", NOT_GENUINE)
    about = release.program_in(copy)
    if about is None:
        raise UserError("the file is signed, but not a NanoClaw", NOT_GENUINE)
    if (about.version, about.arch, about.build) != (statement.version, statement.arch, statement.build):
        raise UserError("the file says another thing of itself than its signature does", NOT_GENUINE)


def _refuse_unreadable(home: Home, answer: trial.Answer) -> None:
    found = databases.contents(home.data / databases.NAME)
    if found and answer.schema is not None and found.schema > answer.schema:
        raise UserError(
            f"{answer.version} cannot read the database of this home (schema {found.schema}; it knows {answer.schema})",
            "to go back to the program before the last update, with its database: nanoclaw rollback",
        )


def as_text(record: dict[str, Any]) -> str:
    if not record["changed"]:
        return f"{record['program']} is this very program already: nothing was changed"
    lines = [f"updated {record['program']} from {record['from']} to {record['to']}"]
    if record["backup"]:
        lines.append(f"the database was copied first: {record['backup']}")
    if record["host_pid"] is not None:
        lines.append(f"a host (pid {record['host_pid']}) goes on with the old program until {RESTART}")
    lines += refreshed(record)
    lines.append("to go back: nanoclaw rollback")
    return "\n".join(lines)


def refreshed(record: dict[str, Any]) -> list[str]:
    """What became of completions and man page, where they were installed."""
    if not record["installed"]:
        return []
    if why := record["not_refreshed"]:
        return [f"its completions and man page are still the other version's ({why}): nanoclaw install"]
    return ["its completions and man page are of that version now"]


# --- what the person named ----------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, least: int, most: int) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}", *_missing(path, e)) from e
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file")
        if not least <= status.st_size <= most:
            raise UserError(f"{path} has {status.st_size} bytes: no NanoClaw has", NOT_GENUINE)
        yield fd
    finally:
        os.close(fd)


def _missing(path: Path, e: OSError) -> tuple[str, ...]:
    if isinstance(e, FileNotFoundError) and path.suffix == ".sig":
        return ("a release has two files: put the one that ends with .sig beside the other",)
    return ()


def _signature(path: Path) -> bytes:
    with _opened(path.with_name(path.name + ".sig"), 1, release.MAX_SIGNATURE_FILE) as fd:
        return os.read(fd, release.MAX_SIGNATURE_FILE)
