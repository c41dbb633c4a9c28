"""Groups: to register, show, change and remove them, and to grant them folders and hosts."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from host import names
from host.calls.base import Caller, Desk, Method, Param
from host.calls.channels import chat_of
from host.calls.grants import METHODS as GRANTS
from host.config import groups as of_groups
from host.errors import UserError
from host.model import AllowedHost, Group

MAX_GROUPS: Final = 1000
ID: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}\Z")

_GRANTED: Final = {"mounts": "grant_mount and revoke_mount", "allow_hosts": "grant_host and revoke_host"}


def shown(desk: Desk, group: Group) -> dict[str, Any]:
    """A group as people and main's agent see it: who it is, what was chosen, and what then holds."""
    holds = desk.config.group(group)
    return {
        "folder": group.folder,
        "name": group.name,
        "channel": group.channel,
        "chat": group.chat,
        "main": group.is_main,
        "trigger": f"@{holds.trigger}" if holds.trigger else None,
        "senders": None if holds.senders is None else list(holds.senders),
        "model": holds.model,
        "timezone": holds.timezone,
        "limits": {
            "memory": holds.resources.memory_bytes,
            "cpus": holds.resources.cpus,
            "processes": holds.resources.processes,
            "seconds": holds.turn.seconds,
            "rounds": holds.turn.rounds,
            "tokens_per_day": holds.tokens_per_day,
        },
        "allow_hosts": [_host(host) for host in holds.allow_hosts],
        "mounts": [vars(wish) for wish in holds.mounts],
        "chosen": dict(group.settings),
        "fixed_by_config": sorted(desk.config.fixed(group.folder)),
    }


def _host(host: AllowedHost) -> str:
    return host.pattern + "".join(f":{port}" for port in host.ports[:1])


def list_groups(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    groups = desk.store.groups()
    return {
        "groups": [
            {"folder": g.folder, "name": g.name, "channel": g.channel, "chat": g.chat, "main": g.is_main}
            | {"trigger": f"@{holds.trigger}" if (holds := desk.config.group(g)).trigger else None}
            | ({"mounts": [vars(wish) for wish in holds.mounts]} if holds.mounts else {})
            for g in groups
        ],
        "removed": desk.store.registry.removed(),
    }


def show_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"group": shown(desk, _group(desk, target))}


