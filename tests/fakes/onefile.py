"""A whole NanoClaw in one file, without a compiler: its launcher is a line of shell that starts a copy of the source.

What is around it is the real thing: the format is packed by build/pack.py, and the program is told of its file as the
real launcher tells it. So a test can have two versions that differ, with other keys or another schema.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
ARCH = os.uname().machine


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pack = _module("tests_build_pack", ROOT / "build" / "pack.py")


def build(
    folder: Path,
    version: str = "0.1.0",
    keys: Sequence[str] = (),
    steps: Sequence[str] = (),
    arch: str = ARCH,
    start: str = "",
) -> Path:
    """The file, made in `folder`. `steps`: SQL, each a further step of the schema. `start`: shell that runs first."""
    stage = folder / f"stage-{version}"
    stage.mkdir(parents=True)
    shutil.copytree(ROOT / "host", stage / "host", ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("runner", "channel"):
        (stage / package).mkdir()
        for path in (ROOT / package).glob("*.py"):
            shutil.copy(path, stage / package)
    main = (ROOT / "nanoclaw.py").read_text()
    frozen = "import sys\n\nsys.frozen = True\n"
    (stage / "nanoclaw.py").write_text(main.replace("import sys\n", frozen, 1))
    carried = f"VERSION = {version!r}\nBUILD = {'ab' * 32!r}\nPARCELS = {{}}\nIMAGE = None\nKEYS = {tuple(keys)!r}\n"
    (stage / "host" / "carried.py").write_text(carried)
    with (stage / "host" / "migrations" / "__init__.py").open("a") as file:
        file.write(
            f"\nSTEPS = (*STEPS, {''.join(f'({step!r},), ' for step in steps)})\nmigrate.__defaults__ = (STEPS,)\n"
        )
    return packed(folder, stage, version, arch, start)


def packed(folder: Path, stage: Path, version: str, arch: str, start: str) -> Path:
    launcher, host = folder / "launcher", folder / "host"
    launcher.write_text(
        f'#!/bin/sh\n{start}\nexec 9<"$0"\nexport PYTHONDONTWRITEBYTECODE=1\n'
        f'_NANOCLAW_FILE="9:$(readlink -f "$0")" exec \'{sys.executable}\' \'{stage}/nanoclaw.py\' "$@"\nexit 1\n'
    )
    host.mkdir(exist_ok=True)
    (host / "nanoclaw").write_bytes(os.urandom(4096))
    (host / "nanoclaw").chmod(0o755)
    out = folder / f"nanoclaw-linux-{arch}"
    pack.pack(launcher, host, {}, version, "ab" * 32, arch, out)
    return out


def sign_release(*args: str | Path) -> str:
    """Run scripts/sign-release; what it prints."""
    argv = [sys.executable, str(ROOT / "scripts" / "sign-release"), *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
