"""The program as a folder that starts by itself: PyInstaller, run by the CPython that goes into it.

For another processor nothing is emulated: the same bytecode is put beside that processor's CPython, libraries and boot
loader, all of the same releases.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steps import ROOT, BuildError, digest, made, run

HERE: Final = Path(__file__).resolve().parent
LOCKS: Final = ("host.txt", "bundle.txt", "zones.txt")
"""What the host imports of others; `bundle` is what only the built program needs, `zones` its time zones."""
PYTHON: Final = "3.13"
GLIBC_MINORS: Final = range(5, 32)
"""Of wheels: what is promised begins with glibc 2.31."""
ZONES: Final = "/usr/share/zoneinfo:/usr/lib/zoneinfo:/usr/share/lib/zoneinfo:/etc/zoneinfo"

# Of others' packages, what is imported by name only when it is needed; `cronsim` is found by itself.
HIDDEN: Final = (
    "_cffi_backend", "nacl.signing", "nacl.exceptions", "importlib.resources", "importlib.resources.readers",
    "importlib.readers", "zipfile", "zipimport", "encodings.idna", "encodings.ascii", "encodings.latin_1",
)  # fmt: skip
# Nothing of the host imports these; without this list they come along for something that is never called.
EXCLUDES: Final = (
    "_aix_support", "_distutils_hack", "_pyrepl", "antigravity", "bdb", "cProfile", "code", "codeop", "curses", "dbm",
    "distutils", "doctest", "ensurepip", "ftplib", "idlelib", "imaplib", "lib2to3", "mailbox", "multiprocessing",
    "nntplib", "pdb", "pip", "pkg_resources", "poplib", "profile", "pstats", "pycparser", "pydoc", "pydoc_data",
    "readline", "setuptools", "smtplib", "test", "this", "tkinter", "turtle", "turtledemo", "tzdata", "unittest",
    "venv", "wheel", "wsgiref", "xmlrpc",
)  # fmt: skip


@dataclass(frozen=True)
class Python:
    """A CPython to freeze with."""

    root: Path
    program: Path
    own: bool
    """Built by `build/native`, and not this machine's."""

    @property
    def environment(self) -> dict[str, str]:
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(ROOT / ".build"), "LC_ALL": "C.UTF-8"}
        # The order of sets in bytecode hangs on the seed.
        env |= {"PYTHONHASHSEED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
        return env | ({"LD_LIBRARY_PATH": str(self.root / "lib")} if self.own else {})


def python(arch: str) -> Python:
    root = ROOT / ".build" / arch / "python"
    program = root / "bin" / f"python{PYTHON}"
    if not program.exists():
        raise BuildError(f"there is no CPython in {root}", f"run: python3 build/native/build.py --arch {arch}")
    return Python(root, program, own=True)


def packages(venv: Path, arch: str) -> Path:
    """A folder with the locked packages that the host imports, as wheels for that processor."""
    locks = [ROOT / "requirements" / name for name in LOCKS]

    def make(out: Path) -> None:
        for lock in locks:
            install(venv, arch, out, ["--requirement", str(lock), "--require-hashes"])

    inputs = digest(arch, PYTHON, *locks)
    return made(ROOT / ".build" / arch / "site", inputs, make, f"the packages that the host imports, for {arch}")


def install(venv: Path, arch: str, target: Path, wanted: Sequence[str]) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in GLIBC_MINORS]
    run([
        str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--no-deps", "--no-compile", "--only-binary=:all:", "--upgrade", "--implementation=cp",
        f"--python-version={PYTHON}", *platforms, f"--platform=manylinux2014_{arch}", f"--target={target}", *wanted,
    ])  # fmt: skip


def freezer(venv: Path, arch: str) -> Path:
    """A folder with PyInstaller. Its code runs anywhere; its boot loader is for that processor."""
    lock = ROOT / "requirements" / "freeze.txt"

    def make(out: Path) -> None:
        install(venv, arch, out, ["--requirement", str(lock), "--require-hashes"])

    return made(ROOT / ".build" / arch / "freezer", digest(arch, lock), make, f"PyInstaller for {arch}")


def boot_loader(venv: Path, arch: str) -> Path:
    (found,) = (freezer(venv, arch) / "PyInstaller" / "bootloader").glob("Linux-64bit-*/run")
    return found


def freeze(venv: Path, arch: str, stage: Path, datas: Sequence[Path], out: Path) -> None:
    """Makes the folder `out`. Its bytes depend on `stage`, `datas`, locks and CPython, not on where these lie."""
    machine = os.uname().machine
    by = python(machine)
    work = out.with_name("freezing")
    shutil.rmtree(work, ignore_errors=True)
    stubs = work / "stubs"
    stubs.mkdir(parents=True)
    for each in {machine, arch}:
        # `zoneinfo` asks this module where time zones lie. The real one tells how and where Python was built.
        stub = stubs / f"_sysconfigdata__linux_{each}-linux-gnu.py"
        stub.write_text(f"build_time_vars = {{'TZPATH': {ZONES!r}}}\n")
    given = {
        "stage": str(stage), "site": str(packages(venv, machine)), "stubs": str(stubs), "python": str(by.root),
        "hidden": [*HIDDEN, *(path.stem for path in stubs.iterdir())], "excludes": EXCLUDES, "own": by.own,
        "datas": list(map(str, datas)), "foreign": None if arch == machine else _foreign(venv, machine, arch),
    }  # fmt: skip
    tools = _tools(work, machine, arch)
    path = os.pathsep.join(map(str, [stubs, stage, packages(venv, machine), freezer(venv, machine)]))
    env = by.environment | {"NANOCLAW_FREEZE": json.dumps(given), "PYTHONPATH": path}
    env["PATH"] = os.pathsep.join([*tools, env["PATH"]])
    env["PYINSTALLER_CONFIG_DIR"] = str(work / "config")
    run(
        [str(by.program), "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=WARN",
         f"--distpath={work / 'dist'}", f"--workpath={work / 'work'}", str(HERE / "nanoclaw.spec")],
        env,
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    (work / "dist" / "nanoclaw").rename(out)
    shutil.rmtree(work)


def _foreign(venv: Path, machine: str, arch: str) -> dict[str, object]:
    return {
        "python": str(python(arch).root),
        "site": str(packages(venv, arch)),
        "bootloader": str(boot_loader(venv, arch)),
        "tag": [f"{machine}-linux-gnu", f"{arch}-linux-gnu"],
    }


def _tools(work: Path, machine: str, arch: str) -> list[str]:
    """For another processor, a folder in which `strip` and `objcopy` are those for it."""
    if arch == machine:
        return []
    folder = work / "tools"
    folder.mkdir()
    for name in ("strip", "objcopy"):
        found = shutil.which(f"{arch}-linux-gnu-{name}")
        if found is None:
            raise BuildError(
                f"there is no {name} for {arch}", f"apt-get install binutils-{arch.replace('_', '-')}-linux-gnu"
            )
        (folder / name).symlink_to(found)
    return [str(folder)]


if __name__ == "__main__":
    sys.exit("run scripts/build")
