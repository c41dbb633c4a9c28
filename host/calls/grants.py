"""What a group may be given of the world outside: folders of this machine, and hosts that its tools may reach."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final

from host.allowlist import FILE, Allowlist, judge
from host.calls.base import Caller, Desk, Method, Param
from host.config import groups as of_groups
from host.errors import UserError
from host.model import Group
from host.mounts import all_wishes, protected


def grant_mount(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    group = _changeable(desk, target, "mounts")
    name = params.get("name", PurePath(params["path"]).name)
    others = [wish for wish in group.settings.get("mounts", []) if wish["name"] != name]
    allowlist = Allowlist.load(desk.home.config / FILE)
    verdict = judge(
        allowlist,
        params["path"],
        rw=params.get("rw", False),
        is_main=group.is_main,
        name=name,
        protected=protected(desk.home, allowlist, all_wishes(desk.config, desk.store.groups())),
        taken=[wish["name"] for wish in others],
    )
    verdict.close()
    if not verdict.allowed:
        raise UserError(
            f"{params['path']} cannot be given to {group.folder}: {verdict.reason}",
            "nanoclaw mounts list shows what may be given; only the person can change that, at the terminal",
        )
    wish = {"path": params["path"], "name": name, "rw": params.get("rw", False)}
    stored = _stored(desk, group, "mounts", [*others, wish])
    return stored | {"inside": verdict.target, "readonly": verdict.readonly, "real_path": verdict.real_path}


def revoke_mount(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    group = _changeable(desk, target, "mounts")
    wishes = group.settings.get("mounts", [])
    left = [wish for wish in wishes if wish["name"] != params["name"]]
    if left == wishes:
        given = ", ".join(wish["name"] for wish in wishes) or "none"
        raise UserError(
            f"{group.folder} was given no folder as {params['name'][:64]!r}", f"it was given: {given}", status=2
        )
    return _stored(desk, group, "mounts", left)


def grant_host(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    group, wish = _changeable(desk, target, "allow_hosts"), params["host"]
    (asked,) = of_groups.check("allow_hosts", [wish])
    if not caller.is_person and asked not in desk.config.grantable_hosts:
        raise UserError(
            f"{wish} is not among the hosts that may be granted from a chat",
            'the person can, at the terminal, or list it in config.toml: grantable_hosts = ["…"]',
        )
    hosts = [host for host in group.settings.get("allow_hosts", []) if host != wish]
    return _stored(desk, group, "allow_hosts", [*hosts, wish])


def revoke_host(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    group, wish = _changeable(desk, target, "allow_hosts"), params["host"]
    hosts = group.settings.get("allow_hosts", [])
    if wish not in hosts:
        raise UserError(f"{wish} was not granted to {group.folder}", f"granted are: {hosts or 'none'}", status=2)
    return _stored(desk, group, "allow_hosts", [host for host in hosts if host != wish])


def _changeable(desk: Desk, target: str, key: str) -> Group:
    group = desk.store.group(target)
    if group is None:
        raise UserError(f"no group is named {target[:64]!r}", status=2)
    if key in desk.config.fixed(group.folder):
        raise UserError(f"{key} of {group.folder} is decided by config.toml", "change it there", status=2)
    return group


def _stored(desk: Desk, group: Group, key: str, values: list[Any]) -> dict[str, Any]:
    of_groups.check(key, values)
    settings = {**group.settings, key: values}
    if not values:
        del settings[key]
    desk.store.registry.change(group.folder, name=group.name, needs_trigger=group.needs_trigger, settings=settings)
    desk.group_changed(group.folder)
    return {"group": group.folder, key: values}


_HOST: Final = {"host": Param("string", "Host name, `*.` and a name, or either with `:port`.", required=True)}

_NAME: Final = "Its name inside, below /workspace/extra/."

METHODS: Final[dict[str, Method]] = {
    "grant_mount": Method(
        "Give a group a folder of the person's machine, where the person's allowlist permits it.",
        {
            "path": Param("string", "The folder's absolute path on the machine.", required=True),
            "name": Param("string", f"{_NAME} Left out: the folder's own name."),
            "rw": Param("boolean", "Whether the group may also write there. Default: no."),
        },
        grant_mount,
        offered="main",
    ),
    "revoke_mount": Method(
        "Take back a folder that a group was given.",
        {"name": Param("string", _NAME, required=True)},
        revoke_mount,
        offered="main",
    ),
    "grant_host": Method(
        "Let a group's tools reach a host of the internet, where the person listed it as one that may be granted.",
        _HOST,
        grant_host,
    ),
    "revoke_host": Method("Take back a host that a group was granted.", _HOST, revoke_host),
}
