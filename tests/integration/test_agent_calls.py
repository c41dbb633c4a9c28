"""What the agent asks of the host, in whole turns of the real runner: answered, refused, never answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host.rehearsal.child import Rehearsal
from runner.protocol import Call, Done, Failed, Frame, Hello, Refused, Result, Stop
from tests.fakes import agent_host
from tests.fakes.agent_host import KEY, Host, turn

NO_PARAMS = {"type": "object", "properties": {}, "required": []}
TOOLS = [{"name": name, "description": "…", "input_schema": NO_PARAMS} for name in ("list_tasks", "schedule_task")]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    rehearsal = Rehearsal(expect_key=KEY)
    yield rehearsal.start().base_url
    rehearsal.stop()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as made:
        yield made


def answering(host: Host, answer: Callable[[Call], Result | Refused]) -> None:
    def on_frame(frame: Frame) -> None:
        if isinstance(frame, Call):
            host.send(answer(frame))

    host.on_frame = on_frame


def tool_results(host: Host) -> list[dict[str, Any]]:
    blocks = [block for entry in host.entries() if entry["role"] == "user" for block in entry["content"]]
    return [block for block in blocks if block["type"] == "tool_result"]


def test_a_tool_of_the_host_s_is_asked_for_and_its_answer_shown(host: Host, base_url: str) -> None:
    answering(host, lambda call: Result(call.id, {"tasks": ["wäter", {"at": 7}]}))
    end = host.run(turn(base_url=base_url, prompt='tool list_tasks {"state": "active"}', tools=TOOLS))
    assert host.all(Call) == [Call(1, "list_tasks", {"state": "active"})]
    assert end == Done('{"tasks":["wäter",{"at":7}]}')
    assert host.shown("tool") == ["list_tasks "] or host.shown("tool")[0].startswith("list_tasks")
    assert host.shown("output") == ['{"tasks":["wäter",{"at":7}]}']


def test_a_refusal_is_told_to_the_model_as_an_error_with_its_reason(host: Host, base_url: str) -> None:
    answering(host, lambda call: Refused(call.id, "only main may do that"))
    end = host.run(turn(base_url=base_url, prompt='tool list_tasks {"group": "home"}', tools=TOOLS))
    (result,) = tool_results(host)
    assert result["is_error"] is True
    assert "only main may do that" in result["content"]
    assert isinstance(end, Done)
    assert end.text.startswith("That did not work")
    assert "only main may do that" in end.text


def test_several_of_one_round_are_asked_one_after_another(host: Host, base_url: str) -> None:
    waiting: list[int] = []

    def answer(call: Call) -> Result | Refused:
        waiting.append(call.id)
        asked = len(host.all(Call))
        assert asked == len(waiting) == call.id
        return Refused(call.id, "no") if call.id == 2 else Result(call.id, {"number": call.id})

    answering(host, answer)
    prompt = "call list_tasks {}\ncall schedule_task {}\ncall list_tasks {}\nrepeat over"
    assert host.run(turn(base_url=base_url, prompt=prompt, tools=TOOLS)) is not None
    assert [call.method for call in host.all(Call)] == ["list_tasks", "schedule_task", "list_tasks"]
    results = tool_results(host)
    assert [result.get("is_error", False) for result in results] == [False, True, False]
    assert [json.loads(results[n]["content"]) for n in (0, 2)] == [{"number": 1}, {"number": 3}]


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_the_turn_lasts(host: Host, base_url: str) -> None:
    limits = dataclasses.replace(agent_host.LIMITS, seconds=2)
    end = host.run(turn(base_url=base_url, prompt="tool list_tasks {}", tools=TOOLS, limits=limits))
    assert end == Failed("limit", "The turn took longer than its 2 seconds.")
    assert len(host.all(Call)) == 1


def test_stop_ends_it_while_it_waits_for_an_answer(host: Host, base_url: str) -> None:
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, prompt="tool list_tasks {}", tools=TOOLS))
    host.wait_for(Call)
    host.send(Stop("you asked"))
    assert host.end(10) == Failed("stopped", "you asked")


@pytest.mark.parametrize("answer", [Result(2, {}), Refused(0, "x"), Result(-1, {})])
def test_an_answer_to_another_request_breaks_the_rules(host: Host, base_url: str, answer: Result | Refused) -> None:
    answering(host, lambda call: answer)
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, prompt="tool list_tasks {}", tools=TOOLS))
    assert host.process.wait(30) == 76


def test_a_second_answer_to_the_same_request_breaks_the_rules(host: Host, base_url: str) -> None:
    def on_frame(frame: Frame) -> None:
        if isinstance(frame, Call):
            host.send(Result(frame.id, {}))
            host.send(Result(frame.id, {}))

    host.on_frame = on_frame
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, prompt="tool list_tasks {}\nthink slowly 60", tools=TOOLS))
    assert host.process.wait(30) == 76


def test_a_tool_under_the_name_of_one_of_ours_breaks_the_rules(host: Host, base_url: str) -> None:
    host.wait_for(Hello)
    host.send(turn(base_url=base_url, tools=[{**TOOLS[0], "name": "bash"}]))
    assert host.process.wait(30) == 76
    host._threads[1].join(5)
    assert b"broke the rules" in host.stderr


def test_a_request_that_is_too_long_for_the_pipe_is_not_made(host: Host, base_url: str) -> None:
    prompt = f'tool schedule_task {{"prompt": "{"x" * 1_100_000}"}}'
    end = host.run(turn(base_url=base_url, prompt=prompt, tools=TOOLS))
    assert host.all(Call) == []
    assert isinstance(end, Done)
    assert "a request of more than 1048576 bytes" in end.text


def test_what_is_not_offered_this_time_is_no_request(host: Host, base_url: str) -> None:
    end = host.run(turn(base_url=base_url, prompt="tool list_tasks {}"))
    assert end == Done("I would use the tool list_tasks, but this turn does not offer it.")
    assert host.all(Call) == []


# --- tasks ---

TASK = '<task id="t1" due="Mon 2026-11-23 09:00" timezone="UTC">{}</task>'


def test_what_a_task_says_is_done_as_if_a_message_said_it(host: Host, base_url: str) -> None:
    answering(host, lambda call: Result(call.id, {"ok": True}))
    prompt = TASK.format('tool list_tasks {"a": "&lt;b&gt;"}') + "\n<check_output>run touch no</check_output>"
    assert host.run(turn(base_url=base_url, prompt=prompt, tools=TOOLS)) == Done('{"ok":true}')
    assert host.all(Call) == [Call(1, "list_tasks", {"a": "<b>"})]


@pytest.mark.parametrize("before", ["", 'call bash {"command": "echo x"}\n', "call list_tasks {}\n"])
def test_nothing_to_say_is_an_empty_reply(host: Host, base_url: str, before: str) -> None:
    answering(host, lambda call: Result(call.id, {}))
    prompt = TASK.format(before + "say nothing")
    assert host.run(turn(base_url=base_url, prompt=prompt, tools=TOOLS)) == Done("")
