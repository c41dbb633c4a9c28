"""The lib layer: the locked packages that the runner imports, chosen for the image's Python and compiled by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO, Final

# The glibc versions whose wheels run on the base layer's 2.36.
GLIBC_MINORS: Final = range(17, 37)

# Written by pip at install time, different from install to install, read by nobody here.
VARYING: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def pip_argv(lock: Path, target: Path, python: str, machine: str) -> list[str]:
    """Any pip can do it: it fetches for the image's Python and machine, runs nothing, and checks every hash."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
    return [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--require-hashes", "--only-binary=:all:", "--no-deps", "--no-compile",
        "--implementation=cp", f"--python-version={python}", f"--abi=cp{python.replace('.', '')}",
        *platforms, f"--platform=manylinux2014_{machine}",
        f"--target={target}", f"--requirement={lock}",
    ]  # fmt: skip


def install(lock: Path, target: Path, python: str, machine: str) -> None:
    done = subprocess.run(
        pip_argv(lock, target, python, machine), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pip failed with status {done.returncode}\n{done.stderr[-2000:]}")
    shutil.rmtree(target / "bin", ignore_errors=True)  # commands with this machine's paths in them
    for name in VARYING:
        for path in target.glob(f"*.dist-info/{name}"):
            path.unlink()


def python_version(base: IO[bytes]) -> str:
    with tarfile.open(fileobj=base, mode="r:") as debian:
        for member in debian:
            name = member.name.removeprefix("usr/bin/python3.")
            if name.isdigit():
                return f"3.{name}"
    raise RuntimeError("the base layer has no Python")


def unpack_python(base: IO[bytes], root: Path) -> None:
    """Of the base layer, what it takes to run its Python in a chroot: the interpreter and the C libraries."""
    with tarfile.open(fileobj=base, mode="r:") as debian:
        for member in debian:
            if _python_needs(member):
                debian.extract(member, root, set_attrs=False)
                if member.isreg():
                    (root / member.name).chmod(member.mode)


def _python_needs(member: tarfile.TarInfo) -> bool:
    if not member.name.startswith("usr/"):
        return not member.isreg()  # /lib, /lib64 and the like, which are links
    return member.name.startswith(("usr/bin/python3", "usr/lib/python3")) or (
        member.name.startswith(("usr/lib", "usr/lib64")) and (member.isdir() or ".so" in member.name)
    )


def compile_inside(root: Path, *folders: str) -> None:
    """Let the image's own Python compile, at the paths that the files will have.

    As an ordinary user, a user namespace lends the right to chroot (mmdebstrap needed it already).
    """
    enter = ["chroot"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot"]
    argv = [*enter, str(root), "/usr/bin/python3", "-S", "-m", "compileall",
            "-q", "-f", "--invalidation-mode", "unchecked-hash", *folders]  # fmt: skip
    # The seed decides the order in which sets are written into bytecode.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "1", "LC_ALL": "C"}
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"compiling failed with status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
