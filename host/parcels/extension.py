"""The image, extended: what an engine made of it, reduced to one layer, and put beneath the runner's layers.

The engine is asked for the whole file system of what it built, whatever way it built it. What differs from our image
becomes a layer of our own making, in which all belongs to root and nothing takes on another's rights; the layers with
the runner and what it imports follow it, byte for byte as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from host.errors import UserError
from host.model import Image
from host.parcels import canonical, intake, tree
from host.parcels.archive import Contents, Hashing, Walk, opened
from host.parcels.shelf import Record
from host.parcels.streams import CHUNK, PRESET, AlteredError, Percent, Progress
from host.parcels.tar import FILE, FOLDER, HARD_LINK, LINK, Reader

# What an engine puts into a container by itself, what tells of the machine, and what serves installing more: none of it
# is of use to an agent. The accounts stay those of our image.
LEFT_OUT: Final = re.compile(
    r"(dev|proc|sys|run|tmp|home|root|boot|mnt|media|workspace)/."
    r"|\.dockerenv$|run/\.containerenv$"
    r"|etc/(hostname|hosts|resolv\.conf|mtab|machine-id|fstab|passwd|group|g?shadow|sub[ug]id|\.pwd\.lock)-?$"
    r"|etc/(apt|cron\.[a-z]+|init\.d|rc.\.d|logrotate\.d|systemd|skel|security|pam\.d)/"
    r"|var/(cache|log|backups|mail|spool)/.|var/lib/(apt|dpkg|systemd|pam)/"
    r"|usr/share/(man|info|locale|lintian|bug|menu)/|usr/share/doc/[^/]+/(?!copyright$)"
    # Bytecode is bound to a file's time, which becomes another.
    r"|(.*/)?__pycache__(/|$)"
)
RELEASE: Final = "usr/lib/os-release"


@dataclass(frozen=True)
class Fact:
    """What a path of an image is, to tell whether another has the same there."""

    kind: str
    said: str = ""
    """Of a file the digest of its content, of a link where it leads."""
    runs: bool = False


@dataclass(frozen=True)
class Known:
    """Our image: what it says of itself, every path in it, and its layers."""

    contents: Contents
    facts: dict[str, Fact]
    layers: tuple[canonical.Part, ...]
    codename: str
    """Of the Debian that it is made from."""


def known(image: Image, progress: Progress) -> Known:
    """Read all of it; `AlteredError` if a digest is wrong."""
    with closing(opened(image)) as stream:
        percent, walk = Percent(progress, "reading the image"), Walk(stream.read, image.id)
        facts: dict[str, Fact] = {}
        layers, found, release = [], tree.Tree(), b""
        for layer in walk:
            layers.append(canonical.Part(layer.digest, layer.size))
            found.begin_layer()
            reader = Reader(layer.read)
            for member in reader:
                percent(stream.portion())
                action, name = found.admit(member)
                if action == tree.REMOVE:
                    raise AlteredError("it was extended before")
                if member.kind == FILE:
                    content = reader.whole() if name == RELEASE else b""
                    release = content or release
                    digest = Hashing(io.BytesIO(content).read if content else reader.read).finish()
                    facts[name] = Fact(FILE, digest, bool(member.mode & 0o111))
                elif member.kind == HARD_LINK:
                    facts[name] = facts[member.target]
                else:
                    facts[name] = Fact(member.kind, member.target)
        named = re.search(rb'^VERSION_CODENAME="?([a-z]+)"?$', release, re.MULTILINE)
        return Known(walk.contents, facts, tuple(layers), named[1].decode() if named else "")


# --- the difference ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One path of the new layer; `source` is the engine's member for it, None where the path is to be gone."""

    name: str
    fact: Fact | None
    source: tarfile.TarInfo | None = None


def difference(export: tarfile.TarFile, ours: dict[str, Fact], *, beside: bool) -> list[Change]:
    """What the engine's file system has that ours has not, in order of the names. `beside`: it is not ours with
    something added but another Debian, so that what it lacks is not missed. `UserError` for what cannot be added."""
    theirs = {name: member for member in export if (name := _name(member.name)) and not LEFT_OUT.match(name)}
    changes: dict[str, Change] = {}
    for name in sorted(theirs):
        fact = _fact(export, theirs[name])
        if fact is None or fact == ours.get(name) or (beside and _is_runners(name)):
            continue
        _refuse(name, fact, ours.get(name))
        changes[name] = Change(name, fact, theirs[name])
    gone = [] if beside else [name for name in ours if name not in theirs and not LEFT_OUT.match(name)]
    stale = [name for name in ours if "__pycache__" in name and _source_of(name) in changes]
    for name in sorted({*gone, *stale}):
        if _is_runners(name):
            raise UserError(f"your steps remove {name}, which belongs to NanoClaw", "leave /opt/nanoclaw as it is")
        folder = name.rpartition("/")[0]
        if folder in ours and folder not in gone:  # else it goes with its folder
            marker = f"{folder}/{tree.WHITEOUT}{name.rpartition('/')[2]}".lstrip("/")
            changes[marker] = Change(marker, None)
    return [changes[name] for name in sorted(changes)]


def _name(untrusted_name: str) -> str:
    """As ours are written, without `./` before and `/` behind; empty for the root."""
    return untrusted_name.removeprefix("./").strip("/").removeprefix("." if untrusted_name == "." else "")


