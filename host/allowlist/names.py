"""What may not be in a path, and what a mount may be called inside. Decides on text alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

BLOCKED: Final = (
    ".ssh", ".gnupg", ".gpg", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".env", ".netrc", ".npmrc", ".pypirc",
    ".secret", ".git-credentials", ".password-store", ".pgpass", ".vault-token", "credentials", "private_key",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519",
)  # fmt: skip
"""Where keys and passwords lie. No allowlist can allow them."""
MAX_NAME: Final = 255
"""Bytes of a file's name, on every file system."""

_GLOB: Final = re.compile(r"[*?\[]")


def blocked_by(path: str, patterns: Iterable[str]) -> str | None:
    """Why a path is closed whatever is allowed; None if it is not. Upper and lower case make no difference: on
    some file systems they lead to the same folder."""
    folded = path.casefold()
    for part in folded.split("/"):
        for name in BLOCKED:
            if part == name or part.startswith(f"{name}."):
                return f"its path holds {part!r}, a name that is never mounted"
    for pattern in patterns:
        if matches(pattern.casefold(), folded):
            return f"its path matches {pattern!r} of the allowlist's blockedPatterns"
    return None


def matches(pattern: str, path: str) -> bool:
    """A pattern without `*`, `?` or `[` matches wherever it stands in the path, as NanoClaw has always had it. One
    with them must match a whole name in the path; if it holds a slash, the path itself or one that it lies in."""
    if not _GLOB.search(pattern):
        return pattern in path
    if "/" not in pattern:
        return any(fnmatchcase(part, pattern) for part in path.split("/") if part)
    return any(fnmatchcase(str(each), pattern) for each in (PurePosixPath(path), *PurePosixPath(path).parents))


def name_fault(name: str) -> str | None:
    """Why a mount cannot be called so inside; None if it can. It becomes one component of a path that models read
    and that people see in lists."""
    if name in ("", ".", ".."):
        return f"{name!r} is no name for a folder"
    if "/" in name:
        return f"{name[:80]!r} holds a slash: it must be one name"
    if not name.isprintable():  # control characters, marks that turn the writing around, bytes that are no text
        return f"{name[:80]!r} holds a character that cannot be seen"
    if name != name.strip():
        return f"{name[:80]!r} begins or ends with a blank"
    if len(name.encode()) > MAX_NAME:
        return f"the name is over {MAX_NAME} bytes"
    return None


def same_name(a: str, b: str) -> bool:
    """Whether people, or a file system that ignores case, would take one for the other."""
    return _folded(a) == _folded(b)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
