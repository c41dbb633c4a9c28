"""Files that came with messages: fetched from their channel, and written by the host into the group's inbox.

What a file is called there and what it is are our words; what the sender said of it is shown beside them."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.errors import UserError
from host.pool import own_folder

MAX_STEM: Final = 60
PART: Final = ".part"
"""What a killed host was writing."""
NOT_KEPT: Final = re.compile(r"[^\w.-]+")

# First bytes → MIME type and ending. The offset of each is 0 unless it is given. Sources: the formats' own
# specifications. What is none of them is kept as bytes.
SIGNATURES: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (0, b"\xff\xd8\xff", "image/jpeg", "jpg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (0, b"GIF87a", "image/gif", "gif"),
    (0, b"GIF89a", "image/gif", "gif"),
    (8, b"WEBP", "image/webp", "webp"),
    (0, b"%PDF-", "application/pdf", "pdf"),
    (0, b"OggS", "audio/ogg", "ogg"),
    (0, b"ID3", "audio/mpeg", "mp3"),
    (0, b"\xff\xfb", "audio/mpeg", "mp3"),
    (8, b"WAVE", "audio/wav", "wav"),
    (4, b"ftypM4A", "audio/mp4", "m4a"),
    (4, b"ftyp", "video/mp4", "mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm", "webm"),
    (0, b"PK\x03\x04", "application/zip", "zip"),
    (0, b"\x1f\x8b", "application/gzip", "gz"),
)
OFFICE: Final = frozenset({"docx", "xlsx", "pptx", "odt", "ods", "odp", "epub"})
"""Endings of what is a zip inside, which tell more than that."""
TEXT: Final = frozenset({"txt", "csv", "md", "json", "xml", "html", "ics", "vcf"})


@dataclass(frozen=True)
class Kept:
    name: str
    """In the inbox."""
    type: str
    bytes: int


def type_of(data: bytes, claimed_name: str) -> tuple[str, str]:
    """MIME type and ending, by what is in it; the claimed name only tells kinds of text and of zip apart."""
    claimed = claimed_name.rpartition(".")[2].lower()
    for offset, signature, kind, ending in SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return (kind, claimed) if ending == "zip" and claimed in OFFICE else (kind, ending)
    head = data[:4096]
    with contextlib.suppress(UnicodeDecodeError):
        # The last character of what was looked at may be cut in two.
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) == len(data))
        if b"\0" not in head:
            return "text/plain", claimed if claimed in TEXT else "txt"
    return "application/octet-stream", "bin"


def file_name(untrusted_name: str, ending: str, sent_at: float, mark: str) -> str:
    """Ours: the day, what is left of the sender's name for it, and `mark`, which no other file has."""
    stem = unicodedata.normalize("NFKC", untrusted_name).rpartition(".")[0] or untrusted_name
    clean = NOT_KEPT.sub("-", stem).strip("-._")[:MAX_STEM]
    try:
        day = time.strftime("%Y-%m-%d", time.gmtime(sent_at))
    except (ValueError, OverflowError, OSError):  # the sender's clock says what it likes
        day = "undated"
    return "-".join([day, *([clean] if clean else []), mark]) + f".{ending}"


class Inbox:
    """Each group's folder of what was sent to it, and how much it may hold."""

    def __init__(self, folder: Path, owner: tuple[int, int], most: int) -> None:
        """`owner`: user and group of the sandboxes, who read there. `most`: bytes for each group."""
        self._folder, self._owner, self._most = folder, owner, most

    def room(self, group: str) -> int:
        """Bytes that still fit."""
        place = self._folder / group
        try:
            used = sum(each.stat(follow_symlinks=False).st_size for each in os.scandir(place) if each.name != PART)
        except FileNotFoundError:
            used = 0
        return max(0, self._most - used)

    def keep(self, group: str, untrusted_name: str, sent_at: float, data: bytes, about: str) -> Kept:
        """Write it; on disk, and whole, when this returns. `UserError` if there is no room. `about`: whose it is and
        which of theirs; who was killed before that was on record brings the same again, and does not leave two."""
        kind, ending = type_of(data, untrusted_name)
        # Long enough that nobody finds an id whose file would be another's: it goes when that message is taken back.
        name = file_name(untrusted_name, ending, sent_at, hashlib.sha256(about.encode()).hexdigest()[:24])
        try:
            place = own_folder(self._folder / group, "/workspace/inbox", True, *self._owner).source
            if _has(place / name, data):
                return Kept(name, kind, len(data))
            if os.path.lexists(place / name):  # it is another's word that the same comes twice
                name = file_name(untrusted_name, ending, sent_at, secrets.token_hex(12))
            self._write(place, name, data)
        except OSError as e:
            raise UserError(f"the file cannot be kept: {e.strerror}") from e
        return Kept(name, kind, len(data))

    def _write(self, place: Path, name: str, data: bytes) -> None:
        """Under a name that the next file takes too, until it is whole."""
        part = place / PART
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 (it is a descriptor)
                if os.geteuid() == 0:
                    os.fchown(fd, *self._owner)
                file.write(data)
                file.flush()
                os.fsync(fd)
            part.rename(place / name)
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def remove(self, group: str, name: str) -> None:
        """What was taken back in the chat goes here too."""
        if name and "/" not in name and name not in {".", ".."}:
            with contextlib.suppress(OSError):
                (self._folder / group / name).unlink()


def _has(path: Path, data: bytes) -> bool:
    """Whether there is a file of this name with this in it, on disk when this returns."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or seen.st_size != len(data):
            return False
        with open(fd, "rb", closefd=False) as file:
            if file.read() != data:
                return False
        os.fsync(fd)
        return True
    finally:
        os.close(fd)
