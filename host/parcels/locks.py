"""Who unpacks an image, who uses one, and so which may be removed. Each is a lock that ends with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.model import Image
from host.parcels.streams import Progress

WAIT: Final = 300.0
"""Seconds to wait for another process that is unpacking: a slow SD card needs one or two minutes."""
LOOK: Final = 0.1

IN_USE: Final = "in-use.lock"
_held: dict[Path, int] = {}
"""Images that this process uses, for as long as it lives."""


@contextmanager
def only_one(path: Path, progress: Progress, doing: str) -> Iterator[None]:
    """Be the only process that holds the lock `path`; the second waits, with a limit. `UserError` then."""
    with _open(path) as lock:
        give_up = time.monotonic() + WAIT
        told = False
        while not _try(lock, fcntl.LOCK_EX):
            if not told:
                progress(f"waiting for another NanoClaw that is {doing}")
                told = True
            if time.monotonic() > give_up:
                raise UserError(
                    f"another process has been {doing} for five minutes", f"see which: fuser {path}"
                ) from None
            time.sleep(LOOK)
        yield


@contextmanager
def attempt(path: Path) -> Iterator[bool]:
    """Whether the lock `path` was free; while this lasts it is ours then."""
    with _open(path) as lock:
        yield _try(lock, fcntl.LOCK_EX)


def unpacking(image: Image, progress: Progress) -> contextlib.AbstractContextManager[None]:
    return only_one(image.rootfs.with_suffix(".lock"), progress, "unpacking the sandbox image")


def hold(image: Image) -> None:
    """Keep the image's folder, which is made if it is not there, from being removed while this process lives."""
    folder = image.archive.parent
    if folder in _held:
        return
    give_up = time.monotonic() + WAIT
    while time.monotonic() < give_up:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = _opened(folder / IN_USE)
        except FileNotFoundError:  # it was being removed just then
            continue
        if _try(lock, fcntl.LOCK_SH) and _is_at(lock, folder / IN_USE):
            _held[folder] = lock
            return
        os.close(lock)
        time.sleep(LOOK)
    raise UserError(f"another process has been removing {folder} for five minutes", f"see which: fuser {folder}")


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process uses the image in `folder`; while this lasts, none can begin to."""
    with _open(folder / IN_USE) as lock:
        yield folder not in _held and _try(lock, fcntl.LOCK_EX)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    lock = _opened(path)
    try:
        yield lock
    finally:
        os.close(lock)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, path: Path) -> bool:
    """Whether the file that was locked is still the one of that name, and not one that was removed meanwhile."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(lock), path.stat())
    return False
