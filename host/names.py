"""Folders' names of groups: which may be used, and which would be taken for another. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from host.model import FOLDER, RESERVED_FOLDERS

# Characters, and pairs, that many a font shows alike. Compared in lower case, where I is i and so like l and 1.
_ALIKE: Final = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("1", "l"), ("i", "l"), ("0", "o"), ("-", "_"))


def skeleton(folder: str) -> str:
    """What the name looks like: two names with one skeleton cannot be told apart at a glance."""
    looks = folder.lower()
    for seen, like in _ALIKE:
        looks = looks.replace(seen, like)
    return looks


def refusal(folder: str, taken: Iterable[str]) -> str | None:
    """Why a new group cannot have this folder; None if it can."""
    if not FOLDER.fullmatch(folder):
        if not folder:
            return "'' cannot be a group's folder: the name is empty"
        rule = "use letters, digits, - and _, at most 64, and begin with a letter or digit"
        return f"{folder[:80]!r} cannot be a group's folder: {rule}"
    if folder.lower() in RESERVED_FOLDERS:
        return f"{folder!r} is a name that NanoClaw uses itself; so are {', '.join(sorted(RESERVED_FOLDERS))}"
    for other in taken:
        if other.lower() == folder.lower():
            return f"there is a group {other} already (upper and lower case make no difference)"
        if skeleton(other) == skeleton(folder):
            return f"{folder} looks like the group {other}: choose a name that nobody takes for another"
    return None
