"""The rehearsal's HTTP: the Messages API on a listening socket that the host made. Runs as a child process.

It ends when its stdin closes. That pipe is the host's lease on it: however the host ends, the kernel closes
the other end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from host.rehearsal import events, script
from host.rehearsal.script import Answer, ApiError

PATH: Final = "/v1/messages"
# A request carries the whole conversation; the pipe's line limit is 32 MiB, and JSON may escape some of it.
MAX_BODY: Final = 64 * 1024 * 1024
IDLE_SECONDS: Final = 120.0
"""A connection that says nothing for so long is closed: it holds a thread."""
REMEMBERED: Final = 1000
"""Bodies whose attempts are counted."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, expect_key: str = "") -> None:
        super().__init__(listening.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()  # the base class made one of its own
        self.socket = listening
        self.expect_key = expect_key
        self._attempts: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    def attempt(self, body: bytes) -> int:
        """How often this very body was seen before."""
        digest = hashlib.sha256(body).digest()
        with self._lock:
            count = self._attempts.pop(digest, 0)
            self._attempts[digest] = count + 1
            if len(self._attempts) > REMEMBERED:
                self._attempts.popitem(last=False)
        return count

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle of an answer is everyday; anything else is a bug, and shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: Server
    disable_nagle_algorithm = True  # one event, one packet: else each waits for the last one's ACK
    wbufsize = 0

    def version_string(self) -> str:
        return "nanoclaw-rehearsal"

    def log_message(self, *args: Any) -> None:
        """Nothing: the host's log tells of turns, and an address on loopback tells nobody anything."""

    def do_GET(self) -> None:
        self._send_error(ApiError(404, "not_found_error", f"rehearsal: only POST {PATH} is here"))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send_error(ApiError(413, "request_too_large", "rehearsal: no length, or too long"))
            return
        body = self.rfile.read(int(length))
        if self.path.partition("?")[0] != PATH:
            self.do_GET()
        elif self.server.expect_key and self._key() != self.server.expect_key:
            self._send_error(script.FAILURES["401"])
        else:
            self._answer(body)

    def _key(self) -> str:
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        return bearer if scheme.lower() == "bearer" else self.headers.get("x-api-key", "")

    def _answer(self, untrusted_body: bytes) -> None:
        try:
            untrusted_request = json.loads(untrusted_body)
        except (ValueError, RecursionError):
            self._send_error(ApiError(400, script.BAD_REQUEST, "rehearsal: the body is not JSON"))
            return
        answer = script.answer(untrusted_request, self.server.attempt(untrusted_body), self._key())
        if isinstance(answer, ApiError):
            self._send_error(answer)
        elif untrusted_request.get("stream") is True:
            self._send_stream(answer)
        else:
            self._send_json(200, events.message(answer))

    def _send_stream(self, answer: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("request-id", "req_rehearsal")
        self.end_headers()
        for event in events.stream(answer):
            if event.wait:
                time.sleep(event.wait)
            data = event.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        if answer.ending == "break":
            self.close_connection = True  # without the last chunk: to the client the connection broke
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _send_error(self, error: ApiError) -> None:
        self._send_json(error.status, events.error_body(error), error.headers)

    def _send_json(self, status: int, body: dict[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("request-id", "req_rehearsal"), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _hold_lease() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def main(argv: list[str]) -> int:
    """`--fd N`: the listening socket. The first line on stdin is the key to insist on; empty takes any."""
    parser = argparse.ArgumentParser(prog="nanoclaw rehearsal-server")
    parser.add_argument("--fd", type=int, required=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, whose end is ours
    listening = socket.socket(fileno=parser.parse_args(argv).fd)
    # A listening socket may be shared and non-blocking; the accept loop wants to sleep in it.
    listening.setblocking(True)
    expect_key = _first_line()
    threading.Thread(target=_hold_lease, daemon=True).start()
    Server(listening, expect_key).serve_forever(poll_interval=3600)
    return 0


def _first_line() -> str:
    line = b""
    while not line.endswith(b"\n") and len(line) < 4096 and (byte := os.read(0, 1)):
        line += byte
    return line.decode().strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
