"""The proxy for the agent's tools: what it takes, what it sends on, how it says no."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import forwarder, protocol
from runner.forwarder import BadRequestError, Target, parse
from runner.streams import Streams
from tests.fakes.agent_host import Gate
from tests.fakes.agent_tls import make_authority, read_request, serving

# --- one head ---


@pytest.mark.parametrize(
    ("line", "host", "port"),
    [
        ("CONNECT example.com:443 HTTP/1.1", "example.com", 443),
        ("CONNECT [2001:db8::1]:8443 HTTP/1.0", "2001:db8::1", 8443),
        ("CONNECT EXAMPLE.com:443 HTTP/1.1", "example.com", 443),
    ],
)
def test_connect(line: str, host: str, port: int) -> None:
    assert parse(f"{line}\r\nHost: x\r\n\r\n".encode()) == Target(host, port, b"")


def test_a_plain_request_goes_on_in_origin_form() -> None:
    head = (
        b"GET http://example.com:8080/a/b?c=d HTTP/1.1\r\nHost: example.com:8080\r\nProxy-Connection: keep-alive\r\n"
        b"Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nAccept: */*\r\n\r\n"
    )
    sent = b"GET /a/b?c=d HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    assert parse(head) == Target("example.com", 8080, sent)
    assert parse(b"HEAD http://x?q HTTP/1.1\r\n\r\n").head.startswith(b"HEAD /?q HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "GET /index.html HTTP/1.1",
        "GET https://example.com/ HTTP/1.1",
        "GET ftp://example.com/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://user:pw@example.com/ HTTP/1.1",
        "GET http://example.com:99999/ HTTP/1.1",
        "GET http://[::1/ HTTP/1.1",
        "CONNECT example.com HTTP/1.1",
        "CONNECT example.com:443/path HTTP/1.1",
        "CONNECT user@example.com:443 HTTP/1.1",
        "CONNECT :443 HTTP/1.1",
        "GET http://example.com/ HTTP/2.0",
        "GET http://example.com/ a HTTP/1.1",
        "",
        "\x16\x03\x01",
    ],
)
def test_what_is_no_proxy_request(line: str) -> None:
    with pytest.raises(BadRequestError):
        parse(f"{line}\r\n\r\n".encode())


@given(st.binary(max_size=200) | st.builds(lambda b: b"GET http://" + b + b" HTTP/1.1\r\n\r\n", st.binary(max_size=40)))
def test_any_head_is_a_target_or_a_bad_request(head: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        target = parse(head)
        assert target.host
        assert 0 < target.port < 65536


# --- whole connections ---


class House:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.streams = Streams(self._to_gate)
        self.gate = Gate(self.streams.take)

    def _to_gate(self, frame: protocol.Frame) -> None:
        self.gate.take(frame)

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def curl(self, *args: str) -> subprocess.CompletedProcess[str]:
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        env = {"PATH": "/usr/bin:/bin", "http_proxy": self.url, "https_proxy": self.url}
        argv = ["curl", "-q", "-sS", "-m", "10", *args]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(forwarder, "ADDRESS", ("127.0.0.1", port))
    house = House(port)
    forwarder.start(house.streams)
    yield house
    house.gate.cut()


def page(connection: socket.socket) -> None:
    request = read_request(connection)
    body = request.split(b"\r\n")[0]
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)


def test_curl_over_http(house: House) -> None:
    with serving(page) as port:
        assert house.curl(f"http://some.test:{port}/x?y=1").stdout == "GET /x?y=1 HTTP/1.1"
    assert house.gate.opened == [protocol.Open(1, "tool", "some.test", port)]


def test_curl_over_https(house: House, tmp_path: Path) -> None:
    _, context = make_authority(tmp_path, "some.test")
    with serving(page, context) as port:
        shown = house.curl("--cacert", str(tmp_path / "ca.pem"), f"https://some.test:{port}/z")
        assert shown.stdout == "GET /z HTTP/1.1", shown.stderr
    assert house.gate.opened == [protocol.Open(1, "tool", "some.test", port)]


def test_an_upload_and_a_download(house: House, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 20_000)

    def echo(connection: socket.socket) -> None:
        body = read_request(connection).partition(b"\r\n\r\n")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    with serving(echo) as port:
        house.curl("-H", "Expect:", "-T", str(tmp_path / "big"), "-o", str(tmp_path / "back"), f"http://x.test:{port}/")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_refusal_is_a_403_with_the_reason(house: House) -> None:
    house.gate.refuse = lambda _: "refused: evil.test is not among this group's hosts"
    shown = house.curl("-i", "http://evil.test/")
    assert shown.stdout.startswith("HTTP/1.1 403 Forbidden")
    assert shown.stdout.endswith("nanoclaw: refused: evil.test is not among this group's hosts\n")
    assert "403" in house.curl("https://evil.test/").stderr


def test_one_that_cannot_be_reached_is_a_502(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert house.curl("-i", f"http://x.test:{port}/").stdout.startswith("HTTP/1.1 502")


def test_nonsense_is_a_400(house: House) -> None:
    assert house.raw(b"hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert house.raw(b"").startswith(b"HTTP/1.1 400")


def test_an_endless_head_is_refused(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), 5) as connection:
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"X-More: " + b"x" * 4000 + b"\r\n")
        with contextlib.suppress(OSError):
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert house.gate.opened == []


def test_one_that_says_nothing_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", house.port), 5) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 504")


def test_connections_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> int:
        return sum(thread.name.startswith("Thread") for thread in threading.enumerate())

    before = threads()
    with contextlib.ExitStack() as stack:
        for _ in range(forwarder.MAX_CONNECTIONS + 20):
            stack.enter_context(socket.create_connection(("127.0.0.1", house.port), 5))
        time.sleep(0.5)
        assert threads() - before <= forwarder.MAX_CONNECTIONS


def test_each_direction_of_a_tunnel_ends_by_itself(house: House) -> None:
    def count(connection: socket.socket) -> None:
        received = sum(len(data) for data in iter(lambda: connection.recv(65536), b""))
        connection.sendall(f"got {received}".encode())

    with serving(count) as port:
        answer = house.raw(f"CONNECT x.test:{port} HTTP/1.1\r\n\r\n".encode() + b"x" * 300_000)
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\ngot 300000"
