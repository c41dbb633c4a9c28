"""A gate on a real loop with real sockets: the test is the runner on one side and the server on the other."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from host.gate import Gate, Resolver
from host.loop import Loop
from host.model import AllowedHost, Connection, Endpoint
from runner.protocol import WINDOW, Bytes, Close, Credit, Open, Opened

SECONDS = 10.0


class Bench:
    """`names` is what the resolver knows: host → addresses, or a function that gives them."""

    def __init__(self, loop: Loop, endpoint: Endpoint, allowed: tuple[AllowedHost, ...], names: dict[str, Any]) -> None:
        self.loop, self.names = loop, names
        self.looked_up: list[str] = []
        self.frames: list[Any] = []
        self.rows: list[Connection] = []
        self._sent: Counter[int] = Counter()
        self.resolver = Resolver(loop, lookup=self._lookup)
        self.gate = Gate(
            loop,
            self.resolver,
            group="home",
            turn="t1",
            endpoint=endpoint,
            allowed=allowed,
            send=self.frames.append,
            audit=self.rows.append,
        )

    def _lookup(self, host: str, port: int, **_: Any) -> list[Any]:
        self.looked_up.append(host)
        found = self.names.get(host)
        if callable(found):
            found = found()
        if found is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in found]

    def until(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Run the loop until the condition holds; fail instead of hanging."""
        end = self.loop.now() + seconds
        while not (value := condition()):
            assert self.loop.now() < end, f"frames: {str(self.frames[-3:])[:500]}, rows: {self.rows[-3:]}"
            self.loop.call_later(0.005, lambda: None)
            self.loop.step()
        return value

    def settle(self, seconds: float = 0.05) -> None:
        end = self.loop.now() + seconds
        self.until(lambda: self.loop.now() >= end)

    def of(self, kind: type, stream: int) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind) and frame.stream == stream]

    def received(self, stream: int) -> bytes:
        return b"".join(frame.data for frame in self.of(Bytes, stream))

    def credit(self, stream: int) -> int:
        return sum(frame.bytes for frame in self.of(Credit, stream))

    def room(self, stream: int) -> int:
        """Bytes that an honest runner may send now."""
        return WINDOW + self.credit(stream) - self._sent[stream]

    def send(self, stream: int, data: bytes) -> None:
        self._sent[stream] += len(data)
        self.gate.handle(Bytes(stream, data))

    def open(self, stream: int, server: Server, kind: str = "model", host: str = "127.0.0.1") -> socket.socket:
        """An open stream to the server: the server's end of it."""
        self.gate.handle(Open(stream, kind, host, server.port))
        self.until(lambda: self.of(Opened, stream))
        return server.accept()

    def refusal(self, stream: int, kind: str, host: str, port: int) -> str:
        self.gate.handle(Open(stream, kind, host, port))
        close: Close = self.until(lambda: self.of(Close, stream))[0]
        return close.error


class Server:
    """A listener on loopback; the test plays what answers."""

    def __init__(self, address: str = "127.0.0.1", backlog: int = 128) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listening = socket.create_server((address, 0), family=family, backlog=backlog)
        self.listening.settimeout(SECONDS)
        self.port: int = self.listening.getsockname()[1]
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self.listening.accept()
        connection.settimeout(SECONDS)
        self.accepted.append(connection)
        return connection

    def close(self) -> None:
        for connection in (*self.accepted, self.listening):
            connection.close()


@contextmanager
def bench(
    server: Server | None = None, allowed: tuple[AllowedHost, ...] = (), names: dict[str, Any] | None = None
) -> Iterator[Bench]:
    """A gate whose model endpoint is the server; no socket of it is left at the end."""
    loop = Loop()
    port = server.port if server else 1
    before = open_fds()
    made = Bench(loop, Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port, tls=False), allowed, names or {})
    try:
        yield made
    finally:
        accepted = {s.fileno() for s in server.accepted} if server else set()
        made.gate.close()
        made.resolver.close()
        left = open_fds() - before - accepted
        loop.close()
    assert not left, f"descriptors left open: {left}"


def open_fds() -> set[int]:
    """Open sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists this folder
            if str(entry.readlink()).startswith("socket:"):
                found.add(int(entry.name))
    return found
