"""A whole NanoClaw on WhatsApp: the host as a person runs it, its real child, the server that speaks the protocol."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from host import control
from host.cli.desk import ask_host
from host.cli.session import exchange
from tests.conftest import CACHE, built_image, require_engine
from tests.e2e.cli import SOURCE, command, environment, nanoclaw, rows, wait_for
from tests.fakes import whatsapp_server
from tests.fakes.whatsapp_server import ANN, FAMILY, Server

GROUP = FAMILY["id"]
HEADER = "[whatsapp]\nproxy = "


class Nanoclaw(NamedTuple):
    """What is run: the beginning of its command line, and its environment."""

    program: tuple[str, ...]
    env: dict[str, str]


Make = Callable[[Path, Server], Nanoclaw]
"""Given the town's folder, and a server that it is to trust."""


def of_source(folder: Path, server: Server) -> Nanoclaw:
    """This tree, with the image that this machine has; the test is skipped where there is none."""
    built_image()
    python = python_with(folder, whatsapp_server.library_copy(folder / "library", server.root))
    cache = folder / "home" / "cache"
    cache.mkdir(mode=0o700, parents=True)
    (cache / "image").symlink_to(CACHE / "image")
    return Nanoclaw(SOURCE, environment(NANOCLAW_WHATSAPP_PYTHON=str(python), SSL_CERT_FILE=str(server.ca)))


class Town:
    """Nothing runs but the server until `start`."""

    def __init__(self, folder: Path, engine: str = "bubblewrap", settings: str = "", make: Make = of_source) -> None:
        self.home, self.engine = folder / "home", engine
        self.home.mkdir()
        self.server = Server(folder / "server")
        with contextlib.ExitStack() as stack:
            stack.callback(self.server.close)
            self.program, self.env = make(folder, self.server)
            stack.pop_all()
        (self.home / "config").mkdir(mode=0o700)
        (self.home / "config" / "config.toml").write_text(f"{HEADER}{self.server.proxy!r}\n")
        if settings:
            path = self.home / "config" / ".env"
            path.touch(mode=0o600)
            path.write_text(settings)
        self._stderr = folder / "host.stderr"
        self.host: subprocess.Popen[bytes] | None = None

    # --- the host, and its child ------------------------------------------------------------------------

    def start(self) -> None:
        with self._stderr.open("ab") as log:
            self.host = subprocess.Popen(self.command("run"), env=self.env, stdin=subprocess.DEVNULL, stderr=log)
        self.until(self._listens)

    def _listens(self) -> bool:
        connection = control.connect(self.home / "data" / "host.sock")
        if connection is None:
            return False
        connection.close()
        return True

    def until(self, condition: Callable[[], Any]) -> None:
        """Look until it is so, as long as the host lives."""

        @functools.wraps(condition)
        def seen() -> bool:
            assert self.host is not None
            assert self.host.poll() is None, f"the host ended: {self._stderr.read_text()[-3000:]}"
            return bool(condition())

        wait_for(seen)

    def kill(self) -> None:
        """`kill -9` of the host."""
        assert self.host is not None
        self.host.kill()
        self.host.wait()

    @property
    def child(self) -> int:
        """The number of the WhatsApp program's process."""
        found: list[int] = []

        def there() -> bool:
            found[:] = children(self.host.pid) if self.host is not None else []
            return bool(found)

        self.until(there)
        return found[0]

    def kill_child(self) -> None:
        """Gone when this returns."""
        with pidfd(self.child) as fd:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            assert ended(fd)

    # --- what a person does ---------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        connection = control.connect(self.home / "data" / "host.sock")
        assert connection is not None
        return ask_host(connection.detach(), method, params)

    def command(self, *args: str) -> list[str]:
        return command(self.home, self.engine, *args, program=self.program)

    def says(self, *args: str) -> str:
        """What a command prints."""
        done = nanoclaw(self.home, self.engine, *args, env=self.env, program=self.program)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        connection = control.connect(self.home / "data" / "host.sock")
        assert connection is not None
        return exchange(connection.detach(), control.Status(), lambda event: event["event"] == "status")

    @property
    def line(self) -> dict[str, Any]:
        """The channel as `status` has it, and how far its linking is."""
        found: dict[str, Any] = self.call("channel_status")["channels"].get("whatsapp", {})
        return found

    def connected(self) -> None:
        self.until(lambda: self.line.get("state") == "connected")

    def code(self, but: str = "") -> str:
        """The code that is to be scanned or typed now, if not that one."""
        found = [""]

        def there() -> bool:
            found[0] = self.line.get("linking", {}).get("code", "")
            return found[0] not in {"", but}

        self.until(there)
        return found[0]

    def link(self) -> None:
        self.call("link_channel", channel="whatsapp")
        self.server.do("scan", code=self.code())
        self.connected()

    def register(self, folder: str, chat: str = GROUP, **more: Any) -> None:
        self.call("register_group", folder=folder, channel="whatsapp", chat=chat, **more)

    # --- what happens -----------------------------------------------------------------------------------------

    def writes(self, text: str, chat: str = GROUP, **more: Any) -> str:
        """Ann writes, or the person to themselves; the message's id."""
        sender = "" if chat == "self" else ANN["pn"]
        return self.server.message(chat, text, sender, **more)

    def sent(self, words: str, since: int = 0) -> dict[str, Any]:
        """The message that holds these words, as it arrived at the other end."""
        return self.server.wait("sent", lambda e: words in text_of(e), since=since, timeout=60)

    def stored(self, message: str) -> list[tuple[Any, ...]]:
        """Kind, text and whether it is context only, of a message by WhatsApp's id."""
        found = rows(self.home, "SELECT id, kind, text, context_only FROM messages WHERE channel = 'whatsapp'")
        return [row[1:] for row in found if str(row[0]).endswith(f" {message}")]

    def until_stored(self, message: str) -> None:
        self.until(lambda: self.stored(message))

    def until_idle(self) -> None:
        self.until(lambda: self.status()["turns"] == [])

    def stop(self) -> None:
        assert self.host is not None
        self.host.terminate()
        self.host.wait(30)

    def close(self) -> None:
        try:
            if self.host is not None and self.host.poll() is None:
                self.stop()
        finally:
            if self.host is not None:
                self.kill()
            self.server.close()


