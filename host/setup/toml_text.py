"""One setting in the text of a config.toml, changed, and not a byte of the rest. Pure.

The file is the person's, with comments and an order of its own, so it is never written out anew from what was read.
A few simple ways to put the line are tried, and each is judged by its outcome: what the new text says must be what the
old one said, but for that one setting. A file in which none of them does is left to the person, with the line to type.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from host.errors import UserError

# A value as people write these few: a text in quotes, on one line.
_TEXT: Final = r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'"
_HEADER: Final = re.compile(r"\s*\[")


def changed(text: str, key: str, value: str) -> str:
    """The text of a config.toml in which `key` ("assistant", "model.name") is `value`. `UserError` if it is not TOML,
    or is written so that only its writer should change it."""
    wanted = _parsed(text)
    if wanted is None:
        raise UserError("is not valid TOML", "nanoclaw doctor says where")
    _put(wanted, key, value)
    if _parsed(text) == wanted:
        return text
    for candidate in _candidates(text, key, quoted(value)):
        if _parsed(candidate) == wanted:
            return candidate
    raise UserError(f"{key} cannot be set without changing more of the file", *by_hand(key, value))


def by_hand(key: str, value: str) -> tuple[str, ...]:
    """What the person types instead."""
    section, _, name = key.rpartition(".")
    where = f"in the section [{section}], on a line of its own" if section else "above the first section"
    return (f"write {where}: {name} = {quoted(value)}",)


def quoted(value: str) -> str:
    """A basic string. What JSON escapes, TOML escapes so too; and there is nothing more to escape in what prints."""
    if not value.isprintable():
        raise UserError("holds a character that does not print")
    return json.dumps(value, ensure_ascii=False)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _put(document: dict[str, Any], key: str, value: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = document.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"{section} is a setting there, and not a section", "nanoclaw doctor says more")
        document = inner
    document[name] = value


def _candidates(text: str, key: str, value: str) -> Iterator[str]:
    lines = text.split("\n")
    end = "\r" if lines[0].endswith("\r") else ""
    section, _, name = key.rpartition(".")
    # The value alone, where the setting stands on a line of its own; the comment behind it stays.
    for i, line in enumerate(lines):
        for written in {name, key}:
            found = re.fullmatch(rf"(\s*{re.escape(written)}\s*=\s*)(?:{_TEXT})(\s*(?:#.*)?\r?)", line)
            if found:
                yield "\n".join([*lines[:i], f"{found[1]}{value}{found[2]}", *lines[i + 1 :]])
    if section:
        yield from _in_section(lines, section, f"{name} = {value}{end}", end)
    yield from _on_top(lines, f"{key} = {value}{end}", end)


def _in_section(lines: list[str], section: str, line: str, end: str) -> Iterator[str]:
    """As the first line of its section; or in a new one, at the end."""
    for i, header in enumerate(lines):
        if re.fullmatch(rf"\s*\[\s*{re.escape(section)}\s*\]\s*(#.*)?\r?", header):
            yield "\n".join([*lines[: i + 1], line, *(lines[i + 1 :] or [""])])
    kept = lines if lines[-1] else lines[:-1]
    gap = [end] if kept else []
    ended = [*kept[:-1], kept[-1].removesuffix("\r") + end] if kept else []
    yield "\n".join([*ended, *gap, f"[{section}]{end}", line, ""])


def _on_top(lines: list[str], line: str, end: str) -> Iterator[str]:
    """Above the first section, and above the comment that belongs to it; where there is none, at the end."""
    headers = [i for i, each in enumerate(lines) if _HEADER.match(each)]
    if not headers:
        kept = lines if lines[-1] else lines[:-1]
        yield "\n".join([*kept[:-1], *([kept[-1].removesuffix("\r") + end] if kept else []), line, ""])
        return
    for header in headers:
        at = header
        while at and lines[at - 1].lstrip().startswith("#"):
            at -= 1
        blank = at > 0 and not lines[at - 1].strip()
        cut = at - blank
        yield "\n".join([*lines[:cut], line, *([] if blank else [end]), *lines[cut:]])
