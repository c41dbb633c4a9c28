"""What may be asked of the host: by an agent over its pipe, by the person at the terminal. One table for both.

Who asks is known from where the call came in; what it says of itself counts for nothing. The order is always the
same: is there such a method, may this caller do it to that group, are the values possible, then the deed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from host import policy
from host.calls import channels, chat, groups, tasks
from host.calls.base import Caller, Denied, Desk, Method, checked, schema
from host.errors import UserError
from host.model import Group

__all__ = ["METHODS", "Caller", "Denied", "Desk", "carry_out", "offered"]

METHODS: Final[dict[str, Method]] = {**chat.METHODS, **groups.METHODS, **tasks.METHODS, **channels.METHODS}


def carry_out(desk: Desk, caller: Caller, untrusted_method: str, untrusted_params: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, as JSON. `Denied` if the caller may not, `UserError` if it is not possible."""
    method = METHODS.get(untrusted_method)
    if method is None:
        raise Denied(f"there is no request named {untrusted_method[:64]!r}")
    params = dict(untrusted_params)
    target = _target(desk, caller, untrusted_method, method, params)
    known = checked(untrusted_method, method, params)
    return method.handle(desk, caller, target, known)


def offered(group: Group, *, reacts: bool = False) -> list[dict[str, Any]]:
    """The tools that this group's agent is shown. `reacts`: its chat takes emojis on messages."""
    return [
        {
            "name": name,
            "description": method.description,
            "input_schema": schema(method, administers=group.is_main),
        }
        for name, method in METHODS.items()
        if method.offered in {"permitted", "main" if group.is_main else "", "reacts" if reacts else ""}
        and policy.scope(name, group) is not policy.Scope.NONE
    ]


def _target(desk: Desk, caller: Caller, name: str, method: Method, params: dict[str, Any]) -> str:
    """The folder of the group that the call is about, once it is known that the caller may; `group` is taken
    out of the parameters. Whether another's group or task exists is told only to who administers."""
    if method.whose == "home":
        _authorize(name, caller, None)
        return ""
    if method.whose == "task":
        return _task_target(desk, caller, name, params)
    untrusted_group = params.pop("group", None)
    if untrusted_group is None:
        return _own_target(name, caller, method)
    if not isinstance(untrusted_group, str):
        raise UserError(f"{name}: group is not a text", status=2)
    _authorize(name, caller, untrusted_group)
    found = desk.store.group(untrusted_group)
    if found is None:
        known = ", ".join(group.folder for group in desk.store.groups()[:20])
        raise UserError(f"no group is named {untrusted_group[:64]!r}", f"there is: {known}", status=2)
    return found.folder


def _own_target(name: str, caller: Caller, method: Method) -> str:
    if method.whose == "groups" and caller.administers:
        _authorize(name, caller, None)
        return ""
    if caller.group is None:
        raise UserError(f"{name} needs to know the group", status=2)
    _authorize(name, caller, caller.folder)
    return caller.folder


def _task_target(desk: Desk, caller: Caller, name: str, params: Mapping[str, Any]) -> str:
    _authorize(name, caller, caller.folder)  # may this caller do it to any task at all?
    untrusted_id = params.get("id")
    task = desk.store.tasks.get(untrusted_id) if isinstance(untrusted_id, str) else None
    if task is not None and _reason(name, caller, task.group) is None:
        return task.group
    shown = repr(untrusted_id)[:40]
    refusal = f"there is no task {shown}" + ("" if caller.administers else " of this group")
    # Another group's task: audited, and said in the words for one that does not exist.
    raise (Denied if task is not None else UserError)(refusal)


def _authorize(name: str, caller: Caller, target: str | None) -> None:
    if (reason := _reason(name, caller, target)) is not None:
        raise Denied(reason)


def _reason(name: str, caller: Caller, target: str | None) -> str | None:
    return None if caller.group is None else policy.authorize(name, caller.group, target)
