"""What the rehearsal answers: a request of the Messages API in, an answer or an API error out. No I/O.

The script keeps nothing between requests. It reads the turn's requests from the conversation that every
call carries, counts the tools it already used in this turn, and goes on from there. So it drives the same
path as a model does, and the same conversation always gets the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

MODEL: Final = "rehearsal-script"

INTRODUCTION: Final = "I am a script and not an AI: a rehearsal of the real path with nobody at the other end."
HELP: Final = f"""{INTRODUCTION}
I understand, one request on a line:
  run COMMAND            in this group's sandbox
  read FILE
  write FILE: TEXT
  remember that TEXT     written to this group's CLAUDE.md
  what do you remember?
  repeat TEXT
  say TEXT first         a message before the turn ends
  think slowly SECONDS   an answer that takes its time, to be stopped
  fail KIND [TIMES]      {{kinds}}
  help
With a key in .env a model answers instead."""

MEMORY_FILE: Final = "/workspace/group/CLAUDE.md"
MAX_SLOW_SECONDS: Final = 300.0
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
ENDINGS: Final = ("truncate", "break", "error", "garbage")
STOPS: Final = {"refuse": "refusal", "length": "max_tokens"}
KINDS: Final = (*FAILURES, *ENDINGS, *STOPS)


# --- the requests that are understood ---------------------------------------------------------------


@dataclass(frozen=True)
class Speak:
    text: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Recall:
    """Answer from the memory that the system prompt carries."""


@dataclass(frozen=True)
class Recite:
    """Show the system prompt: what the agent was told besides the conversation."""


@dataclass(frozen=True)
class TellKey:
    """Say the key that this request came with: a model that was turned would. The host has to catch it."""

    form: str


@dataclass(frozen=True)
class Use:
    tool: str
    input: dict[str, Any]
    after: str = ""
    """What to say when it went well; empty: show the result, or nothing if `quiet`."""
    quiet: bool = False


@dataclass(frozen=True)
class Fail:
    kind: str
    times: int


Step = Speak | Recall | Recite | TellKey | Use | Fail


def _remember(match: re.Match[str]) -> Step:
    fact = match["text"]
    command = f"printf '%s\\n' {shlex.quote('- ' + fact)} >> {MEMORY_FILE}"
    return Use("bash", {"command": command}, after=f"I will remember that {fact}")


def _write(match: re.Match[str]) -> Step:
    return Use("write_file", {"path": match["file"], "content": match["text"] + "\n"}, after=f"Wrote {match['file']}.")


def _call(match: re.Match[str]) -> Step | None:
    """`call TOOL {json}`: any tool with any input, and no word about the result. Several in a row are made at
    once, as a model does it. The drill's requests."""
    try:
        arguments = json.loads(match["text"])
    except (ValueError, RecursionError):
        return None
    return Use(match["tool"], arguments, quiet=True) if isinstance(arguments, dict) else None


def _fail(match: re.Match[str]) -> Step | None:
    kind = match["kind"].lower()
    return Fail(kind, int(match["times"] or 1_000_000)) if kind in KINDS else None


# Order counts: the first pattern that matches the whole line decides.
GRAMMAR: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Step | None]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), build)
    for pattern, build in (
        (r"run\s+(?P<text>\S.*)", lambda m: Use("bash", {"command": m["text"]})),
        (r"call\s+(?P<tool>\w{1,64})\s+(?P<text>\{.*)", _call),
        (r"read\s+(?P<file>\S.*)", lambda m: Use("read_file", {"path": m["file"]})),
        (r"write\s+(?P<file>[^:]*[^:\s])\s*:\s*(?P<text>.*)", _write),
        (r"remember\s+(?:that\s+)?(?P<text>\S.*)", _remember),
        (r"what\s+do\s+you\s+remember\s*\??", lambda m: Recall()),
        (r"recite what you were told\W*", lambda m: Recite()),
        (r"tell your key(?:\s+as\s+(?P<form>base64|hex|plain))?\W*", lambda m: TellKey((m["form"] or "plain").lower())),
        (r"repeat\s+(?P<text>\S.*)", lambda m: Speak(m["text"])),
        (
            r"say\s+(?P<text>\S.*?)\s+first\W*",
            lambda m: Use("send_message", {"text": m["text"]}, after="I said that first."),
        ),
        (
            r"think\s+slowly\s+(?P<seconds>\d{1,4}(?:\.\d{1,3})?)(?:\s*s|\s*seconds)?\W*",
            lambda m: Speak(_musing(float(m["seconds"])), min(float(m["seconds"]), MAX_SLOW_SECONDS)),
        ),
        (r"fail\s+(?P<kind>\w{1,16})(?:\s+(?P<times>\d{1,6}))?\W*", _fail),
        (r"help\W*", lambda m: Speak(help_text())),
    )
)
_MESSAGE: Final = re.compile(r"<message\b[^>]*>(.*?)</message>", re.DOTALL)
_TRIGGER: Final = re.compile(r"@\S+[\s,:]+")


