"""`mount-allowlist.json`: read whole, checked whole. One thing wrong with it, and no extra folder is mounted.

::

    {"allowedRoots": [{"path": "~/projects", "allowReadWrite": true, "description": "…"}],
     "blockedPatterns": ["secret", "*.key"],
     "nonMainReadOnly": true}

Keys that are not known are left alone: people write notes into such files.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.errors import UserError

FILE: Final = "mount-allowlist.json"
"""Its name in the config folder."""
MAX_FILE: Final = 256 * 1024
MAX_ROOTS: Final = 200
MAX_PATTERNS: Final = 500
MAX_PATH: Final = 4096
MAX_PATTERN: Final = 4096
MAX_DESCRIPTION: Final = 1000

ROOTS: Final = "allowedRoots"
PATTERNS: Final = "blockedPatterns"
OTHERS_READ_ONLY: Final = "nonMainReadOnly"
_KEYS: Final = (ROOTS, PATTERNS, OTHERS_READ_ONLY)
_ROOT_KEYS: Final = ("path", "allowReadWrite", "description")


@dataclass(frozen=True)
class Root:
    """One entry: a folder, and all in it, may be mounted."""

    path: str
    """As the file has it: absolute, or beginning with `~`."""
    rw: bool = False
    description: str = ""

    @property
    def expanded(self) -> str:
        """With the home folder in the place of `~`."""
        return os.path.expanduser(self.path)  # noqa: PTH111 (Path would drop what tells `/a/.` from `/a`)

    @property
    def real(self) -> str | None:
        """The folder that it is today, free of links; None if there is none."""
        try:
            return os.path.realpath(self.expanded, strict=True)
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class Allowlist:
    """What the file says, at the moment it was read."""

    file: Path
    roots: tuple[Root, ...] = ()
    """The first that a folder lies in decides."""
    blocked: tuple[str, ...] = ()
    others_read_only: bool = True
    """Whether groups other than main may only ever read."""
    error: str = ""
    """Why nothing at all is allowed; empty where the file is in order."""
    missing: bool = False

    @classmethod
    def load(cls, path: Path) -> Allowlist:
        """Never raises for a bad file: it is an allowlist that allows nothing, and says why."""
        try:
            return parse(path, read(path))
        except FileNotFoundError:
            return cls(path, error=f"there is no allowlist: {path} does not exist", missing=True)
        except UserError as e:
            return cls(path, error=f"{path} {e}")


def read(path: Path) -> str:
    """The text of a file that is only the person's to write. `UserError` goes on where the file's name ended;
    `FileNotFoundError` if there is none."""
    try:
        # Not through a link, and below not with a second name: either could lead into a folder that an agent
        # can write, and the agent would decide what it may see.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as e:
        if path.is_symlink():
            raise UserError("is a symbolic link: put the file itself there") from e
        raise UserError(f"cannot be read: {e.strerror}") from e
    try:
        _check_status(path, os.fstat(fd))
        raw = b""
        while len(raw) <= MAX_FILE and (piece := os.read(fd, MAX_FILE + 1)):
            raw += piece
    except OSError as e:
        raise UserError(f"cannot be read: {e.strerror}") from e
    finally:
        os.close(fd)
    if len(raw) > MAX_FILE:
        raise UserError(f"is over {MAX_FILE // 1024} KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"is not UTF-8 text (byte {e.start})") from e


def _check_status(path: Path, opened: os.stat_result) -> None:
    if not stat.S_ISREG(opened.st_mode):
        raise UserError("is not a regular file")
    if opened.st_uid != os.geteuid():
        raise UserError(f"belongs to user {opened.st_uid}, and you are user {os.geteuid()}")
    if opened.st_nlink != 1:
        raise UserError(f"has {opened.st_nlink} names (hard links): make it a file of its own")
    if opened.st_mode & 0o022:
        mode = stat.S_IMODE(opened.st_mode)
        raise UserError(f"can be written by others (mode {mode:04o}): chmod 600 {shlex.quote(str(path))}")


# --- text → Allowlist -----------------------------------------------------------------------------------


def parse(path: Path, text: str) -> Allowlist:
    """`UserError` says the first thing that is wrong with it."""
    document = load_document(text)
    for key in _KEYS:
        if key not in document:
            raise UserError(f"has no {key}{_near(key, document)}")
    roots, patterns, others = (document[key] for key in _KEYS)
    _refuse_misspelt("", document, _KEYS)
    if not isinstance(roots, list):
        raise UserError(f"has {ROOTS} that is {_kind(roots)}, not a list")
    if not isinstance(patterns, list):
        raise UserError(f"has {PATTERNS} that is {_kind(patterns)}, not a list")
    if not isinstance(others, bool):
        raise UserError(f"has {OTHERS_READ_ONLY} that is {_kind(others)}, not true or false")
    if len(roots) > MAX_ROOTS or len(patterns) > MAX_PATTERNS:
        raise UserError(f"has over {MAX_ROOTS} {ROOTS}, or over {MAX_PATTERNS} {PATTERNS}")
    return Allowlist(
        path,
        tuple(_root(f"{ROOTS}[{i}]", item) for i, item in enumerate(roots)),
        tuple(_pattern(f"{PATTERNS}[{i}]", item) for i, item in enumerate(patterns)),
        others,
    )


def load_document(text: str) -> dict[str, Any]:
    """The JSON object as it is. `UserError` if it is none."""
    if text.startswith("\ufeff"):
        raise UserError("begins with a byte order mark: save it as plain UTF-8")
    if not text.strip():
        raise UserError("is empty")
    try:
        document = json.loads(text, object_pairs_hook=_once_each)
    except RecursionError as e:
        raise UserError("is nested too deeply") from e
    except ValueError as e:
        raise UserError(f"is not valid JSON: {e}") from e
    if not isinstance(document, dict):
        raise UserError(f"is {_kind(document)}, not an object in braces")
    return document


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values counts differs from reader to reader: neither does."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f"has {key[:60]!r} twice")
        found[key] = value
    return found


def _refuse_misspelt(where: str, document: dict[str, Any], known: tuple[str, ...]) -> None:
    """A key that differs from a known one in upper and lower case alone was meant to be that one."""
    for key in document:
        for name in known:
            if key != name and key.lower() == name.lower():
                raise UserError(f"has {where}{key!r}: it is spelt {name}")


def _near(wanted: str, document: dict[str, Any]) -> str:
    found = [key for key in document if key.lower() == wanted.lower()]
    return f" ({found[0][:60]!r} is spelt {wanted})" if found else ""


def _root(where: str, item: Any) -> Root:
    if not isinstance(item, dict):
        raise UserError(f"has {where} that is {_kind(item)}, not an object with a path")
    _refuse_misspelt(f"{where}.", item, _ROOT_KEYS)
    if "path" not in item:
        raise UserError(f"has {where} without a path")
    path, rw, description = item["path"], item.get("allowReadWrite", False), item.get("description", "")
    if not isinstance(path, str):
        raise UserError(f"has {where}.path that is {_kind(path)}, not text")
    if reason := _path_fault(path):
        raise UserError(f"has {where}.path {_shown(path)}, which {reason}")
    if not isinstance(rw, bool):
        raise UserError(f"has {where}.allowReadWrite that is {_kind(rw)}, not true or false")
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION:
        raise UserError(f"has {where}.description that is not text of at most {MAX_DESCRIPTION} characters")
    return Root(path, rw, description)


def _path_fault(path: str) -> str:
    if not path:
        return "is empty"
    if len(path) > MAX_PATH:
        return f"is over {MAX_PATH} characters"
    if "\0" in path or any("\ud800" <= c <= "\udfff" for c in path):
        return "holds a character that no path can"
    if not Root(path).expanded.startswith("/"):
        return "names no home folder that is there" if path.startswith("~") else "is not absolute"
    return ""


def _pattern(where: str, item: Any) -> str:
    if not isinstance(item, str):
        raise UserError(f"has {where} that is {_kind(item)}, not text")
    if not item.strip():
        raise UserError(f"has {where} that is empty: it would match everything")
    if len(item) > MAX_PATTERN:
        raise UserError(f"has {where} of over {MAX_PATTERN} characters")
    if item.startswith("~/"):
        return os.path.expanduser(item)  # noqa: PTH111
    return item


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
