"""What the program carries for its sandboxes: the image, where it lies in the cache, and whether it is whole.

`image/current` names the image; `image/<hex>/` holds it as a docker-archive and, for engines that take a
folder, unpacked beside it. An image's id is the digest of its config, and the config names the digest of
every layer: `unpack_rootfs` checks all of them before it writes a file, docker does when it loads them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from host.errors import UserError
from host.model import Image

Progress = Callable[[str], None]

_ID: Final = re.compile(r"sha256:([0-9a-f]{64})\Z")
_CHUNK: Final = 1 << 20
_SMALL: Final = 1 << 20
"""Most bytes of the manifest and of the config; a few hundred are usual."""
_UNPACK_WAIT: Final = 300.0
"""Seconds to wait for another process that is unpacking: a slow SD card needs one or two minutes."""

_BUILD_HINT: Final = "build it: python3 build/image/build.py (./scripts/run does so when it is missing)"


def current_image(cache: Path) -> Image:
    """The image that this installation uses, by its records alone: nothing of it is read or checked here."""
    current = cache / "image" / "current"
    match = _ID.match(_read(current, f"there is no sandbox image in {cache}").strip())
    if match is None:
        raise UserError(f"{current} does not name a sandbox image", f"remove it and {_BUILD_HINT}", status=69)
    folder = cache / "image" / match[1]
    archive = folder / "image.tar"
    if not archive.is_file():
        raise UserError(f"the sandbox image {folder} is gone", _BUILD_HINT, status=69)
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
        raise UserError(error, _BUILD_HINT, status=69) from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {path}: {e}", status=69) from None


# --- unpacking --------------------------------------------------------------------------------------


def unpack_rootfs(image: Image, progress: Progress) -> Path:
    """The image as a folder, unpacked when first needed.

    It appears under its name complete or not at all: files are written beside it, and the last step is a
    rename. A second process that wants it waits for the first.
    """
    if _is_unpacked(image):
        return image.rootfs
    with _only_one(image, progress):
        if not _is_unpacked(image):
            _unpack(image, progress)
    return image.rootfs


def _is_unpacked(image: Image) -> bool:
    return image.rootfs.is_dir() and _manifest(image).is_file()


def _manifest(image: Image) -> Path:
    return image.rootfs.with_suffix(".json")


@contextmanager
def _only_one(image: Image, progress: Progress) -> Iterator[None]:
    with image.rootfs.with_suffix(".lock").open("w") as lock:
        give_up = time.monotonic() + _UNPACK_WAIT
        for attempt in range(1_000_000):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 0:
                    progress("waiting for another NanoClaw that is unpacking the sandbox image")
                if time.monotonic() > give_up:
                    raise UserError(
                        "another process has been unpacking the sandbox image for five minutes",
                        f"see which: fuser {lock.name}",
                    ) from None
                time.sleep(0.1)
        yield


def _unpack(image: Image, progress: Progress) -> None:
    part = image.rootfs.with_suffix(".part")
    # Debris of a process that was killed, or a rootfs whose records are lost: the lock is ours.
    for debris in (part, image.rootfs):
        if debris.is_dir():
            shutil.rmtree(debris)
    try:
        with tarfile.open(image.archive, "r:") as archive:
            progress("checking the sandbox image")
            layers = _verified_layers(image, archive)
            progress("unpacking the sandbox image")
            part.mkdir(mode=0o755)
            part.chmod(0o755)  # whatever the umask: the sandbox's user may be another
            for layer in layers:
                _extract_layer(archive, layer, part)
        record = _listing(part)
    except tarfile.TarError as e:
        shutil.rmtree(part, ignore_errors=True)
        raise _altered_archive(image, str(e)) from None
    except OSError as e:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"cannot unpack the sandbox image: {e}", f"it needs 200 MB in {part.parent}") from None
    # A rename can reach the disk before the data it names: after a power cut there would be empty files.
    os.sync()
    _manifest(image).write_text(json.dumps(record, separators=(",", ":")))
    part.rename(image.rootfs)


def _verified_layers(image: Image, archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The members that are layers, each of them and the config found to be what `image.id` says."""
    manifest = _json(image, archive, "manifest.json")
    try:
        config_name, layer_names = manifest[0]["Config"], manifest[0]["Layers"]
        config_bytes = _small(archive, config_name)
        if f"sha256:{hashlib.sha256(config_bytes).hexdigest()}" != image.id:
            raise _altered_archive(image, "its config does not match its id")
        digests = json.loads(config_bytes)["rootfs"]["diff_ids"]
        layers = [archive.getmember(name) for name in layer_names]
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise _altered_archive(image, f"it lacks a part ({e})") from None
    if len(layers) != len(digests):
        raise _altered_archive(image, "layers are missing")
    for layer, digest in zip(layers, digests, strict=True):
        if f"sha256:{_sha256(archive, layer)}" != digest:
            raise _altered_archive(image, f"layer {digest[7:19]} does not match its digest")
    return layers