def help_text() -> str:
    return HELP.format(kinds=" ".join(KINDS))


def _musing(seconds: float) -> str:
    count = max(1, int(min(seconds, MAX_SLOW_SECONDS) * 2))
    return " ".join(f"thought {n} of {count}," for n in range(1, count)) + f" and thought {count} of {count}."


def steps(prompt: str) -> list[Step]:
    """The requests in one prompt or follow-up, in order; the introduction, if there are none."""
    texts = [html.unescape(text) for text in _MESSAGE.findall(prompt)] or [prompt]
    lines = [line for text in texts for line in text.splitlines()]
    found = [step for line in lines if (step := _understand(line)) is not None]
    return found or [Speak(help_text())]


def _understand(line: str) -> Step | None:
    line = _TRIGGER.sub("", line.strip(), count=1) if line.lstrip().startswith("@") else line.strip()
    for pattern, build in GRAMMAR:
        if match := pattern.fullmatch(line):
            return build(match)
    return None


# --- the conversation so far ------------------------------------------------------------------------


@dataclass
class Turn:
    """What one request's conversation says about the turn that it belongs to."""

    steps: list[Step] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    """Ids of the tool calls made in this turn, in order."""
    results: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Id → text, whether it is an error."""
    fresh: int = 0
    """How many of `used` were made in the last round: their results have not been spoken about."""


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
        if message["role"] == "assistant":
            turn.fresh = sum(block["type"] == "tool_use" for block in _blocks(message))
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
    spoken: list[Text] = []
    calls: list[ToolUse] = []
    for step in _due(turn):
        is_call = isinstance(step, Use) and step.tool in tools
        if calls and not (is_call and _may_join(step, len(calls))):
            break  # what comes after a call waits for its result
        if isinstance(step, Fail):
            if attempt < step.times:
                return _failure(step, spoken, size)
        elif isinstance(step, Use) and is_call:
            calls.append(ToolUse(f"toolu_{digest}{len(calls):02}", step.tool, step.input))
            if not step.quiet:
                break
        else:
            if spoken:  # a client puts the blocks of an answer together as they are
                spoken[-1] = replace(spoken[-1], text=spoken[-1].text + "\n")
            spoken.extend(_spoken(step, request, key))
    if calls:
        return Answer((*spoken, *calls), "tool_use", size)
    return Answer(tuple(spoken) or (Text("Done."),), "end_turn", size)


def _may_join(step: Step, calls: int) -> bool:
    """Whether this one may be made in one round with those before: nobody waits to be told of their results."""
    return isinstance(step, Use) and step.quiet and calls < MAX_CALLS


def _due(turn: Turn) -> Iterator[Step]:
    """The steps that this request is to be answered with: from the last round's results on."""
    done = 0
    for step in turn.steps:
        if isinstance(step, Use) and done < len(turn.used):
            done += 1
            if done > len(turn.used) - turn.fresh:
                yield from _about_result(step, *turn.results[turn.used[done - 1]])
        elif done == len(turn.used):
            yield step


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


def _failure(step: Fail, spoken: list[Text], size: int) -> Answer | ApiError:
    if step.kind in FAILURES:
        return FAILURES[step.kind]
    begun = (*spoken, Text("This sentence will not come to"))
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
