"""Folders of the machine that a group wishes for, and the allowlist that is to keep it from most of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from host.engines.base import run, sandbox_user
from host.errors import EngineError
from host.model import Mount, Spec
from host.pool import identity

INNER: Final = "within/inner"
MOUNT_SECONDS: Final = 10.0
BAD_LIST: Final = "bad-list"
"""The wish that is made again under an allowlist that is not in order."""
FINE: Final = "fine"
"""The wish that is granted: had it not been, refusals would prove nothing."""
TARGET: Final = "/workspace/extra/"


class Shelf:
    """Made on the drill's ground, with what may be given and what lies beside it."""

    def __init__(self, folder: Path, canary: str) -> None:
        """`canary`: what lies in all that no group is to be given."""
        self.folder, self._canary = folder, canary
        self.open = self.folder / "open"
        self.fine = self.open / "fine"
        """What may be given. Not all that is permitted: in there a file system may be mounted, which is not."""
        self.closed = self.folder / "closed"
        self.writable = self.folder / "writable"
        self.others = self.folder / "others"
        self.mounted = False
        """Whether a file system of its own is in one of the folders: only root can do that."""

    def build(self) -> None:
        for place in (self.open, self.closed, self.writable, self.others, self.folder / "open-beside"):
            self._make(place)
        for place in (
            self.fine,
            self.open / ".ssh",
            self.open / INNER,
            self.open / "not-asked",
            self.writable / "inside",
        ):
            self._make(place)
        for place in (self.closed, self.folder / "open-beside", self.open / ".ssh", self.writable / "inside"):
            self._write(place / "notes.txt", self._canary)
        self._write(self.fine / "notes.txt", "for all")
        (self.open / "link").symlink_to(self.closed)
        # Written into a mount option without quotes, it would end there, and another source would follow.
        odd = self._odd_name()
        self._make(odd)
        self._write(odd / "notes.txt", "for all")
        if os.getuid() == 0:
            inner = str(self.open / INNER)
            self.mounted = run(("mount", "-t", "tmpfs", "-o", "mode=1777,size=64k", "nanoclaw-drill", inner),
                               MOUNT_SECONDS).status == 0  # fmt: skip

    def close(self) -> None:
        if self.mounted:
            unmount(self.folder)

    def _odd_name(self) -> Path:
        return Path(f"{self.open}/odd,source={self.closed}")

    def _make(self, place: Path) -> None:
        place.mkdir(mode=0o755, parents=True)
        os.chown(place, *sandbox_user())

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text + "\n")
        file.chmod(0o644)

    # --- what is allowed, and what is wished for ---------------------------------------------------------

    def allowlist(self, home: Path) -> str:
        """`home`: of a NanoClaw, whose own folders it permits, in vain."""
        roots = [(self.open, False), (self.writable, True), (self.others, True), (home, False), (Path("/proc"), False)]
        record = {
            "allowedRoots": [
                {"path": str(path), "allowReadWrite": rw, "description": "the drill's"} for path, rw in roots
            ],
            "blockedPatterns": [],
            "nonMainReadOnly": True,
        }
        return json.dumps(record)

    def bad_allowlist(self) -> str:
        """The same for a hasty eye: a root that is no object, behind one that is."""
        return json.dumps({"allowedRoots": [{"path": str(self.open), "allowReadWrite": True}, str(self.open)],
                           "blockedPatterns": [], "nonMainReadOnly": False})  # fmt: skip

    def wishes(self, home: Path, engine: str) -> list[dict[str, Any]]:
        """As a group's setting; the group is not main."""
        paths: Mapping[str, tuple[str, bool]] = {
            FINE: (str(self.fine), False),
            "elsewhere": (str(self.closed), False),
            "dotdot": (f"{self.open}/../closed", False),
            "link": (f"{self.open}/link", False),
            "beside": (f"{self.folder}/open-beside", False),
            "blocked": (f"{self.open}/.ssh", False),
            "inside-writable": (f"{self.writable}/inside", False),
            "own-data": (f"{home}/data", False),
            "own-config": (f"{home}/config", False),
            "kernel": ("/proc", False),
            "odd-name": (str(self._odd_name()), False),
            "../elsewhere": (str(self.fine), False),
            "not-main": (str(self.others), True),
            "not-asked": (f"{self.open}/not-asked", False),
            "within": (f"{self.open}/within", False),
        }
        # Apple's program cannot be told to mount such a name at all, and the whole turn is refused.
        odd = {"odd-name"} if engine == "container" else set()
        return [{"path": path, "name": name, "rw": rw} for name, (path, rw) in paths.items() if name not in odd]

    def bad_wishes(self) -> list[dict[str, Any]]:
        return [{"path": str(self.fine), "name": BAD_LIST, "rw": False}]

    def careless(self, spec: Spec) -> Spec:
        """The spec with all that was wished for, as it comes from a host that asks no questions. Where that would be
        a folder of the machine's own, the drill's stands in."""
        names = ("elsewhere", "dotdot", "link", "beside", "blocked", "inside-writable", "own-data", "own-config",
                 "kernel", "odd-name", BAD_LIST)  # fmt: skip
        mounts = [Mount(self.closed, TARGET + name, True, identity(self.closed)) for name in names]
        mounts.append(Mount(self.fine, "/workspace/elsewhere", True, identity(self.fine)))
        for name, place in (("not-main", self.others), ("not-asked", self.open / "not-asked"),
                            ("within", self.open / "within")):  # fmt: skip
            mounts.append(Mount(place, TARGET + name, False, identity(place)))
        return replace(spec, mounts=(*spec.mounts, *mounts))

    def swapped(self, spec: Spec) -> Spec:
        """A spec with a folder that was judged, and exchanged for a link after that."""
        judged = self.folder / "swapped"
        self._make(judged)
        mount = Mount(judged, f"{TARGET}swapped", True, identity(judged))
        judged.rename(self.folder / "swapped-as-it-was")
        judged.symlink_to(self.closed)
        return replace(spec, mounts=(*spec.mounts, mount))


def unmount(folder: Path) -> None:
    """Take away what a shelf in this folder had mounted."""
    with contextlib.suppress(EngineError):
        run(("umount", "--lazy", str(folder / "open" / INNER)), MOUNT_SECONDS)
