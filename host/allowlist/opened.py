"""A folder, opened without being led through a link, and kept open.

`realpath` tells where a path leads at one moment; by the next, any part of it may have become a link. So what it
found is opened anew in a way that follows none, and what was opened is what counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

# O_PATH: the folder need not be readable to us, only reachable. Where there is none, opening it has to do.
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2: Final = 437
"""The system call's number on all machines that Python runs on (Alpha aside). In Linux since 5.6."""
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_TRIES: Final = 5


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Held:
    """An open folder. As long as it is open, no other folder is given its inode number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        """-1 once it is closed."""

    @property
    def identity(self) -> tuple[int, int]:
        """(st_dev, st_ino)."""
        seen = os.fstat(self.fd)
        return seen.st_dev, seen.st_ino

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def open_beneath(root: str, relative: str) -> Held:
    """The folder `relative` beneath `root`, which is absolute and free of links; `OSError` if there is none, or if
    there is a link on the way to it. ELOOP and ENOTDIR: something was exchanged since the path was looked at."""
    slash = os.open("/", _FOLDER)
    try:
        top = step(slash, root.strip("/") or ".")
        try:
            return Held(step(top, relative or "."))
        finally:
            os.close(top)
    finally:
        os.close(slash)


def step(folder: int, relative: str) -> int:
    """A descriptor for a folder beneath another one."""
    try:
        return by_openat2(folder, relative)
    except OSError as e:
        # Not in this kernel; or an engine's filter, which we may run under ourselves, does not know it.
        if e.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return by_walk(folder, relative)


def by_openat2(folder: int, relative: str) -> int:
    """One system call, in which the kernel itself holds every component to the rules."""
    if not hasattr(os, "O_PATH"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    how = _How(_FOLDER, 0, _BENEATH | _NO_SYMLINKS)
    call = _system_call()
    path = os.fsencode(relative)
    for left in reversed(range(_TRIES)):
        fd = call(ctypes.c_long(_OPENAT2), ctypes.c_int(folder), path, ctypes.byref(how),
                       ctypes.c_size_t(ctypes.sizeof(how)))  # fmt: skip
        if fd >= 0:
            return fd
        failed = ctypes.get_errno()
        if failed != errno.EAGAIN or not left:  # EAGAIN: something was renamed while it walked
            raise OSError(failed, os.strerror(failed), relative)
    raise AssertionError("the last try returns or raises")


@functools.cache
def _system_call() -> Callable[..., int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call


def by_walk(folder: int, relative: str) -> int:
    """The same, a component at a time."""
    with contextlib.ExitStack() as opened:
        fd = os.dup(folder)
        for name in relative.split("/"):
            opened.callback(os.close, fd)
            if name in ("", ".."):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), relative)
            fd = os.open(name, _FOLDER, dir_fd=fd)
        return fd


def path_of(fd: int) -> str | None:
    """Where the kernel says that an open folder lies now; None where it does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 (a Path would be made and taken apart)
    except OSError:
        return None


def mounts_in(path: str) -> list[str]:
    """Mount points beneath a folder; none where the system has no list of them."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    beneath = os.fsencode(path.rstrip("/") + "/")
    points = (re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 0xFF]), line.split(b" ")[4]) for line in lines)
    return sorted({os.fsdecode(point) for point in points if point.startswith(beneath)})
