"""Parcels of the one file, unpacked into the cache: once, complete or not at all, and as they were unpacked.

CACHE/NAME/ID/      the contents; ID is the beginning of the parcel's SHA-256
CACHE/NAME/ID.json  what was unpacked, by names, sizes, times and modes: a copy that was altered since is made anew
CACHE/NAME/ID.run   locked by every process that uses it, so that none of these is pruned
CACHE/NAME/lock     held by the one process that unpacks or prunes
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from host.errors import UserError

if TYPE_CHECKING:
    from host.bundle import Parcel, Progress

CHUNK: Final = 1 << 18
MEMORY: Final = 64 << 20
"""Most that unpacking may take; parcels are made with dictionaries of 16 MB or less."""
WAIT: Final = 300.0
"""Seconds to wait for another process that unpacks: a slow SD card needs one or two minutes."""
LOOK: Final = 0.1
KEPT: Final = 2
"""Unpacked copies of a parcel: this one, and that of the version before, to which the person may go back."""
ID: Final = re.compile(r"[0-9a-f]{32}\Z")

Damaged = Callable[[str], UserError]
_held: dict[Path, BinaryIO] = {}
"""Locks of what this process uses, for as long as it lives."""


class _Bounded(io.RawIOBase):
    """One parcel. Its last bytes are handed out only when all of it was what it should be."""

    def __init__(self, fd: int, parcel: Parcel, error: Callable[[], UserError]) -> None:
        self._fd, self._parcel, self._error = fd, parcel, error
        self._at = 0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        left = self._parcel.length - self._at
        data = os.pread(self._fd, min(len(view), left), self._parcel.offset + self._at)
        if left and not data:
            raise self._error()  # the file is cut
        self._hash.update(data)
        self._at += len(data)
        if data and self._at == self._parcel.length and self._hash.hexdigest() != self._parcel.sha256:
            raise self._error()
        view[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self._at


def reader(fd: int, parcel: Parcel, error: Callable[[], UserError]) -> BinaryIO:
    return io.BufferedReader(_Bounded(fd, parcel, error), CHUNK)


def unpack(stream: BinaryIO, parcel: Parcel, shelf: Path, progress: Progress, damaged: Damaged) -> Path:
    """The folder with what is in `stream`, a `tar.xz`; held from now on. `UserError` if there is no room, if it is
    damaged, or if another process does not come to an end with it."""
    folder = shelf / parcel.sha256[:32]
    if _take(folder) and not altered(folder):
        return folder
    try:
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(shelf / "lock", parcel.name, progress):
            _hold(folder)
            if altered(folder):
                _unpack(stream, parcel, folder, progress, damaged)
                _prune(shelf, folder)
    except OSError as e:
        raise _no_room(parcel, shelf, e) from e
    return folder


def altered(folder: Path) -> str:
    """What is not as it was unpacked; empty if all is. No contents are read."""
    try:
        expected = json.loads(_record(folder).read_bytes())
        found = listing(folder)
    except FileNotFoundError:
        return "it is not there"
    except (OSError, ValueError) as e:
        return f"its records cannot be read ({e})"
    if not isinstance(expected, dict) or expected.keys() != found.keys():
        return "something was added or is gone"
    return next((f"{name} was changed" for name in found if found[name] != expected[name]), "")


def listing(folder: Path) -> dict[str, list[int | str]]:
    """Every path beneath → [mode, mtime, and a file's size or a link's target]. The folder itself is ``."""
    found: dict[str, list[int | str]] = {"": [folder.lstat().st_mode, folder.lstat().st_mtime_ns]}
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                status = entry.stat(follow_symlinks=False)
                found[name] = [status.st_mode, status.st_mtime_ns]
                if entry.is_symlink():
                    found[name].append(str(Path(entry.path).readlink()))
                elif entry.is_dir():
                    pending.append(name)
                else:
                    found[name].append(status.st_size)
    return found


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


# --- writing it ---------------------------------------------------------------------------------------


def _unpack(stream: BinaryIO, parcel: Parcel, folder: Path, progress: Progress, damaged: Damaged) -> None:
    part = folder.with_name(f"{folder.name}.part")
    record = _record(folder)
    # Debris of a process that was killed, or a copy that was altered: the lock is ours. The record goes first, and
    # comes last: with it gone, nothing of the folder is believed.
    record.unlink(missing_ok=True)
    for debris in (part, folder):
        _remove(debris)
    try:
        part.mkdir(mode=0o755)
        part.chmod(0o755)  # whatever the umask: a sandbox's user may be another
        _write(stream, parcel, part, progress)
        # A rename can reach the disk before the data it names: after a power cut there would be empty files.
        os.sync()
        part.rename(folder)
        new = record.with_name(f"{record.name}.part")
        with new.open("wb") as f:
            f.write(json.dumps(listing(folder), separators=(",", ":")).encode())
            f.flush()
            os.fsync(f.fileno())
        new.rename(record)
    except (lzma.LZMAError, tarfile.TarError, EOFError, _OddError) as e:
        raise damaged(f"its {parcel.name} cannot be unpacked ({e})") from e
    finally:
        _remove(part)


class _OddError(Exception):
    """Something that a parcel of ours never holds."""


class _Tar:
    """The uncompressed stream, bounded in size and in memory, for `tarfile` to read."""

    def __init__(self, stream: BinaryIO, parcel: Parcel, tell: Callable[[int], None]) -> None:
        self._stream, self._left, self._tell = stream, parcel.unpacked, tell
        self._lzma = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
        self._taken = 0

    def read(self, size: int) -> bytes:
        while not self._lzma.eof:
            data = b""
            if self._lzma.needs_input:
                data = self._stream.read(CHUNK)
                self._taken += len(data)
                self._tell(self._taken)
                if not data:
                    raise _OddError("it is cut short")
            if out := self._lzma.decompress(data, size):
                self._left -= len(out)
                if self._left < 0:
                    raise _OddError("it is larger than it was")
                return out
        return b""

    def finish(self) -> None:
        """To the end of everything: there the digest is checked."""
        while self.read(CHUNK):
            pass
        if self._lzma.unused_data or self._stream.read(1):
            raise _OddError("something follows its end")


def _write(stream: BinaryIO, parcel: Parcel, part: Path, progress: Progress) -> None:
    tar = _Tar(stream, parcel, _percent(progress, parcel))
    made = {""}
    with tarfile.open(fileobj=tar, mode="r|", bufsize=CHUNK) as members:  # type: ignore[call-overload]  # it reads only
        for member in members:
            _member(members, member, part, made)
    tar.finish()


def _member(members: tarfile.TarFile, member: tarfile.TarInfo, part: Path, made: set[str]) -> None:
    """Only what is new, and lies in a folder that was made here: so nothing leads out, not even through a link."""
    name = member.name.rstrip("/").removeprefix("./")
    if name in {".", ""} and member.isdir():
        return
    if name.startswith("/") or name.rpartition("/")[0] not in made or name.rpartition("/")[2] in {"", ".", ".."}:
        raise _OddError(f"{name[:100]!r} has no place in it")
    path = part / name
    if member.isdir():
        path.mkdir()
        path.chmod(0o755)
        made.add(name)
    elif member.issym():
        path.symlink_to(_inside(name, member.linkname))
    elif member.isreg():
        source = members.extractfile(member)
        assert source is not None
        with path.open("xb") as out:
            shutil.copyfileobj(source, out, CHUNK)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise _OddError(f"{name[:100]!r} is neither file, folder nor link")


def _inside(name: str, target: str) -> str:
    """A link's target, if it stays within what is unpacked."""
    where = os.path.normpath(f"{name}/../{target}")
    if target.startswith("/") or where == ".." or where.startswith("../"):
        raise _OddError(f"the link {name[:100]!r} leads out of it")
    return target


