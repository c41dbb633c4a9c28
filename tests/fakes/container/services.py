"""What Apple's services keep and how they read mounts, limits and images; as far as the command line shows it.

Its place is that of the real ones, under HOME: `Library/Application Support/com.apple.container`, made by
`container system start`. A container has a folder there with `config.json`, `pid` (host's number of its first
process, while it runs) and `stdio.log`; an image has a file of its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grammar import Said, fail

VERSION = "1.2.2"
ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    }
)  # fmt: skip
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def place() -> Path:
    return Path(os.environ["HOME"]) / "Library" / "Application Support" / "com.apple.container"


def require() -> Path:
    if not (place() / "running").exists():
        fail("failed to connect to the services: XPC connection error: Connection invalid")
    return place()


# --- values ---------------------------------------------------------------------------------------------


def size(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)\s*([bkmgtp]?)(ib|b)?", text.strip().lower())
    if match is None:
        fail("invalid size")
    return int(float(match[1]) * UNITS[match[2]])


def whole(text: str, option: str) -> int:
    if not re.fullmatch(r"-?\d+", text):
        fail(f"The value '{text}' is invalid for '{option}'", 64)
    return int(text)


def ulimits(values: list[str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for value in values:
        name, _, numbers = value.partition("=")
        soft, _, hard = numbers.partition(":")
        if name.lower() not in ULIMITS or not soft.isdecimal() or not (hard or soft).isdecimal():
            fail(f"invalid ulimit format '{value}'")
        if name.lower() in found:
            fail(f"duplicate ulimit type: {name}")
        found[name.lower()] = (int(soft), int(hard or soft))
    return found


@dataclass
class Filesystem:
    kind: str = "virtiofs"
    source: str = ""
    target: str = ""
    readonly: bool = False
    bytes: int | None = None
    mode: str = "1777"


NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def mount(text: str) -> Filesystem:
    """Split at commas, then at `=`; nothing is quoted, and of a field that is there twice the last one counts."""
    fields: dict[str, str] = {"type": "virtiofs"}
    for part in filter(None, text.split(",")):
        pair = [piece for piece in part.split("=", 2) if piece]
        key = NAMES.get(pair[0], pair[0]) if pair else ""
        if key not in {"type", "source", "target", "readonly", "size", "mode"}:
            fail(f"unknown directive {key} when parsing mount {text}")
        if key != "readonly" and len(pair) != 2:
            fail(f"invalid directive format missing value {part} in {text}")
        fields[key] = "" if key == "readonly" else pair[1]
    kind = {"bind": "virtiofs"}.get(fields["type"], fields["type"])
    if kind not in {"virtiofs", "tmpfs"}:
        fail(f"unsupported mount type {kind}")
    if kind == "tmpfs" and "source" in fields:
        fail("cannot specify source for tmpfs mount")
    if kind != "tmpfs" and {"size", "mode"} & fields.keys():
        fail(f"unsupported option size for {kind} mount")
    if not fields.get("target"):
        fail("mount destination cannot be empty")
    if kind == "virtiofs":
        _check_source(fields.get("source", ""))
    limit = size(fields["size"]) >> 20 << 20 if "size" in fields else None
    found = Filesystem(kind, fields.get("source", ""), fields["target"], "readonly" in fields, limit)
    return found if "mode" not in fields else Filesystem(**{**vars(found), "mode": fields["mode"]})


def _check_source(path: str) -> None:
    if not path.startswith("/"):
        fail(f"{path} is not an absolute path on the host")
    if not Path(path).exists():
        fail(f"path '{path}' does not exist")
    if not Path(path).is_dir():
        fail(f"path '{path}' is not a directory")


# --- images ---------------------------------------------------------------------------------------------


@dataclass
class Image:
    reference: str
    manifest: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def index(self) -> str:
        """An archive that holds a manifest alone is given an index around it."""
        return "sha256:" + hashlib.sha256(self.manifest.encode()).hexdigest()


def _image_file(reference: str) -> Path:
    return require() / "images" / hashlib.sha256(_normal(reference).encode()).hexdigest()


def _normal(reference: str) -> str:
    domain, _, rest = reference.partition("/")
    if not rest or not ("." in domain or ":" in domain or domain == "localhost"):
        reference = f"docker.io/{reference if rest else 'library/' + reference}"
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def image(reference: str) -> Image | None:
    path = _image_file(reference)
    return Image(**json.loads(path.read_text())) if path.exists() else None


def keep_image(found: Image) -> None:
    path = _image_file(found.reference)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(vars(found)))


def load_image(archive: Path) -> list[Image]:
    """An OCI layout in a tar, and nothing else: docker's own table of contents is not looked at."""
    if not archive.is_file():
        fail("file does not exist")
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        if any(name.startswith("/") or ".." in name.split("/") for name in names):
            fail("cannot load tar image with rejected paths")
        if not {"oci-layout", "index.json"} <= names:
            fail(f"{'oci-layout' if 'oci-layout' not in names else 'index.json'} was not found in the archive")
        images = []
        for entry in json.loads(_bytes(tar, "index.json"))["manifests"]:
            manifest = json.loads(_blob(tar, entry["digest"]))
            config = json.loads(_blob(tar, manifest["config"]["digest"]))
            for layer in manifest["layers"]:
                _blob(tar, layer["digest"])
            notes = entry.get("annotations", {})
            named = notes.get("com.apple.containerization.image.name") or notes.get("io.containerd.image.name")
            reference = named or notes.get("org.opencontainers.image.ref.name", "untagged")
            images.append(Image(reference, entry["digest"], config))
    for each in images:
        keep_image(each)
    return images


