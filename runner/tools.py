"""The tools that the model is offered: their schemas, and one call of one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from runner import conversation, protocol, text
from runner.shell import Shell, ToolError

ROUND_BYTES: Final = protocol.MIB
"""Most bytes of all results of one round, so that they fit into one line of the pipe, escaped."""
MAX_CALLS: Final = 64
"""Most calls of one round that are carried out."""
MAX_CAPTION: Final = 1024
"""Most bytes of what is said about a file that is sent."""
SHOWN: Final = 2000
"""Characters of a result that the person who waits is shown."""

_STRING: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 1}
_FLAG: Final = {"type": "boolean"}
_PATH: Final = {"type": "string", "description": "absolute, or relative to the shell's working directory"}

# name → description, properties, required
TABLE: Final[dict[str, tuple[str, dict[str, Any], tuple[str, ...]]]] = {
    "bash": (
        "Run a command in bash. The working directory carries over to the next command; variables do not. "
        "stdin is empty. A command is stopped at its time limit, and output in the middle is cut where it is long. "
        "Start what is to go on in the background with & and its output in a file.",
        {"command": _STRING, "seconds": {**_COUNT, "description": "time limit; the turn's own limit caps it"}},
        ("command",),
    ),
    "read_file": (
        "Read a text file, with line numbers. offset is the first line (from 1), limit the number of lines.",
        {"path": _PATH, "offset": _COUNT, "limit": _COUNT},
        ("path",),
    ),
    "write_file": (
        "Create a file, or replace all that is in it. Missing folders are made.",
        {"path": _PATH, "content": _STRING},
        ("path", "content"),
    ),
    "edit_file": (
        "Replace a piece of a text file. old must occur exactly once, unless replace_all is true.",
        {"path": _PATH, "old": _STRING, "new": _STRING, "replace_all": _FLAG},
        ("path", "old", "new"),
    ),
    "glob": (
        "List files by name. `*.py` matches at any depth, `src/**/*.py` from the folder on.",
        {"pattern": _STRING, "path": {**_PATH, "description": "folder to look in; the working directory if left out"}},
        ("pattern",),
    ),
    "grep": (
        "Search text files for a (Python) regular expression, line by line.",
        {
            "pattern": _STRING,
            "path": {**_PATH, "description": "folder or file; the working directory if left out"},
            "include": {"type": "string", "description": "only files that match this, such as *.md"},
            "ignore_case": _FLAG,
        },
        ("pattern",),
    ),
    "send_file": (
        "Send a file to the chat, such as a picture or a document, with a few words if you like. At most 32 MiB.",
        {"path": _PATH, "caption": _STRING},
        ("path",),
    ),
    "send_message": (
        "Send a message to the chat now, before the turn ends.",
        {"text": _STRING},
        ("text",),
    ),
}

# What of an input tells a person most, in this order.
GIST: Final = ("command", "path", "pattern", "text", "prompt", "folder", "group", "id", "host", "name")

_TYPES: Final[dict[str, type]] = {"string": str, "integer": int, "boolean": bool}

Ask = Callable[[str, dict[str, Any]], protocol.Result | protocol.Refused]
"""(method, params) → the host's answer."""
Post = Callable[[str, str, bytes], protocol.Result | protocol.Refused]
"""(name, caption, the file) → the host's answer."""


