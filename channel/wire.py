"""The channel's frames: what the host and a channel may say to each other, and nothing else.

A channel is a child process that reaches people in one way. Descriptor 3 is its end of a stream socket, and both
sides write lines of JSON to it. Each line is one object whose `frame` names a dataclass below and whose other
fields are exactly that dataclass's: a missing or unknown field, a wrong type, a text over its limit, a line over
`LINE_LIMIT` is a `PeerError`, and the host ends that channel. This module does no I/O. docs/channels.md tells the
same to people who write a channel in another language.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final

from runner.protocol import Lines, PeerError, parse_object

__all__ = ["FD", "LINE_LIMIT", "TO_CHANNEL", "TO_HOST", "VERSION", "Decoder", "Frame", "PeerError", "decode", "encode"]

VERSION: Final = 1
"""Raised with every change of a frame; `Hello.version` carries it, and the host refuses another."""
FD: Final = 3
"""The channel's descriptor: a stream socket, both ways."""

KIB: Final = 1024
LINE_LIMIT: Final = 512 * KIB
"""Longest line, either way: a text at its limit with every character escaped."""
CHUNK: Final = 48 * KIB
"""Most bytes of a file in one `Data` (64 KiB as base64)."""
MAX_FILE: Final = 32 * KIB * KIB
"""Largest file, either way: it lies in the channel's memory once."""
MAX_TEXT: Final = 64 * KIB
"""Most UTF-8 bytes of a text."""
MAX_SHORT: Final = 2 * KIB
"""Most UTF-8 bytes of a name, a reason, an excerpt, a file's type, a QR code."""
MAX_ITEMS: Final = 256
"""Most items of a list."""
NEVER: Final = -1
"""In the place of seconds: it will not come back by itself."""

_ID = re.compile(r"[!-~]{1,256}\Z")
_NUMBER_LIMIT: Final = 2**53
"""Beyond this, languages whose numbers are all doubles would read another number."""

REASONS: Final = frozenset(
    {
        "unlinked",  # no account is linked: `link` is what helps
        "offline",  # the service cannot be reached
        "lost",  # the connection broke off
        "logged_out",  # the account took this device off its list: `link` again
        "replaced",  # another program took over this session
        "outdated",  # the service no longer takes this version of the program
        "banned",  # the service will not have this account, for a while or for good
        "internal",  # a fault of the channel
    }
)
FAILURES: Final = frozenset(
    {
        "offline",  # not connected
        "unlinked",  # no account is linked
        "refused",  # the service said no
        "unknown",  # no such chat or message
        "unsupported",  # this channel cannot
        "too_large",  # over the limit
        "gone",  # the file is no longer there
        "timeout",  # no answer came in time; it may have happened
        "expired",  # nobody scanned the code
        "internal",  # a fault of the channel
    }
)