def _bytes(tar: tarfile.TarFile, name: str) -> bytes:
    content = tar.extractfile(name)
    assert content is not None
    return content.read()


def _blob(tar: tarfile.TarFile, digest: str) -> bytes:
    try:
        content = _bytes(tar, "blobs/" + digest.replace(":", "/"))
    except KeyError:
        fail(f"content with digest {digest}")
    if hashlib.sha256(content).hexdigest() != digest.partition(":")[2]:
        fail(f"content does not match its digest {digest}")
    return content


def root_file_system(found: Image) -> Path:
    """The real one unpacks images itself. Here the test says where that was done already."""
    snapshot = require() / "snapshots" / found.manifest.partition(":")[2]
    if not snapshot.is_dir():
        fail(f"this stand-in was not told where {found.reference} is unpacked", 70)
    return snapshot.resolve()


# --- containers -----------------------------------------------------------------------------------------


def containers() -> list[Path]:
    folder = require() / "containers"
    return sorted(each for each in folder.iterdir() if (each / "config.json").exists()) if folder.is_dir() else []


def bundle(name: str) -> Path:
    return require() / "containers" / name


def create(said: Said, found: Image) -> Path:
    """The container's folder. Everything that can be wrong with what was said is found before it is made."""
    name = said.last("--name")
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}", name):
        fail(f"container ID {name} is not a valid container ID")
    if bundle(name).exists():
        fail(f"container with id {name} already exists")
    labels = dict(label.partition("=")[::2] for label in said.all("--label"))
    config = {
        "id": name,
        "image": {"reference": found.reference, "descriptor": {"digest": found.index}},
        "labels": labels,
        "resources": {
            "cpus": whole(said.last("--cpus", "4"), "--cpus"),
            "memoryInBytes": size(said.last("--memory", "1g")),
        },
        "readOnly": said.has("--read-only"),
    }
    folder = bundle(name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def process_of(folder: Path) -> int | None:
    try:
        return int((folder / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def listed(folder: Path) -> dict[str, Any]:
    running = process_of(folder) is not None
    config = json.loads((folder / "config.json").read_text())
    status: dict[str, Any] = {"state": "running" if running else "stopped", "networks": []}
    return {"id": config["id"], "configuration": config, "status": status}


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
