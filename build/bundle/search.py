"""What nobody should find in a built file: keys, the paths and names of the machine that built it, its history.

    python3 build/bundle/search.py FILE…

Everything is unpacked: the parcels, archives in archives, layers, PyInstaller's archive of modules, zips, and the code
objects of every module. Exit status 1 if anything is found; each find is named by the way that leads to it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TRAILER: Final = "<8sIIQQ32sQQQ32s8x"
MOST: Final = 1 << 30
DEPTH: Final = 8
SHOWN: Final = 60
PYZ: Final = b"PYZ\0"
COOKIE: Final = b"MEI\014\013\012\013\016"

# As in host/log.py; words that only look so have nothing behind the dash but words.
KEYS: Final = re.compile(
    rb"sk-ant-[A-Za-z0-9_-]{16,}|\bsk-[A-Za-z0-9]{20,}|\bgh[a-z]_[A-Za-z0-9]{30,}|\bxox[a-z]-[A-Za-z0-9-]{20,}"
    rb"|\bAKIA[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}"
)
GIT: Final = re.compile(rb"(?:^|/)\.git/(?:objects|refs|HEAD|config)|\bref: refs/heads/")
# Where `scripts/build` works, whatever the checkout's own path: not what a script says of it, but where it led.
BUILD: Final = re.compile(rb"(?<![\w$}*])/[\w.-]+(?:/[\w.-]+)*/\.build/[\w.-]+")
# Whoever has a Debian or a pip has these: they tell nothing of the builder.
PUBLIC: Final = re.compile(
    r"(.*\.)?(debian|pypi|pythonhosted|npmjs|gnu)\.org|(.*\.)?(ubuntu|docker|google|googleapis|nodesource|github)\.com"
    r"|localhost|127\..*"
)
# Words of documentation, not somebody's.
COMMON: Final = frozenset({"root", "home", "nanoclaw", "tmp", "/", "/root", "/home", "/tmp"})  # noqa: S108


@dataclass(frozen=True)
class Find:
    where: str
    what: str
    text: str


Pattern = tuple[str, re.Pattern[bytes]]


def patterns(root: Path = ROOT) -> list[Pattern]:
    """What to look for, as far as this machine tells it."""
    found: list[Pattern] = [("a key", KEYS), ("history", GIT), ("a path of the build", BUILD)]
    for what, words in (
        ("a path of the build", paths(root)),
        ("a name from the history", people(root)),
        ("a registry", registries()),
    ):
        if words:
            found.append((what, re.compile(b"|".join(re.escape(word.encode()) for word in sorted(words)))))
    return found


def paths(root: Path) -> set[str]:
    """The checkout, and the builder's home where it is somebody's; not `/root`, which is every machine's."""
    home = str(Path.home())
    found = {f"{root}/", f"{root}\0", f"{home}/.cache/", f"{home}/.pyenv/"}
    return found | ({f"{home}/"} if home not in COMMON else set())


