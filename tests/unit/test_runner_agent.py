"""The loop's decisions, answer by answer: a model that is a list, tools that are real."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from runner import protocol, shell
from runner.agent import CUT_CALL, CUT_REPLY, MAX_CUTS, Agent
from runner.errors import TurnError
from runner.model import Answer
from runner.protocol import Done, Entries, Frame, Say
from runner.shell import Shell
from runner.tools import Tools
from tests.fakes.agent_host import LIMITS, turn


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def call(command: str, number: int = 1) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "bash", "input": {"command": command}}


def answer(stop: str, *content: dict[str, Any], tokens: int = 1, **details: Any) -> Answer:
    return Answer(list(content), stop, details, protocol.Usage(tokens, tokens))


class Script:
    """Stands where the model does: its answers are a list, and it remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[list[dict[str, Any]]] = []

    def ask(self, system: list[str], messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Answer:
        assert system == ["system"]
        assert tools
        self.asked.append([dict(message) for message in messages])
        return self._answers.pop(0)


class Play:
    def __init__(self, folder: Path, *answers: Answer, inputs: list[list[str]] | None = None, **changes: Any) -> None:
        self.sent: list[Frame] = []
        self.model = Script(*answers)
        self._inputs = inputs or []
        the_turn = turn(**changes)
        kit = Tools(Shell(shell.environment("UTC", ""), LIMITS, str(folder)), LIMITS, self.sent.append)
        self._agent = Agent(the_turn, self.model, kit, self.sent.append, self._take, ["system"])  # type: ignore[arg-type]

    def _take(self) -> list[str]:
        return self._inputs.pop(0) if self._inputs else []

    def run(self) -> Done:
        return self._agent.run()

    def entries(self) -> list[dict[str, Any]]:
        return [entry for frame in self.sent if isinstance(frame, Entries) for entry in frame.entries]

    def says(self) -> list[str]:
        return [frame.text for frame in self.sent if isinstance(frame, Say)]


def test_a_plain_answer(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("end_turn", words("Hello. ")), prompt="hi")
    assert play.run() == Done("Hello.")
    assert play.model.asked == [[{"role": "user", "content": [words("hi")]}]]
    assert play.entries() == [
        {"role": "user", "content": [words("hi")]},
        {"role": "assistant", "content": [words("Hello. ")]},
    ]


def test_history_comes_first_and_is_not_returned_again(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [words("b")]}]
    play = Play(tmp_path, answer("end_turn", words("c")), history=history)
    play.run()
    assert [message["role"] for message in play.model.asked[0]] == ["user", "assistant", "user"]
    assert len(play.entries()) == 2


def test_thinking_goes_back_exactly_as_it_came(tmp_path: Path) -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "c2ln", "extra": [1]}
    hidden = {"type": "redacted_thinking", "data": "x"}
    play = Play(tmp_path, answer("tool_use", thinking, hidden, call("true")), answer("end_turn", words("ok")))
    play.run()
    assert play.model.asked[1][1] == {"role": "assistant", "content": [thinking, hidden, call("true")]}


def test_follow_ups_are_taken_up_after_the_results(tmp_path: Path) -> None:
    play = Play(
        tmp_path, answer("tool_use", call("echo x")), answer("end_turn", words("ok")), inputs=[["and that?", " "], []]
    )
    assert play.run() == Done("ok", inputs=2)
    content = play.model.asked[1][2]["content"]
    assert [block["type"] for block in content] == ["tool_result", "text"]
    assert content[1]["text"] == "and that?"


def test_a_follow_up_that_comes_with_the_last_word_is_answered_too(tmp_path: Path) -> None:
    play = Play(
        tmp_path, answer("end_turn", words("first")), answer("end_turn", words("second")), inputs=[["more"], []]
    )
    assert play.run() == Done("second", inputs=1)
    assert play.says() == ["first"]  # it was an answer, and is not lost
    assert [entry["role"] for entry in play.entries()] == ["user", "assistant", "user", "assistant"]


def test_calls_under_another_stop_reason_are_carried_out_all_the_same(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("end_turn", call("touch x")), answer("end_turn", words("ok")))
    assert play.run() == Done("ok")
    assert (tmp_path / "x").exists()


