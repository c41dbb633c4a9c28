"""`nanoclaw rollback`: the program before the last update again, and the database that it can read."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from host import config as configuration
from host import store
from host.cli.ask_first import agreed
from host.cli.out import Progress, emit, note
from host.cli.update import refreshed
from host.errors import UserError
from host.install import databases, extras, place, trial
from host.install.databases import Contents
from host.install.hosts import RESTART, host_pid


def rollback(args: argparse.Namespace) -> int:
    path = place.running(["rollback"])
    home, progress = configuration.locate(args.home, os.environ), Progress(args.quiet or args.json)
    with place.taken(path, f"{path} rollback") as here, contextlib.ExitStack() as stack:
        present, before = _two(here)
        progress("starting it once …")
        answer = trial.start(here.folder / here.previous, args.home)
        progress.clear()
        record: dict[str, Any] = {"program": str(here.path), "to": answer.version, "restored": None, "kept": None}
        live = databases.contents(home.data / databases.NAME)
        copy = _copy_to_restore(live, answer, before, home.data)
        if live and copy:
            stack.enter_context(contextlib.closing(store.lock(home.data)))
            live = databases.contents(live.path) or live  # a host may have run until now
            _agree(args, answer, live, copy)
            kept = databases.back_up(home.data, present)
            databases.restore(home.data, copy)
            record |= {"restored": str(copy.path), "kept": str(kept), **lost(live, copy)}
        # The database first: killed in between, the newer program is still there, and brings it forward again.
        place.swap(here, here.previous)
    record["installed"] = extras.installed(home.data, path)
    if record["installed"]:
        record["not_refreshed"] = trial.refreshed(path, args.home)
    return emit(args.json, {**record, "host_pid": host_pid(home.data)}, as_text(record, host_pid(home.data)))


def _two(here: place.Place) -> tuple[str, str]:
    """Digests of the present program and of the one before it."""
    present, before = place.digest_of(here, here.name), place.digest_of(here, here.previous)
    if before is None or before == present:
        raise UserError(
            f"there is no program from before an update: no other {here.folder / here.previous}",
            "to put another version in this one's place: nanoclaw update --from FILE --allow-older",
        )
    if not place.is_ours(here, here.previous):
        raise UserError(f"{here.folder / here.previous} is not a NanoClaw", "remove it")
    return present or "", before


def _copy_to_restore(live: Contents | None, answer: trial.Answer, before: str, data: Path) -> Contents | None:
    """What the older program can read, where it cannot read what is there."""
    if live is None:
        return None
    schema = answer.schema
    if schema is None:  # it does not tell: what it could read is what it was replaced with
        copy = databases.contents(data / "backup" / f"of-{before[:16]}.db")
        schema = copy.schema if copy else live.schema
    return databases.best_copy(data, before, schema) if live.schema > schema else None


def lost(live: Contents, copy: Contents) -> dict[str, int]:
    return {"messages": max(0, live.last_message - copy.last_message), "turns": max(0, live.turns - copy.turns)}


def _agree(args: argparse.Namespace, answer: trial.Answer, live: Contents, copy: Contents) -> None:
    missing = lost(live, copy)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.last_at)) if copy.last_at else "before the first"
    note(f"{answer.version} cannot read the database as the newer program left it (schema {live.schema}). A copy from")
    note(f"before takes its place, whose last message is of: {since}")
    note(f"not in it: {missing['messages']} messages and {missing['turns']} turns since then")
    if not agreed(args, "go back, and put that copy in place?"):
        raise UserError("nothing was changed")


def as_text(record: dict[str, Any], pid: int | None) -> str:
    lines = [f"{record['program']} is {record['to']} again"]
    if record["restored"]:
        lines.append(f"the database is that of {record['restored']}; what it was is in {record['kept']}")
    lines += refreshed(record)
    if pid is not None:
        lines.append(f"a host (pid {pid}) goes on with the other program until {RESTART}")
    lines.append("to go forward again: nanoclaw rollback")
    return "\n".join(lines)
