"""One running host per home."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.store.database import faults


class Lock:
    """This process is the one host of a home, until `close` or its death."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


LOOK_SECONDS: Final = 0.05


def lock(data: Path, patience: float = 0.0) -> Lock:
    """Be the only host of this home; `UserError` that says who is, if someone is. `patience`: seconds to wait for
    one that holds the lock, such as a command that is carried out and gone in a moment."""
    until = time.monotonic() + patience
    while True:
        try:
            return _lock(data)
        except UserError:
            if time.monotonic() >= until:
                raise
        time.sleep(LOOK_SECONDS)


def _lock(data: Path) -> Lock:
    path = data / "host.lock"
    with faults(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {int(time.time())}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace")
            os.close(fd)
            raise UserError(
                f"another host{_who(holder)} runs for this home", "talk to it with nanoclaw chat, or stop it first"
            ) from None
        except BaseException:
            os.close(fd)
            raise
    return Lock(fd)


def _who(holder: str) -> str:
    """Empty in the instant after the other took the lock and before it has written who it is."""
    fields = holder.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(fields[1])))
    return f" (pid {fields[0]}, since {since})"
