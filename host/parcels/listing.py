"""Whether an unpacked image is as it was unpacked: by a listing written down then. No contents are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from host.errors import UserError
from host.model import Image

Listing = dict[str, list[int | str]]


def manifest(image: Image) -> Path:
    return image.rootfs.with_suffix(".json")


def is_unpacked(image: Image) -> bool:
    return image.rootfs.is_dir() and manifest(image).is_file()


def check_rootfs(image: Image) -> None:
    """Compare the unpacked image with what was unpacked: names, kinds, modes, owners, sizes, times, links.

    Contents are not read (that takes seconds on a Pi); a file cannot be written to without a new time
    unless someone resets it, and who can do that in the cache is the user.
    """
    hint = f"remove it, it will be unpacked anew: rm -r {image.rootfs}"
    if not is_unpacked(image):
        raise UserError(f"the sandbox image is not unpacked in {image.rootfs}", "start NanoClaw again", status=69)
    if why := altered(image):
        raise UserError(f"the sandbox image in {image.rootfs} was altered: {why}", hint, status=69)


def altered(image: Image) -> str:
    """What is not as it was unpacked; empty if all is."""
    try:
        expected = json.loads(manifest(image).read_bytes())
        found = listing(image.rootfs)
    except (OSError, ValueError) as e:
        return f"its records cannot be read ({e})"
    return "" if found == expected else _difference(expected, found)


def listing(root: Path) -> Listing:
    """Every path beneath `root` → [mode, owner, group, mtime, and a file's size or a link's target]."""
    found: Listing = {}
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


def _difference(expected: Any, found: Listing) -> str:
    if not isinstance(expected, dict):
        return "its records are not a listing"
    if added := sorted(found.keys() - expected.keys()):
        return f"{added[0]} was added"
    if gone := sorted(expected.keys() - found.keys()):
        return f"{gone[0]} is gone"
    return f"{min(name for name in found if found[name] != expected[name])} was changed"
