"""The conversation stays one that the Messages API takes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runner import conversation


def call(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "bash", "input": {}}


def result(name: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": "x"}


def words(text: str = "hi") -> dict[str, Any]:
    return {"type": "text", "text": text}


def said(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def check(messages: list[dict[str, Any]]) -> None:
    """The API's own rules: starts with the user; each call is answered in the very next message, and only there."""
    if messages:
        assert messages[0]["role"] == "user"
    for index, message in enumerate(messages):
        assert message["content"]
        calls = {b["id"] for b in message["content"] if b["type"] == "tool_use"}
        answers = {b["tool_use_id"] for b in message["content"] if b["type"] == "tool_result"}
        following = messages[index + 1] if index + 1 < len(messages) else said("user")
        assert calls == {b["tool_use_id"] for b in following["content"] if b["type"] == "tool_result"}
        before = messages[index - 1]["content"] if index else []
        assert answers <= {b["id"] for b in before if b["type"] == "tool_use"}
        kinds = [b["type"] for b in message["content"]]
        assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result") or message["role"] == "assistant"


def test_a_whole_history_stays_as_it_is() -> None:
    history = [
        said("user", words()),
        said("assistant", words("let me see"), call("a"), call("b")),
        said("user", result("a"), result("b"), words("and this")),
        said("assistant", words("done")),
    ]
    assert conversation.mend(history) == history


def test_a_history_that_was_cut_at_its_beginning() -> None:
    history = [said("user", result("a")), said("assistant", words("done")), said("user", words("next"))]
    assert conversation.mend(history) == [said("user", words("next"))]


def test_a_call_that_was_never_answered_gets_an_answer() -> None:
    mended = conversation.mend([said("user", words()), said("assistant", call("a")), said("user", words("hello?"))])
    check(mended)
    assert mended[-1]["content"][-1] == words("hello?")


def test_plain_strings_and_nonsense() -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": 5}, {"content": "x"}, {}]
    assert conversation.mend(history) == [said("user", words())]


blocks = st.sampled_from([call("a"), call("b"), result("a"), result("b"), words()])
entries = st.builds(
    lambda role, found: said(role, *found),
    st.sampled_from(["user", "assistant"]),
    st.lists(blocks, max_size=3, unique_by=str),
)


@given(st.lists(entries, max_size=8))
def test_any_history_is_mended(history: list[dict[str, Any]]) -> None:
    check(conversation.mend(history))


def test_a_call_that_was_cut_is_dropped_and_earlier_ones_stay() -> None:
    content = [words(), call("a"), call("b")]
    assert conversation.without_cut_call(content) == [words(), call("a")]
    assert conversation.without_cut_call([call("a"), words()]) == [call("a"), words()]
    assert conversation.without_cut_call([]) == []


def test_blocks_that_the_api_would_refuse() -> None:
    whole = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    cut = {"type": "thinking", "thinking": "hm", "signature": ""}
    hidden = {"type": "redacted_thinking", "data": "x"}
    assert conversation.sendable([words(" \n"), whole, cut, hidden, words("x")]) == [whole, hidden, words("x")]


def test_results_come_first() -> None:
    entry = conversation.results([result("a")], ["and", "more"])
    assert [block["type"] for block in entry["content"]] == ["tool_result", "text", "text"]
    assert conversation.result(call("a"), "")["content"] == "(no output)"
