"""The conversation as the Messages API wants it: pure functions over plain JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

Entry = dict[str, Any]
Block = dict[str, Any]

_UNANSWERED: Final = "This call was never carried out: the turn ended first."


def user(*texts: str) -> Entry:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def results(answers: list[Block], follow_ups: Iterable[str]) -> Entry:
    """All results of one round in one message, results first: the API wants it so."""
    return {"role": "user", "content": [*answers, *({"type": "text", "text": text} for text in follow_ups)]}


def result(call: Block, text: str, *, is_error: bool = False) -> Block:
    # The API refuses an empty text, and a model reads silence as a failure.
    answer = {"type": "tool_result", "tool_use_id": call["id"], "content": text or "(no output)"}
    return {**answer, "is_error": True} if is_error else answer


def calls(content: list[Block]) -> list[Block]:
    return [block for block in content if block.get("type") == "tool_use"]


def text(content: list[Block]) -> str:
    return "".join(block["text"] for block in content if block.get("type") == "text").strip()


def sendable(content: list[Block]) -> list[Block]:
    """Without the blocks that the API would refuse to take back: empty texts, and thinking that was cut."""
    return [block for block in content if not _is_empty_text(block) and not _is_cut_thinking(block)]


def without_cut_call(content: list[Block]) -> list[Block]:
    """An answer cut off at `max_tokens` may end within a call: its input is not what the model meant."""
    if content and content[-1].get("type") == "tool_use":
        return content[:-1]
    return content


def mend(history: list[Entry]) -> list[Entry]:
    """The stored conversation, made whole: it was cut to fit, and an old turn may have ended in the middle.

    It begins with words of the user, every call has its result in the next message, every result its call.
    """
    mended: list[Entry] = []
    waiting: list[Block] = []  # the calls of the last message
    for entry in history:
        content = _blocks(entry)
        if entry.get("role") == "assistant":
            content = [block for block in content if block.get("type") != "tool_result"]
            if waiting and content:
                mended.append({"role": "user", "content": _answers(waiting, [])})
            waiting = waiting if not content else calls(content) if mended else []
        elif entry.get("role") == "user":
            rest = [block for block in content if block.get("type") not in ("tool_use", "tool_result")]
            content = [*_answers(waiting, content), *rest]
            waiting = []
        else:
            continue
        if content and (mended or entry["role"] == "user"):
            mended.append({"role": entry["role"], "content": content})
    if waiting:
        mended.append({"role": "user", "content": _answers(waiting, [])})
    return mended


def _answers(waiting: list[Block], content: list[Block]) -> list[Block]:
    given = {block.get("tool_use_id"): block for block in content if block.get("type") == "tool_result"}
    return [given.get(call["id"]) or result(call, _UNANSWERED, is_error=True) for call in waiting]


def _blocks(entry: Entry) -> list[Block]:
    content = entry.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _is_empty_text(block: Block) -> bool:
    return block.get("type") == "text" and not str(block.get("text", "")).strip()


def _is_cut_thinking(block: Block) -> bool:
    return block.get("type") == "thinking" and not block.get("signature")
