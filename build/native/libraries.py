"""What CPython stands on, as static libraries: each in a folder of its own, with `include` and `lib`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from toolchain import compiler, environment, run

PREFIX: Final = "/opt/nanoclaw-python"
"""Written into what is made; nothing lies there."""
JOBS: Final = "-j2"
FLAGS: Final = "-O2 -fPIC -g0 -ffunction-sections -fdata-sections"
# What is linked into libpython is its own affair: another library in the process may bring another zlib.
HIDDEN: Final = f"{FLAGS} -fvisibility=hidden"
# Without the second, it waits for a lock in whole seconds.
SQLITE: Final = (
    "-DSQLITE_THREADSAFE=1", "-DHAVE_USLEEP=1", "-DHAVE_FDATASYNC=1", "-DHAVE_GMTIME_R=1", "-DHAVE_LOCALTIME_R=1",
    "-DSQLITE_OMIT_LOAD_EXTENSION",
)  # fmt: skip
# What neither hashes nor TLS as Python speaks it needs; and the machine's own openssl.cnf is not read, which may name
# providers that are not here.
OPENSSL: Final = (
    "shared", "tests", "apps", "docs", "module", "legacy", "engine", "comp", "ui-console", "autoload-config", "quic",
    "cmp", "cms", "ts", "ct", "srp", "dtls", "gost", "sm2", "sm3", "sm4", "seed", "idea", "camellia", "aria", "bf",
    "cast", "rc2", "rc4", "mdc2", "rmd160", "whirlpool", "ssl3", "http", "rfc3779", "srtp", "ml-dsa", "slh-dsa", "ec2m",
    "afalgeng",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    source: Path
    """Unpacked, to be built in."""
    out: Path
    arch: str
    env: dict[str, str]

    def keep(self, archives: list[Path], headers: list[Path]) -> None:
        for name, files in (("lib", archives), ("include", headers)):
            (self.out / name).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, self.out / name)


def build(name: str, source: Path, work: Path, out: Path, arch: str) -> None:
    MAKERS[name](Job(source, out, arch, environment(arch, "gnu", CFLAGS=HIDDEN, NANOCLAW_WORK=str(work))))


def crossing(arch: str) -> list[str]:
    """What a `configure` is told of the processor: of this machine's own nothing, which would count as crossing."""
    machine = os.uname().machine
    return [] if arch == machine else [f"--host={arch}-linux-gnu", f"--build={machine}-pc-linux-gnu"]


def _configured(job: Job, *options: str) -> None:
    """What `make install` leaves, without what tells libtool and pkg-config where that was."""
    root = job.source / "installed"
    # Nothing is linked with it here: what is called PIC is what is wanted.
    shape = ["--disable-shared", "--enable-static", "--with-pic", "--disable-dependency-tracking"]
    run(["./configure", f"--prefix={PREFIX}", *crossing(job.arch), *shape, *options], job.source, job.env)
    run(["make", JOBS], job.source, job.env)
    run(["make", "install", f"DESTDIR={root}"], job.source, job.env)
    made = Path(f"{root}{PREFIX}")
    job.keep(sorted(made.glob("lib*/*.a")), [])
    shutil.copytree(made / "include", job.out / "include", dirs_exist_ok=True)


def _zlib(job: Job) -> None:
    run(["./configure", "--static"], job.source, job.env | {"CHOST": f"{job.arch}-linux-gnu"})
    run(["make", JOBS, "libz.a"], job.source, job.env)
    job.keep([job.source / "libz.a"], [job.source / "zlib.h", job.source / "zconf.h"])


def _xz(job: Job) -> None:
    tools = ("xz", "xzdec", "lzmadec", "lzmainfo", "lzma-links", "scripts", "doc", "nls")
    _configured(job, *(f"--disable-{each}" for each in tools))


def _libffi(job: Job) -> None:
    # Static trampolines need a file that may be executed; closures do not.
    _configured(job, "--disable-docs", "--disable-exec-static-tramp", "--disable-multi-os-directory")


def _sqlite(job: Job) -> None:
    """The one file that it is published as is made of its sources first, by tclsh."""
    here = environment(os.uname().machine, "gnu")
    run(["./configure", "--disable-tcl", "--disable-readline"], job.source, here)
    run(["make", "sqlite3.c"], job.source, here)
    argv = [*compiler(job.arch, "gnu"), *HIDDEN.split(), *SQLITE, "-c", "sqlite3.c", "-o", "sqlite3.o"]
    run(argv, job.source, job.env)
    run([job.env["AR"], "rcs", "libsqlite3.a", "sqlite3.o"], job.source, job.env)
    job.keep([job.source / "libsqlite3.a"], [job.source / "sqlite3.h"])


def _openssl(job: Job) -> None:
    options = [f"no-{each}" for each in OPENSSL]
    # Both folders are written into it. What is in the second is asked for by Python's ssl.
    where = [f"--prefix={PREFIX}", "--openssldir=/etc/ssl", "--libdir=lib"]
    run(["perl", "./Configure", f"linux-{job.arch}", *options, *where], job.source, job.env)
    run(["make", JOBS, "build_libs"], job.source, job.env)
    job.keep([job.source / "libcrypto.a", job.source / "libssl.a"], [])
    shutil.copytree(job.source / "include" / "openssl", job.out / "include" / "openssl")


MAKERS: Final[dict[str, Callable[[Job], None]]] = {
    "zlib": _zlib, "xz": _xz, "libffi": _libffi, "sqlite": _sqlite, "openssl": _openssl,
}  # fmt: skip
