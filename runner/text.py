"""Bytes from tools and values from models, made fit for the pipe, the model and SQLite: pure functions."""

from __future__ import annotations

import math
from typing import Any, Final

# What no terminal prints, NUL first of all: tab, newline and carriage return stay.
_UNPRINTABLE: Final = {n: "\N{REPLACEMENT CHARACTER}" for n in [*range(32), 127] if chr(n) not in "\t\n\r"}
_INT_LIMIT: Final = 2**63
_MAX_DEPTH: Final = 64
"""A model may nest as deep as it likes. The pipe takes 100 levels in a field, some of them around this value."""


def printable(data: bytes) -> str:
    return data.decode("utf-8", "replace").translate(_UNPRINTABLE)


def clean(value: Any, depth: int = 0) -> Any:
    """A JSON value as the pipe takes it: no lone surrogates or NULs, no NaN, no number beyond 64 bits, no bottomless
    nesting."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict | list | tuple):
        return "(nested too deep)" if depth == _MAX_DEPTH else _clean_items(value, depth + 1)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
        return str(value) if value.bit_length() < 4096 else "a very large number"
    return value


def _clean_items(value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> Any:
    if isinstance(value, dict):
        return {clean(str(key)): clean(item, depth) for key, item in value.items()}
    return [clean(item, depth) for item in value]


def clip(text: str, limit: int) -> str:
    """At most `limit` bytes as UTF-8: beginning and end kept, the cut shown between them."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    note = cut_note(len(data) - limit)
    half = max(0, limit - len(note)) // 2
    head = data[:half].decode("utf-8", "ignore")
    tail = data[len(data) - half :].decode("utf-8", "ignore")
    return (head + note + tail)[:limit]


def cut_note(count: int) -> str:
    return f"\n[... {count} bytes cut here ...]\n"


def shorten(text: str, limit: int) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class Capture:
    """The beginning and the end of an output of any length, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail = bytearray()
        self._count = 0

    def feed(self, data: bytes) -> None:
        self._count += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        # Trimmed in big steps, so that a long output in small pieces does not move the tail each time.
        if len(self._tail) > 4 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        tail = bytes(self._tail[-self._half :])
        cut = self._count - len(self._head) - len(tail)
        return printable(bytes(self._head)) + (cut_note(cut) if cut else "") + printable(tail)
