"""Handing the image to an engine that keeps its own: from the file that it is in, or as a stream that is made from the
program's own file as the engine reads it, so that nothing is written to disk twice."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

from host.engines.base import clean_environment, kill_session, unnamed
from host.errors import EngineError
from host.model import Archive, Image

LOAD_SECONDS: Final = 900.0
"""A Raspberry Pi with a slow card unpacks 180 MB in a few minutes."""
CHUNK: Final = 1 << 18
TELL_SECONDS: Final = 5.0


def load_archive(
    engine: str, command: Sequence[str], image: Image, progress: Callable[[str], None], *hints: str
) -> str:
    """Run `command` followed by `load`, and say that it goes on; what it said. `EngineError` if it failed."""
    progress(f"{engine}: loading the sandbox image (once) …")
    with unnamed() as said:
        if image.read is None:
            source = ("--input", str(image.archive))
            _Loading(engine, (*command, "load", *source), image, progress, said).wait(hints)
        else:
            with contextlib.closing(image.read()) as archive:
                loading = _Loading(engine, (*command, "load"), image, progress, said, archive)
                loading.feed(hints)
                loading.wait(hints)
        return _words(said)


class _Loading:
    """The engine's program at work: what it is given, and until when it may take."""

    def __init__(
        self,
        engine: str,
        argv: Sequence[str],
        image: Image,
        progress: Callable[[str], None],
        said: IO[bytes],
        archive: Archive | None = None,
    ) -> None:
        self._engine, self._image, self._progress, self._said = engine, image, progress, said
        self._archive = archive
        self._began = self._told = time.monotonic()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if archive is None else subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=clean_environment(),
            start_new_session=True,
        )

    def feed(self, hints: Sequence[str]) -> None:
        """Everything, at the pace at which it is taken. That it is not taken shows in how the program ends."""
        assert self._archive is not None and self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        try:
            while data := memoryview(self._archive.read(CHUNK)):
                while data:
                    self._tell(f"loading the sandbox image: {100 * self._archive.portion():.0f} %")
                    if select.select([], [pipe], [], TELL_SECONDS)[1]:
                        data = data[os.write(pipe, data) :]
                    else:
                        self._refuse_late(hints)
        except BrokenPipeError:
            pass
        except BaseException:
            # Half of an image: the engine must not take it for one.
            kill_session(self._process)
            self._process.wait()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self, hints: Sequence[str]) -> None:
        while (waited := time.monotonic() - self._began) < LOAD_SECONDS:
            try:
                status = self._process.wait(TELL_SECONDS)
            except subprocess.TimeoutExpired:
                self._tell(f"still loading the sandbox image ({waited + TELL_SECONDS:.0f} s) …")
                continue
            if status != 0:
                raise EngineError(
                    f"{self._engine} could not load {_name(self._image)}: {_words(self._said)[-500:]}",
                    *_room(_words(self._said)),
                )
            return
        self._refuse_late(hints)

    def _tell(self, what: str) -> None:
        if time.monotonic() >= self._told + 1:
            self._told = time.monotonic()
            self._progress(f"{self._engine}: {what}")

    def _refuse_late(self, hints: Sequence[str]) -> None:
        if time.monotonic() < self._began + LOAD_SECONDS:
            return
        kill_session(self._process)
        what = f"{self._engine} did not load {_name(self._image)} within {LOAD_SECONDS:.0f} seconds"
        raise EngineError(what, *hints)


def _name(image: Image) -> str:
    return f"the sandbox image {image.id[:19]}…" if image.read is not None else str(image.archive)


def _room(untrusted_words: str) -> tuple[str, ...]:
    if "no space left on device" in untrusted_words.lower():
        return ("the disk with the engine's images is full: make room there (it needs about 200 MB)",)
    return ()


def _words(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read(4096).decode(errors="replace").strip()
