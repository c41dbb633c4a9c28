"""What leaves a sandbox: through the pipe, to hosts that the config allows, each connection written down."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import nanoclaw, rows

PROXIED = "run curl -sS -m 20 --noproxy '' -x http://127.0.0.1:3128 -w '[%{{http_code}}]' http://127.0.0.1:{port}/"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page of the test's own")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A web server on loopback; the only address that these tests ever reach."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def allow(home: Path, hosts: str) -> None:
    (home / "config").mkdir(mode=0o700, exist_ok=True)
    (home / "config/config.toml").write_text(f"[groups.main]\nallow_hosts = [{hosts}]\n")


def tool_rows(home: Path) -> list[tuple[object, ...]]:
    return rows(home, "SELECT grp, host, port, address, outcome FROM connections WHERE kind = 'tool'")


def test_a_tool_reaches_an_allowed_host_and_the_audit_says_so(home: Path, engine: str, port: int) -> None:
    allow(home, f'{{host = "127.0.0.1", ports = [{port}], networks = ["127.0.0.0/8"]}}')
    done = nanoclaw(home, engine, "ask", PROXIED.format(port=port))
    assert "a page of the test's own[200]" in done.stdout
    assert tool_rows(home) == [("main", "127.0.0.1", port, "127.0.0.1", "closed")]
    assert rows(home, "SELECT min(sent) > 50 AND min(received) > 50 FROM connections WHERE kind = 'tool'") == [(1,)]


def test_a_host_that_is_not_allowed_is_refused_and_written_down(home: Path, engine: str, port: int) -> None:
    allow(home, f'{{host = "127.0.0.1", ports = [{port + 1 if port < 65535 else 1}], networks = ["127.0.0.0/8"]}}')
    done = nanoclaw(home, engine, "ask", PROXIED.format(port=port))
    assert "a page of the test's own" not in done.stdout
    assert "[403]" in done.stdout
    ((group, host, asked, address, outcome),) = tool_rows(home)
    assert (group, host, asked, address) == ("main", "127.0.0.1", port, "")
    assert str(outcome).startswith("refused")


def test_a_name_that_is_allowed_does_not_reach_a_private_address(home: Path, engine: str, port: int) -> None:
    allow(home, f'"127.0.0.1:{port}"')
    done = nanoclaw(home, engine, "ask", PROXIED.format(port=port))
    assert "[403]" in done.stdout
    assert str(tool_rows(home)[0][4]).startswith("refused")


def test_without_allowed_hosts_there_is_no_proxy_and_no_way_out(home: Path, engine: str, port: int) -> None:
    done = nanoclaw(
        home, engine, "ask", f"run curl -sS -m 5 http://127.0.0.1:{port}/; env | grep -ci proxy; ls /proc/net/route"
    )
    assert "a page of the test's own" not in done.stdout
    assert tool_rows(home) == []


def test_every_request_to_the_model_is_written_down(home: Path, engine: str) -> None:
    nanoclaw(home, engine, "ask", "repeat x")
    ((group, address, outcome, sent),) = rows(
        home, "SELECT grp, address, outcome, sent > 100 FROM connections WHERE kind = 'model'"
    )
    assert (group, address, sent) == ("main", "127.0.0.1", 1)
    assert outcome in {"closed", "cut"}
