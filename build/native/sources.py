"""The sources of what is compiled: named in `sources.lock`, fetched from Debian's archive, believed by SHA-256.

Debian keeps a release's versions for years and mends them by patches: those that mend are applied, those that only fit
a program into Debian are not.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).with_name("sources.lock")
SECONDS: Final = 120
MOST: Final = 256 << 20
"""Bytes of one archive; the largest has 53 MB."""
PATCH: Final = ("patch", "-p1", "--forward", "--batch", "--fuzz=0", "--unified", "--silent", "--no-backup-if-mismatch")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]+")


class BuildError(Exception):
    """Something that this build needs is not there, or went wrong; the second text says what helps."""

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.hint = hint


@dataclass(frozen=True)
class Source:
    name: str
    version: str
    licence: str
    package: str
    """Debian's source package."""
    suite: str
    file: str
    sha256: str
    patches: str
    """The file with Debian's patches; "" if none of them is applied."""
    patches_sha256: str
    applied: str
    """A pattern of the names of those patches that are applied."""

    @property
    def files(self) -> list[tuple[str, str]]:
        """What is fetched: names, and their SHA-256."""
        return [(self.file, self.sha256), *([(self.patches, self.patches_sha256)] if self.patches else [])]

    @property
    def folder(self) -> str:
        """Where Debian's archive keeps it, below any mirror's root."""
        letter = self.package[:4] if self.package.startswith("lib") else self.package[0]
        return f"pool/main/{letter}/{self.package}"


def parse(text: str) -> dict[str, Source]:
    """`sources.lock`; `ValueError` for a line that is none of its kind."""
    found: dict[str, Source] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        words = line.split(" ")
        if len(words) not in (7, 10):
            raise ValueError(f"not a line of sources.lock: {line!r}")
        source = Source(*words, *([""] * (10 - len(words))))
        if source.name in found or not all(
            DIGEST.fullmatch(digest) and FILE.fullmatch(file) for file, digest in source.files
        ):
            raise ValueError(f"not a line of sources.lock: {line!r}")
        found[source.name] = source
    return found


def locked() -> dict[str, Source]:
    return parse(LOCK.read_text())


def fetch(source: Source, cache: Path) -> list[Path]:
    """Its archives, in `cache`, the sources first; `BuildError` if one cannot be had, or is not what the lock says."""
    return [_fetch(source, name, digest, cache) for name, digest in source.files]


def _fetch(source: Source, name: str, digest: str, cache: Path) -> Path:
    path = cache / name
    if path.is_file() and _sha256(path) == digest:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    tried = []
    part = path.with_name(f"{name}.{os.getpid()}")
    for mirror in mirrors():
        try:
            _download(f"{mirror}/{source.folder}/{urllib.parse.quote(name)}", part)
        except (urllib.error.URLError, OSError) as e:
            tried.append(str(e))
            part.unlink(missing_ok=True)
            continue
        if _sha256(part) == digest:
            part.replace(path)
            return path
        part.unlink()
        tried.append("it is not the file that sources.lock names")
    raise BuildError(
        f"cannot fetch {name} of Debian's {source.suite}: {'; '.join(tried) or 'apt knows no mirror of Debian'}",
        f"put it into {cache} yourself; if Debian has a newer one by now, sources.lock is to name that",
    )


def _download(address: str, part: Path) -> None:
    with urllib.request.urlopen(address, timeout=SECONDS) as answer, part.open("wb") as out:  # noqa: S310
        while block := answer.read(1 << 20):
            out.write(block)
            if out.tell() > MOST:
                raise OSError("it is larger than anything expected")


def mirrors() -> list[str]:
    """The mirrors of Debian that this machine's apt uses; NANOCLAW_DEBIAN names one where there is no apt."""
    if chosen := os.environ.get("NANOCLAW_DEBIAN"):
        return [chosen.rstrip("/")]
    argv = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
    try:
        told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    sites = dict.fromkeys(line.strip().rstrip("/") for line in told.splitlines())
    return [site for site in sites if site.startswith(("http://", "https://")) and "security" not in site]


def unpack(source: Source, cache: Path, into: Path) -> Path:
    """The one folder that is in its archive, patched."""
    archive, *more = fetch(source, cache)
    with tarfile.open(archive) as tar:
        # Debian 12's Python has no filters yet; what is in the archive is what sources.lock says, in any case.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(into)  # noqa: S202
    folders = [path for path in into.iterdir() if path.is_dir()]
    if len(folders) != 1:
        raise BuildError(f"{archive} does not hold one folder")
    for patches in more:
        apply(source, patches, folders[0])
    return folders[0]


def apply(source: Source, archive: Path, folder: Path) -> None:
    """Debian's patches that the lock wants, in Debian's order, without any give."""
    with tarfile.open(archive) as tar:
        chosen = wanted(source, _read(tar, "debian/patches/series").decode())
        if not chosen:
            raise BuildError(f"{archive} has no patch that is called {source.applied}")
        for name in chosen:
            text = _read(tar, f"debian/patches/{name}")
            done = subprocess.run(PATCH, input=text, cwd=folder, capture_output=True, check=False)
            if done.returncode:
                raise BuildError(f"{name} does not fit {source.name}: {done.stdout.decode(errors='replace')[-1000:]}")


def wanted(source: Source, series: str) -> list[str]:
    """Of `series` (a name a line, comments, options after a name), those that are applied."""
    names = [line.split()[0] for line in series.splitlines() if line.strip() and not line.startswith("#")]
    return [name for name in names if re.fullmatch(source.applied, name)]


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise BuildError(f"there is no {name} in {tar.name!s}")
    with file:
        return file.read(MOST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