def _percent(progress: Progress, parcel: Parcel) -> Callable[[int], None]:
    told = -5

    def tell(taken: int) -> None:
        nonlocal told
        percent = 100 * taken // max(1, parcel.length)
        if percent >= told + 5:
            told = percent
            progress(f"unpacking {parcel.name}: {percent} %")

    return tell


def _no_room(parcel: Parcel, shelf: Path, e: OSError) -> UserError:
    if e.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return UserError(f"cannot unpack {parcel.name} into {shelf}: {e.strerror}", "choose another cache: --home DIR")
    return UserError(
        f"there is no room for {parcel.name} in {shelf}: it needs {parcel.unpacked // 1_000_000 + 1} MB",
        "make room there, or keep the cache on another disk: XDG_CACHE_HOME=DIR, or --home DIR",
    )


# --- at once, and no longer needed --------------------------------------------------------------------


@contextmanager
def _only_one(path: Path, name: str, progress: Progress) -> Iterator[None]:
    with _open(path) as lock:
        give_up = time.monotonic() + WAIT
        told = False
        while not _try(lock, fcntl.LOCK_EX):
            if not told:
                progress(f"waiting for another NanoClaw that is unpacking {name}")
                told = True
            if time.monotonic() > give_up:
                raise UserError(
                    f"another process has been unpacking {name} for five minutes", f"see which: fuser {path}"
                )
            time.sleep(LOOK)
        yield


def _run(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.run")


def _take(folder: Path) -> bool:
    """Hold a copy that is there, if nobody is removing it just now."""
    if folder in _held:
        return True
    try:
        lock = _open(_run(folder), create=False)
    except OSError:
        return False
    if _try(lock, fcntl.LOCK_SH) and os.fstat(lock.fileno()).st_nlink:
        _held[folder] = lock
        return True
    lock.close()
    return False


def _hold(folder: Path) -> None:
    """The same for one that may not be there: who would remove it needs the lock that is ours."""
    if folder not in _held:
        lock = _open(_run(folder))
        fcntl.flock(lock, fcntl.LOCK_SH)
        _held[folder] = lock


def _prune(shelf: Path, current: Path) -> None:
    """Also debris of processes that were killed. A copy that some process uses stays."""
    with contextlib.suppress(OSError):
        for debris in [*shelf.glob("*.part"), *shelf.glob("*.gone")]:
            _remove(debris)
        others = [p for p in shelf.iterdir() if ID.match(p.name) and p != current]
        others.sort(key=lambda p: p.lstat().st_mtime, reverse=True)
        for old in others[KEPT - 1 :]:
            with _open(_run(old)) as lock:
                if old not in _held and _try(lock, fcntl.LOCK_EX):
                    _record(old).unlink(missing_ok=True)
                    _remove(old)
                    _run(old).unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open(path: Path, *, create: bool = True) -> BinaryIO:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _try(lock: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
