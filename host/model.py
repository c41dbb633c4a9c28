"""The words of the house: frozen values that cross its floors. No I/O, no behaviour beyond their checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
RESERVED_FOLDERS: Final = frozenset({"global", "inbox", "project", "extra", "trash"})
"""Names that would read as something else beside the groups' folders. Compared in lower case."""


@dataclass(frozen=True)
class Group:
    """A registered chat. `folder` is its identity everywhere inside the house."""

    folder: str
    channel: str
    chat: str
    """The channel's own id of the chat."""
    name: str
    """What people call it; never identity."""
    is_main: bool = False
    needs_trigger: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen for it, as plain JSON values by the names that `groups set` knows; `config` checks them and
    says what then holds."""


@dataclass(frozen=True)
class Task:
    """Something to be done at set times. Its run is a turn of its group."""

    id: str
    group: str
    prompt: str
    kind: str
    """`cron`, `interval` or `once`."""
    schedule: str
    """Five cron fields; seconds; or a local time, `2026-03-29T08:00`, in the group's zone."""
    context: str
    """`group`: joins the group's conversation. `isolated`: begins with nothing, and leaves nothing in it."""
    check: str
    """A shell command that is run first, without the key: the model is asked only if it exits 0. Empty: none."""
    state: str
    """`active`, `paused` or `done` (a `once` that ran)."""
    created_by: str
    """Folder of the group whose agent asked for it; empty: the person."""
    created_at: float
    next_run: float | None
    """Seconds since the epoch; None where nothing more is to come, or while paused."""
    queued_for: float | None = None
    """The time that a run which has begun to wait, and has not ended, was due at."""
    zone: str = "UTC"
    """The group's time zone, as `next_run` was computed."""
    anchor: float = 0.0
    """What an interval counts from, in seconds since the epoch."""
    made_in: str = ""
    """Id of the task whose run asked for it; empty: no task's."""


@dataclass(frozen=True)
class TaskRun:
    """One run of a task, due at a time that its schedule gave."""

    task: Task
    due: float


@dataclass(frozen=True)
class Quoted:
    """The message that another one answers or is about, as far as it is known."""

    id: str
    """The channel's own id of it."""
    sender: str
    text: str
    """Its beginning."""


@dataclass(frozen=True)
class Attachment:
    """A file that came with a message."""

    name: str
    """What the sender called it; never a path."""
    type: str
    """MIME type, by content."""
    bytes: int
    path: str = ""
    """Its name in the group's inbox; empty: it was not taken."""
    why: str = ""
    """Why it was not taken."""


@dataclass(frozen=True)
class Mention:
    """Somebody whom a message names, so that the phones of the chat show a name there."""

    person: str
    """The channel's id."""
    name: str = ""
    """What they called themselves in this chat; empty: they never wrote in it."""
    written: str = ""
    """How the text names them, as `@…`; empty: it is not in the text."""


MESSAGE_KINDS: Final = frozenset({"message", "edit", "deletion", "reaction"})


@dataclass(frozen=True)
class Message:
    """One message as a channel delivered it, checked for shape and size but written by anyone."""

    channel: str
    id: str
    """The channel's own id: (channel, id) is unique, and a repeat is not stored twice."""
    chat: str
    sender: str
    """The channel's id of the person; identity."""
    sender_name: str
    text: str
    sent_at: float
    """Seconds since the epoch, by the sender's clock."""
    kind: str = "message"
    """Or `edit` (`text` is the new one), `deletion`, `reaction` (`text` is it): of the message `quoted.id`."""
    context_only: bool = False
    """Too old to be answered: it calls nobody, and is shown with the next message that does."""
    quoted: Quoted | None = None
    attachments: tuple[Attachment, ...] = ()
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class Stored:
    """A message on disk. `seq` orders all messages of this home, by arrival."""

    seq: int
    message: Message
    edited: bool = False
    deleted: bool = False


