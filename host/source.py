"""NanoClaw's own source, as it runs: what main sees in /workspace/project, read-only.

A copy in the cache and not the checkout: a checkout also holds a repository's history, a virtual environment and
whatever else lies there, and none of that is the agent's to see. The built program carries the source that it was
built from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from host import bundle
from host.errors import UserError

PARCEL: Final = "source"
ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = (
    "nanoclaw.py", "host", "runner", "README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "LICENSE",
)  # fmt: skip
KEPT: Final = frozenset({".py", ".md", ".sql"})
KEEP_COPIES: Final = 2
"""Copies in the cache: this one, and that of a host of another version which may still run."""


def snapshot(cache: Path, root: Path = ROOT) -> Path:
    """The folder with a copy of the source, made if there is none of this very source yet."""
    if bundle.frozen():
        return bundle.unpack(PARCEL, cache, lambda _: None)  # a moment's work
    files = list(_files(root))
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(data)}\0".encode() + data)
    copy = cache / "source" / digest.hexdigest()[:32]
    if copy.is_dir():
        return copy
    part = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    _copy(files, root, part)
    try:
        part.rename(copy)
    except OSError:  # another process was faster, with the same bytes
        shutil.rmtree(part, ignore_errors=True)
    _prune(copy)
    return copy


def write_out(target: Path) -> int:
    """A copy for the person, in a new or empty folder; how many files. All of it is there, or nothing."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target} is not a folder", "name a new one")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty", "name a new folder")
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if bundle.frozen():
            root = snapshot(bundle.cache())
            _copy([path for path in root.rglob("*") if path.is_file()], root, part)
        else:
            _copy(_files(ROOT), ROOT, part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sum(len(names) for _, _, names in os.walk(target))


def _copy(files: Iterable[Path], root: Path, to: Path) -> None:
    for path in files:
        target = to / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for folder, _, names in os.walk(to):  # the sandbox's user may be another; the cache itself is closed
        Path(folder).chmod(0o755)
        for name in names:
            (Path(folder) / name).chmod(0o644)


def _files(root: Path) -> Iterator[Path]:
    for name in PARTS:
        top = root / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            kept = path.suffix in KEPT or path.name == "LICENSE"
            if kept and path.is_file() and not path.is_symlink():
                yield path


def _prune(current: Path) -> None:
    others = sorted((p for p in current.parent.iterdir() if p != current), key=lambda p: p.stat().st_mtime)
    for old in others[: max(0, len(others) - KEEP_COPIES + 1)]:
        shutil.rmtree(old, ignore_errors=True)
