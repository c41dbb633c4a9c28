"""Files that an agent sends to its chat: pieces from the pipe, put together on disk, queued like a reply."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from host.credentials import Scrubber
from host.errors import UserError
from host.house import House
from host.model import Group
from host.text import clean_text
from runner.protocol import MAX_SENT_FILE, MIB, File, PeerError, Refused, Result

MAX_FILES: Final = 20
"""Most files of one turn."""
TOO_MANY: Final = 10 * MAX_FILES
"""Who goes on sending after that is no model, and its sandbox is ended."""
MAX_UNSENT: Final = 512 * MIB
"""Most bytes in the outbox's folder: what no channel takes must not fill the disk."""
MAX_NAME: Final = 100
MAX_CAPTION: Final = 1024


class Sending:
    """One turn's files. A file is in the outbox before the agent is told that it was sent."""

    def __init__(self, house: House, group: Group, turn: str, answer: Callable[[Refused | Result], None]) -> None:
        self._house, self._group, self._turn, self._answer = house, group, turn, answer
        self._count = 0
        self._open = 0
        self._data = bytearray()

    def take(self, untrusted_piece: File, scrub: Scrubber) -> None:
        """`PeerError` for pieces that belong to nothing, or never end."""
        if not self._data and untrusted_piece.id != self._open:
            self._open = untrusted_piece.id
            self._count += 1
        if untrusted_piece.id != self._open or self._count > TOO_MANY:
            raise PeerError("pieces of two files at once, or too many files")
        if len(self._data) + len(untrusted_piece.data) > MAX_SENT_FILE:
            raise PeerError("a file over the limit")
        self._data += untrusted_piece.data
        if not untrusted_piece.last:
            return
        data, self._data = bytes(self._data), bytearray()
        try:
            self._queue(untrusted_piece, data, scrub)
        except UserError as e:
            self._answer(Refused(untrusted_piece.id, clean_text(scrub.scrub(str(e)))))
            return
        self._answer(Result(untrusted_piece.id, {}))

    def _queue(self, untrusted_piece: File, untrusted_data: bytes, scrub: Scrubber) -> None:
        if not self._house.takes_files(self._group.channel):
            raise UserError("this chat takes no files: say where in the folder the file is")
        if self._count > MAX_FILES:
            raise UserError(f"more than {MAX_FILES} files in one turn")
        if scrub.scrub_bytes(untrusted_data) is not untrusted_data:
            raise UserError("the file holds the key of the model's endpoint, and stays here")
        name = file_name(scrub.scrub(untrusted_piece.name))
        caption = clean_text(scrub.scrub(untrusted_piece.caption)).strip()[:MAX_CAPTION]
        kept = keep(self._house.outbox, untrusted_data)
        try:
            outgoing = self._house.store.add_file(self._group.folder, self._turn, (kept.name, name), caption)
        except UserError:
            kept.unlink()
            raise
        self._house.deliver(outgoing)


def file_name(untrusted_name: str) -> str:
    """What people see: one line without controls, and no path on anybody's system."""
    clean = clean_text(untrusted_name).translate(dict.fromkeys(map(ord, "/\\:\n\t"), "_"))
    stem, dot, ending = clean.strip(" .").rpartition(".")
    if dot and len(ending) <= 10:
        return f"{stem[:MAX_NAME]}.{ending}"
    return clean.strip(" .")[:MAX_NAME] or "file"


def keep(folder: Path, data: bytes) -> Path:
    """Write it under a name of our own; on disk when this returns."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if sum(each.stat().st_size for each in folder.iterdir()) + len(data) > MAX_UNSENT:
            raise UserError(f"more than {MAX_UNSENT // MIB} MiB of files wait to be sent")
        path = folder / secrets.token_hex(16)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise UserError(f"the file cannot be kept: {e.strerror}") from e
    try:
        with open(fd, "wb") as f:  # noqa: PTH123 (it is a descriptor)
            f.write(data)
            f.flush()
            os.fsync(fd)
    except OSError as e:
        with contextlib.suppress(OSError):
            path.unlink()
        raise UserError(f"the file cannot be kept: {e.strerror}") from e
    return path


def sweep(folder: Path, wanted: set[str]) -> None:
    """Remove what no row of the outbox names: files that were sent, and those of a crash between file and row."""
    with contextlib.suppress(FileNotFoundError):
        for each in folder.iterdir():
            if each.name not in wanted:
                each.unlink(missing_ok=True)
