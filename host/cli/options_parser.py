"""What the parsers of all commands are made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from host.cli.out import report, terminal_width


class Parser(argparse.ArgumentParser):
    """Says what is wrong in the voice of the rest, and where the help is."""

    def error(self, message: str) -> NoReturn:
        report(message, f"see {self.prog} --help")
        self.exit(2)


class Unasked(Parser):
    """Stands for a command that was not given: to put its parser together takes half a millisecond of every start."""

    def __init__(self) -> None:
        """Nothing is put together."""

    def add_argument(self, *_args: Any, **_options: Any) -> argparse.Action:
        return argparse.Action([], "")


class Help(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each option that is declared, and would load what measures terminals for its width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)


Commands = Callable[..., Parser]
"""Adds one command: (name, summary, description, examples) → its parser, which has the common options."""


def is_named(command: Parser, argv: Sequence[str]) -> bool:
    """Whether there is a use in putting together what it has beneath it."""
    return not isinstance(command, Unasked) and command.prog.rpartition(" ")[2] in argv


def commands_of(parent: Parser, common: Parser, dest: str, only: str | None = None) -> Commands:
    """Gives `parent` commands of its own; what is returned adds one. `only`: no other is wanted."""
    commands = parent.add_subparsers(
        dest=dest, metavar="COMMAND", title="commands", parser_class=Parser, prog=parent.prog
    )

    def add(name: str, summary: str, description: str, examples: str = "") -> Parser:
        if only not in {name, None}:
            return Unasked()
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=examples or None,
            parents=[common],
            formatter_class=Help,
        )

    return add
