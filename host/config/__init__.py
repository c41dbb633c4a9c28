"""A home's settings: `config.toml`, as one frozen value that is checked here and passed down."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from host.config import channels as of_channels
from host.config import groups as of_groups
from host.config import values
from host.config.channels import ChannelSettings
from host.config.groups import GroupSettings
from host.config.values import fail
from host.errors import UserError
from host.home import Home, locate, prepare
from host.model import FOLDER, AllowedHost, Group, MountWish, Resources
from runner.protocol import KIB, MIB, Limits

__all__ = ["Config", "GroupSettings", "Home", "Machine", "engine_name", "load", "locate", "parse", "prepare"]

GIB: Final = 1024 * MIB
MAX_FILE: Final = MIB
"""Most bytes of config.toml, a thousand groups, and of a file of certificates, as many as browsers have."""
ENGINES: Final = ("auto", "docker", "podman", "container", "bubblewrap")

TURN: Final = Limits(
    rounds=40,  # a long piece of work is some twenty requests; a loop that goes nowhere ends here
    seconds=600,  # a person who waits longer than ten minutes believes that it broke
    tokens=1_000_000,  # each round sends the conversation again: forty rounds of 25,000. A few dollars at worst
    command_seconds=120,  # a build or a download; one that hangs leaves most of the turn
    output_bytes=64 * KIB,  # some 16,000 tokens, all of which every later round pays for again
)


@dataclass(frozen=True)
class Machine:
    """What the defaults depend on."""

    memory_bytes: int
    cpus: int
    timezone: str

    @classmethod
    def here(cls, environ: Mapping[str, str]) -> Machine:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(memory, os.cpu_count() or 1, values.local_zone(environ))


@dataclass(frozen=True)
class Config:
    """All settings. Made by `parse`, which fills in what depends on the machine; contradictions are refused."""

    assistant: str = "Andy"
    engine: str = "auto"
    # A key in the environment is inherited by everything that is started beside us: only on request.
    key_from_environment: bool = False
    timezone: str = "UTC"
    model: str = "claude-sonnet-5-5"
    # Of one reply of the model: a long file fits.
    max_tokens: int = 8192
    ca_file: Path | None = None
    turn: Limits = TURN
    resources: Resources = field(default_factory=Resources)
    max_sandboxes: int = 5
    # One waiting runner holds about 100 MB, and saves one to two seconds at the next message.
    warm_sandboxes: int = 1
    warm_seconds: float = 15 * 60.0
    # Controls that the person accepts to be without, where a group's setting depends on them.
    accept_not_enforced: tuple[str, ...] = ()
    # What main's agent may grant to a group; the person may grant any.
    grantable_hosts: tuple[AllowedHost, ...] = ()
    channels: ChannelSettings = field(default_factory=ChannelSettings)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Folder, in lower case → what this file says of it, by setting."""

    def __post_init__(self) -> None:
        if not values.is_name(self.assistant):
            fail("assistant", f"is {self.assistant!r}", "choose a name: 1 to 40 letters, digits and spaces")
        if self.engine not in ENGINES:
            fail("engine", f"is {self.engine!r}", f"choose one of: {', '.join(ENGINES)}")
        if not self.model.strip():
            fail("model.name", "is empty", "name a model that the endpoint offers")
        for key, value, low, high in self._ranges():
            if not low <= value <= high:
                fail(key, f"is {value:g}", f"choose {low:g} to {high:g}")
        if self.turn.command_seconds > self.turn.seconds:
            long, whole = self.turn.command_seconds, self.turn.seconds
            fail("limits.command_seconds", f"is {long}, but limits.seconds ends the whole turn after {whole}")
        if self.max_tokens > self.turn.tokens:
            one, whole = self.max_tokens, self.turn.tokens
            fail("model.max_tokens", f"is {one}, but limits.tokens ends the whole turn after {whole}")
        if self.resources.tmp_bytes >= self.resources.memory_bytes:
            fail("limits.tmp", "is not below limits.memory", "the sandbox's /tmp is held in its memory: choose less")

    def _ranges(self) -> tuple[tuple[str, float, float, float], ...]:
        turn, sandbox = self.turn, self.resources
        return (
            ("model.max_tokens", self.max_tokens, 256, 128_000),
            ("limits.rounds", turn.rounds, 1, 1000),
            ("limits.seconds", turn.seconds, 10, 24 * 3600),
            ("limits.tokens", turn.tokens, 1000, 1_000_000_000),
            ("limits.command_seconds", turn.command_seconds, 1, 24 * 3600),
            # A round of several tools' outputs must fit into one line of the pipe.
            ("limits.output_bytes", turn.output_bytes, KIB, 256 * KIB),
            # The runner alone needs about 100 MB.
            ("limits.memory", sandbox.memory_bytes, 192 * MIB, 1024 * GIB),
            ("limits.tmp", sandbox.tmp_bytes, MIB, 1024 * GIB),
            ("limits.file_size", sandbox.file_bytes, MIB, 1024 * GIB),
            ("limits.processes", sandbox.processes, 16, 32_768),
            ("limits.cpus", sandbox.cpus, 0.1, 1024),
            ("limits.max_sandboxes", self.max_sandboxes, 1, 50),
            ("limits.warm_sandboxes", self.warm_sandboxes, 0, 50),
            ("limits.warm_minutes", self.warm_seconds / 60, 1, 24 * 60),
        )

    def group(self, group: Group) -> GroupSettings:
        """What holds for this group: what config.toml says of it, else what was chosen for it, else the home's."""
        chosen = self.chosen(group)
        names = {"memory": "memory_bytes", "cpus": "cpus", "processes": "processes"}
        resources = replace(self.resources, **{names[key]: chosen[key] for key in names if key in chosen})
        if "memory" in chosen:  # /tmp is held in it
            resources = replace(resources, tmp_bytes=min(resources.tmp_bytes, resources.memory_bytes // 4))
        seconds = chosen.get("seconds", self.turn.seconds)
        turn = replace(
            self.turn,
            seconds=seconds,
            rounds=chosen.get("rounds", self.turn.rounds),
            command_seconds=min(self.turn.command_seconds, seconds),
        )
        needs_trigger = chosen.get("needs_trigger", group.needs_trigger) and not group.is_main
        return GroupSettings(
            trigger=chosen.get("trigger", self.assistant) if needs_trigger else "",
            senders=chosen.get("senders"),
            model=chosen.get("model", self.model),
            turn=turn,
            resources=resources,
            tokens_per_day=chosen.get("tokens_per_day"),
            allow_hosts=chosen.get("allow_hosts", ()),
            mounts=chosen.get("mounts", ()),
            timezone=chosen.get("timezone", self.timezone),
        )

    def chosen(self, group: Group) -> dict[str, Any]:
        """Every setting that was chosen for this group, by name, checked."""
        return of_groups.check_all(group.settings) | dict(self.groups.get(group.folder.lower(), {}))

    def mounts(self, group: Group) -> tuple[MountWish, ...]:
        """What a group was given of this machine's folders. Of its settings no other is looked at: one that means
        nothing stops its own turns, and not those of the groups that only have to know this of it."""
        fixed = self.groups.get(group.folder.lower(), {})
        if "mounts" in fixed:
            return tuple(fixed["mounts"])
        return tuple(of_groups.check("mounts", group.settings["mounts"])) if "mounts" in group.settings else ()

    def fixed(self, folder: str) -> frozenset[str]:
        """The settings of a group that config.toml decides, so that nothing else can."""
        return frozenset(self.groups.get(folder.lower(), {}))


def engine_name(flag: str | None, environ: Mapping[str, str], config: Config) -> str:
    """`--engine`, else `NANOCLAW_ENGINE`, else the config."""
    return flag or environ.get("NANOCLAW_ENGINE") or config.engine


def load(home: Home, environ: Mapping[str, str] = os.environ) -> Config:
    """The settings of this home. `UserError` names the file, the setting, and what is allowed."""
    path = home.config / "config.toml"
    try:
        config = parse(_read(path), Machine.here(environ))
        if config.ca_file is not None:
            _check_ca(config.ca_file)
    except UserError as e:
        raise UserError(f"{path}: {e}", *e.hints) from e
    return config


def _check_ca(path: Path) -> None:
    """Now, and not in the middle of the first turn."""
    try:
        pem = _text(path)
    except UserError as e:
        fail("model.ca_file", f"is {path}, which {e}")
    except OSError as e:
        fail("model.ca_file", f"is {path}: {e.strerror}")
    if "-----BEGIN CERTIFICATE-----" not in pem:
        fail(
            "model.ca_file",
            f"is {path}, which holds no certificate",
            "it must be a PEM file: -----BEGIN CERTIFICATE-----",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = _text(path)
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise UserError(f"cannot be read: {e.strerror}") from e
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"is not valid TOML: {e}", "the format is explained at https://toml.io") from e


def _text(path: Path) -> str:
    """A file of the person's: bounded, and never a FIFO that would be waited on for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 (it is a descriptor)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError("is not a regular file")
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise UserError(f"is over {MAX_FILE // KIB} KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"is not UTF-8 text (byte {e.start})") from e


# --- config.toml → Config ---------------------------------------------------------------------------

_SETTINGS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "assistant": values.text,
    "engine": values.text,
    "key_from_environment": values.flag,
    "timezone": values.zone,
    "model.name": values.text,
    "model.max_tokens": values.integer,
    "model.ca_file": values.path,
    "limits.rounds": values.integer,
    "limits.seconds": values.integer,
    "limits.tokens": values.integer,
    "limits.command_seconds": values.integer,
    "limits.output_bytes": values.size,
    "limits.memory": values.size,
    "limits.processes": values.integer,
    "limits.cpus": values.number,
    "limits.tmp": values.size,
    "limits.file_size": values.size,
    "limits.max_sandboxes": values.integer,
    "limits.warm_sandboxes": values.integer,
    "limits.warm_minutes": values.number,
    "messages.max_age_hours": values.number,
    "messages.attachment": values.size,
    "messages.inbox": values.size,
    "whatsapp.proxy": values.text,
    "accept_not_enforced": values.texts,
    "grantable_hosts": values.hosts,
}
_SECTIONS: Final = {"model", "limits", "groups", "messages", "channels", "whatsapp"}
_TABLES: Final = {"groups", "channels"}


def parse(document: dict[str, Any], machine: Machine) -> Config:
    """The settings in a parsed config.toml; what it does not say is chosen for this machine."""
    given = _settings(document)
    turn = _turn(given)
    plain = ("assistant", "engine", "key_from_environment", "accept_not_enforced", "grantable_hosts")
    top = {key: given[key] for key in plain if key in given}
    return Config(
        **top,
        timezone=given.get("timezone", machine.timezone),
        model=given.get("model.name", Config.model),
        max_tokens=given.get("model.max_tokens", min(Config.max_tokens, turn.tokens)),
        ca_file=given.get("model.ca_file"),
        turn=turn,
        resources=_resources(given, machine),
        # At work a sandbox holds some 300 MB; one must always be possible, and five are a busy family.
        max_sandboxes=given.get("limits.max_sandboxes", max(1, min(5, machine.memory_bytes // (512 * MIB)))),
        warm_sandboxes=given.get("limits.warm_sandboxes", Config.warm_sandboxes),
        warm_seconds=given.get("limits.warm_minutes", Config.warm_seconds / 60) * 60,
        groups=_groups(document.get("groups", {})),
        channels=of_channels.parse(given, document.get("channels", {})),
    )


def _turn(given: dict[str, Any]) -> Limits:
    names = ("rounds", "seconds", "tokens", "command_seconds", "output_bytes")
    turn = replace(TURN, **{name: given[f"limits.{name}"] for name in names if f"limits.{name}" in given})
    if "limits.command_seconds" not in given:  # a default gives way; only what was written can contradict
        turn = replace(turn, command_seconds=min(turn.command_seconds, turn.seconds))
    return turn


def _resources(given: dict[str, Any], machine: Machine) -> Resources:
    most = Resources()
    # Half of a small machine's memory: a sandbox that fills its share must not take the host with it.
    memory = given.get("limits.memory", max(256 * MIB, min(most.memory_bytes, machine.memory_bytes // 2)))
    return Resources(
        memory_bytes=memory,
        processes=given.get("limits.processes", most.processes),
        # Engines refuse to promise more CPUs than there are.
        cpus=min(given.get("limits.cpus", most.cpus), float(machine.cpus)),
        file_bytes=given.get("limits.file_size", most.file_bytes),
        tmp_bytes=given.get("limits.tmp", min(most.tmp_bytes, memory // 4)),
    )


def _settings(document: dict[str, Any]) -> dict[str, Any]:
    """Every setting but the groups', by its dotted name, checked for its kind."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _SECTIONS:
            flat[key] = value
        elif not isinstance(value, dict):
            fail(key, "is a section, not a setting", f"write [{key}] on a line of its own, and its settings below")
        elif key not in _TABLES:
            flat.update({f"{key}.{name}": item for name, item in value.items()})
    for key in flat:
        if key not in _SETTINGS:
            _unknown(key, list(_SETTINGS))
    return {key: _SETTINGS[key](key, value) for key, value in flat.items()}


def _unknown(key: str, known: list[str]) -> None:
    """Refuse a name that is not a setting, with the nearest one that is."""
    last = key.rpartition(".")[2]
    misplaced = [name for name in known if name.rpartition(".")[2] == last]
    near = misplaced or difflib.get_close_matches(key, known, 1) or difflib.get_close_matches(last, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"the settings here are: {', '.join(known)}"
    fail(key, "is not a setting", hint)


def _groups(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    known = of_groups.SETTINGS | of_groups.ROW
    for folder, table in document.items():
        where = f"groups.{folder}"
        if not isinstance(table, dict) or not FOLDER.fullmatch(folder):
            fail(where, "is not a group's section", "write [groups.FOLDER], and its settings below")
        if folder.lower() in found:
            fail(where, "is there twice", "upper and lower case make no difference in a group's name")
        for key in table:
            if key not in known:
                _unknown(f"{where}.{key}", [f"{where}.{name}" for name in known])
        found[folder.lower()] = {key: known[key](f"{where}.{key}", value) for key, value in table.items()}
    return found
