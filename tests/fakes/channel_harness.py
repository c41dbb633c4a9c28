"""A channel's program with its socket in the test's hand, in the place of the host."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from channel import wire

F = TypeVar("F", bound=wire.Frame)
ROOT = Path(__file__).resolve().parents[2]


class ChannelProcess:
    """Starts `argv` with descriptor 3; what it says is kept in `said`."""

    def __init__(self, argv: Sequence[str | Path], log: Path, env: dict[str, str], *, keeps: bool = True) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.log = log
        self.keeps = keeps
        """Whether what must be kept is answered with `kept`, as a host does."""
        self.said: list[wire.Frame] = []
        self._decoder = wire.Decoder(wire.TO_HOST)
        self._id = 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                ["bash", "-c", 'exec "$@" 3<&"$FD"', "bash", *argv],
                pass_fds=[theirs.fileno()],
                env={**env, "FD": str(theirs.fileno()), "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
            )
        theirs.close()

    def tell(self, frame: wire.Frame) -> None:
        self.socket.sendall(wire.encode(frame))

    def ask(self, make: Callable[[int], wire.Frame]) -> int:
        """Send a request; its id."""
        self._id += 1
        self.tell(make(self._id))
        return self._id

    def wait(
        self,
        kind: type[F],
        matches: Callable[[F], bool] = lambda _: True,
        *,
        since: int = 0,
        timeout: float = 40,
    ) -> F:
        """The first such frame after the first `since` ones, waiting for it."""
        until = time.monotonic() + timeout
        while True:
            for frame in self.said[since:]:
                if isinstance(frame, kind) and matches(frame):
                    return frame
            self._hear(until, f"no {kind.__name__.lower()}")

    def _hear(self, until: float, what: str) -> None:
        left = until - time.monotonic()
        data = b""
        if left > 0:
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                left = 0
        if not data:
            end = "in time" if left <= 0 else f"before it ended ({self.process.wait(10)})"
            raise AssertionError(f"{what} {end}: {self.said[-10:]}\n{self.log.read_text(errors='replace')[-4000:]}")
        for frame in self._decoder.feed(data):
            self.said.append(frame)
            seq = getattr(frame, "seq", None)
            if self.keeps and seq is not None:
                self.tell(wire.Kept(seq))

    def answer(self, request: int, timeout: float = 40) -> wire.Done | wire.Failed:
        """How it went."""
        until = time.monotonic() + timeout
        while True:
            for frame in self.said:
                if isinstance(frame, wire.Done | wire.Failed) and frame.id == request:
                    return frame
            self._hear(until, f"no answer to {request}")

    def done(self, make: Callable[[int], wire.Frame]) -> wire.Done:
        """Ask, and expect that it was carried out."""
        answer = self.answer(self.ask(make))
        assert isinstance(answer, wire.Done), answer
        return answer

    def failed(self, make: Callable[[int], wire.Frame]) -> wire.Failed:
        answer = self.answer(self.ask(make))
        assert isinstance(answer, wire.Failed), answer
        return answer

    def send_file(
        self, chat: str, file: wire.File, data: bytes, text: str = "", **more: Any
    ) -> wire.Done | wire.Failed:
        request = self.ask(lambda n: wire.Send(n, chat, text, file=file, **more))
        for start in range(0, len(data), wire.CHUNK):
            self.tell(wire.Data(request, data[start : start + wire.CHUNK]))
        return self.answer(request)

    def now(self) -> int:
        """A mark for `since`."""
        return len(self.said)

    def ended(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        """As the end of a test does, whatever state that left it in."""
        self.process.kill()
        self.process.wait()
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the channel did not end with its socket") from None
