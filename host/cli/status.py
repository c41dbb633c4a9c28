"""`nanoclaw status`: what the host that runs for this home is doing."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any, Final

from host import home as homes
from host.cli.out import emit
from host.cli.tables import one_line
from host.home import Home

NEXT_TASKS: Final = 3


def status(args: argparse.Namespace) -> int:
    home = homes.locate(args.home, os.environ)
    homes.prepare(home)
    # Without its socket there is none, and no need to load what speaks to it: a prompt may ask this every second.
    found = told(args, home) if (home.data / "host.sock").exists() else None
    if found is None:
        return emit(args.json, {"running": False, "home": str(home.data)}, f"no host runs for {home.data}")
    return emit(args.json, {"running": True, **found}, as_text(found))


def told(args: argparse.Namespace, home: Home) -> dict[str, Any] | None:
    """What the host says of itself; None if what was there is only a socket that an earlier one left."""
    from host import control
    from host.cli.desk import request
    from host.cli.session import exchange

    connection = control.connect(home.data / "host.sock")
    if connection is None:
        return None
    found = exchange(connection.detach(), control.Status(), lambda event: event["event"] == "status")
    del found["event"]
    found["next_tasks"] = next_tasks(request(args, "list_tasks", {})["tasks"])
    return found


def as_text(found: dict[str, Any]) -> str:
    rows = {
        "running": f"pid {found['pid']}, for {duration(time.time() - found['since'])}",
        "home": found["home"],
        "engine": f"{found['engine']} {found['engine_version']}",
        "model": "rehearsal script (no key is configured)" if found["rehearsal"] else "configured endpoint",
        "groups": ", ".join(found["groups"]),
        "working on": ", ".join(found["turns"]) or "nothing",
        "warm": ", ".join(found["warm"]) or "none",
        "tasks": ", ".join(f"{count} {state}" for state, count in found["tasks"].items() if count) or "none",
    }
    rows |= {f"channel {name}": channel(each) for name, each in found["channels"].items()}
    rows |= {f"not sent {i}": unsent(each) for i, each in enumerate(found["not_sent"], 1)}
    rows |= {f"next task {i}": f"{t['next']}  {t['id']} of {t['group']}" for i, t in enumerate(found["next_tasks"], 1)}
    rows.update({key.replace("_", " "): str(value) for key, value in found["store"].items()})
    rows.update({f"not enforced: {control}": why for control, why in found["not_enforced"].items()})
    rows.update({f"not mounted for {folder}": "; ".join(why) for folder, why in found["refused_mounts"].items()})
    width = max(map(len, rows))
    return "\n".join(f"{key.ljust(width)}  {one_line(value)}" for key, value in rows.items())


def channel(line: dict[str, Any]) -> str:
    """How it is, as who, and how often it had to be started again."""
    who = person(line["account"])
    shown: str = line["state"] + (f" as {who}" if who and line["state"] == "connected" else "")
    shown += f": {line['why']}" if line["why"] else ""
    times = line["restarts"]
    return shown + (f" (started again {times} time{'s' if times > 1 else ''})" if times else "")


def unsent(row: dict[str, Any]) -> str:
    return f"to {row['group']}: {row['file'] or row['text']!r}: {row['why']}"


def person(account: dict[str, Any] | None) -> str:
    """`+4915112345678 (Ann)`, as far as it is known."""
    if account is None:
        return ""
    user = account["id"].partition("@")[0].partition(":")[0]
    shown = f"+{user}" if user.isdecimal() else account["id"]
    return f"{shown} ({account['name']})" if account.get("name") else shown


def next_tasks(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The few that are due first."""
    due = sorted((task for task in tasks if task["next_run"] is not None), key=lambda task: task["next_run"])
    return [{key: task[key] for key in ("id", "group", "next", "next_run", "prompt")} for task in due[:NEXT_TASKS]]


def duration(seconds: float) -> str:
    """`75` → `1m 15s`; the two largest units."""
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    rest = int(max(0, seconds))
    parts: list[str] = []
    for unit, size in units:
        count, rest = divmod(rest, size)
        if count or (parts and unit != "s"):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
