"""The commands as data, read out of the parser: what completions and the man page are made of."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from host.cli.options import parser
from host.cli.options_parser import Parser


@dataclass(frozen=True)
class Argument:
    flags: tuple[str, ...]
    """Empty for one that is known by its position."""
    value: str
    """What stands for its value: `FILE`; empty for an option that takes none."""
    help: str
    optional: bool


@dataclass(frozen=True)
class Command:
    path: tuple[str, ...]
    """`("groups", "add")`; empty for the program itself."""
    summary: str
    description: str
    examples: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    def walk(self) -> Iterator[Command]:
        """This one and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(each for each in self.arguments if each.flags)

    @property
    def positions(self) -> tuple[Argument, ...]:
        return tuple(each for each in self.arguments if not each.flags)


def tree() -> Command:
    """All of it. The parser puts commands of commands together only where they are named: here all are."""
    names = [name for name, _, _ in _commands(parser([]))]
    return _read(parser(["--help", *names]), (), "")  # begins with no command, so that all are there


def _read(of: Parser, path: tuple[str, ...], summary: str) -> Command:
    below = tuple(_read(each, (*path, name), about) for name, about, each in _commands(of))
    arguments = tuple(_argument(a) for a in of._actions if not isinstance(a, argparse._SubParsersAction))
    return Command(path, summary, of.description or "", of.epilog or "", arguments, below)


def _commands(of: Parser) -> list[tuple[str, str, Parser]]:
    """Name, summary and parser of each. argparse shows its contents through names with an underscore only."""
    return [
        (shown.dest, shown.help or "", action.choices[shown.dest])
        for action in of._actions
        if isinstance(action, argparse._SubParsersAction)
        for shown in action._choices_actions
    ]


def _argument(action: argparse.Action) -> Argument:
    takes = action.nargs != 0
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    text = (action.help or "") % {"default": action.default, "prog": "nanoclaw"} if action.help else ""
    optional = bool(action.option_strings and not action.required) or action.nargs in {"?", "*"}
    return Argument(tuple(action.option_strings), value if takes else "", text, optional)
