"""QR codes, for a terminal in half blocks, and as a PNG file. What one says is a credential while it is good."""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import Final

from host.errors import UserError

QUIET: Final = 4
"""Light modules around it: without them a phone does not find it."""
PIXELS: Final = 8
"""A module's width in the file."""
# Black on white whatever the terminal's own colours are: the fixed ones of its 256.
DARK_ON_LIGHT: Final = "\x1b[38;5;16;48;5;231m"
DARK, LIGHT, PLAIN = "\x1b[48;5;16m", "\x1b[48;5;231m", "\x1b[0m"
BLOCKS: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}

Matrix = list[list[bool]]
"""Rows of modules; dark ones are true. The quiet zone is part of it."""


def matrix(text: str) -> Matrix:
    try:
        import segno
    except ModuleNotFoundError:
        raise UserError("segno is not installed, which makes QR codes", "start NanoClaw by scripts/run") from None
    code = segno.make(text, error="l", boost_error=False, micro=False)
    rows = [[bool(module) for module in row] for row in code.matrix]
    width = len(rows) + 2 * QUIET
    side, blank = [False] * QUIET, [[False] * width for _ in range(QUIET)]
    return [*blank, *([*side, *row, *side] for row in rows), *blank]


def drawn(modules: Matrix, *, blocks: bool) -> list[str]:
    """Lines for a terminal. `blocks`: it has half blocks, so that a line holds two rows; else each module is two
    blanks in its colour."""
    if not blocks:
        return ["".join((DARK if module else LIGHT) + "  " for module in row) + PLAIN for row in modules]
    rows = [*modules, *([[False] * len(modules)] if len(modules) % 2 else [])]
    return [
        DARK_ON_LIGHT + "".join(BLOCKS[pair] for pair in zip(upper, lower, strict=True)) + PLAIN
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]


def png(modules: Matrix) -> bytes:
    """One bit a pixel; see the specification of PNG, sections 5 and 11."""
    width = len(modules) * PIXELS
    lines = bytearray()
    for row in modules:
        bits = "".join(("0" if module else "1") * PIXELS for module in row)
        line = int(bits, 2).to_bytes(width // 8, "big")  # PIXELS is 8: each module is a byte
        lines += (b"\0" + line) * PIXELS
    header = struct.pack(">IIBBBBB", width, width, 1, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(lines))) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class File:
    """The PNG file: nobody else's to read, written anew at each code, gone at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if os.path.lexists(path):
            raise UserError(f"{path} is there already", "name a file that is not: it is removed at the end", status=2)
        self.written = False

    def write(self, data: bytes) -> None:
        """Whole or not at all: whoever shows it meanwhile reads the old one or the new one."""
        part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:  # noqa: PTH123 (it is a descriptor)
                file.write(data)
            part.rename(self._path)
        except OSError as e:
            with contextlib.suppress(OSError):
                part.unlink()
            raise UserError(f"cannot write {self._path}: {e.strerror}", "is its folder there, and yours?") from e
        self.written = True

    def remove(self) -> None:
        if self.written:
            with contextlib.suppress(OSError):
                self._path.unlink()
