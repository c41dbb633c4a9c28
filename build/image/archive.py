"""The docker-archive: layers, a config and a manifest, written by hand so that the id is known and never varies.

An image's id is the SHA-256 of its config, and the config names each layer by its SHA-256: the id is the
content. Engines load the file as it is, and skip the layers that they have.
"""

from __future__ import annotations

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
    """The layer `digest` inside the image archive `image`, if it is there and whole."""
    try:
        with tarfile.open(image, "r:") as tar:
            member = tar.getmember(blob(digest))
            content = tar.extractfile(member)
            if content is None or layers.digest_of(content) != digest:
                return None
            return Layer(image, digest, member.size, member.offset_data)
    except (OSError, KeyError, tarfile.TarError):
        return None


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def config(architecture: str, stack: dict[str, Layer]) -> bytes:
    """What the image is. Its SHA-256 is the image's id."""
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


def manifest(config_bytes: bytes, stack: dict[str, Layer]) -> bytes:
    """The same in OCI's words. Its SHA-256 is what a docker that keeps its images in containerd calls the image."""
    parts = [_descriptor("layer.v1.tar", layer.digest, layer.size) for layer in stack.values()]
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", layers.sha256(config_bytes), len(config_bytes)),
            "layers": parts,
        }
    )


def write(out: IO[bytes], config_bytes: bytes, stack: dict[str, Layer]) -> None:
    """An archive with two tables of contents, as docker itself saves one: `manifest.json` for docker of any age
    and podman, `index.json` (OCI) for containerd. The small files come first: a reader need not seek."""
    config_digest, oci = layers.sha256(config_bytes), manifest(config_bytes, stack)
    index = {**_descriptor("manifest.v1+json", layers.sha256(oci), len(oci)), "annotations": _NAMES}
    contents = [{"Config": blob(config_digest), "RepoTags": [TAG], "Layers": [blob(x.digest) for x in stack.values()]}]
    small = {
        "manifest.json": _json(contents),
        "index.json": _json({"schemaVersion": 2, "manifests": [index]}),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        blob(config_digest): config_bytes,
        blob(layers.sha256(oci)): oci,
    }
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in small.items():
            tar.addfile(_member(name, len(content)), io.BytesIO(content))
        for layer in stack.values():
            with layer.open() as source:
                tar.addfile(_member(blob(layer.digest), layer.size), source)


_OCI: Final = "application/vnd.oci.image"
_NAMES: Final = {"io.containerd.image.name": f"docker.io/library/{TAG}", "org.opencontainers.image.ref.name": "latest"}


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return layers.normalised(member)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
