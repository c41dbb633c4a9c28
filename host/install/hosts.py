"""Whether a host runs for a home."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

RESTART: Final = "it is stopped and started again"


def host_pid(data: Path) -> int | None:
    """The host that runs for this home, without disturbing it; 0 if it did not yet say who it is."""
    try:
        fd = os.open(data / "host.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 64, 0).decode("ascii", "replace").split()
        return int(words[0]) if words and words[0].isdigit() else 0
    else:
        return None
    finally:
        os.close(fd)
