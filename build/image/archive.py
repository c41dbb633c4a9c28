"""The docker-archive: layers, a config and a manifest, written by hand so that the id is known and never varies.

An image's id is the SHA-256 of its config, and the config names each layer by its SHA-256: the id is the
content. docker and podman load the file as it is, and skip the layers that they have.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import layers

TAG: Final = "nanoclaw-sandbox:latest"
"""Keeps the newest image from being taken for a dangling one and pruned. Nothing is started by it."""
ENVIRONMENT: Final = ("PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "LANG=C.UTF-8")


@dataclass(frozen=True)
class Layer:
    """Where a layer's bytes lie: a file of its own, or a stretch of an image that was built before."""

    path: Path
    digest: str
    size: int
    offset: int = 0

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as f:
            f.seek(self.offset)
            yield f


def from_file(path: Path) -> Layer:
    return Layer(path, layers.digest(path), path.stat().st_size)


def find(image: Path, digest: str) -> Layer | None:
    """The layer `digest` inside the image archive `image`, if it is there."""
    try:
        with tarfile.open(image, "r:") as tar:
            member = tar.getmember(layer_name(digest))
            return Layer(image, digest, member.size, member.offset_data)
    except (OSError, KeyError, tarfile.TarError):
        return None


def layer_name(digest: str) -> str:
    return f"{digest}/layer.tar"


def config(architecture: str, stack: dict[str, Layer]) -> bytes:
    created = datetime.fromtimestamp(layers.EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            # The engines say all this again; it stands here for someone who starts the image by hand.
            "config": {"User": "1000:1000", "Env": list(ENVIRONMENT), "WorkingDir": "/workspace/group"},
            "history": [{"created": created, "created_by": f"nanoclaw: {name}"} for name in stack],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in stack.values()]},
        }
    )


def write(out: IO[bytes], config_bytes: bytes, stack: dict[str, Layer]) -> None:
    """`ValueError` if a layer's bytes are no longer those of its digest (a damaged older image)."""
    name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [TAG], "Layers": [layer_name(x.digest) for x in stack.values()]}]
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in (("manifest.json", _json(manifest)), (name, config_bytes)):
            member, data = layers.file_entry(path, content)
            tar.addfile(layers.normalised(member), io.BytesIO(data))
        for layer in stack.values():
            member = tarfile.TarInfo(layer_name(layer.digest))
            member.size = layer.size
            with layer.open() as source:
                hashed = _Hashed(source)
                tar.addfile(layers.normalised(member), hashed)
            if hashed.sha256.hexdigest() != layer.digest:
                raise ValueError(f"{layer.path}: layer {layer.digest[:12]} is damaged")


class _Hashed:
    """A file being read, and the SHA-256 of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        return data


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
