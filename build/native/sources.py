"""The sources of what is compiled: named in `sources.lock`, fetched from Debian's archive, believed by SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).with_name("sources.lock")
SECONDS: Final = 120
MOST: Final = 256 << 20
"""Bytes of one archive; the largest has 23 MB."""


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

    @property
    def pool(self) -> str:
        """Where Debian's archive keeps it, below any mirror's root."""
        letter = self.package[:4] if self.package.startswith("lib") else self.package[0]
        return f"pool/main/{letter}/{self.package}/{self.file}"


def parse(text: str) -> dict[str, Source]:
    """`sources.lock`; `ValueError` for a line that is none of its kind."""
    found: dict[str, Source] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        source = Source(*line.split(" "))
        if not re.fullmatch(r"[0-9a-f]{64}", source.sha256) or "/" in source.file or source.name in found:
            raise ValueError(f"not a line of sources.lock: {line!r}")
        found[source.name] = source
    return found


def locked() -> dict[str, Source]:
    return parse(LOCK.read_text())


def fetch(source: Source, cache: Path) -> Path:
    """The archive, in `cache`; `BuildError` if it cannot be had, or is not what the lock says."""
    path = cache / source.file
    if path.is_file() and _sha256(path) == source.sha256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    tried = []
    for mirror in mirrors():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with urllib.request.urlopen(f"{mirror}/{source.pool}", timeout=SECONDS) as answer, part.open("wb") as out:  # noqa: S310
                shutil.copyfileobj(answer, out)
                if out.tell() > MOST:
                    raise BuildError(f"{source.file} is larger than anything expected")
        except (urllib.error.URLError, OSError) as e:
            tried.append(str(e))
            part.unlink(missing_ok=True)
            continue
        if _sha256(part) == source.sha256:
            part.replace(path)
            return path
        part.unlink()
        tried.append("it is not the file that sources.lock names")
    raise BuildError(
        f"cannot fetch {source.file} of Debian's {source.suite}: {'; '.join(tried) or 'apt knows no mirror of Debian'}",
        f"put it into {cache} yourself; if Debian has a newer one by now, sources.lock is to name that",
    )


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


def unpack(archive: Path, into: Path) -> Path:
    """The one folder that is in it."""
    with tarfile.open(archive) as tar:
        # Debian 12's Python has no filters yet; what is in the archive is what sources.lock says, in any case.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(into)  # noqa: S202
    folders = [path for path in into.iterdir() if path.is_dir()]
    if len(folders) != 1:
        raise BuildError(f"{archive} does not hold one folder")
    return folders[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
