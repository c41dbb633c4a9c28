"""The pipe's frames: what the host and the runner may say to each other, and nothing else.

Newline-delimited JSON both ways. Each line is one object whose `frame` names a dataclass below and whose
other fields are exactly that dataclass's: a missing or unknown field, a wrong type, a line over the limit
is a `PeerError`, and the other end is killed. This module does no I/O, and it is the only one that both
sides import.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final

VERSION: Final = 3
"""Raised with every change of a frame; `Hello.version` carries it and a mismatch ends the container."""

KIB: Final = 1024
MIB: Final = 1024 * KIB

# The runner is the side that may lie, so its lines are the small ones: the host buffers at most this much
# for each container. 4 MiB holds a round of tool results at their caps with every byte escaped.
RUNNER_LINE_LIMIT: Final = 4 * MIB
# The payload carries the conversation so far in one line; the host cuts the transcript to fit.
HOST_LINE_LIMIT: Final = 32 * MIB

CHUNK: Final = 48 * KIB
"""Most bytes of a stream in one `Bytes` frame (64 KiB as base64)."""
WINDOW: Final = 512 * KIB
"""Credit that each direction of a stream starts with: bytes that may be sent and not yet consumed."""
MAX_STREAMS: Final = 64
"""Open streams per container."""
MAX_TEXT: Final = 256 * KIB
"""Most UTF-8 bytes of a reply, of one `say`, and of one message to the agent."""
MAX_SENT_FILE: Final = 32 * MIB
"""Most bytes of a file for the chat."""
MAX_DEPTH: Final = 100
"""Deepest nesting of a field's value. Python's parser takes as much as its stack happens to have left, and
whoever encodes the value again further up the stack would not: that must not be the writer's choice."""


class PeerError(Exception):
    """The other end of a pipe broke the rules: kill it."""


# --- both ways: a TCP connection, carried -----------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """Data of a stream, base64 on the wire. At most `CHUNK` bytes, and never beyond the peer's credit."""

    stream: int
    data: bytes


@dataclass(frozen=True)
class Credit:
    """The sender consumed this many bytes of `stream`; the other end may send as many again."""

    stream: int
    bytes: int


@dataclass(frozen=True)
class Close:
    """No more bytes from this end. With an `error` the stream is gone both ways; empty means a clean end
    of one direction (TCP's FIN), and the stream is forgotten when both ends have closed."""

    stream: int
    error: str = ""


# --- host to runner ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Bounds of one turn that the runner keeps (the host and the engine keep the harder ones too)."""

    rounds: int
    """Requests to the model."""
    seconds: int
    """Wall clock from the payload to `done`."""
    tokens: int
    """Input plus output tokens over all rounds."""
    command_seconds: int
    """Longest that one shell command may run."""
    output_bytes: int
    """Most bytes of one tool's output that the model is shown."""


@dataclass(frozen=True)
class Turn:
    """The payload: sent once, after `hello` was verified. The only frame that carries secrets."""

    turn: str
    group: str
    is_main: bool
    assistant: str
    """The name that the assistant answers to."""
    prompt: str
    history: list[dict[str, Any]]
    """Messages API entries (`role`, `content`) of earlier turns, oldest first."""
    secrets: dict[str, str]
    """`api_key` or `auth_token`; neither, for a server that asks for none."""
    base_url: str
    model: str
    max_tokens: int
    limits: Limits
    tools: list[dict[str, Any]]
    """What the agent may ask of the host, as the Messages API describes tools: `name`, `description`,
    `input_schema`. A use of one becomes a `Call`."""
    timezone: str
    ca_pem: str = ""
    """Further certificate authorities (PEM) for the model endpoint; empty means the image's own."""
    notes: list[str] = field(default_factory=list)
    """What the host has to tell the agent of this turn, such as a folder that it must do without."""


@dataclass(frozen=True)
class Check:
    """In the place of `turn`: run one shell command as the agent would, and say how it ended. Holds no secret."""

    command: str
    seconds: int
    """How long it may run."""
    timezone: str


@dataclass(frozen=True)
class Input:
    """A follow-up message for the running turn, taken up at the next tool boundary."""

    text: str