# --- parts of frames ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Somebody. `id` is who they are; `alt` is the service's second id of the same person, empty where it has none
    or it is not known yet; `name` is what they call themselves, and never identity."""

    id: str
    alt: str = ""
    name: str = ""


@dataclass(frozen=True)
class Quoted:
    """The message that another one answers."""

    id: str
    sender: str
    """Id of its writer; empty where it is not known."""
    text: str
    """How it began."""


@dataclass(frozen=True)
class Attachment:
    """A file that hangs on a message, yet to be fetched. `size` and `type` are what the sender says."""

    kind: str
    """`image`, `video`, `voice`, `audio`, `document` or `sticker`."""
    name: str
    """As the sender calls it; empty mostly. Never a path."""
    type: str
    size: int
    ref: str
    """Opaque: what `Fetch` gives back. Holds good in later runs of the channel too."""


@dataclass(frozen=True)
class File:
    """A file to be sent; its bytes follow in `Data` frames, exactly `size` of them."""

    name: str
    type: str
    size: int


@dataclass(frozen=True)
class Quote:
    """What a message that is sent answers: enough to say it again, for whoever joined later."""

    id: str
    sender: str
    text: str


@dataclass(frozen=True)
class Chat:
    """A place to talk. `kind` is `group`, `direct` or `self` (the account's talk with itself)."""

    id: str
    alt: str
    name: str
    kind: str


# --- both ways ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """The next bytes of a file, base64 on the wire: of the `Send` or the `Fetch` with this id."""

    id: int
    data: bytes


# --- channel to host ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First frame of a channel."""

    version: int
    program: str
    """Name and version, for `status`."""
    linked: bool
    """Whether an account is linked, so that `connected` is to be expected without `link`."""
    can: list[str]
    """Which of `ABILITIES` it has."""


ABILITIES: Final = frozenset(
    {"qr", "phone", "unlink", "typing", "read", "react", "files", "quote", "mentions", "chats"}
)


@dataclass(frozen=True)
class Qr:
    """While `Link` goes on: what to draw as a QR code, good for so many seconds. Each replaces the one before."""

    id: int
    code: str
    seconds: int


@dataclass(frozen=True)
class Code:
    """While `Link` with a phone number goes on: what the person types there."""

    id: int
    code: str
    seconds: int


@dataclass(frozen=True)
class Linked:
    """An account was linked. `Done` of the `Link` follows, and `connected`."""

    account: Person


@dataclass(frozen=True)
class Connected:
    """Messages come and go from now on, as this account."""

    account: Person


@dataclass(frozen=True)
class Disconnected:
    """They do not. `retry`: in how many seconds the channel itself tries again, or `NEVER`."""

    reason: str
    """One of `REASONS`."""
    text: str
    """A sentence for the person, with what helps."""
    retry: int


@dataclass(frozen=True)
class Message:
    """Somebody wrote. What the channel itself sent for the host never comes back as one."""

    seq: int
    """Counts what must be kept, over all runs of the channel; the host answers with `Kept`."""
    chat: Chat
    id: str
    """The service's id, unique within the chat: the same message may come twice, after a crash, and has it twice."""
    sender: Person
    own: bool
    """The account itself wrote it, on another device."""
    at: int
    """Seconds since the epoch, as the service says."""
    text: str
    quoted: Quoted | None = None
    mentions: list[Person] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    history: bool = False
    """From before: context, and never a question to be answered."""
    ephemeral: bool = False
    """It vanishes from the chat after a while."""
    view_once: bool = False


@dataclass(frozen=True)
class Edited:
    """A message now has another text."""

    seq: int
    chat: Chat
    id: str
    """Of the message that was edited."""
    sender: Person
    own: bool
    at: int
    text: str


@dataclass(frozen=True)
class Deleted:
    """A message was taken back for everyone, by its writer or an admin of the group."""

    seq: int
    chat: Chat
    id: str
    sender: Person
    """Who took it back."""
    own: bool
    at: int


@dataclass(frozen=True)
class Reaction:
    """Somebody reacted to the message `id`; an empty `emoji` takes the reaction back."""

    seq: int
    chat: Chat
    id: str
    sender: Person
    own: bool
    at: int
    emoji: str


@dataclass(frozen=True)
class Receipt:
    """Messages of ours arrived at somebody (`delivered`) or were seen by them (`read`)."""

    chat: Chat
    ids: list[str]
    sender: Person
    kind: str
    at: int


@dataclass(frozen=True)
class Chats:
    """A part of the answer to `ListChats` (its id), or a chat that changed its name (0). `Done` ends the answer."""

    id: int
    chats: list[Chat]


@dataclass(frozen=True)
class Done:
    """The request `id` was carried out. `sent`: the service's ids of the messages that it became, in order."""

    id: int
    sent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failed:
    """It was not. `retry`: in how many seconds it may be asked again, or `NEVER` if that would not help.
    `sent`: of a text in several pieces, those that went out before."""

    id: int
    reason: str
    """One of `FAILURES`."""
    text: str
    retry: int
    sent: list[str] = field(default_factory=list)


# --- host to channel ---------------------------------------------------------------------------------
# Each has an `id`, a number that the host never used before on this socket, and is answered by one `Done` or
# `Failed`; only `Kept` and `Data` are not. Answers may come in any order.


@dataclass(frozen=True)
class Link:
    """Link an account: by QR code, or by a code for this phone number (`+` and digits)."""

    id: int
    phone: str = ""


@dataclass(frozen=True)
class Unlink:
    """Take this device off the account and forget the session."""

    id: int


@dataclass(frozen=True)
class ListChats:
    """Say which chats there are, in `Chats` frames."""

    id: int


@dataclass(frozen=True)
class Send:
    """Say this, in Markdown; the channel writes it as its service does, in several messages where it is long."""

    id: int
    chat: str
    text: str
    quote: Quote | None = None
    mentions: list[str] = field(default_factory=list)
    """Ids of people whom the text names as `@id`, or as `@` and the part of the id before its own `@`."""
    file: File | None = None
    """With a file the text is its caption. It is sent when its last byte came."""


@dataclass(frozen=True)
class React:
    """React to a message; an empty `emoji` takes the reaction back."""

    id: int
    chat: str
    message: str
    sender: str
    """Who wrote the message; empty: the account itself."""
    emoji: str


@dataclass(frozen=True)
class Typing:
    """Show that an answer is being written, or no longer."""

    id: int
    chat: str
    on: bool


@dataclass(frozen=True)
class Read:
    """Mark messages of one sender as read."""

    id: int
    chat: str
    sender: str
    messages: list[str]


@dataclass(frozen=True)
class Fetch:
    """Bring an attachment: `Data` frames of at most `limit` bytes in all, then `Done`."""

    id: int
    ref: str
    limit: int


@dataclass(frozen=True)
class Kept:
    """All up to this `seq` is stored: the channel need not say it again in a later run."""

    seq: int


@dataclass(frozen=True)
class Ping:
    """Are you there? A channel that leaves it unanswered is ended."""

    id: int


@dataclass(frozen=True)
class Stop:
    """Disconnect, answer, and exit. The end of the socket means the same, without an answer."""

    id: int


ToHost = (
    Hello | Qr | Code | Linked | Connected | Disconnected | Message | Edited | Deleted | Reaction | Receipt | Chats
    | Data | Done | Failed
)  # fmt: skip
ToChannel = Link | Unlink | ListChats | Send | React | Typing | Read | Fetch | Kept | Ping | Stop | Data
Frame = ToHost | ToChannel

TO_HOST: Final[dict[str, type]] = {c.__name__.lower(): c for c in typing.get_args(ToHost)}
TO_CHANNEL: Final[dict[str, type]] = {c.__name__.lower(): c for c in typing.get_args(ToChannel)}

_PARTS: Final = (Person, Quoted, Quote, Attachment, File, Chat)
_HINTS: Final = {c: typing.get_type_hints(c) for c in {*TO_HOST.values(), *TO_CHANNEL.values(), *_PARTS}}
_REQUIRED: Final = {c: {f.name for f in fields(c) if f.default is f.default_factory} for c in _HINTS}  # both MISSING

# How each text is bounded, by the name of its field. What is not here is a short text of any characters.
_IDS: Final = frozenset({(Person, "id"), (Quoted, "id"), (Quote, "id"), (Chat, "id"), (Message, "id"), (Edited, "id"),
                         (Deleted, "id"), (Reaction, "id"), (Send, "chat"), (React, "chat"), (React, "message"),
                         (Typing, "chat"), (Read, "chat"), (Read, "sender"), (Receipt, "ids"), (Read, "messages"),
                         (Send, "mentions"), (Done, "sent"), (Failed, "sent")})  # fmt: skip
_IDS_OR_EMPTY: Final = frozenset(
    {(Person, "alt"), (Quoted, "sender"), (Quote, "sender"), (Chat, "alt"), (React, "sender")}
)
_LONG: Final = frozenset({(Message, "text"), (Edited, "text"), (Send, "text")})
_CHOICES: Final[dict[tuple[type, str], frozenset[str]]] = {
    (Attachment, "kind"): frozenset({"image", "video", "voice", "audio", "document", "sticker"}),
    (Chat, "kind"): frozenset({"group", "direct", "self"}),
    (Receipt, "kind"): frozenset({"delivered", "read"}),
    (Disconnected, "reason"): REASONS,
    (Failed, "reason"): FAILURES,
    (Hello, "can"): ABILITIES,
}
_BELOW_ZERO: Final = frozenset({(Disconnected, "retry"), (Failed, "retry")})


# --- encode ------------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """One line, newline included. `ValueError` if it is not what `decode` would take: a fault of the writer's."""
    line = json.dumps(_plain(frame, type(frame).__name__.lower()), ensure_ascii=False, separators=(",", ":")).encode()
    if len(line) > LINE_LIMIT:
        raise ValueError("line over its limit")
    return line + b"\n"


def _plain(part: Any, name: str = "") -> dict[str, Any]:
    record: dict[str, Any] = {"frame": name} if name else {}
    for f in fields(part):
        record[f.name] = _plain_value(getattr(part, f.name))
    return record


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    return _plain(value) if is_dataclass(value) else value


# --- decode ------------------------------------------------------------------------------------------


def decode(untrusted_line: bytes, accepted: dict[str, type]) -> Frame:
    """The frame in one line (without its newline), or `PeerError`, never anything else.

    `accepted` is `TO_HOST` on the host's side and `TO_CHANNEL` on the channel's.
    """
    if len(untrusted_line) > LINE_LIMIT:
        raise PeerError(f"line over {LINE_LIMIT} bytes")
    record = parse_object(untrusted_line)
    name = record.pop("frame", None)
    cls = accepted.get(name) if isinstance(name, str) else None
    if cls is None:
        raise PeerError("unknown frame")
    frame: Frame = _build(cls, record)
    return frame


class Decoder:
    """Bytes as they come from the socket, in pieces of any size, to frames.

    Holds at most one line. After a `PeerError` it is of no further use.
    """

    def __init__(self, accepted: dict[str, type]) -> None:
        self._accepted = accepted
        self._lines = Lines(LINE_LIMIT)

    def feed(self, untrusted: bytes) -> Iterator[Frame]:
        for untrusted_line in self._lines.feed(untrusted):
            yield decode(untrusted_line, self._accepted)


def _build(cls: type, record: Any) -> Any:
    if not isinstance(record, dict) or not _REQUIRED[cls] <= record.keys() <= _HINTS[cls].keys():
        raise PeerError(f"{cls.__name__.lower()}: wrong fields")
    return cls(**{name: _check(cls, name, _HINTS[cls][name], value) for name, value in record.items()})


def _check(cls: type, name: str, hint: Any, value: Any) -> Any:
    where = f"{cls.__name__.lower()}.{name}"
    if isinstance(hint, types.UnionType):  # `X | None`
        return None if value is None else _build(typing.get_args(hint)[0], value)
    if isinstance(hint, types.GenericAlias):  # `list[X]`
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise PeerError(f"{where}: not a list of at most {MAX_ITEMS}")
        return [_check(cls, name, typing.get_args(hint)[0], item) for item in value]
    if hint in _HINTS:
        return _build(hint, value)
    if hint is bytes:
        return _check_data(where, value)
    if type(value) is not hint:  # `type() is`: a bool is not an int here
        raise PeerError(f"{where}: not {hint.__name__}")
    if hint is str:
        _check_text(cls, name, where, value)
    elif hint is int and not (NEVER if (cls, name) in _BELOW_ZERO else 0) <= value < _NUMBER_LIMIT:
        raise PeerError(f"{where}: number out of range")
    return value


def _check_text(cls: type, name: str, where: str, value: str) -> None:
    if (choices := _CHOICES.get((cls, name))) is not None:
        if value not in choices:
            raise PeerError(f"{where}: none of its words")
        return
    if (cls, name) in _IDS or (value and (cls, name) in _IDS_OR_EMPTY):
        if not _ID.match(value):
            raise PeerError(f"{where}: not an id")
        return
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise PeerError(f"{where}: lone surrogate") from None
    if size > (MAX_TEXT if (cls, name) in _LONG else MAX_SHORT):
        raise PeerError(f"{where}: too long")


def _check_data(where: str, value: Any) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or len(data) > CHUNK:
        raise PeerError(f"{where}: not base64 of at most {CHUNK} bytes")
    return data
