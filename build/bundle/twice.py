"""Two builds of one tree, from copies at different paths, byte by byte.

Shared between them is only what comes from elsewhere: downloads, the Debian that was fetched for the sandbox image, and
what `build/native` compiled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from steps import ROOT, BuildError, say

SHARED: Final = ("sources", "venv", "zig")
SKIPPED: Final = (
    ".git",
    ".build",
    "dist",
    ".venv",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".hypothesis",
)
MOST_SHOWN: Final = 20


def compare(argv: Sequence[str]) -> int:
    """0 if they are the same; else the differing files and bytes are named."""
    rest = [each for each in argv if each != "--twice"]
    with tempfile.TemporaryDirectory(prefix="nanoclaw-twice-") as folder:
        made = [build(Path(folder, name), rest) for name in ("one", "another-and-longer-path")]
        names = sorted({path.relative_to(root) for root in made for path in root.rglob("*") if path.is_file()})
        wrong = [line for name in names for line in differences(made[0] / name, made[1] / name, str(name))]
    print("\n".join(wrong or [f"the same, byte for byte: {len(names)} files"]))
    return 1 if wrong else 0


def build(tree: Path, argv: Sequence[str]) -> Path:
    say(f"building in {tree}")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    (tree / ".build").mkdir()
    for arch in [path for path in (ROOT / ".build").iterdir() if (path / "components.json").is_file()]:
        target = tree / ".build" / arch.name
        target.mkdir()
        for part in ("python", "bubblewrap", "launcher"):
            if (arch / part).is_dir():
                shutil.copytree(arch / part, target / part, symlinks=True)
                shutil.copy(arch / f"{part}.inputs", target)
        shutil.copy(arch / "components.json", target)
    for name in SHARED:
        if (ROOT / ".build" / name).is_dir():
            (tree / ".build" / name).symlink_to(ROOT / ".build" / name)
    done = subprocess.run([sys.executable, "build/bundle/build.py", *argv], cwd=tree, check=False, env=dict(os.environ))
    if done.returncode:
        raise BuildError(f"the build in {tree} exits {done.returncode}")
    return tree / "dist"


def differences(one: Path, other: Path, name: str) -> list[str]:
    if not (one.is_file() and other.is_file()):
        return [f"{name} is only in one of them"]
    a, b = one.read_bytes(), other.read_bytes()
    if a == b:
        return []
    places = [i for i in range(min(len(a), len(b))) if a[i] != b[i]]
    at = ", ".join(map(str, places[:MOST_SHOWN]))
    return [f"{name}: {len(a)} and {len(b)} bytes, {len(places)} of them differ, at {at}"]
