"""The control socket: how `chat`, `ask` and `status` talk to the host that runs for this home.

A Unix socket, 0600, in the data folder; the kernel tells who connected, and only this user and root get
in. One JSON object a line both ways. A client asks with the requests below; the host answers with events,
objects whose `event` says what they are. A host without a socket (`ask` running the loop itself) adopts
one end of a socket pair, and nothing else differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.errors import UserError
from host.lines import JsonLines, encode_line
from host.loop import Loop, Pipe
from runner.protocol import MAX_TEXT, PeerError

# A message at its limit, every character escaped to six (`\u0001`), and the rest of the request.
LINE_LIMIT: Final = 6 * MAX_TEXT + 4096
# A client that does not read (a suspended terminal) is dropped at this many waiting bytes; it can ask again.
WRITE_LIMIT: Final = 8 * 1024 * 1024
MAX_CLIENTS: Final = 64
STATUS_BYTES: Final = 4 * 1024 * 1024
SUN_PATH_MAX: Final = 100  # bytes; 108 on Linux, 104 on macOS, less a little


@dataclass(frozen=True)
class Send:
    """A message of the person at the terminal. `id` is the client's, so that a repeat is harmless."""

    id: str
    group: str
    text: str
    sender: str
    """Whose part the person plays; empty: their own."""


@dataclass(frozen=True)
class Watch:
    """Be told what happens in a group from now on, after its last `history` lines."""

    group: str
    history: int


@dataclass(frozen=True)
class Ack:
    """The outbox row `out` was shown to the person: S4."""

    out: int


@dataclass(frozen=True)
class StopTurn:
    """End the group's running turn."""

    group: str


@dataclass(frozen=True)
class Status:
    """How is the host?"""


@dataclass(frozen=True)
class Call:
    """The person asks for what agents may ask for too (`host.calls`). `id` comes back with the answer."""

    id: str
    method: str
    params: dict[str, Any]


Request = Call | Send | Watch | Ack | StopTurn | Status
REQUESTS: Final[dict[str, type]] = {c.__name__.lower(): c for c in typing.get_args(Request)}


def encode_request(request: Request) -> bytes:
    return encode_line({"request": type(request).__name__.lower(), **vars(request)})


def decode_request(untrusted: dict[str, Any]) -> Request:
    """The request, or `PeerError`."""
    record = dict(untrusted)
    name = record.pop("request", None)
    cls = REQUESTS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise PeerError("unknown request")
    kinds = {key: typing.get_origin(hint) or hint for key, hint in typing.get_type_hints(cls).items()}
    if record.keys() != kinds.keys() or any(type(value) is not kinds[key] for key, value in record.items()):
        raise PeerError(f"{name}: wrong fields")
    try:  # a lone surrogate, at any depth: neither the store nor a log could take it
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise PeerError(f"{name}: a text is not UTF-8") from None
    request: Request = cls(**record)
    return request


class Client:
    """One connected terminal, as the host sees it."""

    def __init__(self, loop: Loop, fd: int, control: Control) -> None:
        self._control = control
        self._lines = JsonLines(LINE_LIMIT)
        self._pipe = Pipe(loop, fd, fd, self._received, self._closed, WRITE_LIMIT)
        self.watches: set[str] = set()
        """Folders of the groups that this client watches."""

    def send(self, event: str, **values: Any) -> None:
        self._pipe.write(encode_line({"event": event, **values}))

    def close(self) -> None:
        self._pipe.close()
        self._control.forget(self)

    def _received(self, untrusted: bytes) -> None:
        try:
            for record in self._lines.feed(untrusted):
                self._control.on_request(self, decode_request(record))
        except PeerError as e:
            self.send("refused", request="", error=f"malformed request: {e}", hints=[])
            self.close()

    def _closed(self, _reason: str) -> None:
        self._control.forget(self)


class Control:
    """Accepts clients and hands their requests to `on_request`. Owns the socket and its path."""

    def __init__(self, loop: Loop, on_request: Callable[[Client, Request], None]) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self.on_request = on_request
        self.clients: set[Client] = set()

    def listen(self, path: Path) -> None:
        """Open the socket at `path`. The home's lock is held, so a socket that is there is a dead host's."""
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with reachable(path) as name:
            # The mode must hold from the first instant, not from a chmod after it.
            previous = os.umask(0o177)
            try:
                server.bind(name)
            finally:
                os.umask(previous)
        server.listen(16)
        server.setblocking(False)
        self._socket, self._path = server, path
        self._loop.watch(server.fileno(), readable=self._accept)

    def adopt(self, fd: int) -> Client:
        """Serve the other end of a socket pair that this process made itself."""
        client = Client(self._loop, fd, self)
        self.clients.add(client)
        return client

    def forget(self, client: Client) -> None:
        self.clients.discard(client)

    def broadcast(self, group: str, event: str, **values: Any) -> None:
        """Tell every client that watches `group`."""
        for client in list(self.clients):
            if group in client.watches:
                client.send(event, group=group, **values)

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        if self._socket is not None and self._path is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # gone again before we got to it
        if peer_uid(connection) not in (os.getuid(), 0) or len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        self.adopt(connection.detach())


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however deep the home lies."""
    if len(os.fsencode(path)) <= SUN_PATH_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}"
        if not Path(short).exists():
            raise UserError(f"the path of the control socket is too long: {path}", "choose a shorter --home")
        yield f"{short}/{path.name}"
    finally:
        os.close(folder)


def connect(path: Path) -> socket.socket | None:
    """A connection to the host that runs for this home; None if none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(path) as name:
            connection.connect(name)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def status_of(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """What the host at the other end says of itself; None if nothing within `seconds`, or nothing that is understood:
    it hangs, went away just now, or is of another version."""
    until = time.monotonic() + seconds
    lines = JsonLines(STATUS_BYTES)
    with contextlib.suppress(OSError, PeerError):
        connection.settimeout(seconds)
        connection.sendall(encode_request(Status()))
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            data = connection.recv(65536)
            for event in lines.feed(data):
                if event.get("event") == "status":
                    return event
            if not data:
                break
    return None


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end, from the kernel and not from anything they say."""
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    # macOS: struct xucred { u_int cr_version; uid_t cr_uid; … } by LOCAL_PEERCRED (1) at level SOL_LOCAL (0)
    credentials = connection.getsockopt(0, 1, 76)
    return int(struct.unpack_from("II", credentials)[1])
