"""The ground that a drill is held on: a folder of its own, listeners on loopback, made-up keys, specs."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import shutil
import socket
import string
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from host.drill.shelf import Shelf
from host.engines.base import Engine, sandbox_user
from host.engines.bubblewrap import tasks_of
from host.model import Enforcement, Image, Launch, Mount, Resources, Spec
from host.pool import identity, own_folder

Edit = Callable[[Launch], Launch]
KEPT: Final = "as it was\n"
"""What is in a file of the host's that nobody in a sandbox may change."""
ALPHABET: Final = string.digits + string.ascii_lowercase
SOME_TASKS: Final = 1024
"""Threads that the sandboxes' user may start elsewhere while a scene runs."""
TURN_SECONDS: Final = 300
"""For a slow machine: one turn runs some fifty commands, which took an emulated processor over two minutes."""
SMALL: Final = Resources(
    # Enough for the model's SDK under a bound on address space, and too little for the bomb.
    memory_bytes=640 * 1024 * 1024,
    processes=64,
    cpus=1.0,
    file_bytes=16 * 1024 * 1024,
    tmp_bytes=16 * 1024 * 1024,
)
"""For the scene with the bombs: each goes a little over one of these, and does no harm if it is not stopped."""


def made_up(prefix: str) -> str:
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(16))


def key_of(canary: str) -> str:
    """A key of realistic shape around the canary."""
    return f"sk-ant-api03-{canary}-{secrets.token_urlsafe(48)}AA"


@dataclass
class Ground:
    """What all scenes of one engine's drill share."""

    engine: Engine
    enforcement: Enforcement
    image: Image
    resources: Resources
    folder: Path
    """Made and removed by the drill; holds the sandboxes' folders."""
    tamper: Edit
    """What a test takes away from the real scenes' launches, to see the probes fail; the drill takes nothing."""
    canary: str = field(default_factory=lambda: made_up("NCC-"))
    """The real scenes' key. Each control has a key of its own."""
    install: str = field(default_factory=lambda: "drill-" + secrets.token_hex(6))

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "shelf", made_up("NCG-"))

    def open(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True)
        self.shelf.build()
        other = self.mount("groups/other", "/workspace/extra/other")
        (other.source / "notes.txt").write_text(made_up("NCG-") + "\n")
        self.secret.mkdir(mode=0o755)
        (self.secret / "notes.txt").write_text(made_up("NCG-") + "\n")
        (self.secret / "kept").write_text(KEPT)
        (self.mount("project", "/workspace/project").source / "nanoclaw.py").touch()
        run = self.mount("run", "/run")
        with socket.socket(socket.AF_UNIX) as listening:
            # bind takes 107 bytes of path, and the folder may lie deep.
            handle = os.open(run.source, os.O_RDONLY | os.O_DIRECTORY)
            listening.bind(f"/proc/self/fd/{handle}/docker.sock")
            os.close(handle)

    @property
    def secret(self) -> Path:
        """A folder of the host's beside the groups' own, which no sandbox sees."""
        return self.folder / "secret"

    def fill(self, command: str) -> str:
        """The command with what was asked of the engine, for those that read it back, and where no group may look."""
        r = self.resources
        # As root, bubblewrap's are counted by user and not by sandbox, and some come and go. A larger allowance than
        # needed would hide that there is no bound: a system with little memory gives every user one of its own.
        by_user = self.engine.name == "bubblewrap" and os.geteuid() == 0
        elsewhere = tasks_of(sandbox_user()[0]) + SOME_TASKS if by_user else 0
        asked = {
            "asked_memory": r.memory_bytes,
            "asked_processes": r.processes + elsewhere,
            "asked_percent": round(min(r.cpus, os.cpu_count() or 1) * 100),
            "asked_file": r.file_bytes,
            "asked_tmp": r.tmp_bytes,
            "secret": self.secret,
        }
        for name, value in asked.items():
            command = command.replace("{" + name + "}", str(value))
        return command

    def close(self) -> None:
        self.engine.reap(self.install)
        self.shelf.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def mount(self, place: str, target: str, readonly: bool = False) -> Mount:
        uid, gid = sandbox_user()
        return own_folder(self.folder / place, target, readonly, uid, gid)

    def spec(self, group: str, **changes: Any) -> Spec:
        """A sandbox like the ones that turns get, for a group of the drill's."""
        uid, gid = sandbox_user()
        mounts = (
            self.mount(f"groups/{group}", "/workspace/group"),
            self.mount("global", "/workspace/global", readonly=True),
            self.mount(f"inbox/{group}", "/workspace/inbox", readonly=True),
        )
        self._letter(mounts[2].source)
        spec = Spec(
            name=f"nanoclaw-{self.install}-{secrets.token_hex(6)}",
            install=self.install,
            group=group,
            image=self.image,
            mounts=mounts,
            resources=self.resources,
            uid=uid,
            gid=gid,
            deadline_seconds=TURN_SECONDS,
        )
        return replace(spec, **changes)

    def _letter(self, inbox: Path) -> None:
        """Something in the inbox, as if it had been sent to the group."""
        letter = inbox / "letter"
        if not letter.exists():
            letter.write_text("hello\n")
            os.chown(letter, *sandbox_user())

    def swapped(self, group: str) -> Spec:
        """A spec whose group folder was exchanged for another after the host had looked at it."""
        spec = self.spec(group)
        looked_at = spec.mounts[0].source
        looked_at.rename(looked_at.with_name(f"{group}-as-it-was"))
        looked_at.mkdir(mode=0o700)
        os.chown(looked_at, *sandbox_user())
        assert identity(looked_at) != spec.mounts[0].identity
        return spec


class Edited:
    """An engine whose launches are changed on their way."""

    def __init__(self, engine: Engine, edit: Edit) -> None:
        self._engine, self._edit = engine, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def launch(self, spec: Spec) -> Launch:
        return self._edit(self._engine.launch(spec))


class Listeners:
    """Services on the host's loopback that a sealed sandbox cannot reach: TCP, UDP and an abstract Unix socket.

    Each says `reached` to whoever comes. They run on a thread, because the drill's loop is busy elsewhere.
    """

    TCP_ANSWER: Final = b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nreached\n"

    def __init__(self) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(f"\0nanoclaw-drill-{self.port}")
        self._unix.listen()
        self._end, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="drill-listeners", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.close()
        self._thread.join(5)
        for listening in (self._tcp, self._udp, self._unix, self._end):
            listening.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listening in (self._tcp, self._udp, self._unix, self._end):
                selector.register(listening, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._end:
                        return
                    with contextlib.suppress(OSError):
                        self._answer(key.fileobj)

    def _answer(self, listening: Any) -> None:
        if listening is self._udp:
            self._udp.sendto(b"reached", self._udp.recvfrom(512)[1])
            return
        with listening.accept()[0] as connection:
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                # The request first, or closing would reset the connection before the answer is read.
                connection.recv(4096) if listening is self._tcp else None
            connection.sendall(self.TCP_ANSWER)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                connection.recv(4096)
