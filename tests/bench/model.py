"""A model endpoint for measuring, in a process of its own so that nothing it measures shares its interpreter.

Run as `python -m tests.bench.model`. What it sees it tells on stdout, a JSON line each: `{"url": …}` at first,
`{"asked": NS}` when the first byte of a request to the model has come, and `{"waiting": WHO, "report": …}` when
WHO has posted a report and waits for its next go. A line WHO on stdin lets it go; the end of stdin ends all.
Times are of CLOCK_MONOTONIC in nanoseconds, which is one clock for all processes and containers of a machine.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections import defaultdict
from typing import Any

PIECES = 40
"""Pieces of an answer that is streamed, and between them the pause of a fast model."""
PAUSE_SECONDS = 0.005
STREAM_PLEASE = b"stream please"


def main() -> None:
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    goes: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
    threading.Thread(target=accept, args=(server, goes), daemon=True).start()
    tell(url=f"http://127.0.0.1:{server.getsockname()[1]}")
    for line in sys.stdin:
        goes[line.strip()].release()


def tell(**values: Any) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def accept(server: socket.socket, goes: defaultdict[str, threading.Semaphore]) -> None:
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, goes), daemon=True).start()


def serve(connection: socket.socket, goes: defaultdict[str, threading.Semaphore]) -> None:
    with connection, connection.makefile("rb") as reader:
        while first := reader.read(1):
            came = time.monotonic_ns()
            path = (first + reader.readline()).split()[1].decode()
            length = 0
            while (header := reader.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = reader.read(length)
            if path.startswith("/go/"):
                who = path.removeprefix("/go/")
                tell(waiting=who, report=json.loads(body))
                goes[who].acquire()
                # Closed, so that the request that is measured next begins with a connection of its own.
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            tell(asked=came)
            answer(connection, streamed=STREAM_PLEASE in body)


def answer(connection: socket.socket, *, streamed: bool) -> None:
    """One message of the Messages API; each piece of its text is the time at which it was sent."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    send(connection, *OPENING)
    for _ in range(PIECES if streamed else 1):
        if streamed:
            time.sleep(PAUSE_SECONDS)
        text = f"{time.monotonic_ns()} "
        send(connection, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
    send(connection, *CLOSING)
    connection.sendall(b"0\r\n\r\n")


def send(connection: socket.socket, *events: dict[str, Any]) -> None:
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))


USAGE = {"input_tokens": 10, "output_tokens": 10}
MESSAGE: dict[str, Any] = {
    "id": "msg_bench", "type": "message", "role": "assistant", "model": "bench", "content": [],
    "stop_reason": None, "stop_sequence": None, "usage": USAGE,
}  # fmt: skip
OPENING: tuple[dict[str, Any], ...] = (
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
)
CLOSING: tuple[dict[str, Any], ...] = (
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
    {"type": "message_stop"},
)

if __name__ == "__main__":
    main()
