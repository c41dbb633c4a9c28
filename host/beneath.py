"""Files in a folder that an agent can write, for a host that must not be led outside it.

The agent may put a link, a FIFO, a device, a file of a terabyte without a byte in it, or a second name of
another file where a plain file is expected, and may swap them at any instant. So no path is ever walked by
the kernel on its own: each component is opened from the one before it, and never through a link; what is
judged is what was opened. Missing things are `FileNotFoundError`, refused ones `UserError`.

The root itself must be a folder whose parents no agent can write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from host.errors import UserError

Owner = tuple[int, int]
"""uid and gid."""

MAX_READ: Final = 1024 * 1024
MAX_LISTED: Final = 10_000
MAX_COUNTED: Final = 200_000
"""Files and folders that `folder_size` looks at; on a slow disk that takes some ten seconds."""
MAX_DEPTH: Final = 40
"""Folders within folders: each holds a descriptor while it is walked."""

# Without waiting: opening a FIFO that nobody writes to would wait for ever, and so would a file on which the
# agent holds a lease.
_SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | _SAFE


@dataclass(frozen=True)
class Entry:
    name: str
    """As the agent chose it: it may hold line ends, and lone surrogates where it is not UTF-8."""
    kind: str
    """`file`, `folder`, `link` or `other`."""
    size: int
    modified: float


@dataclass(frozen=True)
class Listing:
    entries: tuple[Entry, ...]
    complete: bool


@dataclass(frozen=True)
class Usage:
    """What a folder takes on the disk. Not `complete`: at least so much, there is more than was looked at."""

    bytes: int
    entries: int
    complete: bool


def read_file(root: Path, relative: str, limit: int = MAX_READ) -> bytes:
    """The contents of a plain file with one name and at most `limit` bytes."""
    with _parent(root, relative) as (folder, name), _opened(name, os.O_RDONLY | _SAFE, folder) as fd:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise UserError(f"{_shown(relative)} is not a regular file")
        _check_only_name(relative, name, folder, fd)
        # It may grow while it is read, so what counts is what came.
        if seen.st_size > limit or len(data := _read(fd, limit + 1)) > limit:
            raise UserError(f"{_shown(relative)} is over {limit} bytes")
        return data


def _check_only_name(relative: str, name: str, folder: int, fd: int) -> None:
    """That the open file has no name but the one it was opened by: another may lie where the agent cannot look.

    One name is not enough: the agent may have removed this one since, and then it is the other that counts. So
    the name must still lead here, and nothing may have happened to the file's names around that look.
    """
    before, named, after = os.fstat(fd), _stat(name, folder), os.fstat(fd)
    if max(before.st_nlink, after.st_nlink) > 1:
        raise UserError(f"{_shown(relative)} has {max(before.st_nlink, after.st_nlink)} names (hard links)")
    same = named is not None and (named.st_dev, named.st_ino) == (after.st_dev, after.st_ino)
    if not same or before.st_ctime_ns != after.st_ctime_ns:
        raise UserError(f"{_shown(relative)} was exchanged or changed while it was opened")


def write_file(root: Path, relative: str, data: bytes, owner: Owner | None = None, mode: int = 0o600) -> None:
    """Put a file there, whole or not at all. Whatever was there by that name is replaced, not written to."""
    with _parent(root, relative) as (folder, name):
        temporary = f".{secrets.token_hex(8)}.new"
        with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, folder) as fd:
            try:
                _write(fd, data)
                if owner is not None:
                    os.fchown(fd, *owner)
                os.fchmod(fd, mode)
                os.fsync(fd)
                # The agent may have swapped the temporary file by now. Then something of its own gets the name.
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError as e:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise _refusal(relative, e) from e


def list_folder(root: Path, relative: str = "", limit: int = MAX_LISTED) -> Listing:
    """What is in a folder, by name; links are listed and never followed."""
    with _folder(root, relative) as fd, os.scandir(fd) as found:
        entries = [_entry(e.name, seen) for e in islice(found, limit) if (seen := _stat(e.name, fd))]
        complete = next(found, None) is None
    return Listing(tuple(sorted(entries, key=lambda entry: entry.name)), complete)


def folder_size(root: Path, relative: str = "", limit: int = MAX_COUNTED, seconds: float = 10.0) -> Usage:
    """What it takes on the disk with all that is in it: blocks, not the length that a file claims to have."""
    until = time.monotonic() + seconds
    total = entries = 0
    complete = True
    counted: set[tuple[int, int]] = set()  # files with several names
    with _folder(root, relative) as fd, contextlib.closing(_walk(fd, MAX_DEPTH)) as found:
        for seen in found:
            if entries >= limit or time.monotonic() > until:
                return Usage(total, entries, complete=False)
            if seen is None:
                complete = False
                continue
            entries += 1
            identity = (seen.st_dev, seen.st_ino)
            if seen.st_nlink == 1 or stat.S_ISDIR(seen.st_mode) or identity not in counted:
                total += seen.st_blocks * 512
                if seen.st_nlink > 1 and not stat.S_ISDIR(seen.st_mode):
                    counted.add(identity)
    return Usage(total, entries, complete)


def ensure_folder(root: Path, relative: str = "", owner: Owner | None = None, mode: int = 0o700) -> None:
    """Make the folder, and those above it up to the root, where they are not there; give it to `owner`."""
    with contextlib.ExitStack() as opened:
        fd = opened.enter_context(_folder(root, ""))
        for name in _parts(relative):
            made = _make(name, mode, fd)
            fd = opened.enter_context(_opened(name, _FOLDER, fd))
            if made:
                _give(fd, owner)
        _give(fd, owner)


def _make(name: str, mode: int, folder: int) -> bool:
    try:
        os.mkdir(name, mode, dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as e:
        raise _refusal(name, e) from e
    return True


def _give(fd: int, owner: Owner | None) -> None:
    seen = os.fstat(fd)
    if owner is not None and owner != (seen.st_uid, seen.st_gid):
        os.fchown(fd, *owner)


# --- one component at a time ----------------------------------------------------------------------------


def _parts(relative: str) -> list[str]:
    parts = relative.split("/") if relative else []
    if any(part in ("", ".", "..") or "\0" in part or not _has_bytes(part) for part in parts):
        raise UserError(f"{_shown(relative)} is not a path beneath a folder")
    return parts


def _has_bytes(name: str) -> bool:
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


@contextlib.contextmanager
def _opened(name: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise _refusal(str(name), e) from e
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _folder(root: Path, relative: str) -> Iterator[int]:
    with contextlib.ExitStack() as opened:
        fd = opened.enter_context(_opened(root, _FOLDER))
        for name in _parts(relative):
            fd = opened.enter_context(_opened(name, _FOLDER, fd))
        yield fd


@contextlib.contextmanager
def _parent(root: Path, relative: str) -> Iterator[tuple[int, str]]:
    """The folder that a path lies in, open, and the path's last name."""
    parts = _parts(relative)
    if not parts:
        raise UserError("the path of a file is empty")
    with _folder(root, "/".join(parts[:-1])) as fd:
        yield fd, parts[-1]


