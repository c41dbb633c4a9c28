"""Puts the one file together: the launcher, the parcels, their index, and the trailer that says where these lie.

    python3 build/pack.py --launcher FILE --host FOLDER [--parcel NAME=FILE …] --version V --build HEX --arch ARCH OUT

Byte for byte the same for the same input. The trailer is read by `build/launcher` and by `host/bundle.py`; its layout
is `TRAILER` here, little endian: magic, format, zero, the index's offset, length and SHA-256, then of the parcel `host`
the offset, length, length unpacked and SHA-256, and eight zero bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

MAGIC: Final = b"NANOCLAW"
FORMAT: Final = 1
TRAILER: Final = "<8sIIQQ32sQQQ32s8x"
ALIGN: Final = 4096
CHUNK: Final = 1 << 20
EXECUTABLE: Final = "nanoclaw"
MOST_FILES: Final = 20_000
"""As many as the launcher unpacks."""
MOST_BYTES: Final = 512 << 20


class PackError(Exception):
    """What was given cannot be made into a file that starts."""


def pack(
    launcher: Path, host_tree: Path, parcels: Mapping[str, Path], version: str, build: str, arch: str, out: Path
) -> None:
    """Write `out`, executable. `parcels`: files by name, xz streams; `host` is made here, of the folder `host_tree`."""
    made = out.with_name(f"{out.name}.part")
    index: dict[str, dict[str, int | str]] = {}
    tar = host_tar(host_tree)
    host = zlib.compress(tar, 9)
    with made.open("wb") as f:
        f.write(launcher.read_bytes())
        index["host"] = _append(f, io.BytesIO(host), len(tar))
        for name, path in sorted(parcels.items()):
            with path.open("rb") as parcel:
                index[name] = _append(f, parcel, unpacked_length(path))
        where = f.tell()
        said = {"format": FORMAT, "version": version, "build": build, "arch": arch, "parcels": index}
        line = json.dumps(said, separators=(",", ":")).encode() + b"\n"
        f.write(line + trailer(where, line, index["host"]))
        f.flush()
        os.fsync(f.fileno())
    made.chmod(0o755)
    made.replace(out)


def trailer(where: int, line: bytes, host: Mapping[str, int | str]) -> bytes:
    digest, of_host = hashlib.sha256(line).digest(), bytes.fromhex(str(host["sha256"]))
    place = (host["offset"], host["length"], host["unpacked"])
    return struct.pack(TRAILER, MAGIC, FORMAT, 0, where, len(line), digest, *place, of_host)


def _append(f: BinaryIO, parcel: BinaryIO, unpacked: int) -> dict[str, int | str]:
    f.write(bytes(-f.tell() % ALIGN))
    offset, digest = f.tell(), hashlib.sha256()
    while data := parcel.read(CHUNK):
        digest.update(data)
        f.write(data)
    return {"offset": offset, "length": f.tell() - offset, "sha256": digest.hexdigest(), "unpacked": unpacked}


def unpacked_length(path: Path) -> int:
    """Of an xz stream: what its reader bounds itself by."""
    length = 0
    with lzma.open(path) as stream:
        while data := stream.read(CHUNK):
            length += len(data)
    return length


def host_tar(tree: Path) -> bytes:
    """The folder as ustar, in the order of the names, of nobody and of no time."""
    out, count = io.BytesIO(), 0
    if not os.access(tree / EXECUTABLE, os.X_OK):
        raise PackError(f"{tree} has no program called {EXECUTABLE}")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in _walk(tree):
            count += 1
            info = _info(tree, path)
            with path.open("rb") if info.isreg() else io.BytesIO() as content:
                tar.addfile(info, content)
    if count > MOST_FILES or out.tell() > MOST_BYTES:
        raise PackError(f"{tree} is more than the launcher unpacks")
    return out.getvalue()


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir(), key=os.fsencode):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _info(tree: Path, path: Path) -> tarfile.TarInfo:
    name = path.relative_to(tree).as_posix()
    if not name.isprintable():  # the launcher writes one name a line
        raise PackError(f"{name!r} is no name for a file")
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), 0o777  # noqa: PTH115  # as it is
        where = os.path.normpath(f"{name}/../{info.linkname}")
        if info.linkname.startswith("/") or where == ".." or where.startswith("../"):
            raise PackError(f"the link {name} leads out of {tree}")
    elif path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif path.is_file():
        info.size = path.stat().st_size
        info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    else:
        raise PackError(f"{name} is neither file, folder nor link")
    return info


def main() -> None:
    options = argparse.ArgumentParser(description="Put the one file together.")
    options.add_argument("--launcher", type=Path, required=True)
    options.add_argument("--host", type=Path, required=True, help="folder of the program that is started")
    options.add_argument("--parcel", metavar="NAME=FILE", action="append", default=[])
    options.add_argument("--version", required=True)
    options.add_argument("--build", required=True, help="digest of what it was built from")
    options.add_argument("--arch", required=True, choices=["x86_64", "aarch64"])
    options.add_argument("out", type=Path)
    args = options.parse_args()
    parcels = dict(each.split("=", 1) for each in args.parcel)
    paths = {name: Path(path) for name, path in parcels.items()}
    pack(args.launcher, args.host, paths, args.version, args.build, args.arch, args.out)


if __name__ == "__main__":
    main()
