"""Tools' connections through the gate: names, addresses, ports, and that nothing is looked up twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from host import gate as gate_module
from host.model import AllowedHost, Endpoint
from runner.protocol import Open, Opened
from tests.fakes.gate_bench import Server, bench

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def rule(server: Server, pattern: str = "tool.test", networks: tuple[str, ...] = LOOPBACK) -> AllowedHost:
    return AllowedHost(pattern, (server.port,), networks)


def test_an_allowed_host_is_reached_and_written_down_by_name_and_address(server: Server) -> None:
    with bench(server, (rule(server),), {"tool.test": ["127.0.0.1"]}) as tool:
        far = tool.open(1, server, "tool", "Tool.TEST.")
        tool.send(1, b"hello")
        assert far.recv(10) == b"hello"
        tool.gate.close()
        (row,) = tool.rows
        assert (row.kind, row.host, row.port, row.address) == ("tool", "tool.test", server.port, "127.0.0.1")
        assert (row.sent, row.received, row.outcome) == (5, 0, "cut")


REFUSED = {
    "another name": ("other.test", 0, "other.test:{port} is not among this group's allowed hosts"),
    "another port": ("tool.test", 1, "tool.test:{port} is not among this group's allowed hosts"),
    "its parent": ("test", 0, "test:{port} is not among this group's allowed hosts"),
    "its address": ("127.0.0.1", 0, "127.0.0.1:{port} is not among this group's allowed hosts"),
    "no name": ("tool.test\r\nX: y", 0, "not a host name"),
    "nothing": ("", 0, "not a host name"),
    "no port": ("tool.test", -99999, "tool.test:{port} is not among this group's allowed hosts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_refused_without_a_look_up(server: Server, name: str) -> None:
    host, shift, reason = REFUSED[name]
    with bench(server, (rule(server),), {"tool.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}) as tool:
        told = tool.refusal(1, "tool", host, server.port + shift)
        assert told == "refused: " + reason.format(port=server.port + shift)
        assert not tool.looked_up
        (row,) = tool.rows
        assert row.outcome == told
        assert row.host.isprintable()
        assert (row.address, row.sent, row.received) == ("", 0, 0)


def test_the_model_s_endpoint_is_no_allowed_host(server: Server) -> None:
    with bench(server) as tool:
        assert tool.refusal(1, "tool", "127.0.0.1", server.port).startswith("refused: 127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.2", 0), ("127.0.0.1", 1), ("localhost", 0), ("tool.test", 0), ("", 0), ("127.1", 0)]
)
def test_a_model_stream_goes_to_the_endpoint_and_nowhere_else(server: Server, host: str, port: int) -> None:
    with bench(server, (rule(server),), {"tool.test": ["127.0.0.1"]}) as model:
        assert model.refusal(1, "model", host, server.port + port).startswith("refused: not ")
        assert model.rows[0].outcome.startswith("refused")


def test_where_no_endpoint_is_configured_no_model_stream_goes_anywhere(server: Server) -> None:
    with bench(server) as model:
        model.gate._endpoint = Endpoint("", "", 0, tls=False)
        for number, host in enumerate(["", ".", "localhost", "0.0.0.0"], start=1):
            assert model.refusal(number, "model", host, 0).startswith("refused")
        assert not model.looked_up


def test_the_endpoint_may_be_a_name_at_any_address(server: Server) -> None:
    with bench(server, (), {"model.lan": ["127.0.0.1"]}) as model:
        model.gate._endpoint = Endpoint("http://Model.LAN.", "Model.LAN.", server.port, tls=False)
        model.open(1, server, "model", "model.lan")


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_an_allowed_name_at_a_private_address_is_refused(server: Server, address: str) -> None:
    with bench(server, (rule(server, networks=()),), {"tool.test": [address]}) as tool:
        told = tool.refusal(1, "tool", "tool.test", server.port)
        assert told == f"refused: tool.test is at {address}, which is not allowed"
        server.listening.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


def test_private_addresses_among_others_are_passed_over(server: Server) -> None:
    names = {"tool.test": ["10.0.0.1", "192.168.0.1", "127.0.0.1"]}
    with bench(server, (rule(server),), names) as tool:
        tool.open(1, server, "tool", "tool.test")
        tool.gate.close()
        assert tool.rows[0].address == "127.0.0.1"


def test_a_name_that_changes_its_address_is_looked_up_once(server: Server) -> None:
    """Rebinding: what was vetted is what is connected to."""
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    with bench(server, (rule(server),), {"tool.test": lambda: next(answers)}) as tool:
        tool.open(1, server, "tool", "tool.test")
        assert tool.looked_up == ["tool.test"]
        tool.gate.close()
        assert tool.rows[0].address == "127.0.0.1"


def test_rules_for_one_host_add_up(server: Server) -> None:
    allowed = (AllowedHost("tool.test", (1,)), AllowedHost("*.test", (server.port,)), rule(server))
    with bench(server, allowed, {"tool.test": ["127.0.0.1"]}) as tool:
        tool.open(1, server, "tool", "tool.test")


def test_without_ports_a_rule_means_80_and_443() -> None:
    with bench(None, (AllowedHost("127.0.0.1", (), LOOPBACK),)) as tool:
        assert "not among" in tool.refusal(1, "tool", "127.0.0.1", 8080)
        for number, port in ((2, 80), (3, 443)):
            assert "not among" not in tool.refusal(number, "tool", "127.0.0.1", port)


def test_an_address_is_allowed_by_its_own_rule(server: Server) -> None:
    with bench(server, (rule(server, "127.0.0.1"),)) as tool:
        tool.open(1, server, "tool", "127.0.0.1")
        assert not tool.looked_up


def test_the_next_address_is_tried_where_one_refuses(server: Server) -> None:
    names = {"tool.test": ["127.0.0.2", "127.0.0.3", "127.0.0.1"]}
    with bench(server, (rule(server),), names) as tool:
        tool.open(1, server, "tool", "tool.test")
        tool.gate.close()
        assert tool.rows[0].address == "127.0.0.1"


def test_a_server_that_is_not_there_is_a_failure_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with bench(None, (AllowedHost("tool.test", (port,), LOOPBACK),), {"tool.test": ["127.0.0.1"]}) as tool:
        assert tool.refusal(1, "tool", "tool.test", port) == "failed: Connection refused"
        assert tool.rows[0].outcome == "failed: Connection refused"


def test_a_name_that_does_not_exist_is_a_failure(server: Server) -> None:
    with bench(server, (rule(server),)) as tool:
        told = tool.refusal(1, "tool", "tool.test", server.port)
        assert told == "failed: tool.test: Name or service not known"
        assert tool.rows[0].outcome == told


@pytest.fixture
def deaf() -> Iterator[Server]:
    """A server that answers no further connection: its queue is full."""
    made = Server(backlog=0)
    full = []
    for _ in range(3):
        extra = socket.socket()
        extra.setblocking(False)
        extra.connect_ex(("127.0.0.1", made.port))
        full.append(extra)
    yield made
    for extra in full:
        extra.close()
    made.close()


def test_connecting_has_a_time_limit_that_all_addresses_share(deaf: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "CONNECT_SECONDS", 0.4)
    with bench(deaf, (rule(deaf),), {"tool.test": ["127.0.0.1", "::1", "127.0.0.1"]}) as tool:
        started = tool.loop.now()
        assert tool.refusal(1, "model", "127.0.0.1", deaf.port) == "failed: no answer in time"
        assert 0.3 < tool.loop.now() - started < 2
        started = tool.loop.now()
        assert tool.refusal(2, "tool", "tool.test", deaf.port) == "failed: no answer in time"
        assert tool.loop.now() - started < 2
        assert [row.address for row in tool.rows] == ["", ""]


def test_a_second_address_is_reached_behind_one_that_is_silent(deaf: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.2", deaf.port)) as other:
        other.settimeout(5)
        with bench(deaf, (rule(deaf),), {"tool.test": ["127.0.0.1", "127.0.0.2"]}) as tool:
            tool.gate.handle(Open(1, "tool", "tool.test", deaf.port))
            tool.until(lambda: tool.of(Opened, 1))
            other.accept()[0].close()
            tool.gate.close()
            assert tool.rows[0].address == "127.0.0.2"


def test_closing_while_it_connects_leaves_nothing(deaf: Server) -> None:
    with bench(deaf) as model:
        model.gate.handle(Open(1, "model", "127.0.0.1", deaf.port))
        model.settle()
        model.gate.close()
        assert [row.outcome for row in model.rows] == ["cut"]


def test_ipv6_works_where_it_is_there() -> None:
    try:
        server = Server("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    try:
        with bench(None, (AllowedHost("tool.test", (server.port,), ("::1/128",)),), {"tool.test": ["::1"]}) as tool:
            far = tool.open(1, server, "tool", "tool.test")
            tool.send(1, b"six")
            assert far.recv(10) == b"six"
            far.close()
    finally:
        server.close()


def test_a_gate_at_its_last_descriptor_fails_one_stream_and_no_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    with bench(server) as model:
        with monkeypatch.context() as patched:
            patched.setattr("host.link.socket.socket", no_socket)
            assert model.refusal(1, "model", "127.0.0.1", server.port) == "failed: Too many open files"
        model.open(2, server)


def test_a_slow_look_up_holds_up_nobody_else(server: Server) -> None:
    gone = threading.Event()
    allowed = (AllowedHost("slow.test"), rule(server))
    names: dict[str, Any] = {"slow.test": lambda: gone.wait(10) and None, "tool.test": ["127.0.0.1"]}
    with bench(server, allowed, names) as tool:
        tool.gate.handle(Open(1, "tool", "slow.test", 80))
        tool.open(2, server, "tool", "tool.test")
        tool.open(3, server)
        gone.set()
