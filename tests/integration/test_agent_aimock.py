"""The agent's loop against a model server that none of us wrote."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import Call, Done, Failed, Frame, Refused, Result, Usage
from tests.fakes import agent_host, model_aimock
from tests.fakes.agent_host import KEY, Host, turn
from tests.fakes.model_aimock import Aimock


class Stage:
    """One test's model server, and runners that talk to it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.model: Aimock

    def play(self, *fixtures: dict[str, Any], keys: str = "") -> None:
        self.model = self._stack.enter_context(model_aimock.serving(self.folder, list(fixtures), keys=keys))

    def run(
        self, prompt: str, answer: Callable[[Call], Result | Refused] | None = None, **changes: Any
    ) -> tuple[Host, Done | Failed]:
        """`answer`: what the host says to the agent's requests."""
        host = self._stack.enter_context(Host(self.folder / "work"))

        def on_frame(frame: Frame) -> None:
            if isinstance(frame, Call) and answer is not None:
                host.send(answer(frame))

        host.on_frame = on_frame
        return host, host.run(turn(base_url=self.model.base_url, prompt=prompt, **changes))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def says(words: str, **match: Any) -> dict[str, Any]:
    return {"match": match, "response": {"content": words}}


def fails(status: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"response": {"error": {"message": f"aimock says {kind}", "type": kind}, "status": status, **more}}


def calls(*calls: tuple[str, dict[str, Any]], **match: Any) -> dict[str, Any]:
    asked = [{"id": f"toolu_{n}", "name": name, "arguments": given} for n, (name, given) in enumerate(calls)]
    return {"match": match, "response": {"toolCalls": asked}}


def test_a_reply_is_streamed(stage: Stage) -> None:
    stage.play(says("Good morning, this is a reply that comes in several pieces.", userMessage="hello"))
    host, end = stage.run("hello")
    assert end == Done("Good morning, this is a reply that comes in several pieces.")
    assert len(host.shown("text")) > 1
    assert "".join(host.shown("text")) == end.text
    assert [entry["role"] for entry in host.entries()] == ["user", "assistant"]
    assert len(host.all(Usage)) == 1


def test_parallel_calls_are_answered_in_one_message(stage: Stage) -> None:
    stage.play(
        calls(
            ("bash", {"command": "echo from-bash"}),
            ("write_file", {"path": "note.txt", "content": "from-file"}),
            ("read_file", {"path": "/nothing/there"}),
            hasToolResult=False,
        ),
        says("All three are done.", hasToolResult=True),
    )
    host, end = stage.run("do three things")
    assert end == Done("All three are done.")
    asked, answered = host.entries()[1:3]
    assert [block["name"] for block in asked["content"] if block["type"] == "tool_use"] == [
        "bash", "write_file", "read_file",
    ]  # fmt: skip
    assert [(b["type"], b["tool_use_id"], b.get("is_error", False)) for b in answered["content"]] == [
        ("tool_result", "toolu_0", False), ("tool_result", "toolu_1", False), ("tool_result", "toolu_2", True),
    ]  # fmt: skip
    assert (stage.folder / "work/group/note.txt").read_text() == "from-file"
    assert len(stage.model.journal()) == 2


def test_requests_to_the_host_stand_beside_other_calls(stage: Stage) -> None:
    stage.play(
        calls(
            ("bash", {"command": "echo from-bash"}),
            ("schedule_task", {"prompt": "water the plants", "when": {"cron": "0 9 * * *"}}),
            ("cancel_task", {"id": "another-group-s"}),
            hasToolResult=False,
        ),
        says("One was refused.", hasToolResult=True),
    )
    offered = [
        {"name": name, "description": f"{name}!", "input_schema": {"type": "object", "properties": {}}}
        for name in ("schedule_task", "cancel_task")
    ]

    def answer(call: Call) -> Result | Refused:
        return Result(call.id, {"id": "t7"}) if call.method == "schedule_task" else Refused(call.id, "there is none")

    host, end = stage.run("do three things", answer, tools=offered)
    assert end == Done("One was refused.")
    assert host.all(Call) == [
        Call(1, "schedule_task", {"prompt": "water the plants", "when": {"cron": "0 9 * * *"}}),
        Call(2, "cancel_task", {"id": "another-group-s"}),
    ]
    results = host.entries()[2]["content"]
    assert [(b["tool_use_id"], b["content"], b.get("is_error", False)) for b in results] == [
        ("toolu_0", "from-bash\n", False),
        ("toolu_1", '{"id":"t7"}', False),
        ("toolu_2", "The host refused: there is none", True),
    ]
    first, second = stage.model.journal()
    names = [tool["function"]["name"] for tool in first["body"]["tools"]]
    assert names[-2:] == ["schedule_task", "cancel_task"]
    assert "there is none" in str(second["body"])


def test_the_stored_entries_are_a_history_that_the_next_turn_can_use(stage: Stage) -> None:
    stage.play(
        calls(("bash", {"command": "echo one"}), userMessage="first", hasToolResult=False),
        says("It said one.", userMessage="first"),
        says("Before that, it said one.", userMessage="second", turnIndex=2),
    )
    host, _ = stage.run("first")
    _, end = stage.run("second", history=host.entries())
    assert end == Done("Before that, it said one.")


