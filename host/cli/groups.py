"""`nanoclaw groups`: the chats that the assistant takes part in."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from host.cli import tables
from host.cli.desk import request
from host.cli.out import emit
from host.cli.settings import assignments
from host.errors import UserError

# How a setting's value is written on the command line, where it is no TOML; everything else is.
TEXTS: Final = frozenset({"name", "trigger", "model", "timezone"})
LISTS: Final = frozenset({"senders", "allow_hosts"})


def groups(args: argparse.Namespace) -> int:
    return ACTIONS[args.action](args)


def list_groups(args: argparse.Namespace) -> int:
    found = request(args, "list_groups", {})
    rows = [[g["folder"], f"{g['channel']}:{g['chat']}", calling(g), g["name"]] for g in found["groups"]]
    text = tables.table(("GROUP", "CHAT", "ANSWERS", "NAME"), rows, "no groups")
    if found["removed"] and sys.stdout.isatty():
        text += f"\nremoved, and what they left is kept: {', '.join(found['removed'])}"
    return emit(args.json, found, text)


def calling(group: dict[str, Any]) -> str:
    """What it takes to be answered there."""
    return group["trigger"] or "everything"


def add(args: argparse.Namespace) -> int:
    if args.chat is None and args.channel != "console":
        raise UserError("--chat is missing: which chat of the channel?", "see nanoclaw groups add --help", status=2)
    wish = {"folder": args.name, "channel": args.channel, "chat": args.name if args.chat is None else args.chat}
    wish |= {key: value for key, value in (("name", args.display), ("trigger", args.trigger)) if value is not None}
    wish |= {"needs_trigger": False} if args.no_trigger else {}
    found = request(args, "register_group", wish)
    group = found["group"]
    begin = f"a message that begins with {group['trigger']}" if group["trigger"] else "every message"
    text = f"{group['folder']} is a group now; {begin} is answered there"
    if group["channel"] == "console":
        text += f"\nits chat: nanoclaw chat {group['folder']}"
    return emit(args.json, found, text)


def show(args: argparse.Namespace) -> int:
    found = request(args, "show_group", {"group": args.name})
    return emit(args.json, found, tables.fields(described(found["group"])))


def described(group: dict[str, Any]) -> dict[str, str]:
    """All about a group, in the words of `groups set` where they can be set."""
    limits = {name: value for name, value in group["limits"].items() if value is not None}
    limits["memory"] = f"{limits['memory'] / 1024**2:.0f} MB"
    chosen = [name if name not in group["fixed_by_config"] else f"{name} (config.toml)" for name in group["chosen"]]
    chosen += [f"{name} (config.toml)" for name in group["fixed_by_config"] if name not in group["chosen"]]
    return {
        "group": group["folder"] + (", the one that administers" if group["main"] else ""),
        "name": group["name"],
        "chat": f"{group['channel']}:{group['chat']}",
        "answers": calling(group),
        "senders": "anyone" if group["senders"] is None else "\n".join(group["senders"]),
        "model": group["model"],
        "timezone": group["timezone"],
        **{name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in limits.items()},
        "allow_hosts": "\n".join(group["allow_hosts"]) or "none",
        "mounts": "\n".join(mounted(wish) for wish in group["mounts"]) or "none",
        "chosen": ", ".join(chosen) or "nothing: all as by default",
    }


def mounted(wish: dict[str, Any]) -> str:
    return f"{wish['path']} as {wish['name']}, {'to read and to write' if wish['rw'] else 'to read'}"


def change(args: argparse.Namespace) -> int:
    settings = assignments(args.settings, texts=TEXTS, lists=LISTS)
    found = request(args, "update_group", {"group": args.name, "settings": settings})
    lines = [f"{found['group']['folder']}: {spoken(key, value)}" for key, value in settings.items()]
    return emit(args.json, found, "\n".join(lines))


def spoken(key: str, value: Any) -> str:
    if value is None:
        return f"{key} is as by default"
    return f"{key} is {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def move(args: argparse.Namespace) -> int:
    found = request(args, "move_group", {"group": args.name, "channel": args.channel, "chat": args.chat})
    return emit(args.json, found, f"{found['group']} is {found['channel']}:{found['chat']} now")


def remove(args: argparse.Namespace) -> int:
    found = request(args, "remove_group", {"folder": args.name, "trash": args.trash})
    lines = [f"{found['removed']} is no longer a group"]
    lines += [f"its files are kept in {path}" for path in found["kept"]]
    lines += [f"moved to {path}" for path in found["moved_to"]]
    lines += ["what was said there is deleted"] if args.trash else []
    return emit(args.json, found, "\n".join(lines))


def mount(args: argparse.Namespace) -> int:
    from host.cli.mounts import absolute

    wish = {"group": args.name, "path": absolute(args.path), "rw": args.rw}
    wish |= {} if args.name_inside is None else {"name": args.name_inside}
    found = request(args, "grant_mount", wish)
    how = "to read" if found["readonly"] else "to read and to write"
    text = f"{found['group']} sees {found['real_path']} as {found['inside']} from its next sandbox on, {how}"
    if args.rw and found["readonly"]:
        text += "\nthe allowlist lets it read only: see nanoclaw mounts"
    return emit(args.json, found, text)


def unmount(args: argparse.Namespace) -> int:
    found = request(args, "revoke_mount", {"group": args.name, "name": args.name_inside})
    return emit(args.json, found, f"{found['group']} no longer sees /workspace/extra/{args.name_inside}")


ACTIONS: Final = {
    "list": list_groups,
    "add": add,
    "show": show,
    "set": change,
    "move": move,
    "remove": remove,
    "mount": mount,
    "unmount": unmount,
}
