"""CPython, with the libraries that it stands on, for every Linux with glibc 2.28 or newer.

All of the standard library's own modules are in libpython: one file to find and to open in the place of forty. A build
for another processor needs a Python of the very same release that runs here: the x86_64 one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from glibc import newest
from sources import BuildError
from toolchain import GLIBC, compiler, environment, run

PREFIX: Final = "/opt/nanoclaw-python"
"""Written into what is made; nothing lies there."""
SHORT: Final = "3.13"
JOBS: Final = "-j2"
FLAGS: Final = "-O2 -fPIC -g0"
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
# What configure would find out by running a program of the other machine.
CROSS: Final = {"ac_cv_file__dev_ptmx": "yes", "ac_cv_file__dev_ptc": "no", "ac_cv_buggy_getaddrinfo": "no"}


class Libraries:
    """Static ones, in a folder of their own."""

    def __init__(self, folders: dict[str, Path], root: Path, arch: str) -> None:
        self._folders, self.root, self._arch = folders, root, arch
        self._env = environment(arch, "gnu", CFLAGS=FLAGS)
        (root / "include").mkdir(parents=True, exist_ok=True)
        (root / "lib").mkdir(exist_ok=True)

    def build(self) -> None:
        self._zlib()
        self._xz()
        self._libffi()
        self._sqlite()
        self._openssl()

    def _configured(self, name: str, *options: str) -> None:
        folder = self._folders[name]
        host = [f"--host={self._arch}-linux-gnu", "--build=x86_64-pc-linux-gnu"]
        run(["./configure", f"--prefix={self.root}", *host, "--disable-shared", *options], folder, self._env)
        run(["make", JOBS], folder, self._env)
        run(["make", "install"], folder, self._env)

    def _zlib(self) -> None:
        folder = self._folders["zlib"]
        env = self._env | {"CHOST": f"{self._arch}-linux-gnu"}
        run(["./configure", "--static", f"--prefix={self.root}"], folder, env)
        run(["make", JOBS, "libz.a"], folder, env)
        shutil.copy(folder / "libz.a", self.root / "lib")
        for header in ("zlib.h", "zconf.h"):
            shutil.copy(folder / header, self.root / "include")

    def _xz(self) -> None:
        tools = [f"--disable-{each}" for each in ("xz", "xzdec", "lzmadec", "lzmainfo", "scripts", "doc", "nls")]
        self._configured("xz", *tools)

    def _libffi(self) -> None:
        # Static trampolines need a file that may be executed; closures do not.
        self._configured("libffi", "--disable-docs", "--disable-exec-static-tramp", "--disable-multi-os-directory")

    def _sqlite(self) -> None:
        """The one file that it is published as is made of its sources first, by tclsh."""
        folder = self._folders["sqlite"]
        run(["./configure", "--disable-tcl", "--disable-readline"], folder, environment("x86_64", "gnu"))
        run(["make", "sqlite3.c"], folder, environment("x86_64", "gnu"))
        options = ["-DSQLITE_THREADSAFE=1", "-DSQLITE_OMIT_LOAD_EXTENSION", "-DSQLITE_DQS=0"]
        cc = compiler(self._arch, "gnu")
        run([*cc, *FLAGS.split(), *options, "-c", "sqlite3.c", "-o", "sqlite3.o"], folder, self._env)
        run([self._env["AR"], "rcs", str(self.root / "lib" / "libsqlite3.a"), "sqlite3.o"], folder, self._env)
        shutil.copy(folder / "sqlite3.h", self.root / "include")

    def _openssl(self) -> None:
        folder = self._folders["openssl"]
        options = ["no-shared", "no-tests", "no-module", "no-legacy", "no-engine", "no-comp", "no-ui-console"]
        where = [f"--prefix={self.root}", "--openssldir=/etc/ssl", "--libdir=lib"]
        run(["perl", "./Configure", f"linux-{self._arch}", *options, *where], folder, self._env)
        run(["make", JOBS, "build_libs"], folder, self._env)
        run(["make", "install_dev"], folder, self._env)


def build(folders: dict[str, Path], work: Path, out: Path, arch: str, build_python: Path | None) -> None:
    """Makes `out/bin/python3` and `out/lib`. `build_python`: one of the same release that runs here; None to be it."""
    libraries = Libraries(folders, work / "libraries", arch)
    libraries.build()
    folder = folders["python"]
    env = _environment(libraries.root, arch)
    cross = [] if build_python is None else [f"--with-build-python={build_python}"]
    if build_python is not None:
        env |= CROSS
    options = [
        f"--prefix={PREFIX}", f"--host={arch}-linux-gnu", "--build=x86_64-pc-linux-gnu", "--enable-shared",
        "--without-ensurepip", "--disable-test-modules", "--without-doc-strings", f"--with-openssl={libraries.root}",
        "--with-pkg-config=no", "--without-static-libpython", *cross,
    ]  # fmt: skip
    run(["./configure", *options], folder, env)
    run(["make", JOBS], folder, env)
    root = work / "root"
    run(["make", "install", f"DESTDIR={root}"], folder, env)
    made = Path(f"{root}{PREFIX}")
    _slim(made)
    version, culprit = newest(made)
    most = tuple(int(part) for part in GLIBC.split("."))
    if version > most:
        raise BuildError(f"{culprit} needs glibc {version[0]}.{version[1]}, and is to run with {GLIBC}")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(made, out, symlinks=True)


def _environment(libraries: Path, arch: str) -> dict[str, str]:
    include, lib = libraries / "include", libraries / "lib"
    of = {
        "ZLIB": "libz.a", "LIBLZMA": "liblzma.a", "LIBFFI": "libffi.a", "LIBSQLITE3": "libsqlite3.a",
    }  # fmt: skip
    more = {f"{name}_CFLAGS": f"-I{include}" for name in of}
    more |= {f"{name}_LIBS": str(lib / file) for name, file in of.items()}
    more |= {f"py_cv_module_{name}": "n/a" for name in LEFT_OUT}
    # The paths of this machine are in no file that is made.
    flags = f"{FLAGS} -ffile-prefix-map={libraries.parent}=/build"
    return environment(
        arch, "gnu", MODULE_BUILDTYPE="static", CFLAGS=flags, CPPFLAGS=f"-I{include}", LDFLAGS=f"-L{lib} -s", **more
    )


def _slim(made: Path) -> None:
    library = made / "lib" / f"python{SHORT}"
    for path in [found for name in NOT_KEPT for found in library.rglob(name)]:
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(made / "share", ignore_errors=True)