def test_a_wrong_key_is_refused_in_words_that_do_not_hold_it(stage: Stage) -> None:
    stage.play(says("never"), keys="another-key")
    host, end = stage.run("hello")
    assert isinstance(end, Failed)
    assert end.kind == "auth"
    assert "refused the key (401)" in end.message
    assert KEY not in repr(host.frames) + host.stderr.decode()
    assert host.shown("status") == []  # asking again would not help


@pytest.mark.parametrize("secrets", [{"api_key": KEY}, {"auth_token": KEY}])
def test_the_right_key_is_taken_in_either_form(stage: Stage, secrets: dict[str, str]) -> None:
    stage.play(says("welcome"), keys=KEY)
    assert stage.run("hello", secrets=secrets)[1] == Done("welcome")


def test_a_rate_limit_is_waited_out_as_long_as_it_asks(stage: Stage) -> None:
    limited = fails(429, "rate_limit_error", retryAfter=2)
    stage.play({"match": {"sequenceIndex": 0}, **limited}, says("at last", sequenceIndex=1))
    before = time.monotonic()
    host, end = stage.run("hello")
    assert end == Done("at last")
    assert time.monotonic() - before >= 2
    assert len(host.shown("status")) == 1
    assert "limits how often" in host.shown("status")[0]


def test_a_wait_that_is_longer_than_the_turn_is_not_begun(stage: Stage) -> None:
    stage.play({"match": {}, **fails(429, "rate_limit_error", retryAfter=3600)})
    before = time.monotonic()
    _, end = stage.run("hello")
    assert isinstance(end, Failed)
    assert end.kind == "overloaded"
    assert "3600" in end.message or "seconds" in end.message
    assert time.monotonic() - before < 20


def test_overload_that_passes(stage: Stage) -> None:
    stage.play(
        {"match": {"sequenceIndex": 0}, **fails(529, "overloaded_error")},
        {"match": {"sequenceIndex": 1}, **fails(500, "api_error")},
        says("at last", sequenceIndex=2),
    )
    host, end = stage.run("hello")
    assert end == Done("at last")
    assert len(host.shown("status")) == 2


def test_overload_that_stays(stage: Stage) -> None:
    stage.play({"match": {}, **fails(529, "overloaded_error")})
    _, end = stage.run("hello")
    assert end == Failed("overloaded", "The model endpoint is overloaded (529). Tried 4 times.")
    assert len(stage.model.journal()) == 4


def test_a_request_that_is_refused(stage: Stage) -> None:
    stage.play({"match": {}, **fails(400, "invalid_request_error")})
    _, end = stage.run("hello")
    assert end == Failed("request", "The model endpoint refused the request (400): aimock says invalid_request_error.")


def test_a_stream_that_breaks_off_is_asked_for_again(stage: Stage) -> None:
    words = "This answer is cut on its way the first time and whole the second time."
    stage.play(
        {**says(words, sequenceIndex=0), "truncateAfterChunks": 3, "chunkSize": 10},
        says(words, sequenceIndex=1),
    )
    host, end = stage.run("hello")
    assert end == Done(words)
    assert len(host.shown("status")) == 1
    assert [entry["role"] for entry in host.entries()] == ["user", "assistant"]


def test_a_stream_that_always_breaks_off(stage: Stage) -> None:
    stage.play({**says("This answer is cut every time.", model="claude-test"), "truncateAfterChunks": 2})
    _, end = stage.run("hello")
    assert isinstance(end, Failed)
    assert end.kind == "endpoint"
    assert "broke" in end.message  # where exactly it is cut, the network decides
    assert end.message.endswith("Tried 4 times.")


def test_a_cut_call_is_never_carried_out(stage: Stage) -> None:
    stage.play(
        {
            **calls(("bash", {"command": "touch carried-out-" + "x" * 100}), sequenceIndex=0),
            "truncateAfterChunks": 4,
            "chunkSize": 5,
        },
        says("done", sequenceIndex=1),
    )
    _, end = stage.run("hello")
    assert end == Done("done")
    assert list((stage.folder / "work/group").iterdir()) == []


def test_limits_end_a_turn_in_words(stage: Stage) -> None:
    call = calls(("bash", {"command": "true"}))
    call["response"]["usage"] = {"input_tokens": 10, "output_tokens": 5}
    stage.play(call)
    few_rounds = dataclasses.replace(agent_host.LIMITS, rounds=3)
    assert stage.run("go", limits=few_rounds)[1] == Failed("limit", "The turn used up its 3 requests to the model.")
    assert len(stage.model.journal()) == 3
    few_tokens = dataclasses.replace(agent_host.LIMITS, tokens=1)
    _, end = stage.run("go", limits=few_tokens)
    assert isinstance(end, Failed)
    assert end.kind == "limit"
    assert end.message == "The turn used up its tokens (15 of 1)."
    assert len(stage.model.journal()) == 4


def test_what_is_sent_to_a_server_that_is_not_anthropic_s(stage: Stage) -> None:
    stage.play(says("hi"))
    stage.run("hello")
    (request,) = stage.model.journal()
    assert "cache_control" not in str(request["body"])
    assert "thread" not in request["body"]
