"""The runner's own end of the streams against the gate: threads there, one loop here, frames as lines between."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from host.gate import Gate, Resolver
from host.loop import Loop
from host.model import AllowedHost, Connection, Endpoint
from runner import forwarder
from runner.protocol import TO_HOST, TO_RUNNER, decode, encode
from runner.streams import Stream, StreamError, Streams

LOOPBACK = ("127.0.0.0/8",)


class Echo:
    """A server that sends back what it gets, and its end after the client's."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


class Pair:
    """A gate on its loop, and the runner's `Streams`, joined by what would be the pipe."""

    def __init__(self, loop: Loop, echo: Echo) -> None:
        self.loop, self.rows = loop, list[Connection]()
        self.resolver = Resolver(loop, lookup=lambda host, port, **_: [(2, 1, 6, "", ("127.0.0.1", port))])
        self.gate = Gate(
            loop,
            self.resolver,
            group="home",
            turn="t1",
            endpoint=Endpoint(f"http://127.0.0.1:{echo.port}", "127.0.0.1", echo.port, tls=False),
            allowed=(AllowedHost("tool.test", (echo.port,), LOOPBACK), AllowedHost("private.test", (echo.port,))),
            send=lambda frame: self.streams.take(decode(encode(frame).rstrip(b"\n"), TO_RUNNER)),  # type: ignore[arg-type]
            audit=self.rows.append,
        )
        self.streams = Streams(self._to_host)

    def _to_host(self, frame: Any) -> None:
        line = encode(frame).rstrip(b"\n")
        self.loop.call_threadsafe(lambda: self.gate.handle(decode(line, TO_HOST)))  # type: ignore[arg-type]

    def run(self, work: Callable[[], Any], seconds: float = 30) -> Any:
        """Do blocking work in a thread while the loop runs."""
        with ThreadPoolExecutor(1) as pool:
            done: Future[Any] = pool.submit(work)
            done.add_done_callback(lambda _: self.loop.call_threadsafe(self.loop.stop))
            timer = self.loop.call_later(seconds, self.loop.stop)
            self.loop.run()
            timer.cancel()
            assert done.done()  # else: all that the threads wait for has a time limit, so this fails and does not hang
            return done.result()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listening.close()


@pytest.fixture
def pair(echo: Echo) -> Iterator[Pair]:
    loop = Loop()
    made = Pair(loop, echo)
    yield made
    made.gate.close()
    made.resolver.close()
    loop.close()


def exchange(stream: Stream, data: bytes, rng: random.Random) -> bytes:
    """Send all, close our direction, and read all that comes; both at once."""

    def send() -> None:
        at = 0
        while at < len(data):
            size = rng.choice([1, 1000, 200_000])
            stream.write(data[at : at + size], 20)
            at += size
        stream.finish()

    sender = threading.Thread(target=send)
    sender.start()
    digest = hashlib.sha256()
    while piece := stream.read(rng.choice([10, 4096, 1_000_000]), 20):
        digest.update(piece)
    sender.join()
    stream.close()
    return digest.digest()


def test_thirty_streams_at_once_carry_what_they_were_given(pair: Pair, echo: Echo) -> None:
    def one(number: int) -> bool:
        rng = random.Random(number)
        data = rng.randbytes(rng.choice([0, 1, 100_000, 700_000]))
        kind, host = rng.choice([("model", "127.0.0.1"), ("tool", "tool.test")])
        stream = pair.streams.open(kind, host, echo.port, 20)
        return exchange(stream, data, rng) == hashlib.sha256(data).digest()

    def work() -> list[bool]:
        with ThreadPoolExecutor(30) as pool:
            return list(pool.map(one, range(30)))

    assert all(pair.run(work))
    pair.run(lambda: None)
    assert [row.outcome for row in pair.rows] == ["closed"] * 30
    assert all(row.sent == row.received for row in pair.rows)


def test_a_refusal_reaches_who_asked(pair: Pair, echo: Echo) -> None:
    def work() -> str:
        with pytest.raises(StreamError) as caught:
            pair.streams.open("tool", "private.test", echo.port, 20)
        return str(caught.value)

    assert pair.run(work) == "refused: private.test is at 127.0.0.1, which is not allowed"


def test_the_end_of_the_turn_wakes_nobody_with_an_error(pair: Pair, echo: Echo) -> None:
    stream = pair.run(lambda: pair.streams.open("model", "127.0.0.1", echo.port, 20))
    pair.gate.close()
    pair.run(stream.close)
    assert [row.outcome for row in pair.rows] == ["cut"]


def ask_forwarder(pair: Pair, request: bytes, then: bytes = b"") -> bytes:
    """What a tool that speaks to the proxy gets. Its listener has a fixed port, so it is left out here."""

    def work() -> bytes:
        ours, theirs = socket.socketpair()
        slots = threading.BoundedSemaphore(1)
        slots.acquire()
        served = threading.Thread(target=forwarder._serve, args=(theirs, pair.streams, slots))
        served.start()
        with ours:
            ours.settimeout(20)
            ours.sendall(request)
            got = ours.recv(65536)
            if then:
                ours.sendall(then)
                ours.shutdown(socket.SHUT_WR)
            while data := ours.recv(65536):
                got += data
        served.join(20)
        return got

    return bytes(pair.run(work))


def test_a_tool_reaches_an_allowed_host_through_the_proxy(pair: Pair, echo: Echo) -> None:
    got = ask_forwarder(pair, f"CONNECT tool.test:{echo.port} HTTP/1.1\r\n\r\n".encode(), b"anything at all")
    assert got == b"HTTP/1.1 200 Connection established\r\n\r\nanything at all"
    pair.run(lambda: None)
    (row,) = pair.rows
    assert (row.kind, row.host, row.sent, row.received, row.outcome) == ("tool", "tool.test", 15, 15, "closed")


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1", "private.test"])
def test_a_tool_is_told_why_it_may_not(pair: Pair, echo: Echo, host: str) -> None:
    for request in (
        f"CONNECT {host}:{echo.port} HTTP/1.1\r\n\r\n",
        f"GET http://{host}:{echo.port}/x HTTP/1.1\r\n\r\n",
    ):
        got = ask_forwarder(pair, request.encode())
        assert got.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"allowed" in got
    assert [row.outcome.partition(":")[0] for row in pair.rows] == ["refused", "refused"]
    assert {row.address for row in pair.rows} == {""}
