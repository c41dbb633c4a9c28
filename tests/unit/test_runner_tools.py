"""What a model may ask of the tools, and how it is told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import conversation, protocol, shell, tools
from runner.shell import Shell, ToolError
from runner.tools import Tools

LIMITS = protocol.Limits(rounds=5, seconds=60, tokens=1000, command_seconds=20, output_bytes=10_000)


class Sent(list[protocol.Frame]):
    def texts(self, kind: str) -> list[str]:
        return [frame.text for frame in self if isinstance(frame, protocol.Progress) and frame.kind == kind]


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def posted() -> list[tuple[str, str, bytes]]:
    return []


@pytest.fixture
def kit(tmp_path: Path, sent: Sent, posted: list[tuple[str, str, bytes]]) -> Tools:
    def post(name: str, caption: str, data: bytes) -> protocol.Result | protocol.Refused:
        if name == "refused":
            return protocol.Refused(1, "no files here")
        posted.append((name, caption, data))
        return protocol.Result(1, {})

    return Tools(Shell(shell.environment("UTC", ""), LIMITS, str(tmp_path)), LIMITS, sent.append, post=post)


def call(name: str, number: int = 1, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"id{number}", "name": name, "input": arguments}


def test_the_schemas_are_what_the_api_takes() -> None:
    schemas = tools.schemas()
    assert [schema["name"] for schema in schemas] == list(tools.TABLE)
    for schema in schemas:
        assert set(schema) == {"name", "description", "input_schema"}
        assert set(schema["input_schema"]["required"]) <= schema["input_schema"]["properties"].keys()


def test_every_tool_takes_its_smallest_input(kit: Tools, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    inputs: dict[str, dict[str, Any]] = {
        "bash": {"command": "true"},
        "read_file": {"path": "x"},
        "write_file": {"path": "y", "content": ""},
        "edit_file": {"path": "x", "old": "old", "new": "new"},
        "glob": {"pattern": "*"},
        "grep": {"pattern": "new"},
        "send_file": {"path": "x"},
        "send_message": {"text": "hi"},
    }
    assert inputs.keys() == tools.TABLE.keys()
    results = kit.carry_out([call(name, n, **inputs[name]) for n, name in enumerate(inputs)])
    assert not any(result.get("is_error") for result in results), results
    assert results[5]["content"] == "x:1:new"


def test_every_tool_takes_all_its_inputs(kit: Tools, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old old")
    values = {"path": "x", "pattern": "old", "command": "echo", "content": "old old", "include": "*", "text": "t"}
    values |= {"old": "old", "new": "new", "caption": "c"}
    for name, (_, properties, _) in tools.TABLE.items():
        kinds = {"integer": 1, "boolean": True}
        given = {key: values.get(key, kinds.get(schema["type"])) for key, schema in properties.items()}
        if name == "glob":
            given["path"] = "."
        (result,) = kit.carry_out([call(name, **given)])
        assert not result.get("is_error"), result


def test_calls_of_one_round_are_carried_out_in_order(kit: Tools) -> None:
    results = kit.carry_out([call("bash", 1, command="echo one > f"), call("bash", 2, command="cat f; cat nothing")])
    assert [result["tool_use_id"] for result in results] == ["id1", "id2"]
    assert results[0] == {"type": "tool_result", "tool_use_id": "id1", "content": "(no output)"}
    assert results[1]["is_error"] is True
    assert results[1]["content"].startswith("one\ncat: nothing:")


def test_the_person_who_waits_sees_what_is_done(kit: Tools, sent: Sent) -> None:
    kit.carry_out([call("bash", command="echo hi\n" + "#" * 1000)])
    assert sent.texts("tool")[0].startswith("bash echo hi ###")
    assert len(sent.texts("tool")[0]) <= 300
    assert sent.texts("output") == ["hi\n"]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("no_such", {}, "there is no such tool"),
        ("bash", {}, "missing: command"),
        ("bash", {"command": 5}, "command is not of type string"),
        ("bash", {"command": "x", "sudo": True}, "unknown: sudo"),
        ("bash", {"command": "x", "seconds": True}, "seconds is not of type integer"),
        ("bash", {"command": "a\0b"}, "NUL"),
        ("bash", ["command"], "not an object"),
        ("read_file", {"path": "/nothing"}, "No such file"),
        ("send_message", {"text": " "}, "empty"),
        ("send_message", {"text": "x" * (protocol.MAX_TEXT + 1)}, "bytes"),
    ],
)
def test_a_wrong_call_is_answered_in_words(kit: Tools, name: str, given: Any, words: str) -> None:
    (result,) = kit.carry_out([{"type": "tool_use", "id": "a", "name": name, "input": given}])
    assert result["is_error"] is True
    assert words in result["content"]


def test_a_file_is_sent_whole_whatever_its_bytes(kit: Tools, tmp_path: Path, posted: list[Any]) -> None:
    data = bytes(range(256)) * 4096 + b"\n{}"
    (tmp_path / "ph\n oto.png").write_bytes(data)
    (result,) = kit.carry_out([call("send_file", path="ph\n oto.png", caption="look")])
    assert not result.get("is_error")
    assert posted == [("ph\n oto.png", "look", data)]
    assert kit.said


def test_what_cannot_be_sent_is_said_and_nothing_is_sent(kit: Tools, tmp_path: Path, posted: list[Any]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "refused").write_text("x")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(protocol.MAX_SENT_FILE + 1)
    (tmp_path / "self").symlink_to("/proc/self/mem")
    words = {"empty": "empty", "big": "more than", "nothing": "No such file", ".": "directory",
             "refused": "no files here", "self": "error"}  # fmt: skip
    results = kit.carry_out([call("send_file", n, path=path) for n, path in enumerate(words)])
    for result, word in zip(results, words.values(), strict=True):
        assert result["is_error"], result
        assert word in result["content"]
    assert posted == []
    assert not kit.said


def test_send_message_reaches_the_chat_at_once(kit: Tools, sent: Sent) -> None:
    assert not kit.said
    kit.carry_out([call("send_message", text="one moment")])
    assert protocol.Say("one moment") in sent
    assert kit.said


def test_results_of_one_round_fit_one_line_of_the_pipe(tmp_path: Path) -> None:
    limits = protocol.Limits(1, 1, 1, command_seconds=20, output_bytes=1 << 30)
    kit = Tools(Shell(shell.environment("UTC", ""), limits, str(tmp_path)), limits, lambda _: None)
    # Quotes and backslashes double on the wire, and bytes that are no text become three each.
    command = r"head -c 3000000 /dev/zero | tr '\0' '\\'; head -c 3000000 /dev/urandom"
    results = kit.carry_out([call("bash", n, command=command) for n in range(4)])
    line = protocol.encode(protocol.Entries([conversation.results(results, [])]))
    assert len(line) < protocol.RUNNER_LINE_LIMIT


def test_a_great_many_calls_at_once(kit: Tools) -> None:
    results = kit.carry_out([call("nothing", n) for n in range(100)])
    assert [result["tool_use_id"] for result in results] == [f"id{n}" for n in range(100)]
    assert "left out" in results[-1]["content"]


@given(
    st.sampled_from(list(tools.TABLE)) | st.text(max_size=10),
    st.dictionaries(st.sampled_from(["command", "path", "text", "x"]), st.none() | st.text() | st.integers()),
)
def test_any_input_is_checked_or_refused(name: str, given: dict[str, Any]) -> None:
    with contextlib.suppress(ToolError):
        assert tools.checked(name, given) == given
