"""The cache's images: which one was built from source, which were taken in from files, and which may go.

`image/current` names the one that was built here; `image/<hex>/` holds an image: as `image.tar` (built from source),
as `image.tar.xz` with `image.json` beside it (taken in from a file, or made by `nanoclaw image build`), or nothing but
what was unpacked from the program itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from host.errors import UserError
from host.model import Archive, Image
from host.parcels import locks
from host.parcels.rootfs import BUILD_HINT, TAKEN_IN, WAYS_OUT
from host.parcels.streams import Progress, Xz

ID: Final = re.compile(r"sha256:([0-9a-f]{64})\Z")
RECORD: Final = "image.json"
MOST_RECORD: Final = 64 << 10
KEPT: Final = 1
"""Images beside those that are used: the one of before, for who goes back to it."""


@dataclass(frozen=True)
class Record:
    """What is known of an image that was taken in: in the cache beside it, and in the pin of an accepted one."""

    id: str
    build: str
    """Digest of the runner's sources in it."""
    manifest: str
    extends: str = ""
    """Id of the image that it was made from."""
    packages: tuple[str, ...] = ()
    dockerfile: str = ""
    """Where the person's own steps lay, on the machine where it was made."""


def parse_record(data: bytes) -> Record:
    """`ValueError` for what is none."""
    said = json.loads(data)
    if not isinstance(said, dict) or not said.keys() <= Record.__dataclass_fields__.keys():
        raise ValueError("it is no record of an image")
    packages = said.pop("packages", [])
    texts = [*said.values(), *packages] if isinstance(packages, list) else [None]
    if not all(isinstance(each, str) and each.isprintable() and len(each) < 4096 for each in texts):
        raise ValueError("it is no record of an image")
    record = Record(**said, packages=tuple(packages))
    if not all(ID.match(each) for each in (record.id, record.manifest)) or not ID.match(f"sha256:{record.build}"):
        raise ValueError("it names no image")
    return record


def record_bytes(record: Record) -> bytes:
    return json.dumps(asdict(record), indent=1).encode() + b"\n"


# --- built from source ------------------------------------------------------------------------------


def current_image(cache: Path) -> Image:
    """The image that was built here from source, by its records alone: nothing of it is read or checked."""
    current = cache / "image" / "current"
    match = ID.match(_read(current, f"there is no sandbox image in {cache}").strip())
    if match is None:
        raise UserError(f"{current} does not name a sandbox image", f"remove it and {BUILD_HINT}", status=69)
    folder = cache / "image" / match[1]
    archive = folder / "image.tar"
    if not archive.is_file():
        raise UserError(f"the sandbox image {folder} is gone", BUILD_HINT, status=69)
    incomplete = f"the sandbox image {folder} is incomplete"
    return Image(
        id=match[0],
        archive=archive,
        rootfs=folder / "rootfs",
        build=_read(folder / "build", incomplete).strip(),
        manifest=_read(folder / "manifest", incomplete).strip(),
    )


def _read(path: Path, error: str) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(error, BUILD_HINT, status=69) from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {path}: {e}", status=69) from None


# --- carried in the program -------------------------------------------------------------------------


def carried_image(cache: Path, record: Record, opens: Callable[[], tuple[BinaryIO, int]]) -> Image:
    """The image within the program: nothing of it need be in the cache. `opens` gives its xz, and its length."""
    return _image(cache, record, "image.tar", lambda: Xz(*opens()))


def _image(cache: Path, record: Record, archive: str, read: Callable[[], Archive]) -> Image:
    folder = cache / "image" / record.id.removeprefix("sha256:")
    return Image(record.id, folder / archive, folder / "rootfs", record.build, record.manifest, read)


# --- taken in ---------------------------------------------------------------------------------------


def taken_in(cache: Path, record: Record) -> Image:
    """An image that was taken in, as `record` (the pin's) has it; `UserError` if it is not there any more."""
    archive = cache / "image" / record.id.removeprefix("sha256:") / TAKEN_IN
    if not archive.is_file():
        raise UserError(f"the image that you accepted is not in {archive.parent} any more", *WAYS_OUT, status=69)
    return _image(cache, record, archive.name, lambda: Xz(archive.open("rb"), archive.stat().st_size))


def records(cache: Path) -> list[Record]:
    """Of all images that were taken in, the newest first. What is unreadable is none."""
    found = []
    for path in (cache / "image").glob(f"{'?' * 64}/{RECORD}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            with path.open("rb") as f:
                record = parse_record(f.read(MOST_RECORD))
            if record.id == f"sha256:{path.parent.name}":
                found.append((path.stat().st_mtime, record))
    return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]


@contextmanager
def workshop(cache: Path, progress: Progress) -> Iterator[Path]:
    """A folder to make an image in, on the cache's own disk so that the end is one rename. One process at a time:
    folders of other ones are debris of those that were killed."""
    images = cache / "image"
    images.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.only_one(images / "work.lock", progress, "taking in an image"):
        _clear(images)
        work = images / f"taking-{os.getpid()}"
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def settle(cache: Path, new: Path, record: Record) -> Image:
    """Give a finished archive its place among the images. The image of that very content may be there, and in use:
    then its archive is renewed, and the rest left as it is."""
    folder = cache / "image" / record.id.removeprefix("sha256:")
    note = new.with_name(RECORD)
    note.write_bytes(record_bytes(record))
    for path in (new, note):
        with path.open("rb") as f:
            os.fsync(f.fileno())
    folder.mkdir(mode=0o700, exist_ok=True)
    new.replace(folder / TAKEN_IN)
    note.replace(folder / RECORD)
    folder.touch()
    return taken_in(cache, record)


# --- letting go -------------------------------------------------------------------------------------


def prune(cache: Path, keep: Collection[str]) -> list[Path]:
    """Remove images but those with the ids in `keep`, those that some process uses, one more (the newest), and those
    that were built from source, which the build looks after. What was removed."""
    images = cache / "image"
    removed = []
    with contextlib.suppress(OSError, UserError), _at_once(images) as free:
        if free:
            _clear(images)
            for folder in _spare(images, keep)[KEPT:]:
                with locks.unused(folder) as unused:
                    if unused:
                        gone = folder.rename(images / f"gone-{folder.name}")
                        removed.append(folder)
                        shutil.rmtree(gone, ignore_errors=True)
    return removed


@contextmanager
def _at_once(images: Path) -> Iterator[bool]:
    """Whether nobody is at work there; not waited for, since nothing depends on it."""
    with locks.attempt(images / "work.lock") as free:
        yield free


def _spare(images: Path, keep: Collection[str]) -> list[Path]:
    """Newest first."""
    spare = [
        folder
        for folder in images.glob("?" * 64)
        if f"sha256:{folder.name}" not in keep and ID.match(f"sha256:{folder.name}")
        if folder.is_dir() and not (folder / "image.tar").exists()
    ]
    return sorted(spare, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _clear(images: Path) -> None:
    """Debris of processes that were killed: the lock is ours."""
    for debris in [*images.glob("taking-*"), *images.glob("gone-*")]:
        shutil.rmtree(debris, ignore_errors=True)


def describe(record: Record) -> dict[str, Any]:
    """For `--json`."""
    return {**asdict(record), "packages": list(record.packages)}
