"""The plain requests that the rehearsal understands: text in, steps out. No I/O."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

STATUSES: Final = ("400", "401", "413", "429", "500", "529")
ENDINGS: Final = ("truncate", "break", "error", "garbage")
STOPS: Final = {"refuse": "refusal", "length": "max_tokens"}
KINDS: Final = (*STATUSES, *ENDINGS, *STOPS)

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
  say nothing            an empty reply
  send file FILE         to the chat, where it takes files
  tool NAME {{{{JSON}}}}       any tool that this turn offers, and what it answered
  think slowly SECONDS   an answer that takes its time, to be stopped
  fail KIND [TIMES]      {{kinds}}
  help
With a key in .env a model answers instead."""

MEMORY_FILE: Final = "/workspace/group/CLAUDE.md"
MAX_SLOW_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Speak:
    text: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Silence:
    """Answer with nothing at all."""


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


Step = Speak | Silence | Recall | Recite | TellKey | Use | Fail


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


def _tool(match: re.Match[str]) -> Step | None:
    """The same, one at a time, and the result is said."""
    step = _call(match)
    return replace(step, quiet=False) if isinstance(step, Use) else None


def _fail(match: re.Match[str]) -> Step | None:
    kind = match["kind"].lower()
    return Fail(kind, int(match["times"] or 1_000_000)) if kind in KINDS else None


# Order counts: the first pattern that matches the whole line decides.
GRAMMAR: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Step | None]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), build)
    for pattern, build in (
        (r"run\s+(?P<text>\S.*)", lambda m: Use("bash", {"command": m["text"]})),
        (r"call\s+(?P<tool>\w{1,64})\s+(?P<text>\{.*)", _call),
        (r"tool\s+(?P<tool>\w{1,64})\s+(?P<text>\{.*)", _tool),
        (r"say nothing\W*", lambda m: Silence()),
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
        (
            r"send\s+file\s+(?P<file>\S.*)",
            lambda m: Use("send_file", {"path": m["file"]}, after="I sent it."),
        ),
        (r"fail\s+(?P<kind>\w{1,16})(?:\s+(?P<times>\d{1,6}))?\W*", _fail),
        (r"help\W*", lambda m: Speak(help_text())),
    )
)
_MESSAGE: Final = re.compile(r"<(?:message|task)\b[^>]*>(.*?)</(?:message|task)>", re.DOTALL)
# What a message quotes or brings along is not what it asks for.
_BESIDE: Final = re.compile(r"<quoted\b[^>]*>.*?</quoted>|<attachment\b[^>]*/>", re.DOTALL)
_TRIGGER: Final = re.compile(r"@\S+[\s,:]+")


def help_text() -> str:
    return HELP.format(kinds=" ".join(KINDS))


def _musing(seconds: float) -> str:
    count = max(1, int(min(seconds, MAX_SLOW_SECONDS) * 2))
    return " ".join(f"thought {n} of {count}," for n in range(1, count)) + f" and thought {count} of {count}."


def steps(prompt: str) -> list[Step]:
    """The requests in one prompt or follow-up, in order; the introduction, if there are none."""
    texts = [html.unescape(_BESIDE.sub("", text)) for text in _MESSAGE.findall(prompt)] or [prompt]
    found: list[Step] = []
    for text in texts:
        # A failure was for its own message: when that comes again beside the next, it is not to fail for ever.
        found = [step for step in found if not isinstance(step, Fail)]
        found += [step for line in text.splitlines() if (step := _understand(line)) is not None]
    return found or [Speak(help_text())]


def _understand(line: str) -> Step | None:
    line = _TRIGGER.sub("", line.strip(), count=1) if line.lstrip().startswith("@") else line.strip()
    for pattern, build in GRAMMAR:
        if match := pattern.fullmatch(line):
            return build(match)
    return None