def _is_runners(name: str) -> bool:
    return name == intake.RUNNER or name.startswith(f"{intake.RUNNER}/")


def _source_of(name: str) -> str:
    """`a/__pycache__/b.cpython-311.pyc` → `a/b.py`"""
    folder, _, compiled = name.partition("/__pycache__/")
    return f"{folder}/{compiled.partition('.')[0]}.py"


def _fact(export: tarfile.TarFile, member: tarfile.TarInfo) -> Fact | None:
    """None for what is neither file, folder nor link: it is left out."""
    if member.isdir():
        return Fact(FOLDER)
    if member.issym():
        return Fact(LINK, member.linkname)
    if not member.isreg() and not member.islnk():
        return None
    content = export.extractfile(member)
    if content is None:
        return None
    source = _resolved(export, member)
    return Fact(FILE, Hashing(content.read).finish(), bool(source.mode & 0o111))


def _resolved(export: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo:
    for _ in range(8):  # a link to a link to …: engines write none
        if not member.islnk():
            break
        member = export.getmember(member.linkname)
    return member


def _refuse(name: str, fact: Fact, before: Fact | None) -> None:
    if _is_runners(name):
        raise UserError(f"your steps change {name}, which belongs to NanoClaw", "leave /opt/nanoclaw as it is")
    if before and before.kind == FOLDER and fact.kind != FOLDER:
        raise UserError(f"your steps make the folder {name} into something else, which an extension cannot")
    if name.rpartition("/")[2].startswith(tree.WHITEOUT):
        raise UserError(f"{name} has a name that engines take for a removal")


def write_layer(out: IO[bytes], export: tarfile.TarFile, changes: Iterable[Change]) -> canonical.Part:
    """The layer as a tar, in `out`."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for change in changes:
            tar.addfile(*_entry(export, change))
    size = out.tell()
    out.seek(0)
    return canonical.Part(Hashing(out.read).finish(), size)


def _entry(export: tarfile.TarFile, change: Change) -> tuple[tarfile.TarInfo, IO[bytes] | None]:
    """Of its owner, mode and time nothing survives but whether it can be run."""
    member = tarfile.TarInfo(change.name)
    member.mtime, member.mode = canonical.EPOCH, 0o644
    if change.fact is None or change.source is None:
        return member, None
    if change.fact.kind == FOLDER:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif change.fact.kind == LINK:
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, change.fact.said, 0o777
    else:
        member.size = _resolved(export, change.source).size
        member.mode = 0o755 if change.fact.runs else 0o644
        return member, export.extractfile(change.source)
    return member, None


# --- the new image ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """From what the person had it made: packages, or a file with steps."""

    packages: tuple[str, ...] = ()
    dockerfile: str = ""


def config_of(ours: Known, image: Image, new: canonical.Part, made: Made) -> bytes:
    """Ours, with one layer and the labels more."""
    config = json.loads(ours.contents.config_bytes)
    config["rootfs"]["diff_ids"].insert(1, f"sha256:{new.digest}")
    if isinstance(config.get("history"), list):
        config["history"].insert(1, {**config["history"][0], "created_by": "nanoclaw: extension"})
    labels = {
        intake.BUILD_LABEL: image.build,
        intake.EXTENDS_LABEL: image.id,
        intake.PACKAGES_LABEL: " ".join(made.packages),
        intake.DOCKERFILE_LABEL: made.dockerfile,
    }
    config["config"] = {**config.get("config", {}), "Labels": {name: value for name, value in labels.items() if value}}
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def write(path: Path, image: Image, ours: Known, layer: IO[bytes], new: canonical.Part, made: Made,
          progress: Progress) -> Record:  # fmt: skip
    """The whole archive, compressed, as `path`. Our layers pass through once, and are checked as they do."""
    config_bytes = config_of(ours, image, new, made)
    parts = [ours.layers[0], new, *ours.layers[1:]]
    percent = Percent(progress, "compressing the image")
    layer.seek(0)
    with contextlib.ExitStack() as stack:
        out = cast(IO[bytes], stack.enter_context(lzma.open(path, "wb", preset=PRESET)))
        stream = stack.enter_context(closing(opened(image)))
        tar = stack.enter_context(tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK))
        canonical.write_small(tar, canonical.small_files(config_bytes, parts, canonical.EXTENDED))
        for number, old in enumerate(Walk(stream.read, image.id)):
            content = _Telling(old.read, lambda: percent(stream.portion()))
            canonical.write_layer(tar, ours.layers[number], cast(IO[bytes], content))
            if number == 0:
                canonical.write_layer(tar, new, layer)
    return Record(
        id=f"sha256:{hashlib.sha256(config_bytes).hexdigest()}",
        build=image.build,
        manifest=canonical.manifest_id(config_bytes, parts),
        extends=image.id,
        packages=made.packages,
        dockerfile=made.dockerfile,
    )


class _Telling:
    """Passes on what it reads, and tells how far the whole is. As many bytes as were asked for: `tarfile` takes fewer
    for the end, and a stream that is uncompressed gives what it has."""

    def __init__(self, read: Callable[[int], bytes], tell: Callable[[], None]) -> None:
        self._read, self._tell = read, tell

    def read(self, size: int) -> bytes:
        self._tell()
        data = bytearray()
        while len(data) < size and (more := self._read(size - len(data))):
            data += more
        return bytes(data)
