"""One line of input at a terminal in raw mode, edited. Pure: bytes in, actions and a picture of the line out.

The kernel's own line editing would do, were it not that replies arrive while the person types: the line
must be taken off the screen and put back, so the program has to know it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from host.text import columns

MAX_LINE: Final = 256 * 1024
MAX_HISTORY: Final = 200

# What terminals send for keys: CSI and SS3 sequences (ECMA-48 §5.4; xterm's "PC-style function keys").
ESCAPE: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O[@-~]|[^\[O])")
UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*|O)?\Z")
PASTE_START: Final = "\x1b[200~"
PASTE_END: Final = "\x1b[201~"


@dataclass(frozen=True)
class Line:
    """The person pressed Enter."""

    text: str


@dataclass(frozen=True)
class Interrupt:
    """Ctrl-C. It also clears the line; `cleared` says whether there was anything on it."""

    cleared: bool


@dataclass(frozen=True)
class Leave:
    """Ctrl-D on an empty line."""


Action = Line | Interrupt | Leave


class Editor:
    """Feed it what the keyboard sends; `text` and `cursor` (in characters) are the line as it stands."""

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._pasting = False
        self._history: list[str] = []
        self._at = 0  # which line of the history is shown; len(history) is the one being written
        self._draft = ""

    def feed(self, data: bytes) -> list[Action]:
        keys, self._pending = self._pending + self._decoder.decode(data), ""
        actions: list[Action] = []
        while keys:
            if keys[0] == "\x1b":
                found = ESCAPE.match(keys)
                if found is None:
                    if UNFINISHED.match(keys) and len(keys) < 32:
                        self._pending = keys
                        break
                    keys = keys[1:]  # no sequence that any terminal sends
                    continue
                self._sequence(found[0])
                keys = keys[found.end() :]
            else:
                actions += self._key(keys[0])
                keys = keys[1:]
        return actions

    def remember(self, text: str) -> None:
        """Put a line into the history that Up walks through."""
        if text and (not self._history or self._history[-1] != text):
            self._history = [*self._history, text][-MAX_HISTORY:]
        self._at = len(self._history)

    def view(self, width: int) -> tuple[str, int]:
        """The part of the line that fits into `width` columns, and the cursor's column in it."""
        shown = self.text.replace("\n", "↵")
        start = 0
        while columns(shown[start : self.cursor]) >= max(width, 2):
            start += 1
        end = start
        while end < len(shown) and columns(shown[start : end + 1]) < width:
            end += 1
        return shown[start:end], columns(shown[start : self.cursor])

    def _key(self, key: str) -> list[Action]:
        if key in "\r\n" and not self._pasting:
            return self._enter()
        if key == "\x03":
            return self._interrupt()
        if key == "\x04":
            if not self.text:
                return [Leave()]
            self._cut(self.cursor, self.cursor + 1)
        elif (edit := EDITS.get(key)) is not None and not self._pasting:
            edit(self)
        elif key.isprintable() or key == "\t" or (self._pasting and key in "\r\n"):
            self._insert("\n" if key == "\r" else " " if key == "\t" else key)
        return []

    def _enter(self) -> list[Action]:
        text, self.text, self.cursor = self.text, "", 0
        self.remember(text)
        return [Line(text)]

    def _interrupt(self) -> list[Action]:
        cleared = bool(self.text)
        self.text, self.cursor = "", 0
        return [Interrupt(cleared)]

    def _sequence(self, sequence: str) -> None:
        if sequence in {PASTE_START, PASTE_END}:
            self._pasting = sequence == PASTE_START
        elif (edit := SEQUENCES.get(sequence)) is not None:
            edit(self)

    def _insert(self, text: str) -> None:
        if len(self.text) < MAX_LINE:
            self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
            self.cursor += len(text)

    def _cut(self, start: int, end: int) -> None:
        self.text = self.text[: max(start, 0)] + self.text[end:]
        self.cursor = max(start, 0)

    def _word_start(self) -> int:
        before = self.text[: self.cursor].rstrip()
        return max(before.rfind(" "), before.rfind("\n")) + 1

    def _recall(self, step: int) -> None:
        wanted = self._at + step
        if not 0 <= wanted <= len(self._history):
            return
        if self._at == len(self._history):
            self._draft = self.text
        self._at = wanted
        self.text = self._draft if wanted == len(self._history) else self._history[wanted]
        self.cursor = len(self.text)

    def move(self, cursor: int) -> None:
        self.cursor = min(max(cursor, 0), len(self.text))


Edit = Callable[[Editor], None]

# The keys of readline's Emacs mode, which terminals have taught people.
EDITS: Final[dict[str, Edit]] = {
    "\x7f": lambda e: e._cut(e.cursor - 1, e.cursor),
    "\x08": lambda e: e._cut(e.cursor - 1, e.cursor),
    "\x01": lambda e: e.move(0),
    "\x05": lambda e: e.move(len(e.text)),
    "\x02": lambda e: e.move(e.cursor - 1),
    "\x06": lambda e: e.move(e.cursor + 1),
    "\x0b": lambda e: e._cut(e.cursor, len(e.text)),
    "\x15": lambda e: e._cut(0, e.cursor),
    "\x17": lambda e: e._cut(e._word_start(), e.cursor),
    "\x10": lambda e: e._recall(-1),
    "\x0e": lambda e: e._recall(1),
}
SEQUENCES: Final[dict[str, Edit]] = {
    **dict.fromkeys(("\x1b[D", "\x1bOD"), EDITS["\x02"]),
    **dict.fromkeys(("\x1b[C", "\x1bOC"), EDITS["\x06"]),
    **dict.fromkeys(("\x1b[A", "\x1bOA"), EDITS["\x10"]),
    **dict.fromkeys(("\x1b[B", "\x1bOB"), EDITS["\x0e"]),
    **dict.fromkeys(("\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"), EDITS["\x01"]),
    **dict.fromkeys(("\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"), EDITS["\x05"]),
    "\x1b[3~": lambda e: e._cut(e.cursor, e.cursor + 1),
}