@dataclass(frozen=True)
class Outgoing:
    """One row of the outbox: something to be said to a chat, S3 until the channel acks it."""

    id: int
    group: str
    channel: str
    chat: str
    text: str
    turn: str
    kind: str
    """`reply` (ends a turn), `say` (during one) or `error` (the turn failed; the text says why)."""
    upto: int
    """Highest message seq that the turn had seen; the reply answers all up to it."""
    quote: int = 0
    """Seq of the message that it quotes; 0: none."""
    file: str = ""
    """A file to be sent, by its name in the outbox's folder; `text` is then what is said about it."""
    file_name: str = ""
    """What people see it called."""
    reaction: bool = False
    """It is no text: `text` is an emoji, put on the message `quote`."""
    attempts: int = field(default=0, compare=False)


class Archive(Protocol):
    """An image's docker-archive being read, uncompressed, from its beginning to its end."""

    def read(self, size: int, /) -> bytes: ...

    def portion(self) -> float:
        """How much of it was read, 0 to 1."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Image:
    """The sandbox image. `id` is `sha256:<hex>`, the digest of its config: its content."""

    id: str
    archive: Path
    """docker-archive tar in the cache. Where `read` is set there may be none: its folder is the image's all the same,
    and its name what it is called in errors."""
    rootfs: Path
    """Unpacked, for engines that take a folder; may not exist before `parcels.unpack_rootfs`."""
    build: str
    """Digest of the runner's sources in it, as `Hello.build` reports."""
    manifest: str = ""
    """`sha256:<hex>` of its OCI manifest: a docker that keeps images in containerd knows it by this name."""
    read: Callable[[], Archive] | None = field(default=None, compare=False, repr=False)
    """Opens the archive where it is no plain file: within the program's own, or compressed in the cache."""


@dataclass(frozen=True)
class MountWish:
    """A folder of the host that a group is to see as /workspace/extra/`name`, if the allowlist lets it."""

    path: str
    name: str
    rw: bool = False


@dataclass(frozen=True)
class Mount:
    """A host folder in the sandbox. `identity` is (st_dev, st_ino) as the host opened and judged it."""

    source: Path
    target: str
    readonly: bool
    identity: tuple[int, int]


@dataclass(frozen=True)
class Resources:
    """What one sandbox may use; the engine enforces it, `Hello.checks` and the drill read it back."""

    # A turn is a Python with the model's SDK (about 90 MB) plus what the tools run.
    memory_bytes: int = 1024 * 1024 * 1024
    # Enough for a compiler or a package install; a fork bomb ends here.
    processes: int = 256
    cpus: float = 2.0
    # Largest single file the agent can write.
    file_bytes: int = 1024 * 1024 * 1024
    tmp_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class Spec:
    """Everything an engine needs to start one sandbox. Holds no secret, ever: it becomes an argv."""

    name: str
    """Unique: `nanoclaw-<install>-<random>`."""
    install: str
    """Id of this home, the label by which orphans are found."""
    group: str
    image: Image
    mounts: tuple[Mount, ...]
    resources: Resources
    uid: int
    gid: int
    deadline_seconds: int
    """The runner exits by itself this long after it started without a payload."""
    proxy: bool = False
    """Whether tools are given the forwarder on 127.0.0.1."""


@dataclass(frozen=True)
class Launch:
    """How to start one sandbox, as plain data: an argv, and the contents of the fds it names.

    An argument `{fd:N}` stands for the number of an inherited fd from which `inputs[N]` can be read.
    """

    argv: tuple[str, ...]
    inputs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Enforcement:
    """What an engine was seen to enforce on this machine. `missing` is control → why not."""

    engine: str
    version: str
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """Where the model answers."""

    base_url: str
    host: str
    port: int
    tls: bool


@dataclass(frozen=True)
class AllowedHost:
    """A host that tools may reach. `ports` empty means 80 and 443; `networks` are the only non-global
    ranges that its addresses may lie in (CIDR), empty: global addresses only."""

    pattern: str
    """A host name in lower case, or `*.` and a suffix."""
    ports: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Connection:
    """The audit row of one stream, allowed or refused."""

    group: str
    turn: str
    kind: str
    """`model` or `tool`."""
    host: str
    port: int
    address: str
    """The address connected to; empty where it never came to that."""
    sent: int
    """Bytes from the container outwards."""
    received: int
    outcome: str
    """`closed` (normally), `refused: …`, `failed: …` or `cut` (the turn ended first)."""
    started_at: float
    seconds: float
