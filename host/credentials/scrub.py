"""The key is removed from whatever is logged, stored or shown, also where it was written in a usual way.

What is found: the key itself, backwards, in hexadecimal, in base64 at any alignment, percent-encoded or
escaped as JSON does; each also with blanks, line ends, dashes, quotes or invisible characters between its
characters. An agent that had the key could always write it in a way that nobody thought of. This is the
second belt; the first is that nothing the agent starts can read the key.
"""

from __future__ import annotations

import base64
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

REMOVED: Final = "[secret removed]"

MIN_SECRET: Final = 8
"""Shorter ones are no secrets but the placeholders that local servers ask for ("none", "ollama"): anybody
could guess them, and they would be cut out of ordinary sentences."""
MIN_SPREAD: Final = 16
"""Fewer letters and digits are not looked for with something between them: they could be words."""
MAX_HELD: Final = 16 * 1024
"""Most bytes that a stream holds back. A key with more between its characters than this is let through."""

_WORD: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LOWER: Final = bytes(range(256)).lower()


@dataclass(frozen=True)
class Form:
    """A view of a text in which certain bytes count for nothing, and what to look for in it."""

    needles: tuple[bytes, ...]
    ignored: bytes = b""
    fold_case: bool = False

    def reduce(self, data: bytes) -> bytes:
        return data.translate(_LOWER if self.fold_case else None, self.ignored)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where in `data` a needle begins and ends."""
        reduced = self.reduce(data)
        hits = [(at, at + len(needle)) for needle in self.needles for at in _occurrences(reduced, needle)]
        if hits:
            places = array("L", (i for i, byte in enumerate(data) if byte not in self.ignored))
            yield from ((places[start], places[end - 1] + 1) for start, end in hits)

    def begins_at(self, data: bytes) -> int:
        """Where in `data` its end may be the beginning of a needle; its length if nowhere."""
        reduced = self.reduce(data)
        longest = max((_overlap(reduced, needle) for needle in self.needles), default=0)
        at = len(data)
        while longest:
            at -= 1
            longest -= data[at] not in self.ignored
        return at


class Scrubber:
    """Removes these secrets. With none it does nothing."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        known = [secret for secret in secrets.values() if len(secret) >= MIN_SECRET]
        self._forms = [form for secret in known for form in _forms(secret)]

    def scrub(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        clean = self.scrub_bytes(data)
        return text if clean is data else clean.decode("utf-8", "surrogatepass")

    def scrub_bytes(self, data: bytes) -> bytes:
        """The same for bytes of any kind; the very same object if there is nothing to remove."""
        spans = sorted(span for form in self._forms for span in form.spans(data))
        if not spans:
            return data
        kept, end = [], 0
        for start, stop in spans:
            if start >= end:
                kept += [data[end:start], REMOVED.encode()]
            end = max(end, stop)
        return b"".join([*kept, data[end:]])

    def scrub_json(self, value: Any) -> Any:
        """A copy of a JSON value with every string in it scrubbed, keys too. Not recursive: the value may be
        nested as deep as its writer liked."""
        box = [value]
        pending: list[Any] = [box]
        while pending:
            container = pending.pop()
            items = list(container.items()) if isinstance(container, dict) else list(enumerate(container))
            if isinstance(container, dict):
                container.clear()
            for key, item in items:
                copy = self.scrub(item) if isinstance(item, str) else item
                if isinstance(item, dict | list):
                    copy = item.copy()
                    pending.append(copy)
                container[self.scrub(key) if isinstance(key, str) else key] = copy
        return box[0]

    def begins_at(self, text: str) -> int:
        """Where the end of `text` may be the beginning of a secret; its length if nowhere."""
        data = text[-MAX_HELD:].encode("utf-8", "surrogatepass")[-MAX_HELD:]
        at = min((form.begins_at(data) for form in self._forms), default=len(data))
        # A needle is ASCII or begins with a whole character: what is held back is whole characters too.
        return len(text) - len(data[at:].decode("utf-8", "surrogatepass"))


class StreamScrubber:
    """Text that comes in pieces: what may be the beginning of a secret is held back until it is decided."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._held = ""

    def feed(self, piece: str) -> str:
        text = self._scrubber.scrub(self._held + piece)
        cut = self._scrubber.begins_at(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The rest; what comes next is a new text."""
        rest, self._held = self._held, ""
        return rest


def _forms(secret: str) -> Iterator[Form]:
    """The tolerant forms where the secret is long enough for them, and an exact one for what they do not find."""
    spread: list[Form] = []
    if _count_words(secret) >= MIN_SPREAD:
        ignored = bytes(set(range(256)) - set(_WORD))
        texts = [secret, secret[::-1], *_percent(secret), *_base64s(secret)]
        spread.append(Form(_needles(texts, ignored), ignored))
        # Hexadecimal numbers may also have between them what marks them as such: \x73, 0x73, \u0073, &#x73;.
        ignored += b"xXuU0"
        spread.append(Form(_needles([secret.encode().hex()], ignored), ignored, fold_case=True))
    exact = [p.encode() for p in _plain(secret) if not any(any(f.spans(p.encode())) for f in spread)]
    yield from [*spread, Form(tuple(exact))]


def _needles(texts: list[str], ignored: bytes) -> tuple[bytes, ...]:
    return tuple({text.encode().translate(None, ignored) for text in texts if _count_words(text) >= MIN_SPREAD})


def _plain(secret: str) -> set[str]:
    digits = secret.encode().hex()
    standard = list(_base64s(secret))
    urlsafe = [text.replace("+", "-").replace("/", "_") for text in standard]
    escaped = json.dumps(secret)[1:-1]
    return {secret, secret[::-1], escaped, digits, digits.upper(), *_percent(secret), *standard, *urlsafe}


def _percent(secret: str) -> list[str]:
    """What must be encoded, and all that is neither letter nor digit, with digits of either case."""
    usual = quote(secret, safe="")
    full = "".join(c if c.isascii() and c.isalnum() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in secret)
    lower = [re.sub("%..", lambda escape: escape[0].lower(), text) for text in (usual, full)]
    return [usual, full, *lower]


def _base64s(secret: str) -> Iterator[str]:
    """What base64 makes of it wherever it begins in a longer text: only the digits that are all its own."""
    data = secret.encode()
    for before in range(3):
        digits = base64.b64encode(bytes(before) + data).decode()
        yield digits[-(-8 * before // 6) : 8 * (before + len(data)) // 6]


def _count_words(text: str) -> int:
    return sum(byte in _WORD for byte in text.encode())


def _occurrences(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def _overlap(data: bytes, needle: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of `needle`, short of the whole."""
    at = max(0, len(data) - len(needle) + 1)
    while (at := data.find(needle[:1], at)) >= 0:
        if needle.startswith(data[at:]):
            return len(data) - at
        at += 1
    return 0
