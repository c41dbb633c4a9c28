"""Rows for people: aligned columns at a terminal, one tab-separated line each in a pipe, and no line of anyone's
making that could act on the terminal or pose as another row."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from host.cli.out import paint, terminal_width
from host.text import clean_text, columns

GAP = "  "


def one_line(text: str) -> str:
    """Text of anyone's, so that it takes one line and moves no cursor."""
    return " ".join(clean_text(text).split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str, stream: TextIO | None = None) -> str:
    """The rows below their heads, the last column cut where the terminal ends. In a pipe no heads and no cuts, so
    that `cut`, `grep` and `sort` find what they look for; `empty` is for people only."""
    stream = stream or sys.stdout
    cells = [[one_line(cell) for cell in row] for row in rows]
    if not stream.isatty():
        return "\n".join("\t".join(row) for row in cells)
    if not cells:
        return empty
    widths = [max(map(columns, column)) for column in zip(heads, *cells, strict=True)]
    room = terminal_width()
    head, *lines = [clip(GAP.join(map(pad, row, widths)).rstrip(), room) for row in [list(heads), *cells]]
    return "\n".join([paint(head, "1", stream), *lines])


def fields(values: Mapping[str, str], stream: TextIO | None = None) -> str:
    """One thing: the names of its properties and what they are; a value of several lines stays below itself."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return "\n".join(f"{name}\t{one_line(value)}" for name, value in values.items())
    width = max(map(columns, values))
    below = "\n" + " " * width + GAP
    return "\n".join(
        paint(pad(name, width), "2", stream) + GAP + clean_text(value).replace("\n", below)
        for name, value in values.items()
    )


def pad(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def clip(text: str, width: int) -> str:
    """At most `width` columns of the text."""
    if columns(text) <= width:
        return text
    while text and columns(text) >= width:
        text = text[:-1]
    return text + "…"


def clock(at: float | None) -> str:
    """A time by this machine's clock; `-` for none."""
    return "-" if at is None else time.strftime("%a %Y-%m-%d %H:%M", time.localtime(at))
