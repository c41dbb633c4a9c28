"""Compile what the one file needs beside Python code: the launcher, bubblewrap, and a CPython that runs on old systems.

    python3 build/native/build.py [--arch x86_64|aarch64] [--only launcher|bubblewrap|python]

Everything is made into .build/ARCH/ and made anew only if what it is made from changed. Needs tclsh, perl, patch and
make, and the first time a network that reaches PyPI and Debian.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import bubblewrap
import cpython
import launcher
import libraries
import sources
import toolchain
from sources import BuildError
from toolchain import OUT, ROOT

HERE: Final = Path(__file__).parent
PACKAGES: Final = {"make": "make", "patch": "patch", "perl": "perl", "tclsh": "tcl"}
"""Program → Debian package."""

# What is made, of which sources, and which files of this tree say how.
PARTS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "launcher": (("zlib",), ("launcher.py",)),
    "bubblewrap": (("bubblewrap", "libcap"), ("bubblewrap.py",)),
    "python": (("python", *libraries.MAKERS), ("cpython.py", "glibc.py", "libraries.py")),
}
STARTED: Final = time.monotonic()


def say(text: str) -> None:
    print(f"nanoclaw: {time.monotonic() - STARTED:4.0f} s  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=toolchain.ARCHES, default=os.uname().machine)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--packages", action="store_true", help="print the Debian packages that are missing, and exit")
    args = parser.parse_args()
    if args.packages:
        print("\n".join(missing()))
        return 0
    try:
        require_programs()
        for name in [args.only] if args.only else PARTS:
            ensure(name, args.arch)
        write_components(args.arch)
    except BuildError as e:
        print(f"nanoclaw: error: {e}", file=sys.stderr)
        if e.hint:
            print(f"nanoclaw: hint: {e.hint}", file=sys.stderr)
        return 1
    return 0


def require_programs() -> None:
    if lacking := missing():
        raise BuildError(f"programs are missing: {', '.join(lacking)}", f"apt-get install {' '.join(lacking)}")


def missing() -> list[str]:
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def ensure(name: str, arch: str) -> None:
    """One part, unless it is there and made from just this."""
    wanted, recipes = PARTS[name]
    out, inputs = OUT / arch / name, digest(name, arch, wanted, recipes)
    if current(out, inputs):
        return
    toolchain.ensure_venv()
    if name == "python":
        machine = os.uname().machine
        by = None
        if arch != machine:
            ensure("python", machine)
            by = OUT / machine / "python" / "bin" / "python3.13"
        found = {each: library(each, arch) for each in libraries.MAKERS}
        made(f"{name} for {arch}", out, inputs,
             lambda work, new: cpython.build(unpacked("python", work), found, work, new, arch, by))  # fmt: skip
        return
    recipe = {"launcher": launcher.build, "bubblewrap": bubblewrap.build}[name]
    made(f"{name} for {arch}", out, inputs,
         lambda work, new: recipe({each: unpacked(each, work) for each in wanted}, work, new, arch))  # fmt: skip


def library(name: str, arch: str) -> Path:
    """One of those that CPython stands on."""
    out, inputs = OUT / arch / "libraries" / name, digest(name, arch, (name,), ("libraries.py",))
    if not current(out, inputs):
        made(f"{name} for {arch}", out, inputs,
             lambda work, new: libraries.build(name, unpacked(name, work), work, new, arch))  # fmt: skip
    return out


def current(out: Path, inputs: str) -> bool:
    record = out.with_name(f"{out.name}.inputs")
    return out.is_dir() and record.is_file() and record.read_text() == inputs


def made(what: str, out: Path, inputs: str, make: Callable[[Path, Path], None]) -> None:
    """The folder `out`, whole; `make` is given a folder to work in and the name of one to make."""
    say(f"building {what}")
    record = out.with_name(f"{out.name}.inputs")
    record.unlink(missing_ok=True)
    with workspace() as work:
        new = work / "out"
        make(work, new)
        require_no_path(new, ROOT)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(new, out)
    record.write_text(inputs)
    say(f"{what} is built")


def require_no_path(made: Path, folder: Path) -> None:
    """Nothing that is made tells where: it would differ from build to build, and is nobody's business."""
    name = os.fsencode(folder)
    if found := [p for p in sorted(made.rglob("*")) if p.is_file() and not p.is_symlink() and name in p.read_bytes()]:
        raise BuildError(f"{found[0].relative_to(made)} holds the path {folder} of what it was built in")


def unpacked(name: str, work: Path) -> Path:
    source = sources.locked()[name]
    return sources.unpack(source, OUT / "sources", work / f"source-{name}")


@contextmanager
def workspace() -> Iterator[Path]:
    """On the disk of what is made, so that its end is one rename."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=OUT) as folder:
        yield Path(folder)


def digest(name: str, arch: str, wanted: Iterable[str], recipes: Iterable[str]) -> str:
    """Over everything that it is made from."""
    hashed = hashlib.sha256(f"{arch} {os.uname().machine}".encode())
    for source in wanted:
        hashed.update(repr(sources.locked()[source]).encode())
    every = ("build.py", "sources.py", "toolchain.py")
    paths = [toolchain.LOCK, *(HERE / file for file in (*every, *recipes))]
    if name == "launcher":
        paths += sorted(launcher.SOURCES.glob("*.[ch]"))
    for path in paths:
        hashed.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()


def write_components(arch: str) -> None:
    """What is in it, for the list of components and licences."""
    found = [asdict(source) | {"parts": [p for p, (of, _) in PARTS.items() if name in of]}
             for name, source in sources.locked().items()]  # fmt: skip
    (OUT / arch / "components.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
