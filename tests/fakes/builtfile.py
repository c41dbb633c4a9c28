"""A built file taken apart, and put together with another key of WhatsApp's in it, or damaged as somebody might do it.

What is not changed goes over byte for byte, and of what is changed no length but those of the compressed parcels: the
32 bytes of the key, and in `host.carried` the digest and the length of the parcel that they lie in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import lzma
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fakes.onefile import pack
from tests.fakes.whatsapp_server import PINNED

TRAILER: Final = 128
PRESET: Final = 0
"""Of xz: seconds, where the build takes a minute for the smallest file."""
STORED: Final = struct.Struct("<2sBHH")
"""How a zlib stream begins that is one block, not compressed: its header, 1, the block's length, and that inverted."""


@dataclass(frozen=True)
class Parts:
    launcher: bytes
    said: dict[str, Any]
    """The index as it was built."""
    parcels: dict[str, bytes]

    def sha256(self, name: str) -> str:
        return str(self.said["parcels"][name]["sha256"])

    def having(self, **parcels: bytes) -> Parts:
        return dataclasses.replace(self, parcels=self.parcels | parcels)


def apart(file: Path) -> Parts:
    data = file.read_bytes()
    where, length = struct.unpack_from(pack.TRAILER, data, len(data) - TRAILER)[3:5]
    said = json.loads(data[where : where + length])
    parcels = {name: data[p["offset"] : p["offset"] + p["length"]] for name, p in said["parcels"].items()}
    return Parts(data[: said["parcels"]["host"]["offset"]], said, parcels)


def together(parts: Parts, out: Path, claimed: Mapping[str, str] | None = None) -> Path:
    """Index and trailer say what is there, but for the digests that are `claimed`, by the parcel's name."""
    index = {}
    with out.open("w+b") as f:
        f.write(parts.launcher)
        for name, parcel in parts.parcels.items():
            index[name] = pack._append(f, io.BytesIO(parcel), parts.said["parcels"][name]["unpacked"])
            index[name]["sha256"] = (claimed or {}).get(name, index[name]["sha256"])
        line = json.dumps(parts.said | {"parcels": index}, separators=(",", ":")).encode() + b"\n"
        where = f.tell()
        f.write(line + pack.trailer(where, line, index["host"]))
    out.chmod(0o755)
    return out


def with_root(parts: Parts, root: bytes) -> Parts:
    """Its library holds its server to `root`; nothing else is told of it."""
    tar = replaced(lzma.decompress(parts.parcels["whatsapp"]), PINNED, root)
    return parts.having(whatsapp=lzma.compress(tar, preset=PRESET))


def accounted(built: Parts, changed: Parts) -> Parts:
    """The program in it expects the WhatsApp parcel that is there."""
    tar = zlib.decompress(built.parcels["host"])
    old, new = (carried(parts.parcels["whatsapp"]) for parts in (built, changed))
    start, end = block_with(tar, old[0])
    inside = tar[start:end]
    for before, after in zip(old, new, strict=True):
        inside = replaced(inside, before, after)
    checked = inside + zlib.adler32(inside).to_bytes(4, "big")
    return changed.having(host=zlib.compress(tar[:start] + checked + tar[end + 4 :], 1))


def carried(parcel: bytes) -> tuple[bytes, bytes]:
    """Digest and length as compiled Python has them in `host.carried`."""
    return hashlib.sha256(parcel).hexdigest().encode(), len(parcel).to_bytes(4, "little")


def block_with(data: bytes, words: bytes) -> tuple[int, int]:
    """Where the contents of the module lie that holds these words: modules are kept as zlib streams of one block that
    is not compressed, each with its checksum behind it."""
    start = data.rindex(b"\x78\x01\x01", 0, data.index(words)) + STORED.size
    length, inverted = STORED.unpack_from(data, start - STORED.size)[2:]
    end = start + length
    assert length == inverted ^ 0xFFFF, "this build keeps its modules in another way"
    assert data[end : end + 4] == zlib.adler32(data[start:end]).to_bytes(4, "big")
    return start, end


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert (data.count(old), len(new)) == (1, len(old))
    return data.replace(old, new)


def trusting(built: Parts, root: bytes, out: Path) -> Path:
    """The file with another key in the place of WhatsApp's, and all that follows from that."""
    return together(accounted(built, with_root(built, root)), out)
