"""Archives as streams: bounded memory, one pass, and how far they were read."""

from __future__ import annotations

import lzma
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Final, Protocol, Self

Progress = Callable[[str], None]

CHUNK: Final = 1 << 18
"""Bytes at a time: large enough that Python's own work does not show, small beside a Raspberry Pi's memory."""
DICTIONARY: Final = 64 << 20
"""Most memory that unpacking may take. Ours are made with a dictionary of 16 MB or less; a file from elsewhere
could ask for gigabytes."""


PRESET: Final = 2
"""Of xz, for what is compressed here: a third of the time of its usual 6, for a tenth more bytes."""


class AlteredError(Exception):
    """What is being read is not what its digests say, or no image of ours at all; the text says how."""


class Plain:
    """A tar that lies uncompressed in a file."""

    def __init__(self, path: Path) -> None:
        self._size = max(1, path.stat().st_size)
        self._file: BinaryIO = path.open("rb")

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def portion(self) -> float:
        return min(1.0, self._file.tell() / self._size)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Xz(Plain):
    """One xz stream, unpacked as it is read. `AlteredError` if it is damaged, cut, or if anything follows it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = max(1, size)
        self._taken = 0
        self._lzma = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DICTIONARY)
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end, and only there."""
        while not self._ready and not self._lzma.eof:
            self._ready = memoryview(self._more())
        out, self._ready = bytes(self._ready[:size]), self._ready[size:]
        # At the end read on, to the very end of the file below: what checks its digest does so there.
        if not out and (self._lzma.unused_data or self._file.read(1)):
            raise AlteredError("something follows its end")
        return out

    def _more(self) -> bytes:
        data = b""
        if self._lzma.needs_input:
            data = self._file.read(CHUNK)
            self._taken += len(data)
            if not data:
                raise AlteredError("it is cut short")
        try:
            return self._lzma.decompress(data, CHUNK)
        except lzma.LZMAError as e:
            raise AlteredError(f"it cannot be uncompressed ({e})") from None

    def portion(self) -> float:
        return min(1.0, self._taken / self._size)


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Copying:
    """Reads `source`, and writes down what was read."""

    def __init__(self, source: Source, out: IO[bytes]) -> None:
        self._source, self._out = source, out

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._out.write(data)
        return data

    def close(self) -> None:
        self._out.flush()


class Percent:
    """Tells a `Progress` how far something is: about once a second, and not for every percent."""

    def __init__(self, progress: Progress, text: str) -> None:
        self._progress, self._text = progress, text
        self._told, self._at = -100, 0.0

    def __call__(self, portion: float) -> None:
        percent, now = int(100 * portion), time.monotonic()
        if percent >= self._told + 5 and now >= self._at + 1.0:
            self._told, self._at = percent, now
            self._progress(f"{self._text}: {percent} %")
