"""An answer in the Messages API's words: one JSON message, or the events of a stream. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from host.rehearsal.script import MODEL, Answer, ApiError, Text, ToolUse

PIECE: Final = 256
"""Characters of one text delta where nothing is slow."""
TICK: Final = 0.25
"""Seconds between the deltas of a slow text."""


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    wait: float = 0.0
    """Seconds to wait before it is sent."""
    cut: bool = False
    """Whether its JSON breaks off."""

    def encode(self) -> bytes:
        body = json.dumps({"type": self.name, **self.data}, separators=(",", ":"))
        body = body[:-1] if self.cut else body
        return f"event: {self.name}\ndata: {body}\n\n".encode()


def error_body(error: ApiError) -> dict[str, Any]:
    return {"type": "error", "error": {"type": error.kind, "message": error.message}, "request_id": "req_rehearsal"}


def message(answer: Answer) -> dict[str, Any]:
    """The whole answer as one object, for a request without `stream`."""
    return {
        **_envelope(answer),
        "content": [_whole(block) for block in answer.blocks],
        "stop_reason": answer.stop_reason,
        "stop_details": _stop_details(answer),
        "usage": _usage(answer, _output_tokens(answer)),
    }


def stream(answer: Answer) -> Iterator[Event]:
    """The events of the answer; where its `ending` is not `whole`, they stop short of `message_stop`."""
    yield Event("message_start", {"message": {**_envelope(answer), "usage": _usage(answer, 1)}})
    yield Event("ping", {})
    for index, block in enumerate(answer.blocks):
        yield Event("content_block_start", {"index": index, "content_block": _empty(block)})
        for wait, delta in _deltas(block):
            yield Event("content_block_delta", {"index": index, "delta": delta}, wait)
        if answer.ending != "whole" and index == len(answer.blocks) - 1:
            break
        yield Event("content_block_stop", {"index": index})
    if answer.ending == "garbage":
        yield Event("content_block_delta", {}, cut=True)
    if answer.ending == "error":
        error = {"type": "overloaded_error", "message": "rehearsal: overloaded in the middle"}
        yield Event("error", {"error": error})
    if answer.ending == "whole":
        delta = {"stop_reason": answer.stop_reason, "stop_sequence": None, "stop_details": _stop_details(answer)}
        yield Event("message_delta", {"delta": delta, "usage": {"output_tokens": _output_tokens(answer)}})
        yield Event("message_stop", {})


def _envelope(answer: Answer) -> dict[str, Any]:
    return {
        "id": "msg_rehearsal",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {},
    }


def _usage(answer: Answer, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _output_tokens(answer: Answer) -> int:
    # About four characters to a token. Nobody pays for it: the limits that count tokens want a number.
    return 1 + sum(len(json.dumps(_whole(block))) for block in answer.blocks) // 4


def _stop_details(answer: Answer) -> dict[str, Any] | None:
    if answer.stop_reason != "refusal":
        return None
    return {"type": "refusal", "category": "general_harms", "explanation": "rehearsal: a refusal was asked for"}


def _whole(block: Text | ToolUse) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}


def _empty(block: Text | ToolUse) -> dict[str, Any]:
    return {**_whole(block), **({"text": ""} if isinstance(block, Text) else {"input": {}})}


def _deltas(block: Text | ToolUse) -> Iterator[tuple[float, dict[str, Any]]]:
    if isinstance(block, Text):
        for wait, piece in _pieces(block):
            yield wait, {"type": "text_delta", "text": piece}
        return
    body = json.dumps(block.input)
    # In two pieces, as a model's come: a client that parses a piece as if it were the whole must fail here.
    for piece in filter(None, (body[: len(body) // 2], body[len(body) // 2 :])):
        yield 0.0, {"type": "input_json_delta", "partial_json": piece}


def _pieces(block: Text) -> Iterator[tuple[float, str]]:
    ticks = max(1, int(block.seconds / TICK))
    size = PIECE if not block.seconds else max(1, -(-len(block.text) // ticks))
    wait = block.seconds / max(1, -(-len(block.text) // size)) if block.seconds else 0.0
    for start in range(0, len(block.text), size):
        yield wait, block.text[start : start + size]
