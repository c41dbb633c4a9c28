"""Writing an image to a file, for another machine: as it lies here where it is compressed, checked as it passes by."""

from __future__ import annotations

import contextlib
import lzma
import os
import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from host.errors import UserError
from host.model import Image
from host.parcels.archive import Walk, opened
from host.parcels.rootfs import damaged
from host.parcels.streams import CHUNK, PRESET, AlteredError, Copying, Percent, Progress, Xz

MODE: Final = 0o644


def save(image: Image, raw: tuple[BinaryIO, int] | None, file: Path, progress: Progress) -> int:
    """Write it as `file`, which appears complete or not at all; its size. `raw`: its xz as it lies here, and the length
    of that; None where it is not compressed here."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "xb", opener=_private) as out:
            if raw is None:
                _compress(image, out, progress)
            else:
                _copy(image, raw, out, progress)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        part.replace(file)
    except AlteredError as e:
        raise damaged(image, str(e)) from None
    except OSError as e:
        raise UserError(f"cannot write {file}: {e.strerror or e}", "choose another place, with room for it") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, MODE)


def _copy(image: Image, raw: tuple[BinaryIO, int], out: IO[bytes], progress: Progress) -> None:
    source, size = raw
    with closing(source):
        stream = Xz(cast(BinaryIO, Copying(source, out)), size)
        _pass(image, stream.read, stream.portion, progress)


def _compress(image: Image, out: IO[bytes], progress: Progress) -> None:
    with lzma.open(out, "wb", preset=PRESET) as compressed, closing(opened(image)) as stream:
        copying = Copying(stream, cast(IO[bytes], compressed))
        _pass(image, copying.read, stream.portion, progress)


def _pass(image: Image, read: Callable[[int], bytes], portion: Callable[[], float], progress: Progress) -> None:
    percent = Percent(progress, "writing the image")

    def telling(size: int) -> bytes:
        percent(portion())
        return read(size)

    for _ in Walk(telling, image.id):
        pass


def verify(image: Image, progress: Progress) -> None:
    """Read all of it, and compare it with its digests; `AlteredError` if one is wrong."""
    with closing(opened(image)) as stream:
        percent = Percent(progress, "checking the image")
        for layer in Walk(stream.read, image.id):
            while layer.read(CHUNK):
                percent(stream.portion())
