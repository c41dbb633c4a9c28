"""`nanoclaw mounts`: which folders of this machine groups may be given. Needs no host, no engine, no image."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Final

from host import mounts as granted
from host.allowlist import FILE, Allowlist, Protected, Root, edit
from host.allowlist.judge import Verdict, check_folder, judge, leads_to
from host.cli import tables
from host.cli.desk import request
from host.cli.out import emit, report
from host.cli.session import home_of
from host.config import Home
from host.errors import UserError
from host.model import MountWish

MAIN: Final[dict[str, Any]] = {"folder": "main", "main": True}
"""The one group of a home that nobody has used yet."""


def mounts(args: argparse.Namespace) -> int:
    return ACTIONS[args.action](args)


# --- list -----------------------------------------------------------------------------------------------


def list_roots(args: argparse.Namespace) -> int:
    home = home_of(args)
    allowlist = Allowlist.load(home.config / FILE)
    closed = granted.protected(home, allowlist, ())
    found = record(allowlist, closed)
    if args.json:
        emit(True, found, "")
    elif allowlist.error and not allowlist.missing:
        report(allowlist.error, "until it is mended, no group is given any folder but its own")
    else:
        show_roots(allowlist, found)
    return 1 if allowlist.error and not allowlist.missing else 0


def record(allowlist: Allowlist, closed: Protected) -> dict[str, Any]:
    """The allowlist as JSON values."""
    return {
        "file": str(allowlist.file),
        "error": allowlist.error or None,
        "roots": [
            {"path": r.path, "real_path": r.real, "rw": r.rw, "description": r.description, "state": state(r, closed)}
            for r in allowlist.roots
        ],
        "blocked_patterns": list(allowlist.blocked),
        "non_main_read_only": allowlist.others_read_only,
    }


def state(root: Root, closed: Protected) -> str:
    """What there is to know of an entry besides what it says."""
    real = root.real
    if real is None:
        return "not there"
    try:
        check_folder(root.path, real)
    except ValueError as e:
        return str(e)
    if reason := closed.closes(real):
        return f"no use: {reason}"
    if reason := closed.refusal(real, rw=False):
        return f"only what lies in it: {reason}"
    return "ok" if real == root.expanded.rstrip("/") else f"leads to {real}"


def show_roots(allowlist: Allowlist, found: dict[str, Any]) -> None:
    rows = [[r["path"], access(r["rw"]), r["state"].partition(":")[0], r["description"]] for r in found["roots"]]
    none = f"no folder is allowed yet ({allowlist.file}); to allow one: nanoclaw mounts allow PATH"
    if text := tables.table(("FOLDER", "ACCESS", "STATE", "DESCRIPTION"), rows, none):
        print(text, flush=True)
    if sys.stdout.isatty() and rows:
        print(f"groups other than main: {'read-only' if allowlist.others_read_only else 'as above'}")
        if allowlist.blocked:
            print(f"never, wherever it lies: {', '.join(map(tables.one_line, allowlist.blocked))}")


def access(rw: bool) -> str:
    return "read-write" if rw else "read-only"


# --- check ----------------------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> int:
    home = home_of(args)
    # As it was written, `..` and all: what counts is where it leads.
    path = os.path.join(os.getcwd(), os.path.expanduser(named_path(args)))  # noqa: PTH109, PTH111, PTH118
    allowlist = Allowlist.load(home.config / FILE)
    groups = registered(args, home)
    group = named(groups, args.group or "main")
    wishes = [(MountWish(**wish), each["main"]) for each in groups for wish in each.get("mounts", [])]
    others = [wish["name"] for wish in group.get("mounts", []) if not same(wish["path"], path)]
    with judge(
        allowlist,
        path,
        rw=args.rw,
        is_main=group["main"],
        name=args.name_inside,
        protected=granted.protected(home, allowlist, wishes),
        taken=others,
    ) as verdict:
        emit(args.json, told(group["folder"], path, verdict), explained(args, group["folder"], path, verdict))
    return 0 if verdict.allowed else 1


def registered(args: argparse.Namespace, home: Home) -> list[dict[str, Any]]:
    """The groups, as `list_groups` tells of them; a home that has none yet is not given any for a question."""
    if not (home.data / "nanoclaw.db").exists():
        return [MAIN]
    groups: list[dict[str, Any]] = request(args, "list_groups", {})["groups"]
    return groups


def named(groups: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    for group in groups:
        if group["folder"].lower() == folder.lower():
            return group
    there = ", ".join(group["folder"] for group in groups)
    raise UserError(f"no group is named {folder[:64]!r}", f"there is: {there}", status=2)


def same(path: str, other: str) -> bool:
    try:
        return leads_to(path) == leads_to(other)
    except ValueError:
        return False


def told(group: str, path: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "path": path.encode("utf-8", "replace").decode(),
        "group": group,
        "allowed": verdict.allowed,
        "reason": verdict.reason,
        "real_path": verdict.real_path,
        "target": verdict.target or None,
        "readonly": verdict.readonly,
    }


def explained(args: argparse.Namespace, group: str, path: str, verdict: Verdict) -> str:
    shown = tables.one_line(path.encode("utf-8", "replace").decode())
    if verdict.allowed:
        way = "to read" if verdict.readonly else "to read and to write"
        led = "" if verdict.real_path == path else f" ({tables.one_line(str(verdict.real_path))})"
        lines = [f"allowed: {group} would see {shown}{led} as {verdict.target}, {way}", f"why: {verdict.reason}"]
        wish = ["groups", "mount", group, path, *(["--rw"] if args.rw else [])]
        return "\n".join([*lines, command(*wish, *(["--as", args.name_inside] if args.name_inside else []))])
    lines = [f"refused: {group} would not be given {shown}", f"why: {tables.one_line(verdict.reason)}"]
    if not Path(path).exists():
        lines.append("it does not exist, or cannot be reached")
    elif verdict.real_path is None and "no folder that the allowlist permits" in verdict.reason:
        lines.append(command("mounts", "allow", path, *(["--rw"] if args.rw else [])))
    return "\n".join(lines)


def command(*words: str) -> str:
    """What to type next, as a shell understands it."""
    return f"next: {tables.one_line(shlex.join(['nanoclaw', *words]))}"


# --- allow and deny ---------------------------------------------------------------------------------------


def allow(args: argparse.Namespace) -> int:
    home, path = home_of(args), absolute(named_path(args))
    try:
        real = leads_to(path)
        check_folder(path, real)
    except ValueError as e:
        raise UserError(str(e)) from e
    closed = Protected.of(home.config, home.data, home.cache)
    if reason := closed.closes(real):
        raise UserError(f"{path} would not be mounted all the same: {reason}")
    change = edit.allow(home.config / FILE, path, rw=args.rw)
    lines = list(change.done) or [f"{path} is allowed already, {access(args.rw)}: nothing was changed"]
    if real != path:
        lines.append(f"it leads to {real}")
    if reason := closed.refusal(real, rw=args.rw):
        lines.append(f"not the folder itself ({reason}), but folders in it")
    if args.rw and change.allowlist.others_read_only:
        lines.append("groups other than main may only read it (nonMainReadOnly)")
    lines.append("no group sees it yet")
    lines.append(command("groups", "mount", "NAME", path, *(["--rw"] if args.rw else [])))
    return changed(args, path, change, closed, lines)


def deny(args: argparse.Namespace) -> int:
    home, path = home_of(args), absolute(named_path(args))
    change = edit.deny(home.config / FILE, path)
    lines = list(change.done) or [f"{path} was not allowed: nothing was changed"]
    if change.done:
        lines.append("sandboxes that start from now on are not given it; a turn that runs keeps it to its end")
    return changed(args, path, change, Protected.of(home.config, home.data, home.cache), lines)


def changed(args: argparse.Namespace, path: str, change: edit.Change, closed: Protected, lines: list[str]) -> int:
    found = {"path": path, "changed": bool(change.done), "done": list(change.done)}
    return emit(args.json, found | record(change.allowlist, closed), "\n".join(map(tables.one_line, lines)))


def named_path(args: argparse.Namespace) -> str:
    if not args.path:
        raise UserError("PATH is empty", "name a folder", status=2)
    return str(args.path)


def absolute(path: str) -> str:
    """As a file can hold it. Links stay as they are, so that the entry follows them; but not one with `..` after
    it, which would mean another folder."""
    expanded = os.path.expanduser(path)  # noqa: PTH111
    whole = os.path.realpath(expanded) if ".." in expanded.split("/") else os.path.abspath(expanded)  # noqa: PTH100
    if not whole.isprintable():
        raise UserError("PATH holds a character that cannot be shown, or is not UTF-8 text", status=2)
    return whole


ACTIONS: Final = {"list": list_roots, "check": check, "allow": allow, "deny": deny}