def _altered_archive(image: Image, how: str) -> UserError:
    return UserError(
        f"the sandbox image {image.archive} was altered or is damaged: {how}",
        f"remove it: rm -r {image.archive.parent}",
        f"then {_BUILD_HINT}",
        status=69,
    )


def _json(image: Image, archive: tarfile.TarFile, name: str) -> Any:
    try:
        return json.loads(_small(archive, name))
    except (KeyError, ValueError) as e:
        raise _altered_archive(image, f"{name}: {e}") from None


def _small(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(name)
    content = archive.extractfile(member)
    if content is None or member.size > _SMALL:
        raise ValueError(f"{name} is not a small file")
    return content.read(_SMALL)


def _sha256(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    if content is None:
        return "not a file"
    digest = hashlib.sha256()
    while data := content.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


def _extract_layer(archive: tarfile.TarFile, layer: tarfile.TarInfo, root: Path) -> None:
    content = archive.extractfile(layer)
    assert content is not None
    folders: list[tuple[Path, int]] = []
    with tarfile.open(fileobj=content, mode="r|") as tar:
        for member in tar:
            path = _place(root, member.name)
            if member.isdir():
                if path.is_symlink():
                    raise tarfile.ExtractError(f"{member.name} is a link in an earlier layer")
                path.mkdir(exist_ok=True)
                folders.append((path, int(member.mtime)))
                path.chmod(member.mode & 0o1777)
            elif member.issym():
                path.symlink_to(member.linkname)
                os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
            elif member.islnk():
                path.hardlink_to(_place(root, member.linkname))
            elif member.isreg():
                _extract_file(tar, member, path)
            else:
                raise tarfile.ExtractError(f"{member.name} is a device or a pipe")
    # Last, since every new file changes its folder's time. A folder's time then tells of files added later.
    for path, mtime in reversed(folders):
        os.utime(path, (mtime, mtime))


def _extract_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None
    with path.open("xb") as f:
        shutil.copyfileobj(content, f, _CHUNK)
        os.fchmod(f.fileno(), member.mode & 0o777)  # no set-uid bit, whatever the archive says
    os.utime(path, (member.mtime, member.mtime))


def _place(root: Path, name: str) -> Path:
    """Where a member goes. Its parents are real folders of this very tree: no `..`, no way through a link."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "" in parts:
        raise tarfile.ExtractError(f"{name!r} leads out of the image")
    path = root
    for part in parts[:-1]:
        path = path / part
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise tarfile.ExtractError(f"{name!r} leads through a link")
    return path / parts[-1]


# --- checking ---------------------------------------------------------------------------------------


def check_rootfs(image: Image) -> None:
    """Compare the unpacked image with what was unpacked: names, kinds, modes, owners, sizes, times, links.

    Contents are not read (that takes seconds on a Pi); a file cannot be written to without a new time
    unless someone resets it, and who can do that in the cache is the user.
    """
    hint = f"remove it, it will be unpacked anew: rm -r {image.rootfs}"
    if not _is_unpacked(image):
        raise UserError(f"the sandbox image is not unpacked in {image.rootfs}", "start NanoClaw again", status=69)
    try:
        expected = json.loads(_manifest(image).read_text())
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {_manifest(image)}: {e}", hint, status=69) from None
    found = _listing(image.rootfs)
    if found != expected:
        why = _difference(expected, found)
        raise UserError(f"the sandbox image in {image.rootfs} was altered: {why}", hint, status=69)


def _listing(root: Path) -> dict[str, list[int | str]]:
    """Every path beneath `root` → [mode, owner, group, mtime, and a file's size or a link's target]."""
    found: dict[str, list[int | str]] = {}
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                status = entry.stat(follow_symlinks=False)
                facts: list[int | str] = [status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns]
                if entry.is_symlink():
                    facts.append(str(Path(entry.path).readlink()))
                elif entry.is_dir():
                    pending.append(name)
                else:
                    facts.append(status.st_size)
                found[name] = facts
    return found


def _difference(expected: Any, found: dict[str, list[int | str]]) -> str:
    if not isinstance(expected, dict):
        return "its records are not a listing"
    if added := sorted(found.keys() - expected.keys()):
        return f"{added[0]} was added"
    if gone := sorted(expected.keys() - found.keys()):
        return f"{gone[0]} is gone"
    return f"{min(name for name in found if found[name] != expected[name])} was changed"
