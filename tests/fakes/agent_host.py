"""A host for a runner under test: it speaks the pipe, and its gate connects every stream to 127.0.0.1."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from runner import protocol

RUNNER = Path(__file__).with_name("agent_runner.py")
LIMITS = protocol.Limits(rounds=10, seconds=60, tokens=1_000_000, command_seconds=20, output_bytes=30_000)
KEY = "NCC-key-of-the-test-0123456789"

F = TypeVar("F")


def turn(**changes: Any) -> protocol.Turn:
    values: dict[str, Any] = {
        "turn": "t1",
        "group": "home",
        "is_main": True,
        "assistant": "Andy",
        "prompt": "hi",
        "history": [],
        "secrets": {"api_key": KEY},
        "base_url": "http://model.test",
        "model": "claude-test",
        "max_tokens": 4096,
        "limits": LIMITS,
        "tools": [],
        "timezone": "UTC",
    }
    return protocol.Turn(**{**values, **changes})


class Host:
    """Start a runner, hand it a turn, collect its frames until it is gone."""

    def __init__(self, work: Path, *args: str, command: list[str] | None = None) -> None:
        (work / "group").mkdir(parents=True, exist_ok=True)
        argv = command or [sys.executable, str(RUNNER), "--work", str(work), *args]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.frames: list[protocol.Frame] = []
        self.stderr = b""
        self.on_frame: Callable[[protocol.Frame], None] = lambda _: None
        self._news: queue.SimpleQueue[protocol.Frame | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self.gate = Gate(self.send)
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._read, self._read_stderr)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        self.gate.cut()
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()

    def send(self, frame: protocol.Frame) -> None:
        assert self.process.stdin
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):  # gone, or closed by us
            self.process.stdin.write(protocol.encode(frame))
            self.process.stdin.flush()

    def wait_for(self, kind: type[F], seconds: float = 30) -> F:
        """The next frame of that kind; what comes before it is skipped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            frame = self._news.get(timeout=left)
            if isinstance(frame, kind):
                return frame
            if frame is None:
                break
        raise AssertionError(f"no {kind.__name__}; got {self.frames}; stderr: {self.stderr.decode()}")

    def run(self, payload: protocol.Turn, seconds: float = 60) -> protocol.Done | protocol.Failed:
        self.wait_for(protocol.Hello)
        self.send(payload)
        return self.end(seconds)

    def end(self, seconds: float = 60) -> protocol.Done | protocol.Failed:
        frame = self.wait_for((protocol.Done, protocol.Failed), seconds)  # type: ignore[arg-type]
        self.process.wait(10)
        return frame  # type: ignore[return-value]

    def all(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    def entries(self) -> list[dict[str, Any]]:
        return [entry for frame in self.all(protocol.Entries) for entry in frame.entries]

    def shown(self, kind: str) -> list[str]:
        return [frame.text for frame in self.all(protocol.Progress) if frame.kind == kind]

    # --- the pipe ---

    def _read(self) -> None:
        assert self.process.stdout
        decoder = protocol.Decoder(protocol.TO_HOST, protocol.RUNNER_LINE_LIMIT)
        while data := self.process.stdout.read1(65536):  # type: ignore[attr-defined]
            for frame in decoder.feed(data):
                self._take(frame)
        self._news.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        self.stderr = self.process.stderr.read()

    def _take(self, frame: protocol.Frame) -> None:
        match frame:
            case protocol.Open() | protocol.Bytes() | protocol.Credit() | protocol.Close():
                self.gate.take(frame)
            case _:
                self.frames.append(frame)
                self.on_frame(frame)
                self._news.put(frame)


class Gate:
    """Connects every stream to 127.0.0.1, whatever host it names, unless `refuse` has a reason not to."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self.opened: list[protocol.Open] = []
        self.refuse: Callable[[protocol.Open], str] = lambda _: ""
        self._ends: dict[int, _End] = {}

    def take(self, frame: protocol.Frame) -> None:
        if isinstance(frame, protocol.Open):
            self.opened.append(frame)
            threading.Thread(target=self._open, args=(frame,), daemon=True).start()
        elif isinstance(frame, protocol.Bytes | protocol.Credit | protocol.Close) and frame.stream in self._ends:
            self._ends[frame.stream].take(frame)

    def cut(self) -> None:
        for end in list(self._ends.values()):
            end.cut()

    def _open(self, asked: protocol.Open) -> None:
        if reason := self.refuse(asked):
            self._send(protocol.Close(asked.stream, reason))
            return
        try:
            sock = socket.create_connection(("127.0.0.1", asked.port), 5)
        except OSError as e:
            self._send(protocol.Close(asked.stream, f"failed: {e.strerror}"))
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends[asked.stream] = end = _End(asked.stream, sock, self._send)
        self._send(protocol.Opened(asked.stream))
        end.start()


class _End:
    """The outer end of one stream, strict about credit."""

    def __init__(self, number: int, sock: socket.socket, send: Callable[[protocol.Frame], None]) -> None:
        self._number, self._sock, self._send = number, sock, send
        self._credit = protocol.WINDOW
        self._granted = protocol.WINDOW
        self._changed = threading.Condition()
        self._over = False
        self._out: queue.SimpleQueue[protocol.Frame] = queue.SimpleQueue()

    def start(self) -> None:
        for pump in (self._pump_in, self._pump_out):
            threading.Thread(target=pump, daemon=True).start()

    def take(self, frame: protocol.Bytes | protocol.Credit | protocol.Close) -> None:
        if isinstance(frame, protocol.Credit):
            with self._changed:
                self._credit += frame.bytes
                assert self._credit <= protocol.WINDOW
                self._changed.notify_all()
            return
        if isinstance(frame, protocol.Bytes):
            self._granted -= len(frame.data)
            assert self._granted >= 0, "the runner sent beyond its credit"
        self._out.put(frame)

    def _pump_in(self) -> None:
        error = ""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._credit > 0 or self._over)
                    room = min(self._credit, protocol.CHUNK)
                if self._over:
                    return
                data = self._sock.recv(room)
                if not data:
                    break
                with self._changed:
                    self._credit -= len(data)
                self._send(protocol.Bytes(self._number, data))
        except OSError as e:
            error = f"failed: {e.strerror or e}"
        if not self._over:
            self._send(protocol.Close(self._number, error))

    def _pump_out(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                frame = self._out.get()
                if isinstance(frame, protocol.Bytes):
                    self._sock.sendall(frame.data)
                    self._granted += len(frame.data)
                    if frame.data:
                        self._send(protocol.Credit(self._number, len(frame.data)))
                elif isinstance(frame, protocol.Close) and not frame.error:
                    self._sock.shutdown(socket.SHUT_WR)
                else:
                    break
        self.cut()

    def cut(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
