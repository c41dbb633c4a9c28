"""Where a member of a layer may go. Pure: judges names against what earlier members made, writes nothing."""

from __future__ import annotations

from typing import Final

from host.parcels.streams import AlteredError
from host.parcels.tar import FILE, FOLDER, HARD_LINK, Member

MOST: Final = 500_000
"""Members of an image, all layers together; ours has ten thousand."""
WHITEOUT: Final = ".wh."
"""A name that begins so says that the rest of it, of an earlier layer, is gone."""

MAKE, REPLACE, KEEP, REMOVE = "make", "replace", "keep", "remove"


class Tree:
    """The image so far, by what each path is. The folder it is unpacked into was empty and is nobody else's, so that
    this says of every path on the way whether it is a real folder."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {"": FOLDER}
        self._of_layer: set[str] = set()

    def begin_layer(self) -> None:
        self._of_layer = set()

    def admit(self, member: Member) -> tuple[str, str]:
        """What is to be done for it, and with which path; `AlteredError` if it leads out of the tree, through a link,
        over something of its own layer, or if a folder would be lost."""
        folder, name = self._parent(member.name), member.name.rpartition("/")[2]
        if name.startswith(WHITEOUT):
            return REMOVE, self._remove(f"{folder}/{name}".lstrip("/"), folder, name.removeprefix(WHITEOUT))
        if member.name in self._of_layer:
            raise AlteredError(f"{member.name!r} is in it twice")
        if member.kind == HARD_LINK:
            self._parent(member.target)
            if self._kinds.get(member.target) != FILE:
                raise AlteredError(f"{member.name!r} is a hard link to what is no file")
        before = self._kinds.get(member.name)
        if before == FOLDER and member.kind != FOLDER:
            raise AlteredError(f"{member.name!r} would take a folder's place")
        self._kinds[member.name] = FILE if member.kind == HARD_LINK else member.kind
        self._of_layer.add(member.name)
        if len(self._kinds) > MOST:
            raise AlteredError(f"there is more in it than {MOST} files")
        if before is None:
            return MAKE, member.name
        return (KEEP if before == member.kind == FOLDER else REPLACE), member.name

    def _parent(self, name: str) -> str:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "." in parts or "" in parts or "\0" in name:
            raise AlteredError(f"{name[:200]!r} leads out of the image")
        folder = "/".join(parts[:-1])
        if self._kinds.get(folder) != FOLDER:
            raise AlteredError(f"{name[:200]!r} leads through a link, or is in no folder")
        return folder

    def _remove(self, marker: str, folder: str, gone: str) -> str:
        path = f"{folder}/{gone}" if folder else gone
        if gone.startswith(WHITEOUT) or gone in ("", ".", "..") or path not in self._kinds or path in self._of_layer:
            raise AlteredError(f"{marker!r} removes what is not there")
        for each in [each for each in self._kinds if each == path or each.startswith(f"{path}/")]:
            del self._kinds[each]
        return path
