"""An image's docker-archive: its id is the digest of its config, and the config names the digest of every layer.

Read in one pass. What a layer held was right only when the next one has been given, or the end has come: whoever
writes it somewhere gives it its name after that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from host.model import Archive, Image
from host.parcels.streams import CHUNK, AlteredError, Plain
from host.parcels.tar import FILE, Reader

SMALL: Final = 1 << 20
"""Most bytes of the manifest and of the config; a few hundred are usual."""
FEW: Final = 16
"""Most small files before the layers, and most layers."""


@dataclass(frozen=True)
class Layer:
    digest: str
    """Without the `sha256:`"""
    name: str
    size: int
    read: Callable[[int], bytes]


def opened(image: Image) -> Archive:
    """The image's archive from its beginning; the caller closes it."""
    return image.read() if image.read is not None else Plain(image.archive)


@dataclass(frozen=True)
class Contents:
    """What an image is, as its archive says at its beginning."""

    id: str
    config: dict[str, Any]
    config_bytes: bytes
    digests: tuple[str, ...]
    """Of the layers, in order, without the `sha256:`"""
    names: tuple[str, ...]
    """What the layers are called in the archive"""


def contents_of(image: Image) -> Contents:
    """Of an image that one has: only its beginning is read."""
    stream = opened(image)
    try:
        walk = Walk(stream.read, image.id)
        next(iter(walk), None)
        return walk.contents
    finally:
        stream.close()


class Walk:
    """Iterates over the layers. `contents` is known from the first layer on."""

    def __init__(self, read: Callable[[int], bytes], image_id: str | None) -> None:
        self._source = read
        self._id = image_id
        self._contents: Contents | None = None
        self.small: dict[str, bytes] = {}
        """All but the layers, by name, when it has ended."""

    @property
    def contents(self) -> Contents:
        if self._contents is None:
            raise AlteredError("it has no table of contents (manifest.json)")
        return self._contents

    def __iter__(self) -> Iterator[Layer]:
        reader, small, seen = Reader(self._source), self.small, 0
        for member in reader:
            if self._contents is None or member.name not in self._contents.names:
                if member.size > SMALL or len(small) >= FEW:
                    raise AlteredError("its table of contents does not come first")
                small[member.name] = reader.whole()
                self._contents = self._contents or contents(small, self._id)
                continue
            if member.kind != FILE or seen >= len(self.contents.names) or member.name != self.contents.names[seen]:
                raise AlteredError("its layers are not in order")
            digest = self.contents.digests[seen]
            hashing = Hashing(reader.read)
            yield Layer(digest, member.name, member.size, hashing.read)
            if hashing.finish() != digest:
                raise AlteredError(f"layer {digest[:12]} does not match its digest")
            seen += 1
        if seen != len(self.contents.digests):
            raise AlteredError("layers are missing")
        while self._source(CHUNK):  # to its end: what checks the whole does so there
            pass


class Hashing:
    """Passes on what it reads, and knows its SHA-256 in the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._source = read
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._source(size)
        self._digest.update(data)
        return data

    def finish(self) -> str:
        while self.read(CHUNK):
            pass
        return self._digest.hexdigest()


def contents(small: dict[str, bytes], image_id: str | None) -> Contents | None:
    """From the small files that have passed; None while the table or the config are still to come."""
    if "manifest.json" not in small:
        return None
    try:
        table = json.loads(small["manifest.json"])[0]
        if table["Config"] not in small:
            return None
        config_bytes = small[table["Config"]]
        config = json.loads(config_bytes)
        names, digests = table["Layers"], config["rootfs"]["diff_ids"]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as e:
        raise AlteredError(f"it lacks a part ({type(e).__name__} {e})") from None
    found = f"sha256:{hashlib.sha256(config_bytes).hexdigest()}"
    if image_id is not None and found != image_id:
        raise AlteredError("its config does not match its id")
    if (
        not isinstance(config, dict)
        or not _texts(names)
        or not _texts(digests)
        or len(names) != len(digests)
        or len(set(names)) != len(names)
    ):
        raise AlteredError("layers are missing")
    return Contents(found, config, config_bytes, tuple(d.removeprefix("sha256:") for d in digests), tuple(names))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= FEW and all(isinstance(each, str) for each in value)
