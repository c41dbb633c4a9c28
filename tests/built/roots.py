"""Bare machines: roots of the distributions that the file promises to run on, with their essential packages alone.

Made once by mmdebstrap and kept as tar files in ~/.cache/nanoclaw-roots, for a month. mmdebstrap knows itself where
Debian's and Ubuntu's packages are; Ubuntu's are signed with keys that Debian has in a package of its own.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.built import enter

DEBIAN: Final = {"debian-11": "bullseye", "debian-12": "bookworm", "debian-13": "trixie"}
UBUNTU: Final = {"ubuntu-20.04": "focal", "ubuntu-22.04": "jammy", "ubuntu-24.04": "noble"}
SUITES: Final = {**DEBIAN, **UBUNTU}
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanoclaw-roots"
KEYRING: Final = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
KEYRING_PACKAGE: Final = "ubuntu-keyring"
KEYRING_SUITE: Final = "trixie"
"""The Debian that has it; 12 has not."""
MONTH: Final = 30 * 86_400
MAKE_SECONDS: Final = 420
USER: Final = 1000
HOME: Final = "/home/person"
PROGRAM: Final = "/usr/local/bin/nanoclaw"


class NoRootError(Exception):
    """This machine cannot have it; why."""


def unpacked(name: str, folder: Path) -> Path:
    """The root of that distribution, in `folder`."""
    tar = archive(name)
    folder.mkdir(parents=True)
    command = ["tar", "--extract", "--file", str(tar), "--directory", str(folder), "--exclude=./dev/*"]
    subprocess.run(command, check=True, timeout=120)
    folder.chmod(0o755)
    return furnished(folder)


def furnished(root: Path) -> Path:
    """With a person's home in it, and the one name that every installed machine knows."""
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    home = root / HOME.lstrip("/")
    home.mkdir(parents=True, mode=0o700)
    os.chown(home, USER, USER)
    return root


@functools.cache
def archive(name: str) -> Path:
    tar = CACHE / f"{name}-{os.uname().machine}.tar"
    if tar.is_file() and time.time() - tar.stat().st_mtime < MONTH:
        return tar
    if shutil.which("mmdebstrap") is None:
        raise NoRootError("mmdebstrap is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    part = tar.with_suffix(".part.tar")
    with tempfile.TemporaryDirectory(prefix="nanoclaw-keys-") as folder:
        made = make(SUITES[name], part, keys(Path(folder)) if name in UBUNTU else [])
    if made:
        part.unlink(missing_ok=True)
        raise NoRootError(f"mmdebstrap cannot make {name}: {made}")
    part.replace(tar)
    return tar


def make(suite: str, out: Path, options: Sequence[str]) -> str:
    """The reason if it failed."""
    command = ["mmdebstrap", "--variant=essential", *options, suite, str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done within {MAKE_SECONDS} seconds"
    return "" if done.returncode == 0 else done.stderr.strip()[-500:]


def keys(folder: Path) -> list[str]:
    """Ubuntu's keys where apt's own user can read them: a cache may be closed to it."""
    folder.chmod(0o755)
    copy = folder / "ubuntu.gpg"
    shutil.copyfile(ubuntu_keyring(), copy)
    copy.chmod(0o644)
    return [f"--keyring={copy}"]


@functools.cache
def ubuntu_keyring() -> Path:
    """Ubuntu's keys, from the system or from Debian's package of them."""
    folder = CACHE / "keyring"
    for there in (Path("/", KEYRING), folder / KEYRING):
        if there.is_file():
            return there
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={KEYRING_PACKAGE}", KEYRING_SUITE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    if not (folder / KEYRING).is_file():
        raise NoRootError(f"Debian's package of Ubuntu's keys cannot be had: {done.stderr.strip()[-300:]}")
    return folder / KEYRING


def within(
    root: Path, *command: str, mounts: Sequence[str] = (), binds: Sequence[str] = (), uid: int = USER,
    seconds: float = 300, **environ: str | None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run it in the root as an ordinary user. A variable that is None is left out. An arm64 root is entered alike,
    where the kernel hands its programs to an emulator that it has already opened (binfmt_misc, flag F)."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "NO_COLOR": "1", **environ}
    options = [item for each in mounts for item in ("--mount", each)]
    options += [item for each in binds for item in ("--bind", each)]
    argv = [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--",
        sys.executable, "-I", "-S", enter.__file__, str(root), "--uid", str(uid), *options, "--", *command,
    ]  # fmt: skip
    return subprocess.run(
        argv, env={k: v for k, v in env.items() if v is not None}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="replace", timeout=seconds, check=False, cwd="/",
    )  # fmt: skip