@dataclass(frozen=True)
class Result:
    """A call was carried out."""

    id: int
    value: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A call was well formed and is not permitted (or not possible): tell the agent why."""

    id: int
    reason: str


@dataclass(frozen=True)
class Stop:
    """End the turn now: `failed` with kind `stopped` is the answer, and the process exits."""

    reason: str


@dataclass(frozen=True)
class Opened:
    """The connection that `open` asked for is up."""

    stream: int


# --- runner to host ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First frame of a container: what it is and what holds it. The host compares before it trusts."""

    version: int
    build: str
    """Digest of the runner's sources, written at image build; a host of another build refuses it."""
    checks: dict[str, int]
    """Read back from the kernel: `pid`, `uid`, `gid`, `dumpable`, `cap_eff`, `cap_bnd`, `no_new_privs`,
    `seccomp` (0 off, 2 filter), `core_limit`, `interfaces` (network interfaces other than loopback),
    `nproc_limit`, `as_limit`, `fsize_limit` (-1: none)."""
    mounts: dict[str, str]
    """Mount point under /workspace → `st_dev:st_ino` in decimal."""


@dataclass(frozen=True)
class Progress:
    """What the agent is doing, for the person who waits: `kind` is `text` (a piece of the reply as it is
    written), `tool` (a tool starts: its name and argument in short), `output` (what it printed, cut) or
    `status` (a retry, a wait)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Call:
    """A request to the host, decided by `host.policy` from the pipe it came on."""

    id: int
    method: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """How a `check` ended: the exit status (124 at its time limit), and what it printed, cut."""

    status: int
    output: str


@dataclass(frozen=True)
class Say:
    """Text for the chat now, before the turn ends."""

    text: str


@dataclass(frozen=True)
class File:
    """A piece of a file for the chat, at most `CHUNK` bytes. Like a `call` it has a number, the same for all its
    pieces, and after the `last` an answer. One file at a time."""

    id: int
    name: str
    """What people see it called; never a path."""
    caption: str
    data: bytes
    last: bool


@dataclass(frozen=True)
class Entries:
    """Messages API entries for the transcript, in order; stored only when the turn ends well."""

    entries: list[dict[str, Any]]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request to the model, as the endpoint counted them."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True)
class Open:
    """Ask for a connection. `kind` is `model` (host and port must be the configured endpoint's) or `tool`
    (the group's allowed hosts). Stream numbers are the runner's, from 1, never used twice."""

    stream: int
    kind: str
    host: str
    port: int


@dataclass(frozen=True)
class Done:
    """The turn ended; `text` is the reply, and may be empty (nothing to say).

    `inputs` counts the `input` frames that the agent has seen. One that crossed this frame on its way is
    not among them: the host keeps its message pending, and the next turn answers it.
    """

    text: str
    inputs: int = 0


@dataclass(frozen=True)
class Failed:
    """The turn ended without a reply. `kind` is one of `FAILURES`; `message` is for the person."""

    kind: str
    message: str


FAILURES: Final = frozenset(
    {
        "auth",  # the endpoint refused the key
        "endpoint",  # it could not be reached, or broke off, after retries
        "overloaded",  # it said so, after retries
        "request",  # it called the request malformed or too long: a retry would not help
        "refusal",  # the model declined
        "limit",  # rounds, tokens or minutes of this turn are used up
        "stopped",  # the host asked
        "internal",  # a bug in the runner; the message holds no locals and no secret
    }
)

ToRunner = Turn | Check | Input | Result | Refused | Stop | Opened | Bytes | Credit | Close
ToHost = (
    Hello | Checked | Progress | Call | Say | File | Entries | Usage | Open | Bytes | Credit | Close | Done | Failed
)
Frame = ToRunner | ToHost

TO_RUNNER: Final[dict[str, type]] = {c.__name__.lower(): c for c in typing.get_args(ToRunner)}
TO_HOST: Final[dict[str, type]] = {c.__name__.lower(): c for c in typing.get_args(ToHost)}

_HINTS: Final = {c: typing.get_type_hints(c) for c in {*TO_RUNNER.values(), *TO_HOST.values(), Limits}}
_INT_LIMIT: Final = 2**63


# --- encode -----------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """One line, newline included. `ValueError` if a text holds a lone surrogate (it has no UTF-8)."""
    record: dict[str, Any] = {"frame": type(frame).__name__.lower()}
    for f in fields(frame):
        value = getattr(frame, f.name)
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii")
        elif isinstance(value, Limits):
            value = {g.name: getattr(value, g.name) for g in fields(value)}
        record[f.name] = value
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# --- decode -----------------------------------------------------------------------------------------


def decode(untrusted_line: bytes, accepted: dict[str, type]) -> Frame:
    """The frame in one line (without its newline), or `PeerError`, never anything else.

    `accepted` is `TO_HOST` on the host's side and `TO_RUNNER` on the runner's.
    """
    record = parse_object(untrusted_line)
    name = record.pop("frame", None)
    cls = accepted.get(name) if isinstance(name, str) else None
    if cls is None:
        raise PeerError("unknown frame")
    frame: Frame = _build(cls, record)
    return frame


class Decoder:
    """Bytes as they come from a pipe, in pieces of any size, to frames.

    Holds at most one line of `limit` bytes. After a `PeerError` it is of no further use.
    """

    def __init__(self, accepted: dict[str, type], limit: int) -> None:
        self._accepted = accepted
        self._lines = Lines(limit)

    def feed(self, untrusted: bytes) -> Iterator[Frame]:
        for untrusted_line in self._lines.feed(untrusted):
            yield decode(untrusted_line, self._accepted)


@dataclass
class Lines:
    """Splits a byte stream at newlines; a line over `limit` bytes is a `PeerError`."""

    limit: int
    _parts: list[bytes] = field(default_factory=list)
    _held: int = 0

    def feed(self, untrusted: bytes) -> Iterator[bytes]:
        start = 0
        while (end := untrusted.find(b"\n", start)) >= 0:
            self._check(end - start)
            self._parts.append(untrusted[start:end])
            line = b"".join(self._parts)
            self._parts, self._held = [], 0
            yield line
            start = end + 1
        if start < len(untrusted):
            self._check(len(untrusted) - start)
            self._parts.append(untrusted[start:])
            self._held += len(untrusted) - start

    def _check(self, more: int) -> None:
        if self._held + more > self.limit:
            raise PeerError(f"line over {self.limit} bytes")


def parse_object(untrusted_line: bytes) -> dict[str, Any]:
    """One JSON object without duplicate keys, NaN or endless nesting; else `PeerError`."""
    try:
        record = json.loads(
            untrusted_line.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as e:
        # Nothing of the line goes into the message: it may hold what must not be logged.
        raise PeerError(f"not a JSON line ({type(e).__name__})") from None
    if not isinstance(record, dict):
        raise PeerError("not a JSON object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers of a duplicated key can disagree on which one counts: nobody gets to choose.
    record = dict(pairs)
    if len(record) != len(pairs):
        raise PeerError("duplicate key")
    return record


def _no_constant(name: str) -> None:
    raise PeerError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    # 1e999 is good JSON, and an infinity to Python, which no JSON encoder of ours would write again.
    value = float(digits)
    if math.isinf(value):
        raise PeerError("number out of range")
    return value


def _build(cls: type, record: dict[str, Any]) -> Any:
    hints = _HINTS[cls]
    required = {f.name for f in fields(cls) if f.default is f.default_factory}  # both MISSING: no default
    if not required <= record.keys() <= hints.keys():
        raise PeerError(f"{cls.__name__.lower()}: wrong fields")
    return cls(**{name: _check_value(cls, name, hints[name], value) for name, value in record.items()})


def _check_value(cls: type, name: str, hint: Any, value: Any) -> Any:
    where = f"{cls.__name__.lower()}.{name}"
    if hint is Limits:
        if not isinstance(value, dict):
            raise PeerError(f"{where}: not an object")
        return _build(Limits, value)
    if hint is bytes:
        return _check_data(where, value)
    if isinstance(hint, types.GenericAlias):
        return _check_container(where, hint, value)
    if type(value) is not hint:  # `type() is`: a bool is not an int here
        raise PeerError(f"{where}: not {hint.__name__}")
    _check_scalars(where, value)
    return value


def _check_data(where: str, value: Any) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or len(data) > CHUNK:
        raise PeerError(f"{where}: not base64 of at most {CHUNK} bytes")
    return data


def _check_container(where: str, hint: Any, value: Any) -> Any:
    outer = typing.get_origin(hint)
    if type(value) is not outer:
        raise PeerError(f"{where}: not {outer.__name__}")
    # A dict's keys are strings already: JSON has no others.
    items, kind = (value.values(), hint.__args__[1]) if outer is dict else (value, hint.__args__[0])
    wanted = typing.get_origin(kind) or kind
    if kind is not Any and any(type(item) is not wanted for item in items):
        raise PeerError(f"{where}: not {hint}")
    _check_scalars(where, value)
    return value


def _check_scalars(where: str, value: Any) -> None:
    """Refuse what later steps (SQLite, UTF-8, recursive encoders) could not take, however deep it lies."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                    raise PeerError(f"{where}: lone surrogate")
            elif isinstance(item, int) and not -_INT_LIMIT <= item < _INT_LIMIT:
                raise PeerError(f"{where}: number out of range")
        level, depth = below, depth + 1
        if depth > MAX_DEPTH:
            raise PeerError(f"{where}: nested deeper than {MAX_DEPTH}")
