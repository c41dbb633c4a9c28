"""The compiler: zig's, from PyPI. It brings its own C libraries, so that what it makes runs on older systems than this
one, and on another processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from sources import BuildError

ROOT: Final = Path(__file__).resolve().parents[2]
OUT: Final = ROOT / ".build"
LOCK: Final = ROOT / "requirements" / "build.txt"
ARCHES: Final = ("x86_64", "aarch64")
GLIBC: Final = "2.28"
"""The oldest that programs are made for: Debian 10, Ubuntu 18.10. What is promised begins with 2.31."""
EPOCH: Final = "1700000000"
"""The time that goes into what is made, so that two builds are the same."""


def target(arch: str, libc: str) -> str:
    """`libc`: `musl`, for what is linked statically, or `gnu`."""
    if arch not in ARCHES:
        raise BuildError(f"there is no build for {arch}", f"one of: {', '.join(ARCHES)}")
    return f"{arch}-linux-musl" if libc == "musl" else f"{arch}-linux-gnu.{GLIBC}"


def ensure_venv() -> Path:
    """The environment of what builds, as requirements/build.txt locks it; its Python."""
    venv = OUT / "venv"
    python, ready = venv / "bin" / "python", venv / "ready"
    lock = LOCK.read_text()
    if not (ready.is_file() and ready.read_text() == lock and python.exists()):
        run([sys.executable, "-m", "venv", "--clear", str(venv)], OUT)
        pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--require-hashes"]
        run([str(python), *pip, "--no-deps", "--requirement", str(LOCK)], OUT)
        ready.write_text(lock)
    return python


def compiler(arch: str, libc: str) -> list[str]:
    """A C compiler for that machine, as a command line. What is dated in the sources is dated `EPOCH`."""
    return [str(wrapper("cc", target(arch, libc)))]


# Without the first two zig compiles for finding bugs; and what it compiles of its own beside takes a minute for each
# set of such flags, also where a `configure` links nothing but a trial. What is said later holds.
ALWAYS: Final = ("-O2", "-fno-sanitize=undefined", "-Wno-date-time", "-Wno-unused-command-line-argument")
# Build systems want one word, pass what zig's linker does not know, and write the command line into what they make:
# so the word that names this machine's folder is added here, where nobody sees it.
WRAPPER: Final = """#!/bin/bash
args=()
for each in "$@"; do
    case $each in
    -Wl,-h*) args+=("-Wl,-soname,${{each#-Wl,-h}}" ${{NANOCLAW_EXPORTS:+"-Wl,--version-script,$NANOCLAW_EXPORTS"}}) ;;
    -Wl,--no-as-needed | -Wl,-z,* | -print-multi-os-directory | -rdynamic) ;;
    *) args+=("$each") ;;
    esac
done
[ -z "$NANOCLAW_WORK" ] || args+=("-ffile-prefix-map=$NANOCLAW_WORK=/build")
exec "{zig}" {tool} {more} "${{args[@]}}"
"""


def wrapper(tool: str, target: str) -> Path:
    """A program of its own for the compiler, `ar` or `ranlib`: made anew where it differs."""
    path = OUT / "bin" / f"{target or 'any'}-{tool}"
    more = f"-target {target} {' '.join(ALWAYS)}" if tool == "cc" else ""
    plain = '#!/bin/bash\nexec "{zig}" {tool} "$@"\n'
    text = (WRAPPER if tool == "cc" else plain).format(zig=zig(), tool=tool, more=more)
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return path


def zig() -> Path:
    """The program in the package: its Python start-up would cost more than most files take to compile."""
    (found,) = (OUT / "venv" / "lib").glob("python3.*/site-packages/ziglang/zig")
    return found


def environment(arch: str, libc: str, **more: str) -> dict[str, str]:
    """For a build: nothing of the person's own but where programs are, and where zig keeps what it compiled before.

    The compiler and its like are named without their folder: OpenSSL and CPython write into themselves what made them.
    """
    cache = OUT / "zig"
    cc, ar, ranlib = compiler(arch, libc)[0], wrapper("ar", ""), wrapper("ranlib", "")
    return {
        "PATH": os.pathsep.join([str(OUT / "bin"), os.environ.get("PATH", os.defpath)]),
        "LC_ALL": "C",
        "TZ": "UTC",
        "HOME": str(OUT),
        "SOURCE_DATE_EPOCH": EPOCH,
        "ZIG_GLOBAL_CACHE_DIR": str(cache),
        "ZIG_LOCAL_CACHE_DIR": str(cache),
        "CC": Path(cc).name,
        "AR": ar.name,
        "RANLIB": ranlib.name,
        **more,
    }


def run(argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
    """To its end, silently; `BuildError` with its last words."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        words = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        raise BuildError(f"{' '.join(argv[:3])} in {folder} exits {done.returncode}\n{words}")
