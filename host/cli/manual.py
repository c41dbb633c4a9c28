"""The man page nanoclaw(1), made from the parser."""

from __future__ import annotations

from typing import Final

from host import carried
from host.cli.tree import Argument, Command, tree
from host.install.extras import MARK


def page() -> str:
    """troff, for `man` and mandoc alike; ASCII alone, and no date, so that a build makes the same one again."""
    top = tree()
    common = {each.flags for each in top.options}
    parts = [
        f'.\\" {MARK}',
        f'.TH NANOCLAW 1 "" "NanoClaw {carried.VERSION}" "User Commands"',
        ".SH NAME",
        "nanoclaw \\- a personal AI assistant whose every turn runs in a sealed container",
        ".SH SYNOPSIS",
        ".B nanoclaw",
        "[OPTION ...] COMMAND [ARGUMENT ...]",
        ".SH DESCRIPTION",
        *_paragraphs(top.description),
        ".SH OPTIONS OF EVERY COMMAND",
        *(line for each in top.options for line in _argument(each)),
        ".SH COMMANDS",
    ]
    for command in top.walk():
        if command.path:
            parts += _command(command, common)
    parts += _verbatim_sections(top.examples)
    return "\n".join(parts) + "\n"


def _command(command: Command, common: set[tuple[str, ...]]) -> list[str]:
    own = [each for each in command.arguments if each.flags not in common]
    words = [f"\\fB{_text('nanoclaw ' + ' '.join(command.path))}\\fR", *map(_synopsis, own)]
    if command.commands:
        words.append("\\fICOMMAND\\fR")
    lines = [f".SS {_text(' '.join(command.path))}", " ".join(words), ".PP", *_paragraphs(command.description)]
    lines += [line for each in own if each.help for line in _argument(each)]
    return lines + _verbatim_sections(command.examples, below=True)


def _synopsis(argument: Argument) -> str:
    value = f"\\fI{_text(argument.value)}\\fR" if argument.value else ""
    shown = " ".join(filter(None, [f"\\fB{_text(argument.flags[-1])}\\fR" if argument.flags else "", value]))
    return f"[{shown}]" if argument.optional else shown


def _argument(argument: Argument) -> list[str]:
    names = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
    value = f"\\fI{_text(argument.value)}\\fR" if argument.value else ""
    return [".TP", " ".join(filter(None, [names, value])), _line(argument.help)]


def _paragraphs(text: str) -> list[str]:
    """Prose: an empty line parts paragraphs."""
    lines: list[str] = []
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        lines += [".PP"] * (number > 0) + [_line(line) for line in paragraph.splitlines()]
    return lines


_TITLES: Final = {"files:": "FILES", "exit status:": "EXIT STATUS"}


def _verbatim_sections(text: str, *, below: bool = False) -> list[str]:
    """What is laid out in columns stays as it is; `title:` above it becomes a heading, or a word below a command."""
    if not text:
        return []
    first, _, rest = text.partition("\n")
    if not first.endswith(":") or not rest:
        first, rest = "", text
    heading = [".PP", _line(first)] if below else [f".SH {_TITLES.get(first, 'MORE')}"]
    return [*(heading if first or not below else []), ".PP", ".nf", *map(_line, rest.splitlines()), ".fi"]


def _line(text: str) -> str:
    """A line of text, which must not be taken for a request."""
    shown = _text(text)
    return f"\\&{shown}" if shown[:1] in {".", "'"} else shown or "\\&"


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return "".join(c if " " <= c <= "~" else f"\\[u{ord(c):04X}]" for c in escaped)