def schemas(offered: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Our own tools, and what the host offers beside them, in its words."""
    return [*_own(), *offered]


def _own() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "description": description,
            "input_schema": {"type": "object", "properties": properties, "required": list(required)},
        }
        for name, (description, properties, required) in TABLE.items()
    ]


class Tools:
    def __init__(
        self,
        shell: Shell,
        limits: protocol.Limits,
        send: Callable[[protocol.Frame], None],
        offered: Sequence[dict[str, Any]] = (),
        ask: Ask | None = None,
        post: Post | None = None,
    ) -> None:
        """`offered`: tools that the host carries out, asked through `ask`. `post`: takes files for the chat."""
        self._shell = shell
        self._limits = limits
        self._send = send
        self._ask = ask
        self._post = post
        self._offered = [tool.get("name") for tool in offered]
        names = [*TABLE, *self._offered]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise protocol.PeerError(f"the host offers a tool without a name, or two under one: {names}")
        self.said = False
        """Whether the chat was told anything before the end."""

    def carry_out(self, calls: list[conversation.Block]) -> list[conversation.Block]:
        """The results of one round's calls, in order. One after the other: they share a folder."""
        limit = min(self._limits.output_bytes, ROUND_BYTES // max(1, min(len(calls), MAX_CALLS)))
        left_out = f"more than {MAX_CALLS} calls at once: this one was left out"
        return [
            *(self._one(call, limit) for call in calls[:MAX_CALLS]),
            *(conversation.result(call, left_out, is_error=True) for call in calls[MAX_CALLS:]),
        ]

    def _one(self, call: conversation.Block, limit: int) -> conversation.Block:
        name, untrusted_input = call["name"], call["input"]
        self._send(protocol.Progress("tool", text.shorten(f"{name} {_gist(untrusted_input)}", 300)))
        try:
            if name in self._offered:
                found, is_error = self._ask_host(name, untrusted_input, limit)
            else:
                found, is_error = self._run(name, checked(name, untrusted_input), limit)
        except ToolError as e:
            found, is_error = f"{name}: {e}", True
        self._send(protocol.Progress("output", text.clip(found, SHOWN)))
        return conversation.result(call, found, is_error=is_error)

    def _run(self, name: str, arguments: dict[str, Any], limit: int) -> tuple[str, bool]:
        if name == "bash":
            return self._shell.run(arguments["command"], arguments.get("seconds", 0), limit)
        if name == "send_message":
            return self._say(arguments["text"])
        if name == "send_file":
            return self._send_file(arguments["path"], arguments.get("caption", ""))
        return self._shell.file_tool(name, arguments, limit)

    def _ask_host(self, name: str, untrusted_input: Any, limit: int) -> tuple[str, bool]:
        """The host checks what is asked: it knows what may be, and decides who may."""
        if not isinstance(untrusted_input, dict) or self._ask is None:
            raise ToolError("the input is not an object")
        try:
            answer = self._ask(name, text.clean(untrusted_input))
        except (ValueError, RecursionError) as e:
            raise ToolError(f"the host cannot be asked this: {e}") from e
        if isinstance(answer, protocol.Refused):
            return text.clip(f"The host refused: {answer.reason}", limit), True
        return text.clip(json.dumps(answer.value, ensure_ascii=False, separators=(",", ":")), limit), False

    def _say(self, words: str) -> tuple[str, bool]:
        if not words.strip():
            raise ToolError("the text is empty")
        if len(words.encode()) > protocol.MAX_TEXT:
            raise ToolError(f"the text is over {protocol.MAX_TEXT} bytes: shorten it, or write it to a file")
        self._send(protocol.Say(words))
        self.said = True
        return "Sent.", False

    def _send_file(self, path: str, caption: str) -> tuple[str, bool]:
        if len(caption.encode()) > MAX_CAPTION:
            raise ToolError(f"the caption is over {MAX_CAPTION} bytes: send a message beside the file")
        name, data = self._shell.file_to_send(path)
        if self._post is None:
            raise ToolError("this chat takes no files")
        answer = self._post(name, caption, data)
        if isinstance(answer, protocol.Refused):
            return f"The host refused: {answer.reason}", True
        self.said = True
        return f"Sent {name} ({len(data)} bytes).", False


def checked(name: str, untrusted_input: Any) -> dict[str, Any]:
    """The input of a call as its schema has it, or a `ToolError` that says what is wrong with it."""
    if name not in TABLE:
        raise ToolError("there is no such tool")
    _, properties, required = TABLE[name]
    if not isinstance(untrusted_input, dict):
        raise ToolError("the input is not an object")
    if missing := [key for key in required if key not in untrusted_input]:
        raise ToolError(f"missing: {', '.join(missing)}")
    if unknown := [str(key) for key in untrusted_input if key not in properties]:
        raise ToolError(f"unknown: {text.shorten(', '.join(unknown), 100)}")
    for key, value in untrusted_input.items():
        if type(value) is not _TYPES[properties[key]["type"]]:
            raise ToolError(f"{key} is not of type {properties[key]['type']}")
        if isinstance(value, str) and key != "content" and "\0" in value:
            raise ToolError(f"{key} holds a NUL character")
    return untrusted_input


def _gist(untrusted_input: Any) -> str:
    if not isinstance(untrusted_input, dict):
        return ""
    return next((str(untrusted_input[key]) for key in GIST if key in untrusted_input), "")
