"""What the host has not said that it kept, on disk: a child that is killed says it again in its next run.

The library tells WhatsApp that a message arrived before anyone here has seen it, so this file is where a message
first comes to rest. Written without fsync: it outlives a killed process, and the host's fsync follows within
milliseconds; one here would keep the library's own queue waiting, which a kill does lose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from pathlib import Path
from typing import Final

from channel import wire

LIMIT: Final = 16 * 1024 * 1024
"""Bytes after which the file is written anew with only what is still needed."""


Kept = wire.Message | wire.Edited | wire.Deleted | wire.Reaction


class Spool:
    """Frames in the order they came. One thread at a time."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._waiting: deque[tuple[int, bytes]] = deque()
        # Grows over all runs, as long as the clock does; and within one run whatever the clock does.
        self._seq = int(now * 1000) * 1000
        self._left = _read(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def __len__(self) -> int:
        return len(self._waiting)

    def resume(self) -> list[bytes]:
        """What an earlier run left, oldest first, under new numbers: to be said again."""
        for frame in self._left:
            seq = self.next_seq()
            self._waiting.append((seq, wire.encode(dataclasses.replace(frame, seq=seq))))
        self._left = []
        self._rewrite()
        return [line for _, line in self._waiting]

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def put(self, seq: int, line: bytes) -> None:
        """Keep this frame until `kept`. `line` ends in a newline."""
        if self._size > LIMIT:
            self._rewrite()
        os.write(self._fd, line)
        self._size += len(line)
        self._waiting.append((seq, line))

    def kept(self, seq: int) -> None:
        """The host has all up to `seq`."""
        while self._waiting and self._waiting[0][0] <= seq:
            self._waiting.popleft()
        if not self._waiting and self._size:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def _rewrite(self) -> None:
        part = self._path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(b"".join(line for _, line in self._waiting))
        part.replace(self._path)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size


def _read(path: Path) -> list[Kept]:
    """Whole lines only: the last one may have been cut by the end of the process. Bounded by what `put` lets in."""
    frames: list[Kept] = []
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in iter(lambda: file.readline(wire.LINE_LIMIT + 1), b""):
            if not line.endswith(b"\n"):
                break
            # What a program of another version wrote is left out, as the host would leave it out.
            with contextlib.suppress(wire.PeerError):
                frame = wire.decode(line[:-1], wire.TO_HOST)
                if isinstance(frame, Kept):
                    frames.append(frame)
    return frames
