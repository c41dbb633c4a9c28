"""The file that people start, and how another takes its place.

Beside `nanoclaw` lie, at most: `nanoclaw.previous`, the one before it; `.nanoclaw.new`, which is being written and
judged; `.nanoclaw.kept`, a second name of the present one for an instant, and `.nanoclaw.part`, which is to become
that where the file system knows no second names. At every instant `nanoclaw` is a whole
program, and whatever a kill leaves is put in order by whoever comes next (`_settle`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host import bundle, release
from host.errors import UserError

PREVIOUS: Final = ".previous"
CHUNK: Final = 1 << 20
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """A program's name in a folder that no other of us changes at the same time."""

    folder: Path
    name: str
    fd: int
    """The folder; locked."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def new(self) -> str:
        return f".{self.name}.new"

    @property
    def kept(self) -> str:
        return f".{self.name}.kept"

    @property
    def part(self) -> str:
        return f".{self.name}.part"

    @property
    def previous(self) -> str:
        return self.name + PREVIOUS

    def names(self) -> tuple[str, ...]:
        """All that can lie here of ours; what people start comes last."""
        return self.new, self.part, self.kept, self.previous, self.name


def running(args: list[str]) -> Path:
    """The one file that runs; `UserError` from source. `args`: the command, for what the person is told to do."""
    if not bundle.frozen():
        raise UserError(
            f"this NanoClaw runs from its source: there is no one file to {args[0]}",
            "build it first: scripts/build, and then dist/nanoclaw-linux-… " + shlex.join(args),
        )
    path = bundle.executable()
    # Whoever goes back because the new one does not start calls the one before it by its own name.
    return path.with_name(path.name.removesuffix(PREVIOUS))


@contextlib.contextmanager
def taken(path: Path, command: str) -> Iterator[Place]:
    """The place of the program at `path`, to be changed by us alone. `command`: what to do as root, where only root
    may."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise UserError(f"cannot use the folder {path.parent}: {e.strerror}") from e
    try:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"{path.parent} cannot be written by you", f"as root: sudo {command}")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another NanoClaw changes {path.parent} just now", "wait until it is done") from None
        place = Place(path.parent, path.name, fd)
        with faults(place.folder):
            _settle(place)
        yield place
    finally:
        os.close(fd)


@contextlib.contextmanager
def faults(folder: Path) -> Iterator[None]:
    """What a disk can do to us, in words."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk of {folder} is full; nothing was changed", "make room, and try again") from e
        raise UserError(f"cannot write in {folder}: {e.strerror}") from e


# --- looking --------------------------------------------------------------------------------------------------


def opened(place: Place, name: str) -> int | None:
    """A file of the place, to read; None if there is none. `UserError` for what is no plain file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _FLAGS, dir_fd=place.fd)
    except FileNotFoundError:
        return None
    except OSError as e:
        why = "is a link" if e.errno == errno.ELOOP else f"cannot be read: {e.strerror}"
        raise UserError(f"{place.folder / name} {why}", "move it away, and try again") from e
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UserError(f"{place.folder / name} is not a file", "move it away, and try again")
    return fd


def digest(fd: int) -> str:
    """SHA-256 of the whole file, in hex."""
    found, at = hashlib.sha256(), 0
    while data := os.pread(fd, CHUNK, at):
        found.update(data)
        at += len(data)
    return found.hexdigest()


def digest_of(place: Place, name: str) -> str | None:
    fd = opened(place, name)
    if fd is None:
        return None
    try:
        return digest(fd)
    finally:
        os.close(fd)


def is_ours(place: Place, name: str) -> bool:
    """Whether it is a NanoClaw in one file, of whichever version, also a damaged one."""
    fd = opened(place, name)
    if fd is None:
        return False
    try:
        return release.program_in(fd) is not None
    except UserError:
        return True
    finally:
        os.close(fd)


# --- changing -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied(place: Place, source: int, size: int, like: os.stat_result | None) -> Iterator[int]:
    """A private copy of `size` bytes of `source` under the place's `new` name, to be judged through the descriptor and
    then `put`; gone if it was not. It can be run; `like`: whose owner and mode it gets."""
    with faults(place.folder):
        fd = _copy(place, source, size, like)
    try:
        yield fd
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.new, dir_fd=place.fd)


def _copy(place: Place, source: int, size: int, like: os.stat_result | None) -> int:
    try:
        fd = os.open(place.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=place.fd)
        try:
            os.posix_fallocate(fd, 0, size)  # a disk without room is known before anything is written
            _fill(source, fd, size)
            if like is not None and os.geteuid() == 0:
                os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, 0o500 | stat.S_IMODE(like.st_mode) & 0o777 if like is not None else 0o755)
            os.fsync(fd)
            written = os.fstat(fd)
        finally:
            os.close(fd)  # the kernel runs nothing that is open for writing
        fd = os.open(place.new, os.O_RDONLY | _FLAGS, dir_fd=place.fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.new, dir_fd=place.fd)
        raise
    if not os.path.samestat(os.fstat(fd), written):
        os.close(fd)
        raise UserError(f"someone else changes {place.folder} at the same time", "see who can write there")
    return fd


def _fill(source: int, target: int, size: int) -> None:
    at = 0
    while at < size and (data := os.pread(source, min(CHUNK, size - at), at)):
        while data:
            count = os.write(target, data)
            at, data = at + count, data[count:]
    os.ftruncate(target, at)  # one that is shorter by now is not made whole with the room that was set aside


def put(place: Place) -> None:
    """The new one takes the place of the present one, if there is one; that is not kept."""
    with faults(place.folder):
        os.rename(place.new, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        os.fsync(place.fd)


def swap(place: Place, incoming: str) -> None:
    """`incoming` takes the place of the present one, and that becomes the previous one. Killed in the middle, it has
    happened or it has not, when `_settle` was there."""
    with faults(place.folder):
        _second_name(place)
        os.fsync(place.fd)
        os.rename(incoming, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        os.fsync(place.fd)
        os.rename(place.kept, place.previous, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        os.fsync(place.fd)


def _second_name(place: Place) -> None:
    try:
        os.link(place.name, place.kept, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        _second_copy(place)  # a stick's file system knows no second names


def _second_copy(place: Place) -> None:
    source = os.open(place.name, os.O_RDONLY | _FLAGS, dir_fd=place.fd)
    try:
        mode = stat.S_IMODE(os.fstat(source).st_mode)
        fd = os.open(place.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode, dir_fd=place.fd)
        try:
            _fill(source, fd, os.fstat(source).st_size)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(place.part, place.kept, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    finally:
        os.close(source)


def _settle(place: Place) -> None:
    """Put in order what a kill left. What was being written is of no use. A second name of what is still the present
    one was for an exchange that did not happen; else it did, and that is the previous one."""
    for name in (place.new, place.part):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.fd)
    kept = digest_of(place, place.kept)
    if kept is None:
        return
    present = opened(place, place.name)
    if present is None:
        os.rename(place.kept, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        return
    try:
        whole = kept == digest(present)
    finally:
        os.close(present)
    if whole:
        os.unlink(place.kept, dir_fd=place.fd)
    else:
        os.rename(place.kept, place.previous, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    os.fsync(place.fd)
