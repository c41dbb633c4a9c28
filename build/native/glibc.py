"""Which glibc a program needs: the newest version of its symbols that an ELF file asks for."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

VERNEED: Final = 0x6FFFFFFE
"""Section type of the versions that a file needs."""
NEED: Final = struct.Struct("<HHIII")
AUX: Final = struct.Struct("<IHHII")


def needed(path: Path) -> tuple[int, int]:
    """(2, 28) for GLIBC_2.28; (0, 0) if it asks for none: it is static, or no ELF file at all."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian: what there are builds for
        return (0, 0)
    offset, size, count = *struct.unpack_from("<Q", data, 0x28), *struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + number * size) for number in range(count)]
    found = (0, 0)
    for _, kind, _, _, at, _, link, entries, _, _ in sections:
        if kind == VERNEED:
            found = max(found, *_versions(data, at, entries, sections[link][4]))
    return found


def _versions(data: bytes, at: int, entries: int, strings: int) -> list[tuple[int, int]]:
    found = [(0, 0)]
    for _ in range(entries):
        _, count, _, aux, following = NEED.unpack_from(data, at)
        place = at + aux
        for _ in range(count):
            _, _, _, name, further = AUX.unpack_from(data, place)
            text = data[strings + name : data.index(b"\0", strings + name)].decode("ascii", "replace")
            if match := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", text):
                found.append((int(match[1]), int(match[2])))
            place += further
        at += following
    return found


def newest(folder: Path) -> tuple[tuple[int, int], Path]:
    """The most that anything in the folder asks for, and what does."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return max(((needed(path), path) for path in files), default=((0, 0), folder), key=lambda found: found[0])
