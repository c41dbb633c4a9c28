"""A channel without a service behind it: it does as a script says. For tests, and for trying a host out.

`python -m channel.scripted SCRIPT FOLDER`. SCRIPT is a file of JSON lines, or a Unix socket from which they come and
to which every frame of the host's is written. FOLDER holds what the host has not kept, as a real channel's would.

    {"say": {"frame": "message", …}}    say this frame; a `seq` of 0 is numbered, and kept until the host keeps it
    {"raw": "not a frame"}              say these bytes and a newline
    {"await": "send"}                   wait for the next such frame of the host
    {"answer": {"send": {"frame": "failed", …}}}   answer so from now on; `id` is filled in
    {"file": "REF", "data": "aGk="}     what `fetch` of REF brings
    {"hang": true}                      answer nothing any more, not even `ping`
    {"exit": 3}                         end, with this status

Whatever is not answered by the script is answered with `done`.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from channel import wire
from channel.spool import Kept, Spool

LINKED: Final = "linked"
"""File in FOLDER that says that an account is linked."""


class Stage:
    """The script's lines, and where the host's frames go."""

    def __init__(self, path: Path) -> None:
        self._out: TextIO | None = None
        if stat.S_ISSOCK(path.stat().st_mode):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(os.fspath(path))
            # Two streams: in one for both, what is written drops the lines that are read and not yet asked for.
            self._lines: Iterator[str] = iter(connection.makefile("r", encoding="utf-8").readline, "")
            self._out = connection.makefile("w", encoding="utf-8")
        else:
            self._lines = iter(path.read_text("utf-8").splitlines())

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            yield json.loads(line)

    def heard(self, frame: wire.Frame) -> None:
        if self._out is not None:
            self._out.write(wire.encode(frame).decode())
            self._out.flush()


class Scripted:
    """One thread plays the script, the main one hears the host."""

    def __init__(self, stage: Stage, folder: Path, connection: socket.socket) -> None:
        self._stage = stage
        self._mark = folder / LINKED
        self._spool = Spool(folder / "unkept", time.time())
        self._connection = connection
        self._lock = threading.RLock()
        self._heard = threading.Condition(self._lock)
        self._counts: dict[str, int] = {}
        self._awaited: dict[str, int] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._files: dict[str, bytes] = {}
        self._coming: dict[int, int] = {}
        """Id of a `send` with a file → bytes of it that are yet to come."""
        self._sent = 0
        self._hangs = threading.Event()

    def run(self) -> None:
        linked = self._mark.exists()
        self._say(wire.Hello(wire.VERSION, "scripted", linked, sorted(wire.ABILITIES)))
        for line in self._spool.resume():
            self._connection.sendall(line)
        if not linked:
            self._say(wire.Disconnected("unlinked", "no account is linked", wire.NEVER))
        threading.Thread(target=self._play, daemon=True).start()
        for frame in self._frames():
            self._stage.heard(frame)
            name = type(frame).__name__.lower()
            with self._heard:
                self._counts[name] = self._counts.get(name, 0) + 1
                self._heard.notify_all()
                self._answer(name, frame)

    def _frames(self) -> Iterator[wire.Frame]:
        decoder = wire.Decoder(wire.TO_CHANNEL)
        while data := self._connection.recv(65536):
            for frame in decoder.feed(data):
                if self._hangs.is_set():
                    threading.Event().wait()
                yield frame

    def _say(self, frame: wire.Frame) -> None:
        with self._lock:
            if isinstance(frame, Kept) and frame.seq == 0:
                seq = self._spool.next_seq()
                frame = dataclasses.replace(frame, seq=seq)
                self._spool.put(seq, wire.encode(frame))
            self._connection.sendall(wire.encode(frame))

    # --- what the script wants ---

    def _play(self) -> None:
        for line in self._stage.lines():
            ((what, value), *more) = line.items()
            match what:
                case "say":
                    self._say(wire.decode(json.dumps(value).encode(), wire.TO_HOST))
                case "raw":
                    self._connection.sendall(value.encode() + b"\n")
                case "await":
                    self._await(value)
                case "answer":
                    self._answers.update(value)
                case "file":
                    self._files[value] = base64.b64decode(dict(more)["data"])
                case "hang":
                    self._hangs.set()
                case "exit":
                    os._exit(value)

    def _await(self, name: str) -> None:
        with self._heard:
            wanted = self._awaited[name] = self._awaited.get(name, 0) + 1
            self._heard.wait_for(lambda: self._counts.get(name, 0) >= wanted)

    # --- what the host wants ---

    def _answer(self, name: str, frame: Any) -> None:
        if name == "kept":
            return self._spool.kept(frame.seq)
        if name == "send" and frame.file is not None:
            self._coming[frame.id] = frame.file.size
        if name == "data":
            self._coming[frame.id] -= len(frame.data)
            name = "send"
        if self._coming.get(frame.id, 0) > 0:
            return None
        if name in self._answers:
            record = {**self._answers[name], "id": frame.id}
            return self._say(wire.decode(json.dumps(record).encode(), wire.TO_HOST))
        if name in ("fetch", "link"):
            return self._bring(frame) if name == "fetch" else self._link(frame)
        sent = []
        if name in ("send", "react"):
            self._sent += 1
            sent = [f"S{self._sent}"]
        self._say(wire.Done(frame.id, sent))
        if name == "unlink":
            self._mark.unlink(missing_ok=True)
            self._say(wire.Disconnected("unlinked", "the account was unlinked", wire.NEVER))
        if name == "stop":
            os._exit(0)
        return None

    def _link(self, request: wire.Link) -> None:
        """Answered by the script, with `linked` and `done`; here only what is to be shown."""
        if self._mark.exists():
            text = "an account is linked already"
            return self._say(wire.Failed(request.id, "refused", text, wire.NEVER))
        if request.phone:
            self._say(wire.Code(request.id, "ABCD-EFGH", 160))
        else:
            self._say(wire.Qr(request.id, "https://example.org/link", 60))
        self._mark.touch()
        return None

    def _bring(self, request: wire.Fetch) -> None:
        data = self._files.get(request.ref)
        if data is None:
            return self._say(wire.Failed(request.id, "unknown", "no such file", wire.NEVER))
        if len(data) > request.limit:
            return self._say(wire.Failed(request.id, "too_large", f"{len(data)} bytes", wire.NEVER))
        for start in range(0, len(data), wire.CHUNK):
            self._say(wire.Data(request.id, data[start : start + wire.CHUNK]))
        return self._say(wire.Done(request.id))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripted")
    parser.add_argument("script", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the host's terminal is the host's
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        Scripted(Stage(options.script), options.folder, socket.socket(fileno=wire.FD)).run()
    except wire.PeerError:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
