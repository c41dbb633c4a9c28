#!/usr/bin/env python3
"""The WhatsApp program as a parcel: `python3 build/whatsapp/build.py --arch ARCH` → .build/ARCH/whatsapp.tar.xz.

In it lie `whatsapp` (what is started), a CPython with what the program imports of it, neonize with its library,
protobuf, the program itself, licences and components.json. Nothing is compiled for the machine at hand but bytecode, so
any machine builds for any architecture. The same inputs give the same bytes.

It is a program of its own, beside NanoClaw's: the library in it holds code under the GPL.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
PYTHON: Final = "3.13"
ARCHES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH: Final = 1_700_000_000
DICTIONARY: Final = 16 * 1024 * 1024
"""Bytes: what it takes to unpack it, on the smallest machine too."""

# Of the standard library, what nothing here imports. `ssl` and `hashlib`'s OpenSSL among them: Go has its own TLS.
LEFT_OUT: Final = frozenset(
    """
    __phello__ _aix_support _android_support _apple_support _ios_support _pydatetime _pydecimal _pyio _pyrepl
    _strptime_tests antigravity asyncio bdb cProfile cmd code codeop config-3.13 curses dbm distutils doctest ensurepip
    filecmp fileinput ftplib getpass graphlib html http idlelib imaplib lib2to3 mailbox mimetypes modulefinder netrc
    nturl2path optparse pdb pickletools poplib profile pstats pty py_compile pyclbr pydoc pydoc_data rlcompleter
    sched shelve site-packages smtplib socketserver sre_compile sre_constants sre_parse ssl tabnanny test this
    timeit tkinter tomllib trace tty turtle turtledemo unittest urllib venv wave webbrowser wsgiref xml xmlrpc
    zipapp zoneinfo
    """.split()  # noqa: SIM905 - a list of sixty names
)
# Of the extension modules, what is imported. Those that are built into the interpreter need no mention.
EXTENSIONS: Final = frozenset(
    """
    _bisect _blake2 _bz2 _contextvars _csv _ctypes _datetime _heapq _json _lzma _md5 _opcode _pickle _posixsubprocess
    _queue _random _sha1 _sha2 _sha3 _socket _sqlite3 _struct _typing array binascii fcntl math mmap pyexpat resource
    select unicodedata zlib
    """.split()  # noqa: SIM905
)

CODECS: Final = frozenset(
    "__init__ aliases ascii cp437 idna latin_1 punycode raw_unicode_escape unicode_escape utf_8 utf_8_sig".split()  # noqa: SIM905
)

LAUNCH: Final = """\
#!/bin/sh
# Nothing of the caller's Python settings counts: -I; and nothing is written here: -B.
here=${0%/*}
exec "$here/python/bin/python3.13" -I -S -B "$here/app" "$@"
"""

NOTICE: Final = """\
This folder is a program of its own, which NanoClaw starts and talks to through a socket. It holds

- neonize (Apache-2.0), whose library neonize-linux-*.so was made of Go modules, among them
  whatsmeow (MPL-2.0) and libsignal for Go (GPL-3.0), so that the library as a whole is under the GPL-3.0;
- CPython (PSF-2.0), protobuf (BSD-3-Clause), and of NanoClaw the modules `whatsapp`, `channel` and `runner.protocol`
  (MIT).

components.json lists each with its version, and every Go module by the version that the library itself names.
Their sources, at exactly these versions: https://github.com/krypton-byte/neonize (tag {neonize}) with the script that
builds the library, and for each Go module its path as an address. The licences lie in the folder licenses.
"""

# Licences of the Go modules in the library. A module that is not here stops the build: somebody has to look.
GO_LICENSES: Final = {
    "filippo.io/edwards25519": "BSD-3-Clause",
    "github.com/beeper/argo-go": "MIT",
    "github.com/coder/websocket": "ISC",
    "github.com/elliotchance/orderedmap/v3": "MIT",
    "github.com/google/uuid": "BSD-3-Clause",
    "github.com/lib/pq": "MIT",
    "github.com/mattn/go-colorable": "MIT",
    "github.com/mattn/go-isatty": "MIT",
    "github.com/mattn/go-sqlite3": "MIT",
    "github.com/petermattis/goid": "Apache-2.0",
    "github.com/rs/zerolog": "MIT",
    "github.com/vektah/gqlparser/v2": "MIT",
    "go.mau.fi/libsignal": "GPL-3.0-only",
    "go.mau.fi/util": "MPL-2.0",
    "go.mau.fi/whatsmeow": "MPL-2.0",
    "golang.org/x/crypto": "BSD-3-Clause",
    "golang.org/x/exp": "BSD-3-Clause",
    "golang.org/x/net": "BSD-3-Clause",
    "golang.org/x/sync": "BSD-3-Clause",
    "golang.org/x/sys": "BSD-3-Clause",
    "golang.org/x/text": "BSD-3-Clause",
    "google.golang.org/protobuf": "BSD-3-Clause",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the WhatsApp program for one architecture.")
    parser.add_argument("--arch", choices=ARCHES, required=True)
    parser.add_argument("--python", type=Path, help="CPython to ship (default: .build/ARCH/python)")
    parser.add_argument("--compiler", type=Path, help="a CPython 3.13 that runs here, for bytecode")
    parser.add_argument("--output", type=Path, help="default: .build/ARCH/whatsapp.tar.xz")
    options = parser.parse_args()
    shipped = options.python or ROOT / ".build" / options.arch / "python"
    output = options.output or ROOT / ".build" / options.arch / "whatsapp.tar.xz"
    if not (shipped / "lib" / f"python{PYTHON}").is_dir():
        sys.exit(f"no CPython {PYTHON} in {shipped}: run build/native/build.py --arch {options.arch}")
    compiler = options.compiler or _compiler(shipped)
    with tempfile.TemporaryDirectory(prefix="nanoclaw-whatsapp-") as place:
        stage = Path(place, "stage")
        build(stage, shipped, options.arch, compiler)
        output.parent.mkdir(parents=True, exist_ok=True)
        if os.uname().machine == options.arch:
            prove(stage)
        size = pack(stage, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {size / 1e6:.1f} MB unpacked")


def _compiler(shipped: Path) -> Path:
    """Bytecode is the same on every architecture, and this machine's own CPython 3.13 is the one that runs here."""
    machine = os.uname().machine
    own = ROOT / ".build" / machine / "python" / "bin" / f"python{PYTHON}"
    candidates = [own, shipped / "bin" / f"python{PYTHON}", Path(shutil.which(f"python{PYTHON}") or own)]
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", "import compileall"], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    sys.exit(f"no CPython {PYTHON} that runs here")


def build(stage: Path, shipped: Path, arch: str, compiler: Path) -> None:
    """Everything, unpacked, in `stage`."""
    app = stage / "app"
    app.mkdir(parents=True)
    packages(app, arch)
    own_modules(app)
    python(stage / "python", shipped)
    compile_all(compiler, app, stage / "python" / "lib")
    launch = stage / "whatsapp"
    launch.write_text(LAUNCH)
    launch.chmod(0o755)
    licences(stage, app, shipped, arch)
    for leftover in (*app.glob("*.dist-info"), app / "bin"):
        shutil.rmtree(leftover, ignore_errors=True)
    check_platform(app, arch)


def packages(app: Path, arch: str) -> None:
    """The locked wheels of this architecture, with every hash checked; nothing of them is run."""
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in range(17, 35)]
    argv = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--require-hashes", "--only-binary=:all:", "--no-deps", "--no-compile",
        "--implementation=cp", f"--python-version={PYTHON}", *platforms, f"--platform=manylinux2014_{arch}",
        f"--target={app}", f"--requirement={ROOT / 'requirements' / 'whatsapp.txt'}",
    ]  # fmt: skip
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip failed\n{done.stderr[-2000:]}")
    shutil.rmtree(app / "neonize" / "aioze")  # the same once more, for asyncio
    for stub in (*app.rglob("*.pyi"), *app.rglob("py.typed")):
        stub.unlink()


def own_modules(app: Path) -> None:
    for package in ("whatsapp", "channel"):
        shutil.copytree(ROOT / package, app / package, ignore=shutil.ignore_patterns("__pycache__", "scripted.py"))
    (app / "runner").mkdir()
    (app / "runner" / "__init__.py").touch()
    shutil.copy(ROOT / "runner" / "protocol.py", app / "runner" / "protocol.py")
    shutil.copy(HERE / "start.py", app / "__main__.py")


def python(target: Path, shipped: Path) -> None:
    """The interpreter, its library, and what is needed of the standard library."""
    (target / "bin").mkdir(parents=True)
    shutil.copy(shipped / "bin" / f"python{PYTHON}", target / "bin" / f"python{PYTHON}")
    library, source = target / "lib" / f"python{PYTHON}", shipped / "lib" / f"python{PYTHON}"
    library.mkdir(parents=True)
    for found in sorted((shipped / "lib").glob(f"libpython{PYTHON}.so*")):
        shutil.copy(found, target / "lib" / found.name, follow_symlinks=False)
    for entry in source.iterdir():
        if entry.name.partition(".")[0] in LEFT_OUT or entry.name in LEFT_OUT or entry.name.startswith("config-"):
            continue
        if entry.is_dir() and entry.name not in ("lib-dynload", "__pycache__"):
            shutil.copytree(entry, library / entry.name, ignore=shutil.ignore_patterns("__pycache__", "test", "tests"))
        elif entry.suffix == ".py" and not entry.name.startswith("_sysconfigdata"):
            shutil.copy(entry, library / entry.name)
    dynamic = library / "lib-dynload"
    dynamic.mkdir()
    for entry in (source / "lib-dynload").glob("*.so"):
        if entry.name.partition(".")[0] in EXTENSIONS:
            shutil.copy(entry, dynamic / entry.name)
    # Codecs of other scripts and systems: all that comes in is UTF-8.
    for codec in (library / "encodings").glob("*.py"):
        if codec.stem not in CODECS:
            codec.unlink()


def compile_all(compiler: Path, *folders: Path) -> None:
    """Bytecode in the place of sources: nothing is compiled, or written, at a start."""
    argv = [os.fspath(compiler), "-I", "-S", "-m", "compileall", "-q", "-f", "-b", "-o", "2",
            "--invalidation-mode", "unchecked-hash"]  # fmt: skip
    for folder in folders:
        environment = {"PATH": os.defpath, "PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8"}
        # The paths in tracebacks are those within the parcel, not this machine's.
        where = ["-s", os.fspath(folder.parent), "-p", "whatsapp", os.fspath(folder)]
        done = subprocess.run([*argv, *where], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(f"compiling failed\n{(done.stdout + done.stderr)[-2000:]}")
        for source in folder.rglob("*.py"):
            source.unlink()


def go_modules(library: bytes) -> list[tuple[str, str]]:
    """(module, version) of all that was linked into a Go library, as its own build record says (it is there twice)."""
    found = re.findall(rb"\ndep\t([^\t\n]+)\t([^\t\n]+)\t", library)
    return sorted({(module.decode(), version.decode()) for module, version in found})


def _release() -> str:
    """Of the CPython that is shipped, as the lock of its sources names it."""
    lock = ROOT / "build" / "native" / "sources.lock"
    (found,) = re.findall(r"^python (\S+) ", lock.read_text(), re.MULTILINE)
    return str(found)


def licences(stage: Path, app: Path, shipped: Path, arch: str) -> None:
    """components.json, the notice, and the texts."""
    texts = stage / "licenses"
    shutil.copytree(HERE / "licenses", texts)
    components: list[dict[str, Any]] = []
    for info in sorted(app.glob("*.dist-info")):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        licence = {"neonize": "Apache-2.0", "protobuf": "BSD-3-Clause"}[name]
        components.append({"name": name, "version": version, "license": licence, "type": "pypi"})
        for text in (*info.glob("licenses/*"), *info.glob("LICENSE*")):
            shutil.copy(text, texts / f"{name}-{text.name}.txt")
    (library,) = (app / "neonize").glob(f"neonize-linux-{ARCHES[arch]}.so")
    modules = go_modules(library.read_bytes())
    if unknown := {module for module, _ in modules} - GO_LICENSES.keys():
        sys.exit(f"the library holds modules whose licence nobody has looked up: {sorted(unknown)}")
    components += [
        {"name": module, "version": version, "license": GO_LICENSES[module], "type": "golang"}
        for module, version in modules
    ]
    versions = {one["name"]: one["version"] for one in components}
    components.append({"name": "CPython", "version": _release(), "license": "PSF-2.0", "type": "generic"})
    for candidate in (
        shipped / "LICENSE",
        shipped / "LICENSE.txt",
        shipped / "lib" / f"python{PYTHON}" / "LICENSE.txt",
    ):
        if candidate.is_file():
            shutil.copy(candidate, texts / "cpython-LICENSE.txt")
            break
    (stage / "NOTICE").write_text(NOTICE.format(neonize=versions["neonize"]))
    (stage / "components.json").write_text(json.dumps({"components": components}, indent=1, sort_keys=True) + "\n")


def check_platform(app: Path, arch: str) -> None:
    """Every machine-code file is of the wanted architecture: e_machine of its ELF header."""
    wanted = {"x86_64": 62, "aarch64": 183}[arch]
    for path in app.rglob("*.so"):
        with path.open("rb") as file:
            header = file.read(20)
        if header[:4] != b"\x7fELF" or int.from_bytes(header[18:20], "little") != wanted:
            sys.exit(f"{path.name} is not for {arch}")


def prove(stage: Path) -> None:
    """It starts and loads its library, which shows that nothing too much was left out."""
    done = subprocess.run([stage / "whatsapp", "--check"], env={}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"what was built does not start\n{done.stderr[-2000:]}")


def pack(stage: Path, output: Path) -> int:
    """A tar.xz that depends on the content only; the bytes of the content."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY}]
    part = output.with_suffix(".part")
    total = 0
    with (
        lzma.open(part, "wb", filters=filters) as xz,
        tarfile.open(fileobj=xz, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(stage.rglob("*"), key=os.fsencode):
            member = tar.gettarinfo(path, os.fspath(path.relative_to(stage)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = EPOCH
            member.mode = 0o755 if member.isdir() or member.mode & 0o111 else 0o644
            total += member.size
            if member.isreg():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
    part.replace(output)
    return total


if __name__ == "__main__":
    main()
