"""A web proxy on 127.0.0.1 for the agent's tools: each request becomes a `tool` stream over the pipe.

What may be reached is the host's decision alone; a refusal reaches the tool as a plain 403 with the reason.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from runner.streams import Stream, StreamError, Streams

ADDRESS: Final = ("127.0.0.1", 3128)
URL: Final = "http://127.0.0.1:3128"
MAX_CONNECTIONS: Final = 48
"""Fewer than streams, so that tools cannot use up those that the model's connection needs."""
MAX_HEAD: Final = 64 * 1024
HEAD_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 600.0
FULL_SECONDS: Final = 0.2
READ: Final = 48 * 1024

_HOP_HEADERS: Final = ("proxy-connection", "proxy-authorization", "connection", "keep-alive")


class BadRequestError(Exception):
    """Not a request that a proxy can forward."""


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    head: bytes
    """What goes to the other side first; nothing for CONNECT, where the tool itself speaks to it."""


def start(streams: Streams) -> None:
    listening = socket.create_server(ADDRESS, backlog=MAX_CONNECTIONS)
    threading.Thread(target=_accept, args=(listening, streams), name="forwarder", daemon=True).start()


def _accept(listening: socket.socket, streams: Streams) -> None:
    slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
    while True:
        slots.acquire()
        try:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(connection, streams, slots), daemon=True).start()
        except (OSError, RuntimeError):  # no descriptor or no thread left: the agent used them up
            slots.release()
            time.sleep(FULL_SECONDS)


def _serve(connection: socket.socket, streams: Streams, slots: threading.BoundedSemaphore) -> None:
    try:
        with connection, contextlib.suppress(OSError):  # a tool may hang up at any time
            _carry(connection, streams)
    finally:
        slots.release()


def _carry(connection: socket.socket, streams: Streams) -> None:
    connection.settimeout(HEAD_SECONDS)
    try:
        head, rest = _read_head(connection)
        target = parse(head)
        stream = streams.open("tool", target.host, target.port, CONNECT_SECONDS)
    except BadRequestError as e:
        return _answer(connection, "400 Bad Request", str(e))
    except StreamError as e:
        status = "403 Forbidden" if str(e).startswith("refused") else "502 Bad Gateway"
        return _answer(connection, status, str(e))
    except TimeoutError:
        return _answer(connection, "504 Gateway Timeout", "no connection in time")
    try:
        if not target.head:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if first := target.head + rest:
            stream.write(first, IDLE_SECONDS)
        _pump_both(connection, stream)
    except StreamError:
        pass  # it broke on the far side; the tool sees its connection end
    finally:
        stream.close()
    return None


def _pump_both(connection: socket.socket, stream: Stream) -> None:
    connection.settimeout(IDLE_SECONDS)
    back = threading.Thread(target=_pump_back, args=(connection, stream), daemon=True)
    back.start()
    with contextlib.suppress(OSError, StreamError):
        while data := connection.recv(READ):
            stream.write(data, IDLE_SECONDS)
        stream.finish()
        back.join(IDLE_SECONDS)
    stream.close()
    back.join(IDLE_SECONDS)


def _pump_back(connection: socket.socket, stream: Stream) -> None:
    with contextlib.suppress(OSError, StreamError):
        while data := stream.read(READ, IDLE_SECONDS):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return
    # Broken, not ended: wake the other direction too.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    held = b""
    while (end := held.find(b"\r\n\r\n")) < 0:
        if len(held) > MAX_HEAD:
            raise BadRequestError("the head of the request is too long")
        data = connection.recv(READ)
        if not data:
            raise BadRequestError("the request ended in its head")
        held += data
    return held[: end + 4], held[end + 4 :]


def parse(untrusted_head: bytes) -> Target:
    """The destination of one proxy request: `CONNECT host:port`, or `GET http://host/…`."""
    lines = untrusted_head.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"([A-Z]{1,20}) (\S+) HTTP/1\.[01]", lines[0])
    if not match:
        raise BadRequestError("not a proxy request")
    method, where = match.groups()
    try:
        url = urlsplit(f"//{where}" if method == "CONNECT" else where)
        host, port = url.hostname, url.port
    except ValueError as e:
        raise BadRequestError("not an address") from e
    if method == "CONNECT":
        if not host or not port or url.path or url.query or url.username is not None:
            raise BadRequestError("not host:port")
        return Target(host, port, b"")
    if url.scheme != "http" or not host or url.username is not None:
        raise BadRequestError("only http:// addresses are forwarded so; https goes through CONNECT")
    return Target(host, port or 80, _origin_form(method, url, lines[1:]))


def _origin_form(method: str, url: SplitResult, headers: list[str]) -> bytes:
    # One request a connection: a second one could name another host, and would go to this one.
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    kept = [line for line in headers if line and line.partition(":")[0].strip().lower() not in _HOP_HEADERS]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1")


def _answer(connection: socket.socket, status: str, reason: str) -> None:
    body = f"nanoclaw: {reason}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
