"""The command lines that the stand-in for Apple's `container` accepts: those of its command reference (1.0 to 1.2).

As there: an option takes its value as the next item or after `=`, short ones too; options may come in any order,
but everything behind an image's name is the container's own command; what is not in the reference is refused with
status 64. Options that are in it and have no meaning to this stand-in are refused too, with status 70.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

USAGE, NOT_HERE = 64, 70

FLAG, VALUE, UNUSED_FLAG, UNUSED_VALUE = "flag", "value", "unused flag", "unused value"


@dataclass(frozen=True)
class Grammar:
    """Option names → kind. `names`: what stands for what. `rest`: whether all behind the first word is passed on."""

    options: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    rest: bool = False


@dataclass(frozen=True)
class Said:
    options: dict[str, list[str]]
    words: list[str]

    def has(self, name: str) -> bool:
        return name in self.options

    def last(self, name: str, default: str = "") -> str:
        return self.options.get(name, [default])[-1]

    def all(self, name: str) -> list[str]:
        return self.options.get(name, [])


def _kinds(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


RUN = Grammar(
    {
        **_kinds(FLAG, "--interactive --read-only --rm --no-dns"),
        **_kinds(
            VALUE,
            "--env --uid --gid --user --ulimit --cwd --cpus --memory --cap-drop --label --mount --name --network "
            "--progress --tmpfs",
        ),
        **_kinds(UNUSED_FLAG, "--tty --detach --init --rosetta --ssh --virtualization --debug"),
        **_kinds(
            UNUSED_VALUE,
            "--env-file --arch --cap-add --cidfile --dns --dns-domain --dns-option --dns-search --entrypoint "
            "--init-image --kernel --os --publish --platform --publish-socket --runtime --shm-size --volume --scheme "
            "--max-concurrent-downloads",
        ),
    },
    {
        "-i": "--interactive", "-e": "--env", "-u": "--user", "-w": "--cwd", "--workdir": "--cwd", "-c": "--cpus",
        "-m": "--memory", "-l": "--label", "--remove": "--rm", "-t": "--tty", "-d": "--detach", "-a": "--arch",
        "-k": "--kernel", "-p": "--publish", "-v": "--volume",
    },
    rest=True,
)  # fmt: skip
SELECTED = {"-a": "--all", "-s": "--signal", "-f": "--force", "-q": "--quiet", "-i": "--input", "-p": "--prefix"}

COMMANDS: dict[tuple[str, ...], Grammar] = {
    ("run",): RUN,
    ("create",): RUN,
    ("kill",): Grammar({"--all": UNUSED_FLAG, "--signal": VALUE, "--debug": FLAG}, SELECTED),
    ("delete",): Grammar({"--all": UNUSED_FLAG, "--force": FLAG, "--debug": FLAG}, SELECTED),
    ("list",): Grammar({"--all": FLAG, "--format": VALUE, "--quiet": FLAG, "--debug": FLAG}, SELECTED),
    ("image", "load"): Grammar({"--input": VALUE, "--force": UNUSED_FLAG, "--debug": FLAG}, SELECTED),
    ("image", "inspect"): Grammar({"--debug": FLAG}),
    ("image", "tag"): Grammar({"--debug": FLAG}),
    ("system", "status"): Grammar({"--format": VALUE, "--prefix": UNUSED_VALUE, "--debug": FLAG}, SELECTED),
    ("system", "start"): Grammar({"--enable-kernel-install": FLAG, "--timeout": VALUE, "--debug": FLAG}),
    ("system", "stop"): Grammar({"--prefix": UNUSED_VALUE, "--debug": FLAG}, SELECTED),
}
ALIASES = {"rm": "delete", "ls": "list"}


def fail(message: str, status: int = 1) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(status)


def parse(arguments: Sequence[str]) -> tuple[tuple[str, ...], Said]:
    """Which command, and what was said to it; ends the program where the reference has no such line."""
    words = [ALIASES.get(word, word) for word in arguments[:2]]
    for size in (2, 1):
        name = tuple(words[:size])
        if name in COMMANDS:
            return name, _options(COMMANDS[name], list(arguments[size:]))
    fail(f"Unexpected argument '{' '.join(arguments[:2])}'", USAGE)


def _options(grammar: Grammar, left: list[str]) -> Said:
    said = Said({}, [])
    while left:
        item = left.pop(0)
        if item == "--":
            said.words.extend(left)
            break
        if not item.startswith("-") or item == "-":
            said.words.append(item)
            if grammar.rest:
                said.words.extend(left)
                break
            continue
        _option(grammar, item, left, said)
    return said


def _option(grammar: Grammar, item: str, left: list[str], said: Said) -> None:
    written, equals, value = item.partition("=")
    name = grammar.names.get(written, written)
    kind = grammar.options.get(name)
    if kind is None:
        fail(f"Unknown option '{written}'", USAGE)
    if kind.startswith("unused"):
        fail(f"'{written}' is in the reference, and has no meaning to this stand-in", NOT_HERE)
    if kind == FLAG:
        if equals:
            fail(f"The option '{written}' does not take a value", USAGE)
        said.options.setdefault(name, []).append("")
        return
    if not equals:
        if not left:
            fail(f"Missing value for '{written}'", USAGE)
        value = left.pop(0)
    said.options.setdefault(name, []).append(value)
