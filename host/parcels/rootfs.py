"""The image as a folder, for engines that take one: from the archive straight to its files, in one pass.

It appears under its name complete or not at all: files are written beside it, every digest is checked as they pass,
and the last step is a rename. A second process that wants it waits for the first.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.model import Image
from host.parcels import locks, tree
from host.parcels.archive import Layer, Walk, opened
from host.parcels.listing import altered, check_rootfs, is_unpacked, listing, manifest
from host.parcels.streams import CHUNK, AlteredError, Percent, Progress
from host.parcels.tar import FOLDER, HARD_LINK, LINK, Member, Reader

BUILD_HINT: Final = "build it: python3 build/image/build.py (./scripts/run does so when it is missing)"


def unpack_rootfs(image: Image, progress: Progress) -> Path:
    """Unpacked when first needed, and not looked at again after that."""
    if not is_unpacked(image):
        locks.hold(image)
        with locks.unpacking(image, progress):
            if not is_unpacked(image):
                _unpack(image, progress)
    return image.rootfs


def whole_rootfs(image: Image, progress: Progress, say: Callable[[str], None]) -> Path:
    """Unpacked, and as it was unpacked: where something changed it since, it is unpacked anew, which is said."""
    unpack_rootfs(image, progress)
    if not altered(image):
        return image.rootfs
    locks.hold(image)
    with locks.unpacking(image, progress):
        if why := altered(image):  # else another process has mended it while we waited
            say(f"the unpacked sandbox image was altered ({why}): it is unpacked anew")
            _unpack(image, progress)
    check_rootfs(image)
    return image.rootfs


def _unpack(image: Image, progress: Progress) -> None:
    part = image.rootfs.with_suffix(".part")
    # Debris of a process that was killed, or a rootfs whose records are lost: the lock is ours.
    manifest(image).unlink(missing_ok=True)
    for debris in (part, image.rootfs):
        if debris.is_dir():
            shutil.rmtree(debris)
    try:
        _write(image, part, progress)
        record = json.dumps(listing(part), separators=(",", ":"))
        # A rename can reach the disk before the data it names: after a power cut there would be empty files.
        os.sync()
        manifest(image).write_text(record)
        part.rename(image.rootfs)
    except AlteredError as e:
        raise damaged(image, str(e)) from None
    except OSError as e:
        raise no_room(part.parent, e) from None
    finally:
        if part.exists():
            shutil.rmtree(part, ignore_errors=True)


def damaged(image: Image, how: str) -> UserError:
    """`AlteredError`, for the person, with the way out that there is."""
    what = f"the sandbox image {image.archive} was altered or is damaged: {how}"
    if image.read is None:
        return UserError(what, f"remove it: rm -r {image.archive.parent}", f"then {BUILD_HINT}", status=69)
    if image.archive.name == TAKEN_IN:
        return UserError(what, *WAYS_OUT, status=69)
    return UserError(
        f"the sandbox image within the program was altered or is damaged: {how}", "get the program anew", status=69
    )


TAKEN_IN: Final = "image.tar.xz"
"""What the archive of an image is called that came from a file, or was made by `nanoclaw image build`."""
WAYS_OUT: Final = (
    "take it in again: nanoclaw image load FILE --accept (or make it again: nanoclaw image build --again)",
    "or go back to the one that NanoClaw brings: nanoclaw image accept carried",
)


def no_room(folder: Path, e: OSError) -> UserError:
    """A full disk is told as what it is, with what there is."""
    if e.errno not in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"cannot unpack the sandbox image: {e}", f"it needs 200 MB in {folder}")
    free = shutil.disk_usage(folder).free // 1_000_000
    return UserError(
        f"there is no room for the sandbox image in {folder}: it needs about 200 MB, and {free} MB are free",
        "make room there, or keep the cache on another disk: XDG_CACHE_HOME=DIR, or --home DIR",
    )


def _write(image: Image, part: Path, progress: Progress) -> None:
    stream = opened(image)
    try:
        part.mkdir(mode=0o755)
        part.chmod(0o755)  # whatever the umask: the sandbox's user may be another
        unpacker = _Unpacker(part, Percent(progress, "unpacking the sandbox image"), stream.portion)
        for layer in Walk(stream.read, image.id):
            unpacker.layer(layer)
        unpacker.finish()
    finally:
        stream.close()


class _Unpacker:
    def __init__(self, root: Path, percent: Percent, portion: Callable[[], float]) -> None:
        self._root = root
        self._percent, self._portion = percent, portion
        self._tree = tree.Tree()
        self._folders: dict[str, int] = {}

    def layer(self, layer: Layer) -> None:
        self._tree.begin_layer()
        reader = Reader(layer.read)
        for member in reader:
            self._percent(self._portion())
            action, name = self._tree.admit(member)
            path = self._root / name
            if action == tree.REMOVE:
                self._remove(name, path)
                continue
            if action == tree.REPLACE:
                path.unlink()
            _make(member, path, self._root, reader)
            if member.kind == FOLDER:
                self._folders[name] = member.mtime

    def _remove(self, name: str, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            self._folders = {n: t for n, t in self._folders.items() if n != name and not n.startswith(f"{name}/")}
        else:
            path.unlink()

    def finish(self) -> None:
        # Last, since every new file changes its folder's time. A folder's time then tells of files added later.
        for name, mtime in self._folders.items():
            os.utime(self._root / name, (mtime, mtime))


def _make(member: Member, path: Path, root: Path, reader: Reader) -> None:
    if member.kind == FOLDER:
        path.mkdir(exist_ok=True)
        path.chmod(member.mode & 0o1777)
    elif member.kind == LINK:
        path.symlink_to(member.target)
        os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
    elif member.kind == HARD_LINK:
        path.hardlink_to(root / member.target)
    else:
        with path.open("xb", buffering=0) as f:
            while data := reader.read(CHUNK):
                f.write(data)
            os.fchmod(f.fileno(), member.mode & 0o777)  # no set-uid bit, whatever the archive says
        os.utime(path, (member.mtime, member.mtime))
