"""Compile what the one file needs beside Python code: the launcher, bubblewrap, and a CPython that runs on old systems.

    python3 build/native/build.py [--arch x86_64|aarch64] [--only launcher|bubblewrap|python]

Everything is made into .build/ARCH/ and made anew only if what it is made from changed. Needs tclsh, perl and make, and
the first time a network that reaches PyPI and Debian.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import bubblewrap
import cpython
import launcher
import sources
import toolchain
from sources import BuildError
from toolchain import OUT, ROOT

HERE: Final = Path(__file__).parent
PACKAGES: Final = {"make": "make", "perl": "perl", "tclsh": "tcl"}
"""Program → Debian package."""

# What is made, of which sources, and which files of this tree say how.
PARTS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "launcher": (("zlib",), ("launcher.py",)),
    "bubblewrap": (("bubblewrap", "libcap"), ("bubblewrap.py",)),
    "python": (("zlib", "xz", "libffi", "sqlite", "openssl", "python"), ("cpython.py", "glibc.py")),
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
    out = OUT / arch / name
    record = out.with_name(f"{name}.inputs")
    inputs = digest(name, arch)
    if out.is_dir() and record.is_file() and record.read_text() == inputs:
        return
    toolchain.ensure_venv()
    build_python = None
    if name == "python" and arch != "x86_64":
        ensure("python", "x86_64")
        build_python = OUT / "x86_64" / "python" / "bin" / "python3.13"
    say(f"building {name} for {arch}")
    record.unlink(missing_ok=True)
    with workspace() as work:
        folders = {each: unpacked(each, work) for each in PARTS[name][0]}
        maker(name, arch, build_python)(folders, work, out)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(inputs)
    say(f"{name} for {arch} is built")


def maker(name: str, arch: str, build_python: Path | None) -> Callable[[dict[str, Path], Path, Path], None]:
    def make(folders: dict[str, Path], work: Path, out: Path) -> None:
        fresh = work / "out"
        if name == "python":
            cpython.build(folders, work, fresh, arch, build_python)
        elif name == "bubblewrap":
            bubblewrap.build(folders, work, fresh, arch)
        else:
            launcher.build(folders, work, fresh, arch)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(fresh, out, symlinks=True)

    return make


def unpacked(name: str, work: Path) -> Path:
    source = sources.locked()[name]
    return sources.unpack(sources.fetch(source, OUT / "sources"), work / f"source-{name}")


@contextmanager
def workspace() -> Iterator[Path]:
    """The same path in every build, as far as can be, since compilers write paths into what they make."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=OUT) as folder:
        yield Path(folder)


def digest(name: str, arch: str) -> str:
    """Over everything that the part is made from."""
    wanted, files = PARTS[name]
    hashed = hashlib.sha256(arch.encode())
    for source in wanted:
        hashed.update(sources.locked()[source].sha256.encode())
    paths = [HERE / "toolchain.py", HERE / "build.py", toolchain.LOCK, *(HERE / file for file in files)]
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
