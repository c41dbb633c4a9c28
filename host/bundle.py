"""The one file that the built program is: its parcels, and what is unpacked of them. From source there are none.

The file is a small launcher (`build/launcher`), the parcels, an index of them, and a trailer that says where the index
lies. The launcher unpacks the parcel `host`, which is what runs here, and hands over the file itself as an open
descriptor: an update of the file, or its removal, does no harm to a host that runs. What the parcels hold is known by
digests in `host.carried`, which lies in the parcel `host`, whose digest in turn the launcher has checked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from host import carried as build
from host.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "_NANOCLAW_FILE"
"""`<descriptor>:<path>` of the one file, from the launcher."""
HOLD: Final = "_NANOCLAW_HOLD"
"""The descriptor of the lock that keeps the unpacked host from being pruned while it runs."""
ZONES: Final = "tzdata.zip"

TRAILER: Final = 128
MAGIC: Final = b"NANOCLAW"
FORMAT: Final = 1
MOST_INDEX: Final = 64 << 10
DAMAGED: Final = "download it again"

Progress = Callable[[str], None]


# This module is imported before every command, `nanoclaw version` too: no dataclass, which takes `inspect` along, and
# no pathlib until a path is asked for.
class Parcel(NamedTuple):
    name: str
    offset: int
    length: int
    """Bytes, as it lies in the file."""
    sha256: str
    """Of these bytes, in hex."""
    unpacked: int
    """Bytes of the stream that it uncompresses to."""


class Program:
    """The one file: an open descriptor, where it lay when it was started, and what is expected in it."""

    def __init__(self, fd: int, path: str, expected: Mapping[str, tuple[str, int, int]]) -> None:
        self.path = path
        self._fd = fd
        self._expected = expected
        self._index: dict[str, Parcel] | None = None

    def carried(self, name: str) -> Parcel | None:
        if name not in self._expected:
            return None
        if self._index is None:
            self._index = self._read_index()
        parcel = self._index.get(name)
        if parcel is None or (parcel.sha256, parcel.length, parcel.unpacked) != self._expected[name]:
            raise self.damaged(f"its {name} is not that of this version")
        return parcel

    def open_parcel(self, name: str) -> BinaryIO:
        from host import unpacking

        parcel = self.carried(name)
        if parcel is None:
            raise UserError(f"this build of NanoClaw does not carry: {name}", status=69)
        return unpacking.reader(self._fd, parcel, lambda: self.damaged(f"its {name} is not what was built"))

    def unpack(self, name: str, cache: Path, progress: Progress) -> Path:
        from host import unpacking

        with self.open_parcel(name) as stream:
            parcel = self.carried(name)
            assert parcel is not None
            return unpacking.unpack(stream, parcel, cache / name, progress, self.damaged)

    def damaged(self, how: str) -> UserError:
        return UserError(f"the program {self.path} is damaged: {how}", DAMAGED)

    def _read_index(self) -> dict[str, Parcel]:
        import hashlib
        import json
        import struct

        size = os.fstat(self._fd).st_size
        trailer = os.pread(self._fd, TRAILER, max(0, size - TRAILER))
        if len(trailer) != TRAILER or trailer[:12] != MAGIC + FORMAT.to_bytes(4, "little"):
            raise self.damaged("its end is missing")
        offset, length, digest = struct.unpack_from("<16xQQ32s", trailer)
        index = os.pread(self._fd, length, offset) if length <= MOST_INDEX and offset < size else b""
        if len(index) != length or hashlib.sha256(index).digest() != digest:
            raise self.damaged("its index is not what was built")
        parcels = json.loads(index)["parcels"]
        return {name: Parcel(name, p["offset"], p["length"], p["sha256"], p["unpacked"]) for name, p in parcels.items()}


_program: Program | None = None


def start(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take over what the launcher handed us, and give children the person's environment back. Before anything else
    is imported or started: what is inherited by a child stays open, and set, for as long as that child lives."""
    global _program  # noqa: PLW0603  # there is one file, and it is known once
    if not frozen():
        return
    # Time zones for a machine without any: last on the path, so that it is opened only when nothing else is found.
    if inside := getattr(sys, "_MEIPASS", ""):
        sys.path.append(os.path.join(inside, ZONES))  # noqa: PTH118
    given, hold = environ.pop(FILE, ""), environ.pop(HOLD, "")
    original = environ.pop("LD_LIBRARY_PATH_ORIG", None)
    for name in [name for name in environ if name.startswith(("_MEI", "_PYI")) or name == "LD_LIBRARY_PATH"]:
        del environ[name]
    if original is not None:
        environ["LD_LIBRARY_PATH"] = original
    fd, colon, path = given.partition(":")
    for number in (fd, hold):
        if number.isdecimal():
            os.set_inheritable(int(number), False)
    if colon and fd.isdecimal():
        _program = Program(int(fd), path, build.PARCELS)


def frozen() -> bool:
    return bool(getattr(sys, "frozen", False))


def executable() -> Path:
    """What the person starts: the one file; from source, `nanoclaw.py`."""
    from pathlib import Path

    return Path(_started().path) if frozen() else Path(__file__).resolve().parents[1] / "nanoclaw.py"


def cache() -> Path:
    """The folder that the launcher found and unpacked us into: it can be written, and programs run from there."""
    from pathlib import Path

    return Path(sys.executable).parents[2]


def carried(name: str) -> Parcel | None:
    """None where this build carries none of that name, and from source."""
    return _started().carried(name) if frozen() and name in build.PARCELS else None


def open_parcel(name: str) -> BinaryIO:
    """Read it from its beginning to its end, once: `UserError` in place of its last bytes if it is not what was built.
    So nothing that was read is to be used before the end was reached."""
    return _started().open_parcel(name)


def unpack(name: str, cache: Path, progress: Progress) -> Path:
    """The folder with the contents of a `tar.xz` parcel, unpacked once, and kept for as long as this process lives."""
    return _started().unpack(name, cache, progress)


def _started() -> Program:
    if _program is None:
        raise UserError("this is an unpacked part of NanoClaw", "start the file that you downloaded instead", status=69)
    return _program
