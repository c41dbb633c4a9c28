"""Where a home lies: settings, data and cache, and whether they are there, ours, and closed to others."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from host.errors import UserError

# Kind of folder → the variable that moves it, and where it is without one.
XDG: Final = {
    "config": ("XDG_CONFIG_HOME", ".config"),
    "data": ("XDG_DATA_HOME", ".local/share"),
    "cache": ("XDG_CACHE_HOME", ".cache"),
}


class Home(NamedTuple):
    """The three folders of one installation."""

    config: Path
    """config.toml, .env: the person's."""
    data: Path
    """Database, groups' folders: what a backup holds."""
    cache: Path
    """The unpacked image: can be made again."""


def locate(home_flag: str | None, environ: Mapping[str, str]) -> Home:
    """One folder with `--home` or `NANOCLAW_HOME`, else the XDG folders."""
    if home_flag == "":
        raise UserError("--home is empty", "name a folder", status=2)
    if chosen := home_flag or environ.get("NANOCLAW_HOME"):
        base = Path(os.path.abspath(chosen))  # noqa: PTH100  # Path.resolve would follow links that may change
        return Home(*(base / kind for kind in XDG))
    return Home(*(_xdg(*names, environ) / "nanoclaw" for names in XDG.values()))


def _xdg(variable: str, below_home: str, environ: Mapping[str, str]) -> Path:
    named = environ.get(variable, "")
    if named.startswith("/"):  # the specification says to ignore a relative one
        return Path(named)
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise UserError(
            "cannot tell where your home folder is: HOME is not set to an absolute path",
            "say where NanoClaw may keep its files: --home DIR",
        )
    return Path(home) / below_home


def prepare(home: Home) -> None:
    """Make the folders that are not there, 0700; `UserError` for one that others can look into or that
    cannot be written. The config may lie where nothing is writable, as some systems have it."""
    _prepare(home.config, writable=False)
    _prepare(home.data, writable=True)
    _prepare(home.cache, writable=True)


def _prepare(folder: Path, *, writable: bool) -> None:
    try:
        _make(folder)
        status = folder.stat()
    except OSError as e:
        raise _cannot_make(folder, e) from e
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{folder} is not a folder", "move it away, or choose another --home")
    if status.st_uid != os.geteuid():
        raise UserError(
            f"{folder} belongs to user {status.st_uid}, and you are user {os.geteuid()}",
            "run NanoClaw as that user, or choose another --home",
        )
    if status.st_mode & 0o077:
        raise UserError(
            f"{folder} can be entered by other users of this machine (mode {status.st_mode & 0o777:o})",
            f"close it: chmod 700 {folder}",
        )
    if writable and os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise _read_only(folder)
    if writable and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written", f"make it so: chmod 700 {folder}")


def _make(folder: Path) -> None:
    """All missing parents 0700 too, whatever the umask: `mkdir -p` would leave them open."""
    if folder.is_dir():
        return
    missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def _cannot_make(folder: Path, e: OSError) -> UserError:
    if e.errno == errno.EROFS:
        return _read_only(folder)
    if e.errno == errno.EEXIST:
        return UserError(f"{folder} is not a folder", "move it away, or choose another --home")
    return UserError(f"cannot use the folder {folder}: {e.strerror}", "choose another one: --home DIR")


def _read_only(folder: Path) -> UserError:
    return UserError(f"{folder} lies on a read-only file system", "choose one that can be written: --home DIR")