def test_a_pause_is_gone_on_from(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("pause_turn", words("wait")), answer("end_turn", words("ok")))
    assert play.run() == Done("ok")
    assert play.model.asked[1][-1] == {"role": "assistant", "content": [words("wait")]}


def test_a_reply_that_was_cut_says_so(tmp_path: Path) -> None:
    assert Play(tmp_path, answer("max_tokens", words("long"))).run() == Done("long" + CUT_REPLY)


def test_a_call_that_was_cut_is_dropped_and_the_model_told(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("max_tokens", words("now"), call("touch x")), answer("end_turn", words("ok")))
    assert play.run() == Done("ok")
    assert not (tmp_path / "x").exists()
    assert play.model.asked[1][-2:] == [
        {"role": "assistant", "content": [words("now")]},
        {"role": "user", "content": [words(CUT_CALL)]},
    ]


def test_whole_calls_before_the_cut_one_are_carried_out(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("max_tokens", call("touch a"), call("touch b", 2)), answer("end_turn", words("ok")))
    play.run()
    assert (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
    assert [block["type"] for block in play.model.asked[1][-1]["content"]] == ["tool_result", "text"]


def test_an_answer_that_is_cut_for_ever(tmp_path: Path) -> None:
    play = Play(tmp_path, *[answer("max_tokens", call("x"))] * (MAX_CUTS + 1))
    with pytest.raises(TurnError, match="again and again"):
        play.run()


@pytest.mark.parametrize(
    ("stop", "details", "kind", "message"),
    [
        ("refusal", {}, "refusal", "The model declined to answer."),
        ("refusal", {"category": "cyber"}, "refusal", "The model declined to answer: cyber"),
        ("model_context_window_exceeded", {}, "request", "The conversation no longer fits"),
    ],
)
def test_answers_that_end_the_turn(tmp_path: Path, stop: str, details: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(TurnError) as caught:
        Play(tmp_path, answer(stop, words("I"), **details)).run()
    assert caught.value.kind == kind
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence", "something_new"])
def test_an_empty_answer_is_an_empty_reply(tmp_path: Path, stop: str) -> None:
    play = Play(tmp_path, answer(stop))
    assert play.run() == Done("")
    assert [entry["role"] for entry in play.entries()] == ["user"]  # the API refuses an empty message


def test_what_was_said_beside_the_last_call_is_the_reply_if_nothing_follows(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("tool_use", words("I wrote it down."), call("true")), answer("end_turn"))
    assert play.run() == Done("I wrote it down.")


def test_but_not_if_the_chat_was_told_already(tmp_path: Path) -> None:
    said = {"type": "tool_use", "id": "t", "name": "send_message", "input": {"text": "Done!"}}
    play = Play(tmp_path, answer("tool_use", words("I will say it."), said), answer("end_turn"))
    assert play.run() == Done("")
    assert play.says() == ["Done!"]


def test_limits(tmp_path: Path) -> None:
    rounds = dataclasses.replace(LIMITS, rounds=2)
    with pytest.raises(TurnError, match="its 2 requests"):
        Play(tmp_path, *[answer("tool_use", call("true"))] * 3, limits=rounds).run()
    tokens = dataclasses.replace(LIMITS, tokens=10)
    play = Play(tmp_path, *[answer("tool_use", call("true"), tokens=3)] * 3, limits=tokens)
    with pytest.raises(TurnError, match="12 of 10"):
        play.run()
    assert len(play.model.asked) == 2


def test_a_reply_over_the_limit_is_cut_and_the_cut_shown(tmp_path: Path) -> None:
    done = Play(tmp_path, answer("end_turn", words("ä" * protocol.MAX_TEXT))).run()
    assert len(done.text.encode()) <= protocol.MAX_TEXT
    assert "bytes cut here" in done.text


def test_a_prompt_with_odd_characters(tmp_path: Path) -> None:
    play = Play(tmp_path, answer("end_turn", words("ok")), prompt="a\0b")
    play.run()
    assert play.model.asked[0][0]["content"][0]["text"] == "a\ufffdb"
