"""CPython, with the libraries that it stands on, for every Linux with glibc 2.28 or newer.

All of the standard library's own modules are in libpython: one file to find and to open in the place of forty. A build
for another processor needs a Python of the very same release that runs here: the x86_64 one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from glibc import newest
from libraries import FLAGS, JOBS, PREFIX, crossing
from sources import BuildError
from toolchain import GLIBC, OUT, environment, run

SHORT: Final = "3.13"
# Modules that the host does not use, and whose libraries would have to be built as well.
LEFT_OUT: Final = (
    "_tkinter",
    "readline",
    "_curses",
    "_curses_panel",
    "_dbm",
    "_gdbm",
    "nis",
    "_bz2",
    "_uuid",
    "_crypt",
)
# Of the standard library: what builds and tests, and windows.
NOT_KEPT: Final = (
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "config-*",
    "__pycache__",
    "venv",
)
# Modules that everything imports, or that a `configure` leaves out without a word if it does not find what it wants.
REQUIRED: Final = (
    "_asyncio", "_ctypes", "_datetime", "_decimal", "_hashlib", "_json", "_lzma", "_multiprocessing",
    "_posixsubprocess", "_socket", "_sqlite3", "_ssl", "_struct", "_zoneinfo", "binascii", "fcntl", "grp", "math",
    "mmap", "pyexpat", "resource", "select", "syslog", "termios", "unicodedata", "zlib",
)  # fmt: skip
# What libpython shows of itself. What OpenSSL has in assembler cannot be hidden where it is compiled.
EXPORTS: Final = "{ global: Py*; _Py*; local: *; };\n"
# What configure would find out by running a program of the other machine.
CROSS: Final = {"ac_cv_file__dev_ptmx": "yes", "ac_cv_file__dev_ptc": "no", "ac_cv_buggy_getaddrinfo": "no"}


def build(folder: Path, libraries: dict[str, Path], work: Path, out: Path, arch: str, by: Path | None) -> None:
    """Makes `out/bin/python3` and `out/lib`, of the sources in `folder` and the libraries by name.

    `by`: a Python of the same release that runs here; None where this is to be it.
    """
    env = _environment(libraries, work, arch)
    cross = [] if by is None else [f"--with-build-python={by}"]
    if by is not None:
        env |= CROSS
    options = [
        f"--prefix={PREFIX}", *crossing(arch), "--enable-shared", "--without-ensurepip", "--disable-test-modules",
        "--without-doc-strings", f"--with-openssl={libraries['openssl']}", "--with-openssl-rpath=no",
        "--with-pkg-config=no", "--without-static-libpython", *cross,
    ]  # fmt: skip
    run(["./configure", *options], folder, env)
    # Not the library of the stable interface alone: nothing asks for it, and zig links none without a line of C.
    run(["make", JOBS, "PY3LIBRARY="], folder, env)
    require_modules((folder / "Modules" / "config.c").read_text())
    root = work / "root"
    run(["make", "install", "PY3LIBRARY=", f"DESTDIR={root}"], folder, env)
    made = Path(f"{root}{PREFIX}")
    _slim(made)
    _forget(made, work)
    check(made)
    shutil.copytree(made, out, symlinks=True)


def require_modules(config: str) -> None:
    """`config`: the table of the modules that are part of libpython."""
    if lacking := [name for name in REQUIRED if f'{{"{name}", PyInit_' not in config]:
        raise BuildError(f"this CPython has no {', '.join(lacking)}", "see config.log: a library was not found")


def check(made: Path) -> None:
    version, culprit = newest(made)
    if version > tuple(int(part) for part in GLIBC.split(".")):
        raise BuildError(f"{culprit} needs glibc {version[0]}.{version[1]}, and is to run with {GLIBC}")


def _environment(libraries: dict[str, Path], work: Path, arch: str) -> dict[str, str]:
    of = {"ZLIB": ("zlib", "z"), "LIBLZMA": ("xz", "lzma"), "LIBFFI": ("libffi", "ffi"),
          "LIBSQLITE3": ("sqlite", "sqlite3")}  # fmt: skip
    more = {f"{word}_CFLAGS": f"-I{libraries[name] / 'include'}" for word, (name, _) in of.items()}
    # Also for the trials of `configure`, which name the library themselves: so its folder has to be searched.
    more |= {
        f"{word}_LIBS": f"-L{libraries[name]}/lib -l{short} -lm -lpthread -ldl" for word, (name, short) in of.items()
    }
    more |= {f"py_cv_module_{name}": "n/a" for name in LEFT_OUT}
    # The first dollar is for configure, the second for make: so the program finds libpython beside itself.
    rpath = r"-Wl,-rpath,\$$ORIGIN/../lib"
    exports = work / "exports"
    exports.write_text(EXPORTS)
    more |= {"MODULE_BUILDTYPE": "static", "NANOCLAW_WORK": str(work), "NANOCLAW_EXPORTS": str(exports)}
    return environment(arch, "gnu", CFLAGS=FLAGS, LDFLAGS=f"-s {rpath}", **more)


def _forget(made: Path, work: Path) -> None:
    """This machine's folders, in what Python remembers of its own making."""
    for path in [*made.rglob("_sysconfigdata*.py"), *made.rglob("*.json")]:
        text = path.read_text()
        for folder, name in ((work, "/build"), (OUT, "/build")):
            text = text.replace(str(folder), name)
        path.write_text(text)


def _slim(made: Path) -> None:
    library = made / "lib" / f"python{SHORT}"
    for path in [found for name in NOT_KEPT for found in library.rglob(name)]:
        if path.is_dir():
            shutil.rmtree(path)
    for folder in (made / "share", made / "include", made / "lib" / "pkgconfig"):
        shutil.rmtree(folder, ignore_errors=True)
    for program in (made / "bin").iterdir():
        if program.name not in ("python3", f"python{SHORT}"):
            program.unlink()
