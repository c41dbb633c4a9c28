"""A long text in pieces that a chat can bear, cut where a reader would. Pure."""

from __future__ import annotations

from typing import Final

PIECE: Final = 4000
"""Characters: WhatsApp takes more, and folds it away behind `read more`."""

FENCE: Final = "```"


def split(text: str, limit: int = PIECE) -> list[str]:
    """Pieces of at most `limit` characters, none of them empty: cut at the end of a paragraph, else of a line, a
    sentence, a word. A block of code that is cut is closed and opened again."""
    pieces: list[str] = []
    rest, in_code = text.strip("\n"), False
    while rest:
        opening = FENCE + "\n" if in_code else ""
        room = limit - len(opening) - len("\n" + FENCE)
        if len(opening) + len(rest) <= limit:
            pieces.append(opening + rest)
            break
        cut = _cut(rest, room)
        piece, rest = rest[:cut].rstrip(), rest[cut:].lstrip("\n") if in_code else rest[cut:].lstrip()
        in_code ^= piece.count(FENCE) % 2 == 1
        closing = "\n" + FENCE if in_code else ""
        if piece:
            pieces.append(opening + piece + closing)
    return [piece for piece in pieces if piece.strip()]


def _cut(text: str, room: int) -> int:
    """Where to cut `text`, in (0, room]."""
    for end, least in (("\n\n", room // 3), ("\n", room // 3), (". ", room // 2), (" ", room // 2)):
        at = text.rfind(end, 0, room)
        if at > least:
            return at + len(end.rstrip(" ")) if end == ". " else at
    # Not between the marks that are one character to a reader: a joiner, a selector, a skin tone.
    at = room
    while at > room // 2 and (
        text[at] in "\u200d\ufe0f" or text[at - 1] == "\u200d" or "\U0001f3fb" <= text[at] <= "\U0001f3ff"
    ):
        at -= 1
    return at
