"""Changing the allowlist for the person at the terminal: the file is rewritten whole, and what it holds besides,
descriptions and notes, stays as it was."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.allowlist.file import OTHERS_READ_ONLY, PATTERNS, ROOTS, Allowlist, Root, load_document, parse, read
from host.allowlist.judge import leads_to
from host.allowlist.names import blocked_by
from host.allowlist.protected import is_beneath
from host.errors import UserError

EMPTY: Final[dict[str, Any]] = {ROOTS: [], PATTERNS: [], OTHERS_READ_ONLY: True}
"""What the first `allow` begins with: the same as NanoClaw's own set-up."""


@dataclass(frozen=True)
class Change:
    """What was done to the file, and what then holds."""

    done: tuple[str, ...]
    """In sentences; empty: nothing was changed."""
    allowlist: Allowlist


def allow(file: Path, path: str, *, rw: bool) -> Change:
    """Have folders in `path` (absolute) be mountable, to write only with `rw`."""
    return _change(file, lambda document, before: _allow(document, before, path, rw))


def deny(file: Path, path: str) -> Change:
    """Have neither `path` (absolute) nor what lies in it be mountable, whatever else is."""
    return _change(file, lambda document, before: _deny(document, before, path))


def _allow(document: dict[str, Any], before: Allowlist, path: str, rw: bool) -> list[str]:
    done = []
    own = _own_patterns(path)
    if any(pattern in own for pattern in document[PATTERNS]):
        document[PATTERNS] = [pattern for pattern in document[PATTERNS] if pattern not in own]
        done.append(f"took {path} off {PATTERNS}")
    if reason := blocked_by(leads_to(path), [pattern for pattern in before.blocked if pattern not in own]):
        raise UserError(f"{path} would not be mounted all the same: {reason}", f"the patterns are in {before.file}")
    access = "to read and to write" if rw else "read-only"
    same = [i for i, root in enumerate(before.roots) if _same_folder(root, path)]
    first = _first_over(before, path)
    if same and (first is None or first == same[0]):
        entry = document[ROOTS][same[0]]
        if entry.get("allowReadWrite", False) != rw:
            entry["allowReadWrite"] = rw
            done.append(f"{path} was on the list, and is now {access}")
        return done
    if not same and first is not None and before.roots[first].rw == rw:
        return done  # that entry permits just this
    # In front of the entry that would have decided: the first one that a folder lies in does.
    document[ROOTS] = [each for i, each in enumerate(document[ROOTS]) if i not in same]
    document[ROOTS].insert(len(document[ROOTS]) if first is None else first, {"path": path, "allowReadWrite": rw})
    return [*done, f"{path}, and all that lies in it, can now be mounted {access}"]


def _deny(document: dict[str, Any], before: Allowlist, path: str) -> list[str]:
    done = []
    gone = [i for i, root in enumerate(before.roots) if _same_folder(root, path)]
    if gone:
        document[ROOTS] = [each for i, each in enumerate(document[ROOTS]) if i not in gone]
        done.append(f"took {path} off {ROOTS}")
    left = [root for i, root in enumerate(before.roots) if i not in gone]
    real = leads_to(path)
    over = next((root for root in left if root.real and (real == root.real or is_beneath(real, root.real))), None)
    if over is not None and not blocked_by(real, before.blocked):
        # A folder in one that stays allowed: only a pattern can take it out of there.
        document[PATTERNS] = [*document[PATTERNS], _pattern_for(real)]
        done.append(f"put it on {PATTERNS}, because it lies in {over.path}, which stays allowed")
    within = [root.path for root in left if root.real and is_beneath(root.real, real)]
    if within and done:
        done.append(f"what lies in it and stays allowed by an entry of its own: {', '.join(within)}")
    return done


def _pattern_for(real: str) -> str:
    """How `deny` writes a folder: as it is called, but if others lie beside it whose names begin so, in the form of
    a glob, which they do not match."""
    parent, _, name = real.rpartition("/")
    try:
        beside = [other.name.casefold() for other in Path(parent or "/").iterdir() if other.name != name]
    except OSError:
        beside = []
    return (_exact if any(other.startswith(name.casefold()) for other in beside) else glob.escape)(real)


def _exact(path: str) -> str:
    parent, _, name = path.rpartition("/")
    at = next((i for i, c in enumerate(name) if c.isalnum()), None)
    if at is None or glob.escape(path) != path:  # the latter is a glob already
        return glob.escape(path)
    return f"{parent}/{name[:at]}[{name[at]}]{name[at + 1 :]}"


def _own_patterns(path: str) -> set[str]:
    """All ways in which `deny` may have written a folder."""
    return {form(each) for form in (glob.escape, _exact) for each in (path, leads_to(path))}


def _same_folder(root: Root, path: str) -> bool:
    written = os.path.normpath(root.expanded)
    return written == os.path.normpath(path) or (root.real is not None and root.real == leads_to(path))


def _first_over(before: Allowlist, path: str) -> int | None:
    real = leads_to(path)
    for i, root in enumerate(before.roots):
        if root.real and (real == root.real or is_beneath(real, root.real)):
            return i
    return None


# --- the file -------------------------------------------------------------------------------------------


def _change(file: Path, edit: Callable[[dict[str, Any], Allowlist], list[str]]) -> Change:
    with _alone(file.parent):
        try:
            text = read(file)
        except FileNotFoundError:
            text = json.dumps(EMPTY)
        except UserError as e:
            raise UserError(f"{file} {e}", "it is not touched as it is") from e
        try:
            before, document = parse(file, text), load_document(text)
        except UserError as e:
            raise UserError(f"{file} {e}", "mend it by hand, or move it away: it is not rewritten as it is") from e
        try:
            done = edit(document, before)
        except ValueError as e:
            raise UserError(str(e)) from e
        if not done:
            return Change((), before)
        changed = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        after = parse(file, changed)  # what could not be read back is not written
        _write(file, changed.encode())
        return Change(tuple(done), after)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two commands at once must not lose each other's change."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as stream:  # noqa: PTH123 (it is a descriptor)
            os.fchmod(fd, 0o600)
            stream.write(data)
            stream.flush()
            os.fsync(fd)
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{file} cannot be written: {e.strerror}") from e
