"""`nanoclaw uninstall`: all of this installation, and nothing else; says first what that is."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from host import beneath, store
from host import config as configuration
from host.cli.ask_first import agreed
from host.cli.out import Progress, emit, report, write
from host.config import Home
from host.errors import UserError
from host.install import removal
from host.install.hosts import host_pid
from host.install.removal import Plan


def uninstall(args: argparse.Namespace) -> int:
    home = configuration.locate(args.home, os.environ)
    refuse_running(home)
    progress = Progress(args.quiet or args.json)
    progress("looking for what there is …")
    plan = removal.planned(home, os.environ, purge=args.purge)
    progress.clear()
    record = described(plan)
    if not any(record[kind] for kind in ("engines", "files", "state", "cache", "programs")):
        left = "\n".join(f"stays: {why}" for why in plan.left)
        return emit(args.json, {**record, "removed": False}, f"nothing of NanoClaw is here to remove\n{left}".strip())
    if not args.json:
        write(as_text(plan, purge=args.purge))
    if not agreed(args, "remove all of this?"):
        raise UserError("nothing was removed")
    # Whatever the program still needs must be in memory now: it removes what it runs from.
    done = "removed" if args.purge else f"removed; your settings and data are still in {home.config} and {home.data}"
    with contextlib.ExitStack() as stack:
        if home.data.is_dir():
            stack.enter_context(contextlib.closing(store.lock(home.data)))
        problems = removal.carry_out(plan, home, progress)
    progress.clear()
    for problem in problems:
        report(problem)
    emit(args.json, {**record, "removed": True, "problems": problems}, "" if problems else done)
    return 1 if problems else 0


def refuse_running(home: Home) -> None:
    pid = host_pid(home.data)
    if pid is not None:
        stop = f"stop it first: kill {pid}" if pid else "stop it first"
        raise UserError(f"a host (pid {pid}) runs for this home" if pid else "a host runs for this home", stop)


def described(plan: Plan) -> dict[str, Any]:
    def shown(paths: Iterable[Path]) -> list[str]:
        return [str(path) for path in paths]

    return {
        "engines": [
            {"engine": kept.engine.name, "containers": list(kept.containers), "images": list(kept.images)}
            for kept in plan.kept
        ],
        "files": shown(plan.files),
        "state": shown(plan.state),
        "cache": shown([*plan.cache, *plan.own]),
        "programs": shown(plan.programs),
        "skipped": list(plan.skipped),
        "left": list(plan.left),
    }


def as_text(plan: Plan, *, purge: bool) -> str:
    lines = ["this will be removed:"]
    for kept in plan.kept:
        lines += [f"  {kept.engine.name}: the container {name}" for name in kept.containers]
        lines += [f"  {kept.engine.name}: the image {image}" for image in kept.images]
    lines += [f"  {path}" for path in plan.files]
    lines += [f"  {path}  ({size(path)}, can be made again)" for path in (*plan.cache, *plan.own)]
    told = "settings and data, gone for good" if purge else "what was installed"
    lines += [f"  {path}  ({size(path)}, {told})" for path in plan.state]
    lines += [f"  {path}" for path in plan.programs]
    lines += [f"not looked at: {why}" for why in plan.skipped]
    return "\n".join([*lines, *(f"stays: {why}" for why in plan.left)])


def size(path: Path) -> str:
    try:
        if path.is_symlink() or not path.is_dir():
            found, more = path.lstat().st_blocks * 512, ""
        else:
            usage = beneath.folder_size(path)
            found, more = usage.bytes, "" if usage.complete else "at least "
    except (OSError, UserError):
        return "size unknown"
    return f"{more}{found / 1e6:.1f} MB" if found >= 1e5 else f"{more}{found / 1e3:.0f} kB"
