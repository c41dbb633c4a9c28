"""Markdown, as a model writes it, in WhatsApp's own marks: *bold*, _italic_, ~struck~, `code`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`)([^\n]+?)(?<!`)\1(?!`)")
_HELD: Final = "\x00{}\x00"
_PLACE = re.compile("\x00([0-9]+)\x00")

_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_BULLET = re.compile(r"^([ \t]*)[*+][ \t]+", re.MULTILINE)
_RULE = re.compile(r"^ {0,3}(?:[-*_][ \t]*){3,}$", re.MULTILINE)
_TASK = re.compile(r"^([ \t]*- )\[([ xX])\] ", re.MULTILINE)
_IMAGE = re.compile(r"!\[([^\]\n]*)\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"\n]*\")?\s*\)")
_LINK = re.compile(r"\[([^\]\n]+)\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"\n]*\")?\s*\)")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^>\s]+)>")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!~>|])")
# A run of marks opens only before, and closes only after, something that is not a space.
_BOTH = re.compile(r"(?<![*\w\\])\*\*\*(?=\S)(.+?)(?<=\S)\*\*\*(?!\*)", re.DOTALL)
_BOLD = re.compile(r"(?<!\\)\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w\\])__(?=\S)(.+?)(?<=\S)__(?!\w)", re.DOTALL)
_ITALIC = re.compile(r"(?<![*\w\\])\*(?=[^\s*])([^*\n]*?[^\s*\\])\*(?![*\w])")
_STRUCK = re.compile(r"(?<!\\)~~(?=\S)(.+?)(?<=\S)~~", re.DOTALL)
_TABLE_LINE = re.compile(r"^[ \t]*\|.*\|[ \t]*$")
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")

_BOLD_MARK: Final = "\x01"
"""Stands for WhatsApp's `*` until Markdown's own `*` are gone."""


class _Shelf:
    """Code is taken out of the text before anything else is read, and put back at the end as it was."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def keep(self, text: str) -> str:
        self._kept.append(text)
        return _HELD.format(len(self._kept) - 1)

    def restore(self, text: str) -> str:
        # What was kept may hold such places itself: code inside a link's text.
        for _ in range(3):
            text = _PLACE.sub(lambda found: self._kept[int(found[1])], text)
        return text


def to_whatsapp(markdown: str) -> str:
    """The same text for a chat: marks translated, code untouched, links spelled out."""
    shelf = _Shelf()
    text = markdown.replace("\r\n", "\n").replace("\x00", "").replace(_BOLD_MARK, "")
    text = _FENCE.sub(lambda found: shelf.keep("```\n" + found[2].rstrip("\n") + "\n```"), text)
    text = _CODE.sub(lambda found: shelf.keep(f"`{found[2].strip()}`"), text)
    text = _tables(text)
    text = _AUTOLINK.sub(lambda found: shelf.keep(found[1]), text)
    text = _IMAGE.sub(lambda found: _link(found, shelf), text)
    text = _LINK.sub(lambda found: _link(found, shelf), text)
    text = _ESCAPED.sub(lambda found: shelf.keep(found[1]), text)
    text = _RULE.sub("———", text)
    text = _BULLET.sub(r"\1- ", text)
    text = _TASK.sub(lambda found: f"{found[1]}{'☐' if found[2] == ' ' else '☑'} ", text)
    text = _BOTH.sub(_per_line(f"{_BOLD_MARK}_", f"_{_BOLD_MARK}"), text)
    text = _BOLD.sub(_per_line(_BOLD_MARK, _BOLD_MARK), text)
    text = _HEADING.sub(lambda found: _BOLD_MARK + found[1].replace(_BOLD_MARK, "") + _BOLD_MARK, text)
    text = _ITALIC.sub(r"_\1_", text)
    text = _STRUCK.sub(_per_line("~", "~"), text)
    return shelf.restore(text.replace(_BOLD_MARK, "*")).strip("\n")


def _link(found: re.Match[str], shelf: _Shelf) -> str:
    label, url = found[1].strip(), found[2]
    if not label or label == url:
        return shelf.keep(url)
    return f"{label} ({shelf.keep(url)})"


def _per_line(before: str, after: str) -> Callable[[re.Match[str]], str]:
    """WhatsApp's marks end with the line: each line is marked by itself."""

    def marked(found: re.Match[str]) -> str:
        inner = next(group for group in found.groups() if group is not None)
        if "\n\n" in inner:
            return found[0]  # Markdown's marks end with the paragraph
        return "\n".join(f"{before}{line.strip()}{after}" if line.strip() else line for line in inner.split("\n"))

    return marked


def _tables(text: str) -> str:
    """A table becomes lines of `first: second, third`: a chat has no columns."""
    lines = text.split("\n")
    out: list[str] = []
    index = 0
    while index < len(lines):
        if index + 1 < len(lines) and _TABLE_LINE.match(lines[index]) and _TABLE_RULE.match(lines[index + 1]):
            head = _cells(lines[index])
            index += 2
            while index < len(lines) and _TABLE_LINE.match(lines[index]):
                out.append(_row(head, _cells(lines[index])))
                index += 1
        else:
            out.append(lines[index])
            index += 1
    return "\n".join(out)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _row(head: list[str], cells: list[str]) -> str:
    first, rest = cells[0], cells[1:]
    named = [f"{name}: {cell}" if name else cell for name, cell in zip(head[1:], rest, strict=False) if cell]
    return f"- {f'**{first}**' if first else ''}{': ' if first and named else ''}{', '.join(named)}"
