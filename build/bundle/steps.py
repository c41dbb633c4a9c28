"""What every step of the build shares: its voice, digests, folders that are whole or not there, and files whose bytes
depend on their content only."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
EPOCH: Final = 1_700_000_000
"""The time that every file in a parcel has."""
DICTIONARY: Final = 16 << 20
"""Bytes: what it takes to unpack a parcel, on the smallest machine too."""
ARCHES: Final = ("x86_64", "aarch64")
STARTED: Final = time.monotonic()


class BuildError(Exception):
    """Something that this build needs is not there, or went wrong; the second text says what helps."""

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.hint = hint


def say(text: str) -> None:
    print(f"nanoclaw: {time.monotonic() - STARTED:5.0f} s  {text}", file=sys.stderr, flush=True)


def run(argv: list[str], env: Mapping[str, str] | None = None, *, loud: bool = False) -> None:
    """To its end; `BuildError` with its last words. `loud`: it speaks for itself."""
    done = subprocess.run(
        argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=not loud, text=True, check=False
    )
    if done.returncode:
        words = "" if loud else f"\n{(done.stdout + done.stderr)[-3000:]}"
        raise BuildError(f"{' '.join(argv[:4])} exits {done.returncode}{words}")


def digest(*parts: str | bytes | Path) -> str:
    """SHA-256 over texts, bytes and files, each with its length before it."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        hashed.update(f"{len(data)}\0".encode() + data)
    return hashed.hexdigest()


def of_tree(root: Path, files: Iterable[Path]) -> str:
    """Over names and contents, in the order of the names."""
    parts: list[str | Path] = []
    for path in sorted(files, key=os.fsencode):
        parts += [str(path.relative_to(root)), path]
    return digest(*parts)


def sources(folder: Path, *suffixes: str) -> list[Path]:
    """Files of a folder of this tree, without what tools leave there."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    hidden = [
        path for path in found if any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
    ]
    return sorted(path for path in set(found) - set(hidden) if not suffixes or path.suffix in suffixes)


def made(out: Path, inputs: str, make: Callable[[Path], None], what: str) -> Path:
    """`out`, a file or folder: made anew unless it was made from just these inputs."""
    record = out.with_name(f"{out.name}.inputs")
    if out.exists() and record.is_file() and record.read_text() == inputs:
        return out
    say(what)
    record.unlink(missing_ok=True)
    part = out.with_name(f"{out.name}.part")
    remove(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    make(part)
    remove(out)
    part.rename(out)
    record.write_text(inputs)
    return out


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tar_xz(out: Path, files: Mapping[str, Path | bytes], programs: frozenset[str] = frozenset()) -> None:
    """A tar.xz of these files by name, of nobody and of no time, with the folders that they lie in."""
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    with (
        lzma.open(out, "wb", filters=filters()) as xz,
        tarfile.open(fileobj=xz, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted({*files, *folders}, key=os.fsencode):
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = EPOCH, 0o755 if name in programs or name in folders else 0o644
            if name in folders:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            content = files[name]
            data = content.read_bytes() if isinstance(content, Path) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def xz(out: Path, source: Path) -> None:
    with lzma.open(out, "wb", filters=filters()) as to, source.open("rb") as content:
        shutil.copyfileobj(content, to, 1 << 20)


def filters() -> list[dict[str, int]]:
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY}]


def as_json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
