"""What the runner asks of the host: tools that the host offers, and a check in the place of a turn."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import protocol, shell, text
from runner.shell import Shell, ToolError
from runner.tools import Tools, schemas
from tests.fakes.agent_host import Host, turn
from tests.fakes.agent_tls import read_request, serving

OFFERED = [
    {
        "name": "list_tasks",
        "description": "List them.",
        "input_schema": {"type": "object", "properties": {}, "required": []},
    }
]
LOADED = "grep -c pydantic_core /proc/$PPID/maps; true"
"""How much of the model's SDK the runner has in its memory."""
LIMITS = protocol.Limits(rounds=5, seconds=60, tokens=1000, command_seconds=20, output_bytes=1000)


def kit(tmp_path: Path, answer: protocol.Result | protocol.Refused, asked: list[Any]) -> Tools:
    def ask(method: str, params: dict[str, Any]) -> protocol.Result | protocol.Refused:
        asked.append((method, params))
        return answer

    bash = Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path))
    return Tools(bash, LIMITS, lambda _: None, OFFERED, ask)


def use(name: str, untrusted_input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "id1", "name": name, "input": untrusted_input}


def test_what_the_host_offers_stands_beside_our_own_tools() -> None:
    assert schemas(OFFERED)[-1] == OFFERED[0]
    assert len({schema["name"] for schema in schemas(OFFERED)}) == len(schemas(OFFERED))


def test_a_use_becomes_a_request_and_its_answer_the_result(tmp_path: Path) -> None:
    asked: list[Any] = []
    (found,) = kit(tmp_path, protocol.Result(1, {"tasks": ["water"]}), asked).carry_out([use("list_tasks", {"a": 1})])
    assert asked == [("list_tasks", {"a": 1})]
    assert json.loads(found["content"]) == {"tasks": ["water"]}
    assert not found.get("is_error")


def test_a_refusal_is_an_error_in_the_host_s_words(tmp_path: Path) -> None:
    (found,) = kit(tmp_path, protocol.Refused(1, "main only"), []).carry_out([use("list_tasks", {})])
    assert found["is_error"]
    assert "main only" in found["content"]


def test_an_answer_of_any_length_is_cut(tmp_path: Path) -> None:
    (found,) = kit(tmp_path, protocol.Result(1, {"x": "y" * 100_000}), []).carry_out([use("list_tasks", {})])
    assert len(found["content"].encode()) <= LIMITS.output_bytes


@pytest.mark.parametrize("untrusted_input", [None, [], "text", 7])
def test_what_is_no_object_is_not_asked(tmp_path: Path, untrusted_input: Any) -> None:
    asked: list[Any] = []
    (found,) = kit(tmp_path, protocol.Result(1, {}), asked).carry_out([use("list_tasks", untrusted_input)])
    assert found["is_error"]
    assert asked == []


def test_what_was_not_offered_is_no_tool(tmp_path: Path) -> None:
    asked: list[Any] = []
    (found,) = kit(tmp_path, protocol.Result(1, {}), asked).carry_out([use("register_group", {})])
    assert found["is_error"]
    assert asked == []


@pytest.mark.parametrize(
    "offered",
    [
        [{**OFFERED[0], "name": "bash"}],
        [*OFFERED, *OFFERED],
        [{**OFFERED[0], "name": None}],
        [{"description": "of no name"}],
    ],
)
def test_the_host_cannot_put_its_tool_in_the_place_of_another(tmp_path: Path, offered: list[dict[str, Any]]) -> None:
    bash = Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path))
    with pytest.raises(protocol.PeerError):
        Tools(bash, LIMITS, lambda _: None, offered)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=9), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(), max_size=9), json_values, max_size=3), st.integers(0, 300))
def test_whatever_the_model_asks_is_a_frame_that_the_host_can_read(params: dict[str, Any], depth: int) -> None:
    deep: Any = 1
    for level in range(depth):
        deep = [deep] if level % 2 else {"x": deep}
    call = protocol.Call(1, "list_tasks", text.clean({**params, "deep": deep}))
    assert protocol.decode(protocol.encode(call)[:-1], protocol.TO_HOST) == call
    block = {"type": "tool_use", "id": "1", "name": "list_tasks", "input": {**params, "deep": deep}}
    entry = {"role": "assistant", "content": text.clean([block])}
    protocol.decode(protocol.encode(protocol.Entries([entry]))[:-1], protocol.TO_HOST)