def people(root: Path) -> set[str]:
    """Authors and committers, by name and by address, and the latest commits by their ids."""
    done = subprocess.run(
        ["git", "-C", str(root), "log", "-n", "2000", "--format=%an%n%ae%n%cn%n%ce%n%H"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {line for line in done.stdout.splitlines() if len(line) >= 6 and line.lower() not in COMMON}


def registries() -> set[str]:
    """Hosts that pip and apt are told of on this machine, but those that are everybody's."""
    text = ""
    for argv in (["pip", "config", "list"], [sys.executable, "-m", "pip", "config", "list"]):
        try:
            text += subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        except OSError:
            continue
    text += " ".join(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_")) or "proxy" in name.lower()
    )
    apt = [Path("/etc/apt/sources.list"), *Path("/etc/apt").glob("*.d/*")]
    text += "".join(
        path.read_text(errors="replace")
        for path in apt
        if path.is_file() and path.suffix in ("", ".list", ".sources", ".conf")
    )
    hosts = {host.rpartition("@")[2].split(":")[0] for host in re.findall(r"https?://([^/\s'\"]+)", text)}
    return {host for host in hosts if "." in host and not PUBLIC.fullmatch(host)}


# --- unpacking ---------------------------------------------------------------------------------------------------


def pieces(where: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """What is packed in it; where nothing is, the bytes themselves."""
    packed = False
    for opened in OPENERS if depth < DEPTH else ():
        for name, inner in opened(data):
            packed = True
            yield from pieces(f"{where} > {name}", inner, depth + 1)
    if not packed or data[:4] == b"\x7fELF":  # a program with an archive in it is both
        yield where, data


def one_file(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Our own: the parcels by the index."""
    size = struct.calcsize(TRAILER)
    if data[-size:][:8] != b"NANOCLAW":
        return
    _, _, _, offset, length, *_ = struct.unpack(TRAILER, data[-size:])
    index = json.loads(data[offset : offset + length])
    yield "launcher", data[: min(each["offset"] for each in index["parcels"].values())].ljust(1, b"\0")
    yield "index", json.dumps(index).encode()
    for name, each in index["parcels"].items():
        yield name, data[each["offset"] : each["offset"] + each["length"]]


def streams(data: bytes) -> Iterator[tuple[str, bytes]]:
    """xz, gzip, zlib."""
    if data[:6] == b"\xfd7zXZ\0":
        yield "xz", lzma.decompress(data)
    elif data[:2] == b"\x1f\x8b":
        try:
            yield "gzip", gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return
    elif data[:2] in (b"\x78\xda", b"\x78\x9c", b"\x78\x01"):
        try:
            yield "zlib", zlib.decompressobj().decompress(data, MOST)
        except zlib.error:
            return


def tars(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[257:262] != b"ustar":
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            yield (
                f"{member.name} (its name)",
                f"{member.name}\n{member.linkname}\n{member.uname}\n{member.gname}\n".encode(),
            )
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None and member.size < MOST:
                yield member.name, content.read()


def zips(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:4] != b"PK\3\4":
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def modules(data: bytes) -> Iterator[tuple[str, bytes]]:
    """PyInstaller's two archives, read without PyInstaller: each entry of the outer, each module of the inner."""
    end = data.rfind(COOKIE)
    if end >= 0 and len(data) >= end + 88 and data[:4] == b"\x7fELF":
        length, table, size = struct.unpack("!III", data[end + 8 : end + 20])
        start = end + 88 - length
        at = start + table
        while at < start + table + size:
            entry, offset, packed, _, flag = struct.unpack("!IIIIB", data[at : at + 17])
            name = data[at + 18 : at + entry].rstrip(b"\0").decode(errors="replace")
            content = data[start + offset : start + offset + packed]
            yield name, zlib.decompress(content) if flag else content
            at += entry
    elif data[:4] == PYZ:
        yield from _modules(data)


def _modules(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The table of contents is marshalled: numbers and names, so that any Python reads it."""
    import marshal

    (table,) = struct.unpack("!i", data[8:12])
    for name, (_, offset, length) in dict(marshal.loads(data[table:])).items():  # noqa: S302  # of our own making
        if length:
            yield str(name), zlib.decompress(data[offset : offset + length])


OPENERS: Final[tuple[Callable[[bytes], Iterator[tuple[str, bytes]]], ...]] = (one_file, streams, tars, zips, modules)


def search(path: Path, wanted: list[Pattern]) -> Iterator[Find]:
    for where, data in pieces(path.name, path.read_bytes()):
        for what, pattern in wanted:
            for found in {match[0] for match in pattern.finditer(data)}:
                if not allowed(where, what, found):
                    yield Find(where, what, found.decode(errors="replace")[:SHOWN])


# GnuTLS tests itself with keys that its source publishes; git knows what a repository looks like.
OWN: Final = {
    "a key": re.compile(r"/libgnutls\.so\.[\d.]+$"),
    "history": re.compile(r"usr/(bin|lib/git-core)/git[\w-]*$"),
}


def allowed(where: str, what: str, found: bytes) -> bool:
    """What looks like a find and is none: examples in documentation, keys that everybody has."""
    own = OWN.get(what)
    return b"example" in found.lower() or (own is not None and own.search(where) is not None)


def main() -> int:
    options = argparse.ArgumentParser(
        prog="build/bundle/search.py", description="Search a built file for what is not to be in it."
    )
    options.add_argument("files", type=Path, nargs="+", metavar="FILE")
    found = [find for path in options.parse_args().files for find in search(path, patterns())]
    for find in found:
        print(f"{find.what}: {find.text!r} in {find.where}")
    print(f"{len(found)} finds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
