"""NanoClaw's own source, as it runs: what main sees in /workspace/project, read-only.

A copy in the cache and not the checkout: a checkout also holds a repository's history, a virtual environment and
whatever else lies there, and none of that is the agent's to see.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = (
    "nanoclaw.py", "host", "runner", "README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "LICENSE",
)  # fmt: skip
KEPT: Final = frozenset({".py", ".md", ".sql"})
KEEP_COPIES: Final = 2
"""Copies in the cache: this one, and that of a host of another version which may still run."""


def snapshot(cache: Path, root: Path = ROOT) -> Path:
    """The folder with a copy of the source, made if there is none of this very source yet."""
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
    for path in files:
        target = part / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for folder, _, names in os.walk(part):  # the sandbox's user may be another; the cache itself is closed
        Path(folder).chmod(0o755)
        for name in names:
            (Path(folder) / name).chmod(0o644)
    try:
        part.rename(copy)
    except OSError:  # another process was faster, with the same bytes
        shutil.rmtree(part, ignore_errors=True)
    _prune(copy)
    return copy


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
