"""What may be chosen for one group: in config.toml, by `groups set`, and by main's agent. One table for all three."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from host.config import values
from host.config.values import fail
from host.errors import UserError
from host.model import AllowedHost, MountWish, Resources
from runner.protocol import MIB, Limits

GIB: Final = 1024 * MIB
MAX_SENDERS: Final = 200
MAX_MOUNTS: Final = 32


@dataclass(frozen=True)
class GroupSettings:
    """What holds for one group: its own choices, and the home's where it made none."""

    trigger: str = ""
    """The word that calls the agent, after an `@`. Empty: any message does."""
    senders: tuple[str, ...] | None = None
    """Ids of those whose messages call the agent; None: anyone's. A display name is never an id."""
    model: str = ""
    turn: Limits = field(default_factory=lambda: Limits(40, 600, 1_000_000, 120, 64 * 1024))
    resources: Resources = field(default_factory=Resources)
    tokens_per_day: int | None = None
    allow_hosts: tuple[AllowedHost, ...] = ()
    """What its tools may reach: nothing unless it is named here."""
    mounts: tuple[MountWish, ...] = ()
    timezone: str = "UTC"


def _between(low: float, high: float, kind: Callable[[str, Any], Any], say: str) -> Callable[[str, Any], Any]:
    def parse(key: str, value: Any) -> Any:
        found = kind(key, value)
        if not low <= found <= high:
            fail(key, f"is {value!r}", f"choose {say}")
        return found

    return parse


def _model(key: str, value: Any) -> str:
    name: str = values.text(key, value).strip()
    if not name or len(name) > 200 or not name.isprintable():
        fail(key, f"is {value!r}"[:80], "name a model that the endpoint offers")
    return name


def _word(key: str, value: Any) -> str:
    word: str = values.text(key, value).strip().removeprefix("@")
    if not values.is_name(word):
        fail(key, f"is {value!r}"[:80], "choose a word of 1 to 40 letters and digits, without the @")
    return word


def _name(key: str, value: Any) -> str:
    name: str = values.text(key, value).strip()
    if not 0 < len(name) <= 100 or not name.isprintable():
        fail(key, f"is {value!r}"[:120], "choose a name of 1 to 100 printable characters, on one line")
    return name


def _senders(key: str, value: Any) -> tuple[str, ...]:
    good = isinstance(value, list) and 0 < len(value) <= MAX_SENDERS
    if not good or not all(isinstance(item, str) and 0 < len(item) <= 200 and item.isprintable() for item in value):
        fail(key, "is not a list of sender ids", f'write ["id", "id"], 1 to {MAX_SENDERS}; `key=` lets anyone again')
    return tuple(value)


def _mounts(key: str, value: Any) -> tuple[MountWish, ...]:
    if not isinstance(value, list) or len(value) > MAX_MOUNTS:
        fail(key, "is not a list of mounts", f"at most {MAX_MOUNTS}")
    return tuple(_mount(f"{key}[{i}]", item) for i, item in enumerate(value))


def _mount(key: str, value: Any) -> MountWish:
    """Its shape alone: whether it may be mounted is the allowlist's to say, each time anew."""
    kinds = {"path": str, "name": str, "rw": bool}
    if not isinstance(value, dict) or not {"path", "name"} <= value.keys() <= kinds.keys():
        fail(key, "is not a mount", 'write {path = "/srv/music", name = "music", rw = false}')
    if any(type(item) is not kinds[name] for name, item in value.items()):
        fail(key, "has a path, name or rw of the wrong kind")
    return MountWish(**value)


SETTINGS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "trigger": _word,
    "senders": _senders,
    "model": _model,
    "memory": _between(192 * MIB, 1024 * GIB, values.size, "192 MB to 1 TB: the runner alone needs about 100 MB"),
    "cpus": _between(0.1, 1024, values.number, "0.1 to 1024"),
    "processes": _between(16, 32_768, values.integer, "16 to 32768"),
    "seconds": _between(10, 24 * 3600, values.integer, "10 to 86400"),
    "rounds": _between(1, 1000, values.integer, "1 to 1000"),
    "tokens_per_day": _between(1000, 10**12, values.integer, "1000 or more"),
    "timezone": values.zone,
    "allow_hosts": values.hosts,
    "mounts": _mounts,
}
"""Setting → what its value means. A null takes the choice back."""

ROW: Final[dict[str, Callable[[str, Any], Any]]] = {"name": _name, "needs_trigger": values.flag}
"""What is also chosen for a group, and has a column of its own."""

# Setting → the control without which it would be a mere wish.
DEPENDS_ON: Final = {"memory": "memory limit", "cpus": "cpu limit", "processes": "process limit"}


def check(key: str, value: Any) -> Any:
    """What the value of a group's setting means; `UserError` if it is none, or means nothing."""
    table = SETTINGS | ROW
    if key not in table:
        near = difflib.get_close_matches(key, list(table), 1)
        hint = f"did you mean {near[0]}?" if near else f"what can be set: {', '.join(table)}"
        raise UserError(f"{key[:60]!r} is not a setting of a group", hint, status=2)
    return table[key](key, value)


def check_all(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: check(key, value) for key, value in settings.items()}


def unenforced(settings: Mapping[str, Any], missing: Mapping[str, str], accepted: tuple[str, ...]) -> str | None:
    """Why these settings cannot hold on this machine: one asks for a bound that its engine does not enforce, and
    the person has not said by name that they accept it."""
    for key, control in DEPENDS_ON.items():
        if key in settings and control in missing and control not in accepted:
            return f"{key} is set, and this machine does not enforce the {control} ({missing[control]})"
    return None
