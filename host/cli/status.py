"""`nanoclaw status`: what the host that runs for this home is doing."""

from __future__ import annotations

import argparse
import time
from typing import Any

from host import control
from host.cli.out import emit
from host.cli.session import exchange, home_of


def status(args: argparse.Namespace) -> int:
    home = home_of(args)
    connection = control.connect(home.data / "host.sock")
    if connection is None:
        return emit(args.json, {"running": False, "home": str(home.data)}, f"no host runs for {home.data}")
    found = exchange(connection.detach(), control.Status(), lambda event: event["event"] == "status")
    del found["event"]
    return emit(args.json, {"running": True, **found}, as_text(found))


def as_text(found: dict[str, Any]) -> str:
    rows = {
        "running": f"pid {found['pid']}, for {duration(time.time() - found['since'])}",
        "home": found["home"],
        "engine": f"{found['engine']} {found['engine_version']}",
        "model": "rehearsal script (no key is configured)" if found["rehearsal"] else "configured endpoint",
        "groups": ", ".join(found["groups"]),
        "working on": ", ".join(found["turns"]) or "nothing",
        "warm": ", ".join(found["warm"]) or "none",
    }
    rows.update({key.replace("_", " "): str(value) for key, value in found["store"].items()})
    rows.update({f"not enforced: {control}": why for control, why in found["not_enforced"].items()})
    width = max(map(len, rows))
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in rows.items())


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
