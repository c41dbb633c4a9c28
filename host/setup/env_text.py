"""The three lines of a .env that are ours, set or taken out, and not a byte of the rest. Pure.

No message ever holds a piece of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from host.credentials.dotenv import choose, parse_line
from host.errors import UserError

PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,~=-]+")
"""What needs no quotes in a .env, by any program's rules."""
_PARTS: Final = re.compile(
    r"(\s*(?:export\s+)?[A-Za-z_][A-Za-z0-9_.]*\s*=\s*)"
    r"('[^']*'|\"(?:[^\"\\]|\\.)*\"|(?:(?!\s+#|\s*$|^#).)*)"
    r"(.*)",
    re.DOTALL,
)


def changed(text: str, values: Mapping[str, str]) -> str:
    """The text of a .env in which each name has its value, and one with an empty value is not there at all."""
    lines = text.split("\n")
    for name, value in values.items():
        lines = _with(lines, name, value)
    new = "\n".join(lines)
    found = _values(new)
    if {name: found.get(name, "") for name in values} != dict(values):
        raise UserError("cannot be changed without touching other lines", "set it there by hand: NAME=value")
    choose(found, "the file")
    return new


def _with(lines: list[str], name: str, value: str) -> list[str]:
    """The last line that sets it is the one that counts; what an earlier one said is nobody's business any more."""
    *earlier, last = [i for i, line in enumerate(lines) if _names(line) == name] or [-1]
    gone = set(earlier)
    if not value:
        return [line for i, line in enumerate(lines) if i not in {*gone, last}]
    if last >= 0:
        return [_revalued(line, value) if i == last else line for i, line in enumerate(lines) if i not in gone]
    end = "\r" if lines[0].endswith("\r") else ""
    kept = lines if lines[-1] else lines[:-1]
    ended = [*kept[:-1], kept[-1].removesuffix("\r") + end] if kept else []
    return [*ended, f"{name}={quoted(value)}{end}", ""]


def _revalued(line: str, value: str) -> str:
    """`export`, blanks, and the comment behind it stay."""
    found = _PARTS.fullmatch(line)
    assert found is not None, "parse_line has read it"
    return f"{found[1]}{quoted(value)}{found[3]}"


def quoted(value: str) -> str:
    if PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _names(line: str) -> str:
    pair = parse_line(line.removeprefix("\ufeff"))
    return pair[0] if isinstance(pair, tuple) else ""


def _values(text: str) -> dict[str, str]:
    pairs = (parse_line(line) for line in text.removeprefix("\ufeff").split("\n"))
    return dict(pair for pair in pairs if isinstance(pair, tuple))
