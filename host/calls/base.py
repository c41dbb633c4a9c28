"""The words of a call: what it may carry, who asks, and what it is carried out with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from host.config import Config, Home
from host.errors import UserError
from host.model import Enforcement, Group, Outgoing, Task, TaskRun
from host.store import Store

MAX_STRING: Final = 4096
"""Most bytes of a text parameter that says nothing else."""
MAX_STRINGS: Final = 200


class Denied(UserError):  # noqa: N818  (an answer, and no fault)
    """The caller may not do this: told to the caller, and audited. Anything else that cannot be is a plain
    `UserError`."""


@dataclass(frozen=True)
class Caller:
    """Who asks, known from the pipe that the call came on and never from what it says."""

    group: Group | None
    """None: the person at the terminal, who owns the home."""

    @property
    def folder(self) -> str:
        return self.group.folder if self.group else ""

    @property
    def is_person(self) -> bool:
        return self.group is None

    @property
    def administers(self) -> bool:
        return self.group is None or self.group.is_main


class Line(Protocol):
    """A channel that is a program, as far as calls have to do with it."""

    linking: Any
    """How far a link is, as a dataclass."""

    @property
    def takes_reactions(self) -> bool: ...

    def link(self, phone: str) -> None: ...
    def unlink(self) -> None: ...
    def status(self) -> dict[str, Any]: ...


def _nothing(*_: Any) -> None:
    """Where no host runs, there is nobody to tell: the next one reads the store."""


def _no_host(*_: Any) -> None:
    raise UserError("no host runs for this home", "start one: nanoclaw run")


@dataclass(frozen=True)
class Desk:
    """What calls are carried out with. The hooks tell a running host what changed."""

    store: Store
    config: Config
    home: Home
    now: Callable[[], float]
    enforcement: Enforcement | None = None
    """None where no engine was asked."""
    project: str = ""
    """Folder of the program's own source: never mountable."""
    group_changed: Callable[[str], None] = _nothing
    stop_group: Callable[[str, str], None] = _nothing
    """End the group's turn and its waiting tasks now, and say why; its outcome is on disk when this returns."""
    tasks_changed: Callable[[], None] = _nothing
    run_task: Callable[[TaskRun], None] = _nothing
    task_updated: Callable[[Task], None] = _nothing
    """A run of it may be waiting: it is to be the run of this."""
    task_cancelled: Callable[[str], None] = _nothing
    """By its id: no run of it waits any more."""
    running: Callable[[str], TaskRun | None] = _nothing
    """The run of a task that the turn at work in this group is; None for a turn that answers messages."""
    deliver: Callable[[Outgoing], None] = _nothing
    channels: Callable[[], Collection[str]] = lambda: ("console",)
    """By name, all that this home has."""
    lines: Callable[[], Mapping[str, Line]] = dict
    """Those that are programs, where a host runs."""
    begin_line: Callable[[str], None] = _no_host
    """Have this one from now on, which this host has not."""
    forget_line: Callable[[str, Callable[[], None]], None] = lambda name, then: then()
    """End it, have it no longer, and call back when its program is gone."""


@dataclass(frozen=True)
class Param:
    """One parameter, and what it may be."""

    kind: str
    """`string`, `integer`, `boolean`, `strings` (a list of them) or `object`."""
    description: str
    required: bool = False
    choices: tuple[str, ...] = ()
    most: int = MAX_STRING
    """Bytes of a string."""


Handle = Callable[[Desk, Caller, str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One thing that may be asked. Its name is the action that `policy` decides on."""

    description: str
    """For the model that is offered it."""
    params: Mapping[str, Param]
    handle: Handle
    """(desk, caller, target group's folder, checked parameters without the target) → the answer."""
    whose: str = "group"
    """What the target is: `group` (parameter `group`, the caller's own if left out), `groups` (the same, but for
    who administers, left out means all: an empty target), `task` (the group of the task that `id` names), or
    `home` (no group's: an empty target)."""
    offered: str = "permitted"
    """Which agents see it among their tools: `permitted` (all that may use it), `main`, `reacts` (where the chat
    takes reactions) or `nobody`. It decides nothing: what a runner was not offered it may ask for all the same, and
    policy answers."""
    names_group: bool = True
    """Whether who administers is told that another group may be named."""


JSON_TYPES: Final = {"string": "string", "integer": "integer", "boolean": "boolean", "object": "object"}


def schema(method: Method, *, administers: bool) -> dict[str, Any]:
    """JSON schema of what the model may send."""
    params = dict(method.params)
    if method.whose in ("group", "groups") and administers and method.names_group:
        params["group"] = GROUP if method.whose == "group" else GROUPS
    properties = {name: _property(param) for name, param in params.items()}
    required = [name for name, param in params.items() if param.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


GROUP: Final = Param("string", "Folder of the group that this is about. Left out: your own.")
GROUPS: Final = Param("string", "Folder of the one group that this is about. Left out: all groups.")


def _property(param: Param) -> dict[str, Any]:
    if param.kind == "strings":
        return {"type": "array", "items": {"type": "string"}, "description": param.description}
    found: dict[str, Any] = {"type": JSON_TYPES[param.kind], "description": param.description}
    return found | ({"enum": list(param.choices)} if param.choices else {})


def checked(name: str, method: Method, untrusted_params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as the method has them; `UserError` says what is wrong. `group` is not among them."""
    known = {key for key in method.params if key != "group"}
    if unknown := sorted(str(key)[:40] for key in untrusted_params.keys() - known):
        has = ", ".join(sorted(known)) or "none"
        raise UserError(f"{name} has no parameter {', '.join(unknown)}", f"its parameters are: {has}", status=2)
    missing = [key for key, param in method.params.items() if param.required and key not in untrusted_params]
    if missing:
        raise UserError(f"{name} needs {', '.join(missing)}", status=2)
    return {key: _value(name, key, method.params[key], value) for key, value in untrusted_params.items()}


def _value(name: str, key: str, param: Param, untrusted_value: Any) -> Any:
    kinds: dict[str, type] = {"string": str, "integer": int, "boolean": bool, "strings": list, "object": dict}
    wanted = kinds[param.kind]
    if type(untrusted_value) is not wanted:  # `type() is`: a bool is not an integer here
        raise UserError(f"{name}: {key} is not {_WORDS[param.kind]}", status=2)
    texts = _texts(param.kind, untrusted_value)
    if len(texts) > MAX_STRINGS or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}: {key} is not a list of at most {MAX_STRINGS} texts", status=2)
    for text in texts:
        if len(text.encode("utf-8", "replace")) > param.most or "\0" in text:
            raise UserError(f"{name}: {key} is over {param.most} bytes, or holds a NUL", status=2)
    if param.choices and untrusted_value not in param.choices:
        raise UserError(f"{name}: {key} must be one of: {', '.join(param.choices)}", status=2)
    return untrusted_value


def _texts(kind: str, value: Any) -> list[Any]:
    """The texts in a value of this kind."""
    if kind == "strings":
        return list(value)
    return [value] if kind == "string" else []


_WORDS: Final = {
    "string": "a text", "integer": "a whole number", "boolean": "true or false", "strings": "a list of texts",
    "object": "an object",
}  # fmt: skip