def _refusal(name: str, error: OSError) -> UserError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        return UserError(f"{_shown(name)} is a link, or not a folder")
    if error.errno in (errno.ENXIO, errno.EAGAIN):
        return UserError(f"{_shown(name)} is not a plain file, or is being held")
    return UserError(f"{_shown(name)}: {error.strerror}")


def _shown(name: str) -> str:
    """A name that an agent chose, as a message may show it."""
    return "".join(c if c.isprintable() else "?" for c in name[-200:])


# --- bytes and entries ------------------------------------------------------------------------------------


def _read(fd: int, most: int) -> bytes:
    pieces = []
    while most > 0 and (piece := os.read(fd, min(most, 1 << 20))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _stat(name: str, folder: int) -> os.stat_result | None:
    """None if it has gone meanwhile."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _entry(name: str, seen: os.stat_result) -> Entry:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return Entry(name, kinds.get(stat.S_IFMT(seen.st_mode), "other"), seen.st_size, seen.st_mtime)


def _walk(folder: int, depth: int) -> Generator[os.stat_result | None, None, None]:
    """Everything beneath an open folder; None for what could not be looked into."""
    with os.scandir(folder) as found:
        for entry in found:
            seen = _stat(entry.name, folder)
            if seen is None:
                continue
            yield seen
            if stat.S_ISDIR(seen.st_mode):
                try:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder) if depth else -1
                except OSError:  # swapped for a link, closed to us, or gone
                    inner = -1
                if inner < 0:
                    yield None
                    continue
                try:
                    yield from _walk(inner, depth - 1)
                finally:
                    os.close(inner)
