"""A WhatsApp server of the tests' own, on loopback, and the real library made to trust it.

The server (tests/fakes/whatsapp, Node) speaks the real protocol. The library pins WhatsApp's root key; the test's own
takes its place in a copy of the library that exists only in the test's temporary folder.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.fakes.agent_tls import make_authority

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).with_name("whatsapp")
PYTHON = Path(os.environ.get("NANOCLAW_WHATSAPP_PYTHON", HERE / ".venv" / "bin" / "python"))
PINNED = bytes.fromhex("142375574d0a587166aae71ebe516437c4a28b73e3695c6ce1f7f9545da8ee6b")
"""WhatsApp's root key, which whatsmeow holds its server to."""

ME = {"pn": "4915100000001", "lid": "990000000000001", "name": "Owner"}
ANN = {"pn": "4915100000002", "lid": "990000000000002", "name": "Ann"}
BOB = {"pn": "4915100000003", "lid": "990000000000003", "name": "Bob"}
FAMILY = {
    "id": "120363000000000001@g.us",
    "subject": "Family",
    "mode": "lid",
    "members": [ME["pn"], ANN["pn"], BOB["pn"]],
}
CLUB = {"id": "120363000000000002@g.us", "subject": "Club", "mode": "pn", "members": [ME["pn"], ANN["pn"]]}
WORLD = {"account": ME, "contacts": [ANN, BOB], "groups": [FAMILY, CLUB]}


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where the WhatsApp tests were promised to run."""
    if os.environ.get("NANOCLAW_REQUIRE_WHATSAPP") == "1":
        pytest.fail(f"the WhatsApp tests are required here: {reason}", pytrace=False)
    pytest.skip(f"whatsapp: {reason}")


@functools.cache
def missing() -> str:
    """Why the server or the library cannot be run here; empty if they can."""
    node = shutil.which("node")
    if node is None:
        return "node is not installed (version 20 or newer)"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    if int(version.lstrip("v").partition(".")[0] or 0) < 20:
        return f"node is {version.strip()}, and 20 is needed"
    if not (HERE / "node_modules" / "baileys").is_dir():
        return "the server's packages are not installed: npm ci in tests/fakes/whatsapp"
    if not PYTHON.exists():
        return "neonize is not installed: requirements/whatsapp.txt into tests/fakes/whatsapp/.venv"
    load = [PYTHON, "-c", "from whatsapp import library; library.load()"]
    probe = subprocess.run(load, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return "" if probe.returncode == 0 else f"neonize does not load: {probe.stderr.strip().splitlines()[-1]}"


def site_packages() -> Path:
    """Where the test's environment has the library."""
    return next((PYTHON.parent.parent / "lib").glob("python3*/site-packages"))


class Server:
    """The server: what it is told to do, and what it saw."""

    def __init__(self, folder: Path, world: dict[str, Any] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        make_authority(folder, "*.whatsapp.net", "web.whatsapp.com", "*.web.whatsapp.com", "*.whatsapp.com")
        (folder / "world.json").write_text(json.dumps(world or WORLD))
        self.ca = folder / "ca.pem"
        argv = ["node", HERE / "server.mjs", folder / "server.key", folder / "server.pem", folder / "world.json"]
        with (folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self._log = folder / "server.log"
        self.events: list[dict[str, Any]] = []
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._news = threading.Condition()
        self._count = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = self.wait("ready", timeout=60)
        self.proxy = f"http://127.0.0.1:{ready['port']}"
        self.root = bytes.fromhex(ready["root"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "n" in said:
                self._answers.put(said)
                continue
            with self._news:
                self.events.append(said)
                self._news.notify_all()
        with self._news:
            self.events.append({"event": "ended"})
            self._news.notify_all()

    def do(self, what: str, **more: Any) -> dict[str, Any]:
        """One command, and its answer."""
        assert self._process.stdin is not None
        self._count += 1
        self._process.stdin.write(json.dumps({"do": what, "n": self._count, **more}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answers.get(timeout=60)
        assert answer["n"] == self._count
        assert "error" not in answer, answer["error"]
        return answer

    def wait(
        self,
        event: str,
        matches: Callable[[dict[str, Any]], bool] = lambda _: True,
        *,
        timeout: float = 30,
        since: int = 0,
        times: int = 1,
    ) -> dict[str, Any]:
        """The first (or n-th) such event after the first `since` ones, waiting for it."""
        until = time.monotonic() + timeout
        with self._news:
            while True:
                found = [e for e in self.events[since:] if e["event"] == event and matches(e)]
                if len(found) >= times:
                    return found[times - 1]
                left = until - time.monotonic()
                ended = any(e["event"] == "ended" for e in self.events)
                if ended or left <= 0:
                    raise AssertionError(
                        f"no {event} of the server: {self.events[since:][-20:]} {self._log.read_text()}"
                    )
                self._news.wait(left)

    def now(self) -> int:
        """A mark for `since`."""
        return len(self.events)

    def seen(self, event: str, since: int = 0) -> list[dict[str, Any]]:
        return [e for e in self.events[since:] if e["event"] == event]

    def message(self, chat: str, text: str, sender: str = "", **more: Any) -> str:
        """Somebody writes a plain text; the message's id."""
        return self.say(chat, {"conversation": text}, sender, **more)

    def say(self, chat: str, message: dict[str, Any], sender: str = "", **more: Any) -> str:
        """Somebody sends any message, as the protocol's JSON; its id."""
        return str(self.do("message", chat=chat, sender=sender, message=message, **more)["id"])

    def upload(self, data: bytes, kind: str, mimetype: str) -> dict[str, Any]:
        """What a message says of a file that its sender uploaded."""
        answer = self.do("upload", data=base64.b64encode(data).decode(), kind=kind, mimetype=mimetype)
        return {name: value for name, value in answer.items() if name != "n"}

    def download(self, part: dict[str, Any], kind: str) -> bytes:
        """A file that the client sent, by what its message says."""
        answer = self.do("download", path=part["directPath"], mediaKey=part["mediaKey"], kind=kind)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def library_copy(folder: Path, root: bytes) -> Path:
    """A folder to import neonize from, whose library holds `root` in the place of WhatsApp's own key."""
    source, copy = site_packages() / "neonize", folder / "neonize"
    copy.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.suffix == ".so":
            data = entry.read_bytes()
            assert data.count(PINNED) == 1, "this neonize pins its server in another way"
            (copy / entry.name).write_bytes(data.replace(PINNED, root))
        elif entry.name != "__pycache__":
            (copy / entry.name).symlink_to(entry)
    return folder


@contextlib.contextmanager
def serving(folder: Path, world: dict[str, Any] | None = None) -> Iterator[Server]:
    """The server, while it runs; the test is skipped, with the reason, where it cannot."""
    if reason := missing():
        unavailable(reason)
    server = Server(folder, world)
    try:
        yield server
    finally:
        server.close()
