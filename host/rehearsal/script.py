"""What the rehearsal answers: a request of the Messages API in, an answer or an API error out. No I/O.

The script keeps nothing between requests. It reads the turn's requests from the conversation that every
call carries, counts the tools it already used in this turn, and goes on from there. So it drives the same
path as a model does, and the same conversation always gets the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from host.rehearsal.requests import ENDINGS, STOPS, Fail, Recall, Recite, Silence, Speak, Step, TellKey, Use, steps

MODEL: Final = "rehearsal-script"

MAX_CALLS: Final = 48
"""Most tool calls in one answer."""
SHOWN: Final = 128 * 1024
"""Most characters of one tool's result in an answer, so that a reply stays under the pipe's limit."""


# --- what comes out ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    text: str
    seconds: float = 0.0
    """How long the text takes to arrive, where it streams."""


@dataclass(frozen=True)
class ToolUse:
    id: str
    name: str
    input: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    blocks: tuple[Text | ToolUse, ...]
    stop_reason: str
    input_tokens: int
    ending: str = "whole"
    """`whole`; `truncate` (a clean end before `message_stop`), `break` (the connection is cut), `error` (an SSE
    error event) or `garbage` (an event that is not JSON): the ways in which a stream can fail in the middle."""


@dataclass(frozen=True)
class ApiError:
    status: int
    kind: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


BAD_REQUEST: Final = "invalid_request_error"

FAILURES: Final[dict[str, ApiError]] = {
    "400": ApiError(400, BAD_REQUEST, "rehearsal: this request was called malformed"),
    "401": ApiError(401, "authentication_error", "rehearsal: invalid key"),
    "413": ApiError(413, "request_too_large", "rehearsal: the request is too large"),
    "429": ApiError(429, "rate_limit_error", "rehearsal: too many requests", (("retry-after", "1"),)),
    "500": ApiError(500, "api_error", "rehearsal: internal server error"),
    "529": ApiError(529, "overloaded_error", "rehearsal: overloaded"),
}


# --- the conversation so far ------------------------------------------------------------------------


@dataclass
class Turn:
    """What one request's conversation says about the turn that it belongs to."""

    steps: list[Step] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    """Ids of the tool calls made in this turn, in order."""
    results: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Id → text, whether it is an error."""


def answer(untrusted_request: Any, attempt: int = 0, key: str = "") -> Answer | ApiError:
    """The answer to one request. `attempt` counts earlier requests with the same body (retries); `key` is
    the one that it came with."""
    try:
        messages = _messages(untrusted_request)
        tools = {tool["name"] for tool in untrusted_request.get("tools") or []}
        return _reply(untrusted_request, _read_turn(messages), tools, attempt, key)
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        # The shapes that a request may have are many and only those above are read: any other is the
        # caller's mistake, and is told to it the way the real API tells it.
        return ApiError(400, BAD_REQUEST, f"rehearsal: not a request of the Messages API ({type(e).__name__})")


def _messages(untrusted_request: Any) -> list[dict[str, Any]]:
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(untrusted_request[name], kind):
            raise TypeError(name)
    messages: list[dict[str, Any]] = [m for m in untrusted_request["messages"] if m["role"] != "system"]
    if not messages or any(m["role"] not in ("user", "assistant") for m in messages):
        raise ValueError("messages")
    if messages[-1]["role"] != "user":
        raise ValueError("the last message is not the user's")
    return messages


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _read_turn(messages: list[dict[str, Any]]) -> Turn:
    turn = Turn()
    for message in messages[_turn_start(messages) :]:
        for block in _blocks(message):
            if block["type"] == "tool_use":
                turn.used.append(block["id"])
            elif block["type"] == "tool_result":
                turn.results[block["tool_use_id"]] = (_result_text(block), block.get("is_error") is True)
            elif block["type"] == "text" and message["role"] == "user":
                turn.steps.extend(steps(block["text"]))
    _check_pairs(turn)
    return turn


def _turn_start(messages: list[dict[str, Any]]) -> int:
    """Index of the message that began this turn: the last one from the user that answers no tool call."""
    start = 0
    for index, message in enumerate(messages):
        before = messages[index - 1] if index else None
        after_tools = before is not None and (
            before["role"] == "user" or any(block["type"] == "tool_use" for block in _blocks(before))
        )
        if message["role"] == "user" and not after_tools:
            start = index
    return start


def _check_pairs(turn: Turn) -> None:
    # The real API refuses a conversation in which a call lacks its result, or the reverse: so a runner
    # that loses one must not pass here.
    if set(turn.used) != turn.results.keys() or len(set(turn.used)) != len(turn.used):
        raise ValueError("tool calls and results do not pair up")


def _result_text(block: dict[str, Any]) -> str:
    content = block.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


# --- the answer -------------------------------------------------------------------------------------


def _reply(request: dict[str, Any], turn: Turn, tools: set[str], attempt: int, key: str) -> Answer | ApiError:
    body = json.dumps(request)
    # Ids must differ within a conversation, and every request of a conversation differs.
    digest, size = hashlib.sha256(body.encode()).hexdigest()[:22], len(body) // 4
    done, rest = _split(turn, tools)
    calls: list[ToolUse] = []
    for step in rest:
        is_call = isinstance(step, Use) and step.tool in tools
        if calls and not (is_call and _may_join(step, len(calls))):
            break  # what comes after a call waits for its result
        if isinstance(step, Fail) and attempt < step.times:
            return _failure(step, size)
        if isinstance(step, Use) and is_call:
            calls.append(ToolUse(f"toolu_{digest}{len(calls):02}", step.tool, step.input))
            if not step.quiet:
                break
    if calls:
        return Answer(tuple(calls), "tool_use", size)
    # All that is said is said at the end: only a turn's last words reach the chat.
    texts = [text for step in (*done, *rest) for text in _spoken(step, request, key)]
    silent = any(isinstance(step, Silence) for step in rest)
    return Answer(_on_lines(texts) or (() if silent else (Text("Done."),)), "end_turn", size)


def _may_join(step: Step, calls: int) -> bool:
    """Whether this one may be made in one round with those before: nobody waits to be told of their results."""
    return isinstance(step, Use) and step.quiet and calls < MAX_CALLS


def _split(turn: Turn, tools: set[str]) -> tuple[list[Step], list[Step]]:
    """What was done in this turn, each call replaced by what is to be said of its result; and what was not."""
    done: list[Step] = []
    rest = list(turn.steps)
    for call in turn.used:
        while rest and not (isinstance(rest[0], Use) and rest[0].tool in tools):
            done.append(rest.pop(0))
        if rest:
            step = rest.pop(0)
            assert isinstance(step, Use)
            done.extend(_about_result(step, *turn.results[call]))
    return done, rest


def _on_lines(texts: list[Text]) -> tuple[Text, ...]:
    """A client puts the blocks of an answer together as they are: each but the last ends its line here."""
    lines = [text if text.text.endswith("\n") else replace(text, text=text.text + "\n") for text in texts[:-1]]
    return (*lines, *texts[-1:])


def _about_result(step: Use, result: str, is_error: bool) -> Iterator[Step]:
    if is_error:
        yield Speak(f"That did not work: {result[:SHOWN]}")
    elif step.after:
        yield Speak(step.after)
    elif not step.quiet:
        yield Speak(result[:SHOWN] or "(no output)")


def _spoken(step: Step, request: dict[str, Any], key: str) -> Iterator[Text]:
    if isinstance(step, Speak):
        yield Text(step.text, step.seconds)
    elif isinstance(step, Recall):
        yield Text(recall(_system_text(request)))
    elif isinstance(step, Recite):
        yield Text(_system_text(request)[:SHOWN] or "I was told nothing.")
    elif isinstance(step, TellKey):
        yield Text(_told(key, step.form) if key else "This request came without a key.")
    elif isinstance(step, Use):
        yield Text(f"I would use the tool {step.tool}, but this turn does not offer it.")


def _failure(step: Fail, size: int) -> Answer | ApiError:
    if step.kind in FAILURES:
        return FAILURES[step.kind]
    begun = (Text("This sentence will not come to"),)
    if step.kind in ENDINGS:
        return Answer(begun, "end_turn", size, ending=step.kind)
    return Answer(begun, STOPS[step.kind], size)


def _system_text(request: dict[str, Any]) -> str:
    system = request.get("system") or ""
    return system if isinstance(system, str) else "\n".join(block["text"] for block in system)


def _told(key: str, form: str) -> str:
    data = key.encode()
    if form == "hex":
        return data.hex()
    if form == "base64":  # in each of the three ways in which it can fall on base64's groups of three bytes
        return "\n".join(base64.b64encode(b"x" * shift + data).decode() for shift in range(3))
    return key


def recall(system: str) -> str:
    """The list items of the memory in the system prompt: what `remember` wrote, and what others did."""
    facts = [line.strip() for line in system.splitlines() if line.lstrip().startswith("- ")]
    return "I remember:\n" + "\n".join(facts) if facts else "I remember nothing yet."
