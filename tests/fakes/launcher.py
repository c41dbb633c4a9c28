"""The launcher, compiled with whatever compiler there is, before a program of a few lines of shell."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.onefile import ARCH, ROOT, pack

SOURCES = ROOT / "build" / "launcher"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")

TELLS = """\
#!/bin/sh
printf 'program %s\\n' "$0"
for each in "$@"; do printf 'argument %s\\n' "$each"; done
env | sed 's/^/environment /'
printf 'umask %s\\n' "$(umask)"
printf 'inode %s\\n' "$(stat -c %i "$0")"
fd=${_NANOCLAW_FILE%%:*}
printf 'file %s\\n' "$(head -c 8192 /dev/fd/$fd | sha256sum | cut -d ' ' -f 1)"
"""
WAITS = '#!/bin/sh\necho ready\nread -r line\necho "went on: $line"\ntest -e "$0" && echo \'still there\'\n'
STATIC = '#include <stdio.h>\nint main(void) { return puts("the program runs") < 0; }\n'


@functools.cache
def launcher() -> Path:
    """As the build made it where NANOCLAW_LAUNCHER says so; else compiled here."""
    if given := os.environ.get("NANOCLAW_LAUNCHER"):
        return Path(given)
    return compiled("launcher", sorted(SOURCES.glob("*.c")), "-lz")


def compiled(name: str, sources: Sequence[Path], *more: str) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no compiler for the launcher (gcc)")
    out = Path(tempfile.mkdtemp(prefix="launcher-")) / name
    argv = [compiler, *FLAGS, "-I", str(SOURCES), "-o", str(out), *map(str, sources), *more]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0 and ("cannot find -l" in done.stderr or "zlib.h" in done.stderr):
        pytest.skip("no static zlib or libc for the launcher (zlib1g-dev, libc6-dev)")
    assert done.returncode == 0, done.stderr
    return out


def tree(folder: Path, program: str = TELLS, mark: str = "") -> Path:
    """A program with a few files; `mark` makes it another version."""
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "nanoclaw").write_text(program)
    (folder / "nanoclaw").chmod(0o755)
    (folder / "lib" / "data").write_bytes(mark.encode() + bytes(200_000))
    (folder / "lib" / "deep" / "other").write_text("other\n")
    (folder / "lib" / "empty").touch()
    (folder / "link").symlink_to("lib/deep/other")
    return folder


def file_of(folder: Path, host: Path) -> Path:
    out = folder / "nanoclaw-linux"
    pack.pack(launcher(), host, {}, "0.1.0", "ab" * 32, ARCH, out)
    return out


def raw_file(out: Path, tar: bytes, compressed: bytes | None = None) -> Path:
    """With a parcel that `pack` would not make, and a digest that is right all the same."""
    with out.open("w+b") as f:
        f.write(launcher().read_bytes())
        host = pack._append(f, io.BytesIO(zlib.compress(tar) if compressed is None else compressed), len(tar))
        f.write(b"{}\n" + pack.trailer(f.tell(), b"{}\n", host))
    out.chmod(0o755)
    return out


def tar_of(*members: tuple[str, bytes, str], program: str = TELLS) -> bytes:
    """(name, type, content or target), and the program before them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, what in [("nanoclaw", tarfile.REGTYPE, program), *members]:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            content = what.encode() if kind == tarfile.REGTYPE else b""
            info.size, info.linkname = len(content), "" if kind == tarfile.REGTYPE else what
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
