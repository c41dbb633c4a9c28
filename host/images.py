"""Which image this installation uses, and having it ready: the one that NanoClaw brings, or another that the person
accepted.

The pin, `image.json` in the folder with the settings, names the accepted one by the digest of all that is in it. No
agent sees that folder. A pinned image that is gone or altered, or whose runner is of another version, is refused with
the ways out: nothing is ever used in its place that was not accepted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from host import carried, parcels
from host.config import Home
from host.engines.base import Engine
from host.errors import UserError
from host.model import Image
from host.parcels import AlteredError, Contents, Progress, Record

PIN: Final = "image.json"
MOST: Final = 64 << 10
PARCEL: Final = "image"
BACK: Final = "go back to the image that NanoClaw brings: nanoclaw image accept carried"


def brought(cache: Path) -> Image:
    """The image that NanoClaw brings: carried in the program, or built from its source."""
    about = carried.IMAGE
    if about is None:
        return parcels.current_image(cache)
    return parcels.carried_image(cache, Record(about["id"], about["build"], about["manifest"]), _open_carried)


def origin(home: Home, image: Image) -> str:
    """Where an image that is used comes from, in words."""
    if image.id != brought(home.cache).id:
        return "accepted by you"
    return "built here from source" if image.read is None else "carried in this program"


def stale(home: Home, image: Image) -> str:
    """Why an accepted image should be made again, though it works; empty if it need not be."""
    record, ours = pinned(home), brought(home.cache)
    if record is None or image.id == ours.id or record.extends in ("", ours.id):
        return ""
    return "it was made from an earlier image than the one that NanoClaw brings now, which has newer Debian packages"


def raw(image: Image) -> tuple[BinaryIO, int] | None:
    """Its xz as it lies here, and the length of that; None where it is not compressed."""
    if image.read is None:
        return None
    if image.archive.name == parcels.TAKEN_IN:
        return image.archive.open("rb"), image.archive.stat().st_size
    return _open_carried()


def read(image: Image) -> Contents:
    """What an image says of itself, at its beginning."""
    try:
        return parcels.contents_of(image)
    except AlteredError as e:
        raise parcels.damaged(image, str(e)) from None


def verify(image: Image, progress: Progress) -> None:
    """Every digest of it; `UserError` if one is wrong."""
    try:
        parcels.verify(image, progress)
    except AlteredError as e:
        raise parcels.damaged(image, str(e)) from None


def _open_carried() -> tuple[BinaryIO, int]:
    from host import bundle

    parcel = bundle.carried(PARCEL)
    if parcel is None:
        raise UserError("this program carries no sandbox image", "get the program anew", status=69)
    return bundle.open_parcel(PARCEL), parcel.length


def used(home: Home) -> Image:
    """The image that sandboxes are started from. Its records are looked at, and nothing of it is read."""
    record = pinned(home)
    ours = brought(home.cache)
    if record is None or record.id == ours.id:
        return ours
    if record.build != ours.build:
        again = "make it again for this version: nanoclaw image build --again"
        raise UserError(
            "the image that you accepted was made for another version of NanoClaw: its runner is not this one's",
            again if record.packages or record.dockerfile else "make it again for this version: nanoclaw image build …",
            BACK,
            status=69,
        )
    return parcels.taken_in(home.cache, record)


# --- the pin ----------------------------------------------------------------------------------------


def pinned(home: Home) -> Record | None:
    """What the person accepted; None: nothing, so that what NanoClaw brings is used. `UserError` for a pin that others
    could have written, or that is none."""
    path = home.config / PIN
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}", BACK) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise UserError(f"{path} is open to other users, or not yours", f"if it is right: chmod 600 {path}", BACK)
        return parcels.parse_record(os.read(fd, MOST))
    except (ValueError, TypeError) as e:
        raise UserError(f"{path} does not name an image: {e}", BACK) from None
    finally:
        os.close(fd)


def accept(home: Home, record: Record | None) -> None:
    """Use the image of `record` from now on; None: what NanoClaw brings."""
    path = home.config / PIN
    try:
        if record is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, parcels.record_bytes(record))
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}", "its folder must be writable for this once") from None


def _write(path: Path, data: bytes) -> None:
    """Complete under its name, or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # some file systems have no such thing for folders
        os.fsync(folder)
    os.close(folder)


# --- ready ------------------------------------------------------------------------------------------


def ready(engine: Engine, image: Image, progress: Progress, say: Callable[[str], None]) -> None:
    """The engine has the image, whole. What was unpacked and then altered is unpacked anew, which is said."""
    try:
        parcels.hold(image)
        if engine.wants_rootfs:
            parcels.whole_rootfs(image, progress, say)
        engine.load(image, progress)
    except AlteredError as e:
        raise parcels.damaged(image, str(e)) from None
    except OSError as e:
        raise parcels.no_room(image.archive.parent, e) from None


def tidy(home: Home, image: Image) -> None:
    """Let go of images of earlier versions; never of one that is used by some process, pinned, or brought."""
    keep = {image.id, brought(home.cache).id}
    with contextlib.suppress(UserError):
        record = pinned(home)
        keep |= {record.id} if record else set()
        parcels.prune(home.cache, keep)
