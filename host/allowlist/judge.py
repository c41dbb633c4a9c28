"""May this folder be mounted, as what, and how? One answer, with its reason, and the folder itself, open."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final

from host.allowlist.file import MAX_PATH, Allowlist, Root
from host.allowlist.names import blocked_by, name_fault, same_name
from host.allowlist.opened import Held, mounts_in, open_beneath, path_of
from host.allowlist.protected import Protected, is_beneath
from host.model import MountWish

TARGET: Final = "/workspace/extra/"
"""Where extra folders are in the sandbox."""
CHANGED: Final = "its path changed while it was looked at"


@dataclass(frozen=True)
class Verdict:
    """`with judge(…) as verdict:` lets go of the folder at the end; so does `close`."""

    allowed: bool
    reason: str
    """For a person, whether it is allowed or not."""
    real_path: str | None = None
    """Where the path leads, free of links; None where that could not be told."""
    target: str = ""
    """Where it would be in the sandbox; empty if it cannot be called so."""
    readonly: bool = True
    identity: tuple[int, int] | None = None
    """(st_dev, st_ino) of what was judged, where it is allowed."""
    held: Held | None = field(default=None, repr=False, compare=False)

    @property
    def fd(self) -> int:
        """The folder that was judged, open as long as it is held; -1 if there is none."""
        return -1 if self.held is None else self.held.fd

    def close(self) -> None:
        if self.held is not None:
            self.held.close()

    def __enter__(self) -> Verdict:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def judge(
    allowlist: Allowlist,
    path: str,
    *,
    rw: bool,
    is_main: bool,
    name: str | None,
    protected: Protected,
    taken: Collection[str] = (),
) -> Verdict:
    """`path`: absolute, or beginning with `~`. `name`: what it is to be called inside, None for its own name.
    `taken`: what the group's other mounts are called."""
    if allowlist.error:
        return Verdict(False, allowlist.error)
    name = own_name(path) if name is None else name
    if fault := name_fault(name):
        return Verdict(False, f"it cannot be called so inside: {fault}")
    asked = Verdict(True, "", target=TARGET + name)
    if other := next((each for each in taken if same_name(each, name)), None):
        return _refused(asked, f"the group has another mount that is called {other!r} inside")
    try:
        real = leads_to(path)
        root = rule_for(allowlist, real)
        if root is None:
            # One answer for all that lies elsewhere, whether it is there or not: an agent may be asking.
            return _refused(asked, f"it lies in no folder that the allowlist permits ({allowlist.file})")
        check_folder(path, real)
    except ValueError as e:
        return _refused(asked, str(e))
    readonly, access = _access(allowlist, root, rw=rw, is_main=is_main)
    permitted = f"it lies in {root.path}, which the allowlist permits; {access}"
    verdict = replace(asked, reason=permitted, real_path=real, readonly=readonly)
    reason = closed(allowlist, real, protected, rw=not readonly)
    return _refused(verdict, reason) if reason else _opened(root, verdict)


def closed(allowlist: Allowlist, real: str, protected: Protected, *, rw: bool) -> str | None:
    """Why no rule can permit this folder; None if one can."""
    return protected.refusal(real, rw=rw) or blocked_by(real, allowlist.blocked)


def own_name(path: str) -> str:
    """What a folder is called inside unless something else is asked for: by its own name, as it was written."""
    last = os.path.basename(path.rstrip("/"))  # noqa: PTH119 (Path would take `..` for a name)
    if last in ("", ".", "..") or last.startswith("~"):
        with contextlib.suppress(ValueError):
            last = os.path.basename(leads_to(path))  # noqa: PTH119
    return last


def leads_to(path: str) -> str:
    """The path free of links, as far as it exists. `ValueError` says why it is no path."""
    if "\0" in path or not _is_text(path):
        raise ValueError("its path is not UTF-8 text")
    if len(path) > MAX_PATH:
        raise ValueError(f"its path is over {MAX_PATH} characters")
    written = os.path.expanduser(path)  # noqa: PTH111
    if not written.startswith("/"):
        raise ValueError(f"{printable(path)} is not an absolute path")
    try:
        return os.path.realpath(written)
    except OSError as e:  # what was a link when it looked was none any more when it read it
        raise ValueError(CHANGED) from e


def check_folder(path: str, real: str) -> None:
    """That `real`, to which `path` leads, is a folder there and now. `ValueError` says what it is instead."""
    try:
        kind = os.lstat(real).st_mode
    except FileNotFoundError:
        raise ValueError(f"{printable(path)} does not exist") from None
    except OSError as e:
        raise ValueError(f"{printable(path)} cannot be looked at: {e.strerror}") from e
    if stat.S_ISLNK(kind):  # `realpath` leaves those that lead in a circle
        raise ValueError(f"{printable(path)} leads in a circle")
    if not stat.S_ISDIR(kind):
        what = "a file" if stat.S_ISREG(kind) else "no folder"
        raise ValueError(f"{printable(path)} is {what}: only folders are mounted")
    if not _is_text(real):
        raise ValueError(f"{printable(path)} leads to a path that is not UTF-8 text")


def _is_text(path: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in path)


def printable(path: str) -> str:
    """A path in a message, on one line."""
    return "".join(c if c.isprintable() else "?" for c in path[-300:])


def rule_for(allowlist: Allowlist, real: str) -> Root | None:
    """The first entry that the folder lies in, or is: the order of the file decides, as NanoClaw has always had it."""
    for root in allowlist.roots:
        place = root.real
        if place is not None and (real == place or is_beneath(real, place)):
            return root
    return None


def writable(allowlist: Allowlist, wishes: Iterable[tuple[MountWish, bool]]) -> list[str]:
    """The folders among the wishes of all groups (each with whether its group is main) that an agent can write, as
    far as the rules alone tell. For `Protected.of`."""
    found = []
    for wish, is_main in wishes:
        if not wish.rw or allowlist.error:
            continue
        try:
            real = leads_to(wish.path)
        except ValueError:
            continue
        root = rule_for(allowlist, real)
        if root is not None and not _access(allowlist, root, rw=True, is_main=is_main)[0]:
            found.append(real)
    return found


def _access(allowlist: Allowlist, root: Root, *, rw: bool, is_main: bool) -> tuple[bool, str]:
    """Whether it is to be read only, and why."""
    if not rw:
        return True, "read-only, as asked for"
    if not root.rw:
        return True, "read-only, because that entry does not have allowReadWrite"
    if not is_main and allowlist.others_read_only:
        return True, "read-only, because groups other than main may not write (nonMainReadOnly)"
    return False, "to read and to write"


def _opened(root: Root, verdict: Verdict) -> Verdict:
    """The verdict with the folder that it is about, or why that is no longer the one that was looked at."""
    real, place = str(verdict.real_path), root.real or ""
    if real != place and not is_beneath(real, place):
        return _refused(verdict, CHANGED)
    try:
        held = open_beneath(place, real[len(place) :].strip("/"))
    except OSError as e:
        swapped = e.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.ENOENT)
        return _refused(verdict, CHANGED if swapped else f"it cannot be opened: {e.strerror}")
    if path_of(held.fd) not in (real, None):
        return _refused(verdict, CHANGED)
    if inner := mounts_in(real):
        where = printable(inner[0])
        return _refused(verdict, f"another file system is mounted in it, at {where}: mount each by itself")
    return replace(verdict, identity=held.identity, held=held)


def _refused(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, allowed=False, reason=reason, readonly=True)
