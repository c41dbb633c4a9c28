"""Small images of the shape that ours has (Debian, what the runner imports, the runner), as files of every kind."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from host import parcels
from host.model import Image
from host.parcels import canonical
from tests.unit.test_parcels import EPOCH, Entry, file, folder, link, tar

BUILD = "b" * 64

BASE: tuple[Entry, ...] = (
    folder("opt"),
    folder("usr"),
    folder("usr/bin"),
    folder("usr/lib"),
    folder("usr/share"),
    folder("workspace"),
    folder("workspace/group"),
    file("usr/lib/os-release", b'PRETTY_NAME="Debian"\nVERSION_CODENAME=bookworm\n'),
    file("usr/bin/tool", b"#!/bin/sh\n", 0o755),
    link("usr/bin/twin", "usr/bin/tool", tarfile.LNKTYPE),
    link("bin", "usr/bin"),
    (folder("tmp")),
)
LIB: tuple[Entry, ...] = (
    folder("opt"),
    folder("opt/nanoclaw"),
    folder("opt/nanoclaw/lib"),
    file("opt/nanoclaw/lib/sdk.py", b"1"),
)
RUNNER: tuple[Entry, ...] = (folder("opt"), folder("opt/nanoclaw"), file("opt/nanoclaw/BUILD", BUILD.encode()))
SETTINGS = {"User": "1000:1000", "Env": ["PATH=/usr/bin"]}


@dataclass(frozen=True)
class Archive:
    """A docker-archive in memory, and what it is."""

    id: str
    manifest: str
    data: bytes

    @property
    def record(self) -> parcels.Record:
        return parcels.Record(self.id, BUILD, self.manifest)

    @property
    def compressed(self) -> bytes:
        return lzma.compress(self.data, preset=0)


def archive(
    *layers: bytes,
    labels: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    tag: str = canonical.CARRIED,
    small: dict[str, bytes] | None = None,
    **more: Any,
) -> Archive:
    """With a table as NanoClaw writes it, or with `small` in its place."""
    digests = [sha256(layer).hexdigest() for layer in layers]
    parts = [canonical.Part(digest, len(layer)) for digest, layer in zip(digests, layers, strict=True)]
    about = {**(SETTINGS if settings is None else settings), **({"Labels": labels} if labels else {})}
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": about,
        "history": [{"created_by": "test"} for _ in layers],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        **more,
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    files = {**canonical.small_files(config_bytes, parts, tag), **(small or {})}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as outer:
        canonical.write_small(outer, files)
        for part, layer in zip(parts, layers, strict=True):
            canonical.write_layer(outer, part, io.BytesIO(layer))
    return Archive(
        f"sha256:{sha256(config_bytes).hexdigest()}", canonical.manifest_id(config_bytes, parts), out.getvalue()
    )


OURS = archive(tar(*BASE), tar(*LIB), tar(*RUNNER))


def extended(*entries: Entry, labels: dict[str, str] | None = None, **more: Any) -> Archive:
    """Ours with one layer more, beneath the runner's."""
    labels = (
        labels
        if labels is not None
        else {"nanoclaw.build": BUILD, "nanoclaw.extends": OURS.id, "nanoclaw.packages": "ffmpeg"}
    )
    return archive(tar(*BASE), tar(*entries), tar(*LIB), tar(*RUNNER), labels=labels, tag=canonical.EXTENDED, **more)


def lay(cache: Path, what: Archive = OURS) -> Image:
    """As the build from source leaves it in the cache."""
    place = cache / "image" / what.id.removeprefix("sha256:")
    place.mkdir(parents=True, mode=0o700)
    (place / "image.tar").write_bytes(what.data)
    (place / "build").write_text(BUILD + "\n")
    (place / "manifest").write_text(what.manifest + "\n")
    (cache / "image" / "current").write_text(what.id + "\n")
    return parcels.current_image(cache)


def carried(cache: Path, file: Path, what: Archive = OURS) -> Image:
    """As a program carries it: an xz stream in some file, and nothing in the cache."""
    file.write_bytes(what.compressed)
    return parcels.carried_image(cache, what.record, lambda: (file.open("rb"), file.stat().st_size))


def names(image: Image) -> Sequence[str]:
    return sorted(str(path.relative_to(image.archive.parent)) for path in image.archive.parent.rglob("*"))


assert EPOCH == canonical.EPOCH
