"""Layers as tar files that depend on their content only: fixed order, times, owners and modes."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

# One fixed instant for every file and for the image itself: when it was built is no part of what it is.
EPOCH: Final = 1_700_000_000
CHUNK: Final = 1 << 20

Entry = tuple[tarfile.TarInfo, IO[bytes] | None]


def write(layer: IO[bytes], entries: Iterable[Entry]) -> None:
    """`ValueError` for an entry whose folder or hard link's target was left out: that layer would not unpack."""
    written = {""}
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for member, content in entries:
            needs = {member.name.rpartition("/")[0], member.linkname if member.islnk() else ""}
            if not needs <= written:
                raise ValueError(f"{member.name} needs {needs - written}, which the recipe leaves out")
            tar.addfile(normalised(member), content)
            written.add(member.name)


def normalised(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member as it goes into an image: root's, readable by all, writable by root alone, never set-uid.

    Of its mode only "executable or not" survives; /tmp stays open, for engines that mount nothing there.
    """
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = EPOCH
    member.pax_headers = {}
    if member.name == "tmp":
        member.mode = 0o1777
    elif member.isdir():
        member.mode = 0o755
    elif member.issym():
        member.mode = 0o777
    else:
        member.mode = 0o755 if member.mode & 0o111 else 0o644
    return member


def folder_entries(folder: Path, inside: str) -> Iterator[Entry]:
    """Everything beneath `folder`, named as if it lay at `inside`, sorted, with `inside`'s parents first."""
    parts = inside.split("/")
    for depth in range(1, len(parts) + 1):
        parent = tarfile.TarInfo("/".join(parts[:depth]))
        parent.type = tarfile.DIRTYPE
        yield parent, None
    for path in sorted(folder.rglob("*"), key=os.fsencode):
        yield from _path_entry(path, f"{inside}/{path.relative_to(folder)}")


def _path_entry(path: Path, name: str) -> Iterator[Entry]:
    member = tarfile.TarInfo(name)
    if path.is_symlink():
        raise ValueError(f"{path}: a link in what should be plain files")
    if path.is_dir():
        member.type = tarfile.DIRTYPE
        yield member, None
        return
    status = path.stat()
    member.size, member.mode = status.st_size, status.st_mode
    with path.open("rb") as content:
        yield member, content


def digest(path: Path) -> str:
    with path.open("rb") as f:
        return digest_of(f)


def digest_of(content: IO[bytes]) -> str:
    found = hashlib.sha256()
    while data := content.read(CHUNK):
        found.update(data)
    return found.hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
