"""Removing a folder with all that is in it: never through a link, never into what is mounted there, however deep it is
and whatever modes an agent gave to its folders."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

MOST_PROBLEMS: Final = 10


class Removal:
    """One tree. `problems`: what stays, and why; empty if all of it is gone."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path
        self._number = 0
        # Folders within it are moved up to its own first level before they are emptied: no depth is too deep then.
        self._prefix = f".{secrets.token_hex(8)}."

    def run(self) -> None:
        try:
            parent = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            self._problem(self._path.name, e)
            return
        try:
            self._remove(parent)
        finally:
            os.close(parent)

    def _remove(self, parent: int) -> None:
        name = self._path.name
        try:
            seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(seen.st_mode):
            self._try_unlink(name, parent)
            return
        try:
            top = self._open(name, parent, os.fstat(parent).st_dev)
        except OSError as e:
            self._problem(name, e)
            return
        try:
            waiting = self._empty(top, None)
            while waiting:
                self._remove_level(waiting.pop(), top, waiting)
        finally:
            os.close(top)
        self._try_rmdir(name, parent)

    def _remove_level(self, name: str, top: int, waiting: list[str]) -> None:
        try:
            fd = self._open(name, top, os.fstat(top).st_dev)
        except OSError as e:
            self._problem(name, e)
            return
        try:
            waiting += self._empty(fd, top)
        finally:
            os.close(fd)
        self._try_rmdir(name, top)

    def _empty(self, folder: int, top: int | None) -> list[str]:
        """Unlink what is no folder; the folders, moved to `top` unless they are there."""
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        moved = []
        for name, is_folder in found:
            if not is_folder:
                self._try_unlink(name, folder)
            elif top is None:
                moved.append(name)
            else:
                moved += self._move_up(name, folder, top)
        return moved

    def _move_up(self, name: str, folder: int, top: int) -> list[str]:
        self._number += 1
        new = f"{self._prefix}{self._number}"
        try:
            os.close(self._open(name, folder, os.fstat(top).st_dev))  # to move a folder is to write into it
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
        except OSError as e:
            self._problem(name, e)
            return []
        return [new]

    def _open(self, name: str, parent: int, device: int) -> int:
        """The folder itself, no link and nothing that is mounted there, made ours to list and write."""
        known = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(known)
            if status.st_dev != device:
                raise OSError(18, "another file system is mounted there")
            if stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
                with contextlib.suppress(OSError):
                    Path(f"/proc/self/fd/{known}").chmod(0o700)
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=known)
        finally:
            os.close(known)

    def _try_unlink(self, name: str, folder: int) -> None:
        try:
            os.unlink(name, dir_fd=folder)
        except OSError as e:
            self._problem(name, e)

    def _try_rmdir(self, name: str, folder: int) -> None:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as e:
            self._problem(name, e)

    def _problem(self, name: str, e: OSError) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{self._path}: {name}: {e.strerror}")


def remove(path: Path) -> list[str]:
    """What could not be removed, in words; empty if nothing is left, or was there."""
    removal = Removal(path)
    removal.run()
    return removal.problems
