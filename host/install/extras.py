"""What comes along with an installed program: completions for three shells, and a man page; and the record of what was
put where, so that only what is still ours is removed again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host.errors import UserError

RECORD: Final = "installed.json"
MAX_READ: Final = 1 << 20
# Below a `share` folder, where each program looks for what others bring.
BELOW_SHARE: Final = {
    "bash": "bash-completion/completions/nanoclaw",
    "zsh": "zsh/site-functions/_nanoclaw",
    "fish": "fish/vendor_completions.d/nanoclaw.fish",
    "man": "man/man1/nanoclaw.1",
}
MARK: Final = "made by `nanoclaw install`"
"""In every file of ours: one without it is someone else's, and is not overwritten."""


@dataclass(frozen=True)
class Installed:
    """What the record says."""

    programs: tuple[Path, ...] = ()
    files: Mapping[Path, str] = field(default_factory=dict)
    """Path → SHA-256 of what was written there."""
    folders: tuple[Path, ...] = ()
    """Those that had to be made for them, the outer before the inner."""


def usual_folder(environ: Mapping[str, str]) -> Path:
    """Where a person's shell finds programs; the machine's, for root."""
    return Path("/usr/local/bin") if os.geteuid() == 0 else _home(environ) / ".local" / "bin"


def share_folder(program: Path, environ: Mapping[str, str]) -> Path:
    """The `share` that belongs to the folder of programs, if that has one; else the person's, or the machine's."""
    if program.parent.name == "bin" and program.parent != _home_or_none(environ, ".local/bin"):
        return program.parent.parent / "share"
    if os.geteuid() == 0 and program.parent.name != "bin":
        return Path("/usr/local/share")
    named = environ.get("XDG_DATA_HOME", "")
    return Path(named) if named.startswith("/") else _home(environ) / ".local" / "share"


def _home_or_none(environ: Mapping[str, str], below: str) -> Path | None:
    return Path(environ["HOME"]) / below if environ.get("HOME", "").startswith("/") else None


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise UserError("cannot tell where your home folder is: HOME is not set", "name a folder: --to DIR")
    return Path(home)


# --- files of ours --------------------------------------------------------------------------------------------


def state(path: Path) -> str:
    """`none`, `ours` (made by us, as its mark says) or `foreign`."""
    data = read(path)
    if data is None:
        return "none" if not os.path.lexists(path) else "foreign"
    return "ours" if MARK.encode() in data[:2000] else "foreign"


def read(path: Path) -> bytes | None:
    """A plain file, not through a link; None for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_READ) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def missing(path: Path) -> list[Path]:
    """The folders that have to be made for a file, the outer before the inner."""
    return [folder for folder in reversed(path.parents) if not folder.exists()]


def write(path: Path, text: str) -> str:
    """Whole or not at all, readable for everyone; the digest."""
    data = text.encode()
    part = path.with_name(f".{path.name}.new")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
            file.flush()
            os.fsync(fd)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return digest(data)


# --- the record -----------------------------------------------------------------------------------------------


def recorded(data: Path) -> Installed:
    """Nothing where there is no record, or one that means nothing: then nothing is known to be ours."""
    found = read(data / RECORD)
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        said = json.loads(found or b"{}")
        programs = tuple(Path(str(path)) for path in said["programs"])
        files = {Path(path): str(made) for path, made in said["files"].items()}
        folders = tuple(Path(str(path)) for path in said["folders"])
        if all(path.is_absolute() for path in (*programs, *files, *folders)):
            return Installed(programs, files, folders)
    return Installed()


def installed(data: Path, program: Path) -> bool:
    """Whether that program was installed with completions and a man page, and any of them is still there."""
    record = recorded(data)
    return program in record.programs and any(state(path) == "ours" for path in record.files)


def remember(data: Path, more: Installed) -> None:
    """Add to the record; what it says of the same paths is replaced."""
    before = recorded(data)
    programs = dict.fromkeys([*before.programs, *more.programs])
    files = {**before.files, **more.files}
    folders = dict.fromkeys([*before.folders, *more.folders])
    said = {
        "programs": [str(path) for path in programs],
        "files": {str(path): made for path, made in files.items()},
        "folders": [str(path) for path in folders],
    }
    write(data / RECORD, json.dumps(said, indent=1) + "\n")
    (data / RECORD).chmod(0o600)
