"""What the one file carries beside the program: each a file in .build/ARCH/parcels, made again only if it changed."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steps import ROOT, BuildError, digest, filters, made, of_tree, run, sources, tar_xz, xz

sys.path.insert(0, str(ROOT))

from host import source  # what the checkout shows of itself is what is carried

STEPS: Final = Path(__file__).with_name("steps.py")
RECIPES: Final = ("build", "scripts", "requirements", "docs", "channel", "whatsapp")
"""What it takes to build it again, beside what `host.source` names."""
SINGLE: Final = ("pyproject.toml", "CONTRIBUTING.md")
RECIPE_SUFFIXES: Final = (".py", ".c", ".h", ".md", ".txt", ".sh", ".lock", ".spec", ".sql", "")
"""Scripts have none."""


@dataclass(frozen=True)
class Image:
    id: str
    build: str
    manifest: str
    folder: Path


def image(arch: str) -> Image:
    """The sandbox image, from a cache of this build's own."""
    cache = ROOT / ".build" / arch / "cache"
    run([sys.executable, "build/image/build.py", "--cache", str(cache), "--machine", arch], os.environ, loud=True)
    current = (cache / "image" / "current").read_text().strip()
    folder = cache / "image" / current.removeprefix("sha256:")
    build, manifest = ((folder / name).read_text().strip() for name in ("build", "manifest"))
    return Image(current, build, manifest, folder)


def of_image(arch: str, found: Image) -> Path:
    inputs = digest(found.id, found.manifest, str(filters()))
    text = "compressing the sandbox image (this takes minutes, once)"
    return made(_place(arch, "image.xz"), inputs, lambda out: xz(out, found.folder / "image.tar"), text)


def of_source(arch: str) -> Path:
    """NanoClaw's own source, and how it is built."""
    files = own_source()

    def make(out: Path) -> None:
        tar_xz(out, {str(path.relative_to(ROOT)): path for path in files})

    return made(_place(arch, "source.tar.xz"), digest(of_tree(ROOT, files), STEPS), make, "packing the source")


def own_source() -> list[Path]:
    """Without history, tests, caches, or anything that lies in the checkout by accident."""
    found = set(source._files(ROOT))
    for name in RECIPES:
        for path in sources(ROOT / name):
            if path.suffix in RECIPE_SUFFIXES or path.name == "LICENSE":
                found.add(path)
    found |= {ROOT / name for name in SINGLE}
    return sorted(found)


def of_bubblewrap(arch: str) -> Path:
    folder = ROOT / ".build" / arch / "bubblewrap"
    if not (folder / "bwrap").is_file():
        raise BuildError(f"there is no bubblewrap in {folder}", f"run: python3 build/native/build.py --arch {arch}")
    files = {path.name: path for path in folder.iterdir() if path.is_file()}

    def make(out: Path) -> None:
        tar_xz(out, files, frozenset({"bwrap"}))

    return made(_place(arch, "bubblewrap.tar.xz"), digest(of_tree(folder, files.values()), STEPS), make, "bubblewrap")


def of_whatsapp(arch: str) -> Path:
    """Its own recipe packs it."""
    out = ROOT / ".build" / arch / "whatsapp.tar.xz"
    recipe = [ROOT / "requirements" / "whatsapp.txt", ROOT / "runner" / "protocol.py"]
    for name in ("build/whatsapp", "whatsapp", "channel"):
        recipe += sources(ROOT / name)
    python = (ROOT / ".build" / arch / "python.inputs").read_text()

    def make(part: Path) -> None:
        venv = ROOT / ".build" / "venv" / "bin" / "python"
        argv = [str(venv), "build/whatsapp/build.py", "--arch", arch, "--output", str(part)]
        run(argv)

    return made(out, digest(of_tree(ROOT, recipe), python), make, "the WhatsApp program")


def _place(arch: str, name: str) -> Path:
    return ROOT / ".build" / arch / "parcels" / name