@contextlib.contextmanager
def town(
    folder: Path, engine: str = "bubblewrap", settings: str = "", *, linked: bool = True, make: Make = of_source
) -> Iterator[Town]:
    """A host that runs; the test is skipped, with the reason, where something for it is missing."""
    if reason := whatsapp_server.missing():
        whatsapp_server.unavailable(reason)
    require_engine(engine)
    folder.mkdir(exist_ok=True)
    made = Town(folder, engine, settings, make)
    try:
        made.start()
        if linked:
            made.link()
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def linking(place: Town, *args: str) -> Iterator[subprocess.Popen[str]]:
    """`nanoclaw whatsapp link --json`, as it runs."""
    argv = place.command("whatsapp", "link", "--json", *args)
    with subprocess.Popen(argv, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next thing that it says."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    record: dict[str, Any] = json.loads(line)
    return record


def python_with(folder: Path, library: Path) -> Path:
    """A Python that finds the library there first."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(library))}:"$PYTHONPATH" exec {whatsapp_server.PYTHON} "$@"\n'
    )
    path.chmod(0o700)
    return path


def text_of(event: dict[str, Any]) -> str:
    """What people read of a message that arrived."""
    message = event["message"] or {}
    for kind in ("extendedTextMessage", "imageMessage", "documentMessage"):
        if kind in message:
            return str(message[kind].get("text") or message[kind].get("caption") or "")
    return str(message.get("conversation", ""))


def children(pid: int) -> list[int]:
    """Of this process, those that are the WhatsApp program."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    with contextlib.suppress(OSError):
        return [int(each) for each in found if b"\0whatsapp\0" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return []


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def ended(fd: int, seconds: float = 30) -> bool:
    """Whether the process of this descriptor is over, waiting for its end."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))
