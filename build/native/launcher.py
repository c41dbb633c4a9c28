"""The launcher (build/launcher) as one static program."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from toolchain import ROOT, compiler, environment, run

SOURCES: Final = ROOT / "build" / "launcher"
INFLATE: Final = ("adler32", "crc32", "inffast", "inflate", "inftrees", "zutil")
FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-g0")
OF_ZLIB: Final = ("-O2", "-Wno-everything", "-g0", "-DNO_GZIP")


def build(folders: dict[str, Path], work: Path, out: Path, arch: str) -> None:
    """Makes `out/launcher`. Of zlib it holds what unpacks."""
    env, cc, zlib = environment(arch, "musl"), compiler(arch, "musl"), folders["zlib"]
    objects = []
    for path in sorted(SOURCES.glob("*.c")):
        objects.append(str(work / f"{path.stem}.o"))
        run([*cc, *FLAGS, f"-I{zlib}", "-c", str(path), "-o", objects[-1]], work, env)
    for name in INFLATE:
        objects.append(str(work / f"z-{name}.o"))
        run([*cc, *OF_ZLIB, f"-I{zlib}", "-c", str(zlib / f"{name}.c"), "-o", objects[-1]], work, env)
    out.mkdir(parents=True, exist_ok=True)
    run([*cc, "-static", "-s", *objects, "-o", str(out / "launcher")], work, env)
    (out / "LICENSE.zlib").write_bytes((zlib / "LICENSE").read_bytes())
