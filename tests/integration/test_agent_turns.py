"""Whole turns of the real runner, with the rehearsal for a model and a host that is a test."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.rehearsal.child import Rehearsal
from runner.protocol import Done, Entries, Failed, Frame, Hello, Input, Progress, Say, Stop
from tests.fakes import agent_host
from tests.fakes.agent_host import KEY, Host, turn
from tests.fakes.agent_tls import make_authority, read_request, serving


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    rehearsal = Rehearsal(expect_key=KEY)
    yield rehearsal.start().base_url
    rehearsal.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(*args: str) -> Host:
        hosts.append(Host(tmp_path, *args))
        return hosts[-1]

    yield start
    for host in hosts:
        host.__exit__()


def test_a_turn_with_memory(start: Callable[..., Host], base_url: str) -> None:
    assert start().run(turn(base_url=base_url, prompt="run echo '- tea is at four' >> CLAUDE.md")) == Done(
        "(no output)"
    )
    end = start().run(turn(base_url=base_url, prompt="what do you remember?"))
    assert end == Done("I remember:\n- tea is at four")


def test_what_is_said_first_comes_first(start: Callable[..., Host], base_url: str) -> None:
    host = start()
    assert host.run(turn(base_url=base_url, prompt="say wait a moment first")) == Done("I said that first.")
    assert host.all(Say) == [Say("wait a moment")]


def test_a_follow_up_is_taken_up_while_a_command_runs(start: Callable[..., Host], base_url: str) -> None:
    host = start()

    def follow_up(frame: Frame) -> None:
        if isinstance(frame, Progress) and frame.kind == "tool":
            host.send(Input("repeat the second thing"))

    host.on_frame = follow_up
    end = host.run(turn(base_url=base_url, prompt="run sleep 1; echo the first thing"))
    assert isinstance(end, Done)
    assert end.text.endswith("the second thing")
    assert end.inputs == 1


def test_stop_ends_it_in_the_middle_of_a_command(start: Callable[..., Host], base_url: str) -> None:
    host = start()
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, prompt="run sleep 3210"))
    host.wait_for(Progress)
    before = time.monotonic()
    host.send(Stop("you asked"))
    assert host.end() == Failed("stopped", "you asked")
    assert time.monotonic() - before < 3
    end = time.monotonic() + 10  # what is killed takes the kernel a moment to bury
    while runs(b"sleep 3210"):
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(command: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended while we looked
            if command in path.read_bytes():
                return True
    return False


def test_stop_ends_it_in_the_middle_of_an_answer(start: Callable[..., Host], base_url: str) -> None:
    host = start()
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, prompt="think slowly 30"))
    host.wait_for(Progress)
    host.send(Stop(""))
    assert host.end() == Failed("stopped", "stopped")


def test_time_is_up(start: Callable[..., Host], base_url: str) -> None:
    limits = dataclasses.replace(agent_host.LIMITS, seconds=2)
    host = start()
    end = host.run(turn(base_url=base_url, prompt="run sleep 60", limits=limits))
    assert end == Failed("limit", "The turn took longer than its 2 seconds.")


@pytest.mark.parametrize("prompt", ["fail truncate 1\nrepeat whole", "fail break 1\nrepeat whole"])
def test_an_answer_that_fails_in_the_middle_is_asked_for_again(
    start: Callable[..., Host], base_url: str, prompt: str
) -> None:
    host = start()
    assert host.run(turn(base_url=base_url, prompt=prompt)) == Done("whole")
    assert len(host.shown("status")) == 1


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("fail refuse", "refusal"), ("fail 400", "request"), ("fail 413", "request")],
)
def test_failures_in_words(start: Callable[..., Host], base_url: str, prompt: str, kind: str) -> None:
    end = start().run(turn(base_url=base_url, prompt=prompt))
    assert isinstance(end, Failed)
    assert end.kind == kind
    assert end.message.endswith((".", "]")) or kind == "refusal"


def test_an_error_event_in_the_middle_is_an_overload_that_may_pass(start: Callable[..., Host], base_url: str) -> None:
    host = start()
    assert host.run(turn(base_url=base_url, prompt="fail error 1\nrepeat ok")) == Done("ok")
    assert len(host.shown("status")) == 1


def test_a_wrong_key(start: Callable[..., Host], base_url: str) -> None:
    end = start().run(turn(base_url=base_url, secrets={"api_key": "wrong"}))
    assert end == Failed(
        "auth",
        "The model endpoint refused the key (401): check ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN in .env.",
    )


def test_an_endpoint_that_the_host_refuses(start: Callable[..., Host]) -> None:
    host = start()
    host.gate.refuse = lambda _: "refused: not the configured endpoint"
    end = host.run(turn(base_url="http://elsewhere.test"))
    assert end == Failed("endpoint", "The model endpoint cannot be reached: refused: not the configured endpoint.")


def test_tools_reach_out_through_the_proxy(start: Callable[..., Host], base_url: str) -> None:
    def page(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na page")

    with serving(page) as port:
        host = start("--proxy-port", str(_free_port()))
        end = host.run(turn(base_url=base_url, prompt=f"run curl -sS http://some.test:{port}/"))
    assert end == Done("a page")
    assert [(asked.kind, asked.host) for asked in host.gate.opened] == [("model", "127.0.0.1"), ("tool", "some.test")]


def test_the_model_over_tls_with_an_authority_of_the_site_s_own(
    start: Callable[..., Host], base_url: str, tmp_path: Path
) -> None:
    ca_pem, context = make_authority(tmp_path, "model.test")
    upstream = int(base_url.rpartition(":")[2])
    with serving(lambda connection: _relay(connection, upstream), context) as port:
        the_turn = turn(base_url=f"https://model.test:{port}", prompt="repeat sealed", ca_pem=ca_pem)
        assert start().run(the_turn) == Done("sealed")
        end = start().run(dataclasses.replace(the_turn, ca_pem=""))
    assert isinstance(end, Failed)
    assert end.kind == "endpoint"
    assert "the certificate is not trusted" in end.message
    end = start().run(dataclasses.replace(the_turn, ca_pem="nonsense"))
    assert end == Failed("endpoint", "The further certificate authorities that were configured are not PEM.")


def test_a_bug_is_told_by_its_place_and_not_by_its_words(start: Callable[..., Host]) -> None:
    host = start()
    # No host sends such a URL: it makes the SDK raise something that is no trouble of an endpoint.
    end = host.run(turn(base_url=f"http://[{KEY}"))
    assert isinstance(end, Failed)
    assert end.kind == "internal"
    assert ".py:" in end.message
    assert b"most recent call last" in host.stderr
    assert KEY not in end.message + host.stderr.decode()


# --- the lease ---


def test_the_end_of_the_pipe_ends_the_runner_at_once(start: Callable[..., Host], base_url: str) -> None:
    for prompt in (None, "run sleep 60", "think slowly 60"):
        host = start()
        host.wait_for(Hello)
        if prompt:
            host.send(turn(base_url=base_url, prompt=prompt))
            host.wait_for(Progress)
        before = time.monotonic()
        assert host.process.stdin
        host.process.stdin.close()
        assert host.process.wait(5) == 0
        assert time.monotonic() - before < 2


def test_without_a_payload_it_leaves_at_its_deadline(start: Callable[..., Host]) -> None:
    host = start("--deadline", "1")
    assert host.process.wait(10) == 75


def test_a_host_that_breaks_the_rules_is_left(start: Callable[..., Host]) -> None:
    for line in (b"nonsense\n", b'{"frame":"opened","stream":1}\n', b'{"frame":"result","id":1,"value":{}}\n'):
        host = start()
        host.wait_for(Hello)
        assert host.process.stdin
        host.process.stdin.write(line)
        host.process.stdin.flush()
        assert host.process.wait(5) == 76
        host._threads[1].join(5)
        assert b"broke the rules" in host.stderr


def test_a_second_turn_breaks_the_rules(start: Callable[..., Host], base_url: str) -> None:
    host = start()
    host.wait_for(Hello)
    for _ in range(2):
        host.send(turn(base_url=base_url, prompt="think slowly 30"))
    assert host.process.wait(10) == 76


def test_a_host_that_does_not_read_cannot_keep_it(tmp_path: Path, base_url: str) -> None:
    hold = threading.Event()

    def stop_reading(frame: Frame) -> None:
        if isinstance(frame, Entries) and frame.entries[0]["content"][0]["type"] == "tool_result":
            hold.wait(60)

    with Host(tmp_path) as host:
        host.wait_for(Hello)
        host.on_frame = stop_reading
        limits = dataclasses.replace(agent_host.LIMITS, seconds=3, output_bytes=1_000_000)
        # The next request carries all that output: more than the pipe holds.
        host.send(turn(base_url=base_url, prompt="run head -c 900000 /dev/zero | tr '\\0' x", limits=limits))
        assert host.process.wait(20) == 75
        hold.set()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _relay(connection: socket.socket, port: int) -> None:
    """A TLS front of the plain server behind it, one request a connection."""
    with socket.create_connection(("127.0.0.1", port)) as behind:
        while request := read_request(connection):
            behind.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            while data := behind.recv(65536):
                connection.sendall(data)
            return