def test_what_is_nested_too_deep_is_said_and_not_sent() -> None:
    deep: Any = "NCC-bottom"
    for _ in range(200):
        deep = [deep]
    assert "nested too deep" in json.dumps(text.clean(deep))
    assert "NCC-bottom" not in json.dumps(text.clean(deep))


# --- a shell's check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "output"),
    [
        ("echo yes", 0, "yes\n"),
        ("echo no; exit 3", 3, "no\n"),
        ("kill -9 $$", 137, ""),
        ("nothing-of-that-name", 127, ""),
    ],
)
def test_a_check_ends_as_a_shell_tells_it(tmp_path: Path, command: str, status: int, output: str) -> None:
    found = Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path)).check(command, 20, 1000)
    assert found[0] == status
    assert output in found[1]


def test_a_check_that_takes_too_long_is_124(tmp_path: Path) -> None:
    assert Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path)).check("sleep 30", 1, 1000)[0] == shell.TIMED_OUT


def test_a_check_that_is_no_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError):
        Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path)).check("x" * 200_000, 1, 1000)


# --- the whole runner, below its seal ---------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as made:
        yield made


def test_a_runner_carries_out_a_check_without_ever_having_had_a_key(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("echo found; env | grep -c KEY; exit 4", 20, "Asia/Tokyo"))
    checked = host.wait_for(protocol.Checked)
    assert (checked.status, checked.output) == (4, "found\n0\n")
    assert host.process.wait(10) == 0


def test_who_waits_for_a_check_does_not_wait_for_the_model_s_sdk(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check(LOADED, 20, "UTC"))
    assert host.wait_for(protocol.Checked).output == "0\n"


def test_one_that_was_ready_for_a_turn_takes_a_check_too(host: Host) -> None:
    host.wait_for(protocol.Hello)
    until = time.monotonic() + 60
    while not sdk_is_loaded(host.process.pid):
        assert time.monotonic() < until
        time.sleep(0.05)
    host.send(protocol.Check(LOADED, 20, "UTC"))  # the control of the test before
    assert host.wait_for(protocol.Checked).output != "0\n"


def sdk_is_loaded(pid: int) -> bool:
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()


def test_a_command_that_cannot_be_run_is_126(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("x" * 200_000, 20, "UTC"))
    checked = host.wait_for(protocol.Checked)
    assert checked.status == 126
    assert "too long" in checked.output


def test_a_check_prints_no_more_than_fits(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the-end", 20, "UTC"))
    output = host.wait_for(protocol.Checked).output
    assert len(output) < 20_000
    assert "bytes cut here" in output
    assert output.endswith("the-end\n")


def test_stop_ends_a_check(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("sleep 60", 60, "UTC"))
    host.send(protocol.Stop("you asked"))
    assert host.wait_for(protocol.Failed) == protocol.Failed("stopped", "you asked")
    assert host.process.wait(10) == 0


def test_a_check_reaches_out_through_the_proxy(tmp_path: Path) -> None:
    def page(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na page")

    with socket.create_server(("127.0.0.1", 0)) as free:
        proxy = free.getsockname()[1]
    with serving(page) as port, Host(tmp_path, "--proxy-port", str(proxy)) as host:
        host.wait_for(protocol.Hello)
        host.send(protocol.Check(f"curl -sS http://some.test:{port}/", 20, "UTC"))
        assert host.wait_for(protocol.Checked) == protocol.Checked(0, "a page")
        assert [(asked.kind, asked.host) for asked in host.gate.opened] == [("tool", "some.test")]


def test_nothing_follows_a_check(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("sleep 20", 30, "UTC"))
    host.send(turn())
    assert host.process.wait(20) == 76


@pytest.mark.parametrize("frame", [protocol.Result(1, {}), protocol.Refused(7, "x")])
def test_an_answer_to_no_request_ends_the_runner(host: Host, frame: protocol.Frame) -> None:
    host.wait_for(protocol.Hello)
    host.send(frame)
    assert host.process.wait(20) == 76


def test_the_end_of_the_pipe_ends_a_check(host: Host) -> None:
    host.wait_for(protocol.Hello)
    host.send(protocol.Check("sleep 60", 60, "UTC"))
    assert host.process.stdin
    host.process.stdin.close()
    assert host.process.wait(20) == 0
