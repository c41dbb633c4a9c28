"""HTTP and TLS through streams, to real servers on loopback."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from runner import pipe_http, protocol
from runner.streams import Streams
from tests.fakes.agent_host import Gate
from tests.fakes.agent_tls import make_authority, read_request, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Way:
    """Streams with a gate right behind them, and a client that goes through both."""

    def __init__(self) -> None:
        self.streams = Streams(self._to_gate)
        self.gate = Gate(self.streams.take)

    def _to_gate(self, frame: protocol.Frame) -> None:
        self.gate.take(frame)

    def client(self, ca_pem: str = "", seconds: float = 5) -> httpx2.Client:
        context = pipe_http.tls_context()
        if ca_pem:
            context.load_verify_locations(cadata=ca_pem)
        return pipe_http.client(pipe_http.PipeTransport(self.streams, context), seconds)


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way()
    yield way
    way.gate.cut()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    return make_authority(tmp_path_factory.mktemp("ca"), "model.test")


def answer_ok(connection: socket.socket) -> None:
    while read_request(connection):
        connection.sendall(OK)


def test_requests_share_a_connection(way: Way) -> None:
    with serving(answer_ok) as port, way.client() as client:
        for _ in range(3):
            assert client.post(f"http://model.test:{port}/v1", content=b"x").text == "ok"
    assert way.gate.opened == [protocol.Open(1, "model", "model.test", port)]


def test_a_connection_that_the_server_closed_is_not_used_again(way: Way) -> None:
    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    with serving(once) as port, way.client() as client:
        url = f"http://model.test:{port}/"
        assert client.get(url).text == "ok"
        while (idle := way.streams._open.get(1)) and not idle.readable:
            time.sleep(0.01)
        assert client.get(url).text == "ok"
    assert len(way.gate.opened) == 2


def test_large_bodies_both_ways(way: Way) -> None:
    body = os.urandom(8 << 20)

    def digest(connection: socket.socket) -> None:
        sent = read_request(connection).partition(b"\r\n\r\n")[2]
        head = f"HTTP/1.1 200 OK\r\nX-Digest: {hashlib.sha256(sent).hexdigest()}\r\nContent-Length: {len(sent)}\r\n\r\n"
        connection.sendall(head.encode() + sent)

    with serving(digest) as port, way.client() as client:
        answer = client.post(f"http://model.test:{port}/", content=body)
        assert answer.headers["x-digest"] == hashlib.sha256(body).hexdigest()
        assert answer.content == body


def test_tls_ends_here(way: Way, authority: tuple[str, ssl.SSLContext]) -> None:
    ca_pem, context = authority
    body = os.urandom(1 << 20)

    def echo(connection: socket.socket) -> None:
        while request := read_request(connection):
            sent = request.partition(b"\r\n\r\n")[2]
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent)

    seen: list[bytes] = []
    take = way.gate.take
    way.gate.take = lambda frame: (seen.append(getattr(frame, "data", b"")), take(frame))[1]  # type: ignore[method-assign]
    with serving(echo, context) as port, way.client(ca_pem) as client:
        for _ in range(2):
            assert client.post(f"https://model.test:{port}/", content=body).content == body
        assert client.post(f"https://model.test:{port}/", content=b"a secret word").text == "a secret word"
    assert len(way.gate.opened) == 1
    assert b"a secret word" not in b"".join(seen)


def test_a_certificate_that_nobody_vouches_for(way: Way, authority: tuple[str, ssl.SSLContext]) -> None:
    with (
        serving(answer_ok, authority[1]) as port,
        way.client() as client,
        pytest.raises(httpx2.ConnectError, match="the certificate is not trusted"),
    ):
        client.get(f"https://model.test:{port}/")


def test_a_certificate_for_another_name(way: Way, authority: tuple[str, ssl.SSLContext]) -> None:
    with (
        serving(answer_ok, authority[1]) as port,
        way.client(authority[0]) as client,
        pytest.raises(httpx2.ConnectError, match="Hostname mismatch"),
    ):
        client.get(f"https://other.test:{port}/")


def test_a_server_that_speaks_no_tls(way: Way, authority: tuple[str, ssl.SSLContext]) -> None:
    with (
        serving(lambda connection: connection.sendall(OK)) as port,
        way.client(authority[0]) as client,
        pytest.raises(httpx2.ConnectError, match="TLS: "),
    ):
        client.get(f"https://model.test:{port}/")


def test_an_answer_that_is_cut_is_no_answer(way: Way, authority: tuple[str, ssl.SSLContext]) -> None:
    def cut(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
        # No farewell: as when somebody in between cuts the line.
        socket.socket(fileno=connection.detach()).close()

    with (
        serving(cut, authority[1]) as port,
        way.client(authority[0]) as client,
        pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)),
    ):
        client.get(f"https://model.test:{port}/")


def test_a_refusal_is_told(way: Way) -> None:
    way.gate.refuse = lambda _: "refused: not the model's endpoint"
    with way.client() as client, pytest.raises(httpx2.ConnectError, match="refused: not the model's endpoint"):
        client.get("http://elsewhere.test/")


def test_nobody_listens(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with way.client() as client, pytest.raises(httpx2.ConnectError, match="failed: Connection refused"):
        client.get(f"http://model.test:{port}/")


def test_silence_ends_in_time(way: Way) -> None:
    with (
        serving(lambda connection: connection.recv(1) and None) as port,
        way.client(seconds=0.3) as client,
        pytest.raises((httpx2.ReadTimeout, httpx2.RemoteProtocolError)),
    ):
        client.get(f"http://model.test:{port}/")


def test_redirects_and_proxies_are_not_followed(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.test:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")

    def elsewhere(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 307 Moved\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n")

    with serving(elsewhere) as port, way.client() as client:
        assert client.get(f"http://model.test:{port}/").status_code == 307
    assert [opened.host for opened in way.gate.opened] == ["model.test"]


def test_an_authority_from_the_environment_is_not_trusted(
    way: Way, authority: tuple[str, ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text(authority[0])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving(answer_ok, authority[1]) as port, way.client() as client, pytest.raises(httpx2.ConnectError):
        client.get(f"https://model.test:{port}/")
