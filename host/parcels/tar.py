"""Reading tar as it passes by: the little of it that our own images are made of, and nothing else that tar can say.

The standard library's reader takes extensions that hold a name of gigabytes in memory, sparse files and more; what is
read here may come from anywhere.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from host.parcels.streams import CHUNK, AlteredError

BLOCK: Final = 512
LONGEST: Final = 4096
"""Bytes of a name, as the kernel has it for a path."""

FILE, FOLDER, LINK, HARD_LINK = "file", "folder", "link", "hard link"
KINDS: Final = {
    tarfile.REGTYPE: FILE,
    tarfile.AREGTYPE: FILE,
    tarfile.DIRTYPE: FOLDER,
    tarfile.SYMTYPE: LINK,
    tarfile.LNKTYPE: HARD_LINK,
}


@dataclass(frozen=True)
class Member:
    name: str
    kind: str
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    owner: tuple[int, int] = (0, 0)
    target: str = ""
    """Of a link: what it says. Of a hard link: the name of the member that it is another name of."""


class Reader:
    """Iterates over the members; `read` gives the bytes of the one that was given last. `AlteredError` for anything
    else than a whole tar of plain files, folders and links."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._source = read
        self._left = 0
        self._padding = 0

    def read(self, size: int) -> bytes:
        data = self._source(min(size, self._left)) if self._left else b""
        if self._left and not data:
            raise AlteredError("it ends too early")
        self._left -= len(data)
        return data

    def whole(self) -> bytes:
        """All that is left of this member: the caller has looked at its size."""
        return b"".join(iter(lambda: self.read(CHUNK), b""))

    def __iter__(self) -> Iterator[Member]:
        while (header := self._header()) is not None:
            longer: dict[bytes, str] = {}
            while header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                longer[header.type] = self._long(header)
                following = self._header()
                if following is None:
                    raise AlteredError("it ends too early")
                header = following
            yield self._member(header, longer)

    def _member(self, header: tarfile.TarInfo, longer: dict[bytes, str]) -> Member:
        name = longer.get(tarfile.GNUTYPE_LONGNAME, header.name)
        kind = KINDS.get(header.type)
        if kind is None:
            raise AlteredError(f"{name[:100]!r} is a device, a pipe or an extension of tar")
        if kind != FILE and header.size:
            raise AlteredError(f"{name[:100]!r} has content, but is no file")
        self._left, self._padding = header.size, -header.size % BLOCK
        return Member(
            name=name.rstrip("/") if kind == FOLDER else name,
            kind=kind,
            size=header.size,
            mode=header.mode,
            mtime=int(header.mtime),
            owner=(header.uid, header.gid),
            target=longer.get(tarfile.GNUTYPE_LONGLINK, header.linkname),
        )

    def _header(self) -> tarfile.TarInfo | None:
        while self.read(CHUNK):
            pass
        self._exactly(self._padding)
        self._padding = 0
        block = self._exactly(BLOCK)
        if block.count(0) == BLOCK:
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as e:
            raise AlteredError(f"its table is damaged ({e})") from None
        if header.size < 0:
            raise AlteredError("its table is damaged (a negative size)")
        return header

    def _long(self, header: tarfile.TarInfo) -> str:
        if header.size > LONGEST:
            raise AlteredError("a name in it is too long")
        data = self._exactly(header.size + -header.size % BLOCK)[: header.size]
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._source(size - len(data))
            if not more:
                raise AlteredError("it ends too early")
            data += more
        return data
