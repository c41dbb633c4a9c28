"""The small files of an archive, as the build of the image writes them: from the config and the layers alone, byte for
byte. An archive whose table says anything else (another name, under which an engine would file it) is not taken in.

Two tables of contents: `manifest.json` for docker of any age and podman, `index.json` (OCI) for containerd.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

REPOSITORY: Final = "nanoclaw-sandbox"
CARRIED, EXTENDED = "latest", "extended"
"""Tags, so that the image is not taken for a dangling one and pruned. Nothing is started by them."""

EPOCH: Final = 1_700_000_000
"""One fixed instant for every file and for the image itself: when it was made is no part of what it is."""

_OCI: Final = "application/vnd.oci.image"


@dataclass(frozen=True)
class Part:
    """A layer, as tables name it."""

    digest: str
    """Without the `sha256:`"""
    size: int


def small_files(config_bytes: bytes, layers: Sequence[Part], tag: str) -> dict[str, bytes]:
    """Name → content, in the order in which they stand in the archive, before the layers."""
    config_digest, oci = _sha256(config_bytes), manifest(config_bytes, layers)
    names = {
        "io.containerd.image.name": f"docker.io/library/{REPOSITORY}:{tag}",
        "org.opencontainers.image.ref.name": tag,
    }
    index = {**_descriptor("manifest.v1+json", _sha256(oci), len(oci)), "annotations": names}
    table = {
        "Config": blob(config_digest),
        "RepoTags": [f"{REPOSITORY}:{tag}"],
        "Layers": [blob(layer.digest) for layer in layers],
    }
    return {
        "manifest.json": _json([table]),
        "index.json": _json({"schemaVersion": 2, "manifests": [index]}),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        blob(config_digest): config_bytes,
        blob(_sha256(oci)): oci,
    }


def manifest(config_bytes: bytes, layers: Sequence[Part]) -> bytes:
    """Its SHA-256 is what a docker that keeps its images in containerd calls the image."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", _sha256(config_bytes), len(config_bytes)),
            "layers": [_descriptor("layer.v1.tar", layer.digest, layer.size) for layer in layers],
        }
    )


def manifest_id(config_bytes: bytes, layers: Sequence[Part]) -> str:
    return f"sha256:{_sha256(manifest(config_bytes, layers))}"


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def write_small(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        tar.addfile(_plain(name, len(content)), io.BytesIO(content))


def write_layer(tar: tarfile.TarFile, layer: Part, content: IO[bytes]) -> None:
    tar.addfile(_plain(blob(layer.digest), layer.size), content)


def _plain(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, EPOCH
    return member


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
