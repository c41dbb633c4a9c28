"""Reading a file that the agent can write, by the process that holds the key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read(path: Path, limit: int) -> tuple[bytes, int]:
    """The first `limit` bytes, and the size of all. `OSError` if it is not what it seems: it must be no symlink
    (to /proc/self/maps, say), no second name of another file, and no FIFO that would never end."""
    fd = os.open(path, FLAGS)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(0, "it is not a regular file")
        if seen.st_nlink != 1:
            raise OSError(0, "it has more than one name (hard links)")
        data = b""
        while len(data) < limit and (more := os.read(fd, limit - len(data))):
            data += more
        return data, max(seen.st_size, len(data))
    finally:
        os.close(fd)
