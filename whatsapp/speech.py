"""The child's end of the wire: frames out from any thread, frames in on one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

from channel import wire


class Speech:
    """Blocks while the host does not read: what then waits, waits where it came from."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writing = threading.Lock()

    def say(self, frame: wire.Frame) -> None:
        self.say_line(wire.encode(frame))

    def say_line(self, line: bytes) -> None:
        try:
            with self._writing:
                self._connection.sendall(line)
        except OSError:
            leave(0)  # the host is gone, and with it whoever we could tell

    def heard(self) -> Iterator[wire.Frame]:
        """Until the host closes its end. `PeerError` if it breaks the rules."""
        decoder = wire.Decoder(wire.TO_CHANNEL)
        while True:
            try:
                data = self._connection.recv(256 * 1024)
            except OSError:
                return
            if not data:
                return
            yield from decoder.feed(data)


def leave(status: int) -> None:
    """End the process now: threads of Go's may never end by themselves."""
    os._exit(status)