def refresh_chats(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    chats = [each._asdict() for each in desk.store.messages.chats() if not each.group]
    return {"chats": [{key: value for key, value in each.items() if key != "group"} for each in chats]}


def register_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    folder, channel = params["folder"], params["channel"]
    chat = chat_of(desk, channel, params["chat"])
    if reason := names.refusal(folder, []):
        raise UserError(reason, status=2)
    if channel not in desk.channels():
        raise UserError(
            f"there is no channel {channel[:60]!r}", f"there is: {', '.join(sorted(desk.channels()))}", status=2
        )
    if not ID.fullmatch(chat):
        raise UserError("the chat's id is empty, over 200 characters, or holds control characters", status=2)
    if len(desk.store.groups()) >= MAX_GROUPS:
        raise UserError(f"there are {MAX_GROUPS} groups already, which is the most", "remove one first")
    chosen = {"name": params.get("name", folder), "needs_trigger": params.get("needs_trigger", True)}
    chosen |= {"trigger": params["trigger"]} if "trigger" in params else {}
    checked = of_groups.check_all(chosen)
    settings = {key: value for key, value in chosen.items() if key not in of_groups.ROW}
    group = Group(folder, channel, chat, checked["name"], needs_trigger=checked["needs_trigger"], settings=settings)
    desk.store.add_group(group)
    desk.group_changed(folder)
    return {"group": shown(desk, group)}


def update_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    group = change(desk, caller, _group(desk, target), params["settings"])
    return {"group": shown(desk, group)}


def change(desk: Desk, caller: Caller, group: Group, wishes: Mapping[str, Any]) -> Group:
    """The group with these settings, stored; a null takes a choice back. All of them or none."""
    for key, value in wishes.items():
        if key in desk.config.fixed(group.folder):
            raise UserError(f"{key} of {group.folder} is decided by config.toml", "change it there", status=2)
        if key in _GRANTED and not caller.is_person:
            raise UserError(f"{key} is not set this way", f"use {_GRANTED[key]}", status=2)
        if value is not None or key not in of_groups.SETTINGS:
            of_groups.check(key, value)
        if not caller.is_person:
            _check_bound(desk, group, key, value)
    if group.is_main and wishes.get("needs_trigger"):
        raise UserError("main needs no trigger word: it is where the assistant is administered", status=2)
    row = {key: wishes[key] for key in of_groups.ROW if key in wishes}
    settings = {**group.settings, **{key: value for key, value in wishes.items() if key not in of_groups.ROW}}
    settings = {key: value for key, value in settings.items() if value is not None}
    missing = desk.enforcement.missing if desk.enforcement else {}
    if reason := of_groups.unenforced(settings, missing, desk.config.accept_not_enforced):
        hint = 'accept to be without it in config.toml, by its name: accept_not_enforced = ["…"]'
        raise UserError(reason, hint, status=2)
    name = of_groups.check("name", row.get("name", group.name))
    changed = replace(group, name=name, needs_trigger=row.get("needs_trigger", group.needs_trigger), settings=settings)
    desk.config.group(changed)
    desk.store.registry.change(group.folder, name=changed.name, needs_trigger=changed.needs_trigger, settings=settings)
    desk.group_changed(group.folder)
    return changed


def _check_bound(desk: Desk, group: Group, key: str, value: Any) -> None:
    """An agent that was talked into it must not buy a group more of the machine than the home gives to any, nor
    more of the person's money than the person set for it."""
    home = desk.config.group(Group(group.folder, group.channel, group.chat, group.name))
    most = {
        "memory": home.resources.memory_bytes, "cpus": home.resources.cpus, "processes": home.resources.processes,
        "seconds": home.turn.seconds, "rounds": home.turn.rounds,
        "tokens_per_day": desk.config.group(group).tokens_per_day,
    }.get(key)  # fmt: skip
    # A null takes a bound of the machine back to the home's, and one of the day's tokens away.
    beyond = key == "tokens_per_day" if value is None else most is not None and of_groups.check(key, value) > most
    if most is not None and beyond:
        raise UserError(
            f"{key} may be at most {most:g} here: more is the person's to give, at the terminal",
            f"nanoclaw groups set {group.folder} {key}=…",
        )


def remove_group(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """Its folder stays unless `trash`; a group that was removed before can be thrown away by its name."""
    folder, trash = params["folder"], params.get("trash", False)
    group = desk.store.group(folder)
    gone = next((name for name in desk.store.registry.removed() if name.lower() == folder.lower()), None)
    if group is None and not (gone and trash):
        raise UserError(f"no group is named {folder[:64]!r}", status=2)
    if group is not None:
        if group.is_main:
            raise UserError("main cannot be removed: it is where the assistant is administered", status=2)
        try:
            desk.stop_group(group.folder, "the group is being removed")
            desk.store.registry.remove(group.folder)
        finally:  # whether or not it came to that
            desk.group_changed(group.folder)
    name = group.folder if group is not None else str(gone)
    moved = to_trash(desk.home.data, name, desk.now()) if trash else []
    if trash:
        desk.store.registry.forget(name)
    kept = [] if trash else [str(desk.home.data / "groups" / name)]
    return {"removed": name, "kept": kept, "moved_to": moved}


def to_trash(data: Path, folder: str, now: float) -> list[str]:
    """Move what the group's agent wrote, and what was sent to it, where nothing sees it any more. A rename: no
    path inside is ever walked."""
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    moved = []
    for kind in ("groups", "inbox"):
        source = data / kind / folder
        target = data / "trash" / f"{folder}-{when}-{kind}"
        if source.is_symlink() or source.is_dir():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            source.rename(target)
            moved.append(str(target))
    return moved


def _group(desk: Desk, folder: str) -> Group:
    group = desk.store.group(folder)
    if group is None:
        raise UserError(f"no group is named {folder[:64]!r}", status=2)
    return group


_SETTINGS: Final = (
    "Settings to change, by name; null takes one back. name (display name), needs_trigger (boolean), trigger (the "
    "word), senders (list of sender ids whose messages call the assistant), model, memory (such as "
    '"512 MB"), cpus, processes, seconds, rounds, tokens_per_day, timezone (such as "Europe/Berlin").'
)

METHODS: Final[dict[str, Method]] = {
    "list_groups": Method("List the registered groups.", {}, list_groups, whose="home"),
    "show_group": Method("Show one group: its chat, what was chosen for it, and what holds.", {}, show_group),
    "refresh_chats": Method("List chats that wrote and are not registered as groups.", {}, refresh_chats, whose="home"),
    "register_group": Method(
        "Register a chat as a group: from then on the assistant answers there, in a sandbox and with a memory of its "
        "own.",
        {
            "folder": Param("string", "Short name, for its folder: letters, digits, - and _.", required=True),
            "channel": Param("string", "The channel that the chat is on.", required=True),
            "chat": Param("string", "The channel's id of the chat.", required=True),
            "name": Param("string", "What people call it. Left out: the folder's name."),
            "needs_trigger": Param(
                "boolean", "Whether a message must begin with @ and the trigger word. Default: yes."
            ),
            "trigger": Param("string", "The trigger word, without the @. Left out: the assistant's name."),
        },
        register_group,
        whose="home",
    ),
    "update_group": Method(
        "Change settings of a group.", {"settings": Param("object", _SETTINGS, required=True)}, update_group
    ),
    "remove_group": Method(
        "Remove a group: the assistant no longer answers there, and its tasks end. Its folder is kept, or with `trash` "
        "moved to the trash folder.",
        {
            "folder": Param("string", "The group's folder.", required=True),
            "trash": Param("boolean", "Also move its folder to the trash, and forget what was said. Default: no."),
        },
        remove_group,
        whose="home",
    ),
    **GRANTS,
}
