"""Bounded JSON lines: what the control socket and the channels' helpers speak."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.protocol import Lines, parse_object


class JsonLines:
    """Bytes as they come, in pieces of any size, to objects. Holds at most one line of `limit` bytes.

    After a `PeerError` it is of no further use.
    """

    def __init__(self, limit: int) -> None:
        self._lines = Lines(limit)

    def feed(self, untrusted: bytes) -> Iterator[dict[str, Any]]:
        for untrusted_line in self._lines.feed(untrusted):
            yield parse_object(untrusted_line)


def encode_line(record: dict[str, Any]) -> bytes:
    """One line, newline included. `ValueError` for NaN and infinity, which JSON does not have."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone surrogate (an undecodable byte of a path, say) has no UTF-8. Python writes it as \udcXX, which
    # inside a JSON string is exactly its escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"
