"""What a group may be given of the world outside: hosts that its tools may reach."""

from __future__ import annotations

from typing import Any, Final

from host.calls.base import Caller, Desk, Method, Param
from host.config import groups as of_groups
from host.errors import UserError
from host.model import Group


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

METHODS: Final[dict[str, Method]] = {
    "grant_host": Method(
        "Let a group's tools reach a host of the internet, where the person listed it as one that may be granted.",
        _HOST,
        grant_host,
    ),
    "revoke_host": Method("Take back a host that a group was granted.", _HOST, revoke_host),
}
