"""The host's wiring: channels, store, turns, sandboxes and terminals, on one loop."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host import credentials, intake, store
from host.attempt import Access, Attempt, House
from host.channels import Channel
from host.channels.console import Console
from host.config import Config, Home
from host.control import Ack, Client, Control, Request, Send, Status, StopTurn, Watch
from host.engines.base import Engine
from host.errors import UserError
from host.house import MAIN, OWNER, registered
from host.log import Log
from host.loop import Loop
from host.model import Endpoint, Enforcement, Group, Image, Message, Outgoing
from host.mounts import Judged, judged
from host.pool import Folders, Pool
from host.rehearsal.child import Rehearsal
from host.resolver import Resolver
from host.turns import Command, Feed, Start, Turns

__all__ = ["MAIN", "OWNER", "App", "Parts", "install_id", "read_authorities", "registered"]

NOWHERE: Final = Endpoint("", "", 0, tls=False)
HISTORY_LINES_MAX: Final = 200
PRUNE_SECONDS: Final = 86_400.0
UNREAD_MAX: Final = 100
"""Unread replies that a terminal is given when it opens; the rest wait for the next one."""
CLOSE_SECONDS: Final = 5.0
"""How long the sandboxes have to go away when the host stops; their stdin is closed, so they do anyway."""


@dataclass(frozen=True)
class Parts:
    """What the host was started with."""

    home: Home
    config: Config
    engine: Engine
    enforcement: Enforcement
    image: Image
    project: Path
    environment_secrets: dict[str, str]
    """Keys taken from the environment because the person said so; empty otherwise."""


class App:
    """One running host. `open`, then run the loop, then `close`."""

    def __init__(self, loop: Loop, parts: Parts, log: Log) -> None:
        self._loop, self._parts, self._log = loop, parts, log
        home = parts.home
        self._lock = store.lock(home.data)
        self._store = store.Store(home.data / "nanoclaw.db")
        self._started_at = time.time()
        self._groups = {group.folder: group for group in registered(self._store)}
        self._turns = Turns(parts.config.max_sandboxes)
        self._attempts: dict[str, Attempt] = {}
        self._rehearsal: Rehearsal | None = None
        self._rehearsal_endpoint = NOWHERE
        folders = Folders.of(home.data, parts.project)
        self._pool = Pool(
            loop, parts.engine, parts.image, parts.config, folders, install_id(home.data), self._judged_mounts, log
        )
        self.control = Control(loop, self._on_request)
        console = Console(self.control)
        self._channels: dict[str, Channel] = {console.name: console}
        self._house = House(
            loop=loop,
            store=self._store,
            pool=self._pool,
            resolver=Resolver(loop),
            config=parts.config,
            log=log,
            tell=self.control.broadcast,
            access=self._access,
            deliver=self._deliver,
        )

    def open(self, *, listen: bool) -> None:
        """Reap what an earlier host left behind, take up its pending messages, and listen."""
        for name in self._parts.engine.reap(install_id(self._parts.home.data)):
            self._log.info("removed a sandbox that an earlier host left", name=name)
        self._store.recover()
        self._prune()
        if listen:
            self.control.listen(self._parts.home.data / "host.sock")
        for folder in self._store.groups_with_pending():
            self._message_arrived(folder)

    def _prune(self) -> None:
        """At the start, and daily in a host that runs for long."""
        try:
            self._store.prune()
        except UserError as e:
            self._log.warning("cannot prune the database", why=str(e))
        self._loop.call_later(PRUNE_SECONDS, self._prune)

    def close(self, then: Callable[[], None]) -> None:
        """Let go of everything; `then` is called when the sandboxes are gone, or after `CLOSE_SECONDS`.
        Turns that run are left pending: the next host answers them."""
        called: list[bool] = []

        def finish() -> None:
            if not called:
                called.append(True)
                self._house.resolver.close()
                self._store.close()
                self._log.close()
                self._lock.close()
                then()

        for attempt in self._attempts.values():
            attempt.abandon()
        self.control.close()
        if self._rehearsal is not None:
            self._rehearsal.stop()
        self._pool.on_idle = finish
        self._pool.close()
        if not self._pool.live:
            finish()
        self._loop.call_later(CLOSE_SECONDS, finish)

    # --- messages in: steps 3 and 4 of a message's journey ----------------------------------------

    def receive(self, message: Message) -> int:
        """S1: on disk when this returns. The message's seq; a repeat has the seq of the first."""
        stored = self._store.add_message(message)
        group = self._store.group_of(message.channel, message.chat)
        if stored is None:
            return self._store.seq_of(message.channel, message.id)
        if group is not None:
            self._message_arrived(group.folder)
        return stored.seq

    def _message_arrived(self, folder: str) -> None:
        group = self._groups[folder]
        if self._wanted(group):
            self._carry_out(self._turns.message_arrived(folder))

    def _wanted(self, group: Group) -> bool:
        settings = self._parts.config.group(group)
        return intake.wants_agent(settings.trigger, settings.senders, self._store.pending(group.folder))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(folder):
                    attempt = self._attempts[folder] = Attempt(self._house, self._groups[folder], self._turn_ended)
                    # From the loop, not from here: an attempt that fails at once ends its turn, and must not
                    # do so inside the call that started it.
                    self._loop.call_soon(attempt.start)
                case Feed(folder):
                    self._attempts[folder].feed()

    def _turn_ended(self, group: Group) -> None:
        del self._attempts[group.folder]
        self._carry_out(self._turns.turn_ended(group.folder, self._wanted(group)))
        self._keep_warm(group)

    def _keep_warm(self, group: Group) -> None:
        if group.folder in self._attempts:
            return
        try:
            self._pool.keep_warm(group)
        except UserError as e:  # the next turn will meet it too, and tells the person then
            self._log.warning("no warm sandbox", group=group.folder, why=str(e))

    def _judged_mounts(self, group: Group) -> Judged:
        return judged(self._parts.home, self._parts.config, group, self._groups.values())

    # --- replies out: step 10 ---------------------------------------------------------------------

    def _deliver(self, outgoing: Outgoing) -> None:
        channel = self._channels.get(outgoing.channel)
        if channel is not None:
            channel.deliver(outgoing)

    # --- the model's endpoint ---------------------------------------------------------------------

    def _access(self) -> Access:
        """Read at the moment of the handoff and forgotten with it."""
        found = credentials.read(self._parts.home.config / ".env")
        secrets_ = found.secrets or self._parts.environment_secrets
        if not secrets_ and found.base_url is None:
            return Access({}, self._rehearse())
        return Access(secrets_, credentials.endpoint(found.base_url), read_authorities(self._parts.config.ca_file))

    @property
    def rehearsing(self) -> bool:
        """Whether no model is configured, so that the stand-in answers. `UserError` if `.env` is bad."""
        found = credentials.read(self._parts.home.config / ".env")
        return not (found.secrets or self._parts.environment_secrets or found.base_url)

    def _rehearse(self) -> Endpoint:
        if self._rehearsal is None or not self._rehearsal.alive:
            self._rehearsal = Rehearsal()
            self._rehearsal_endpoint = self._rehearsal.start()
        return self._rehearsal_endpoint

    # --- terminals --------------------------------------------------------------------------------

    def _on_request(self, client: Client, request: Request) -> None:
        try:
            self._serve(client, request)
        except UserError as e:
            client.send("refused", request=type(request).__name__.lower(), error=str(e), hints=list(e.hints))

    def _serve(self, client: Client, request: Request) -> None:
        match request:
            case Send():
                self._send(client, request)
            case Watch(folder, history):
                self._watch(client, self._group(folder), history)
            case Ack(out):
                self._store.mark_sent(out)  # S4
                client.send("acked", out=out)
            case StopTurn(folder):
                attempt = self._attempts.get(folder)
                if attempt is not None:
                    attempt.stop("stopped by the person at the terminal")
            case Status():
                client.send("status", **self.status())

    def _send(self, client: Client, request: Send) -> None:
        group = self._group(request.group)
        if group.channel != Console.name:
            raise UserError(f"the group {group.folder} is a {group.channel} chat", "write to it there", status=2)
        text = intake.clean_text(request.text)
        if refusal := intake.check_size(text):
            raise UserError(refusal, status=2)
        rehearsal = self.rehearsing  # a bad .env refuses the message here, before it is accepted
        message = Message(group.channel, request.id, group.chat, OWNER, OWNER, text, time.time())
        client.send("accepted", id=request.id, seq=self.receive(message), rehearsal=rehearsal)

    def _watch(self, client: Client, group: Group, history: int) -> None:
        client.watches.add(group.folder)
        lines = self._store.recent_lines(group.folder, max(0, min(history, HISTORY_LINES_MAX)))
        client.send(
            "watching",
            group=group.folder,
            name=group.name,
            assistant=self._parts.config.assistant,
            rehearsal=self.rehearsing,
            running=group.folder in self._attempts,
            history=[vars(line) for line in lines],
        )
        unread = [out for out in self._store.outbox_pending(Console.name) if out.group == group.folder]
        for outgoing in unread[:UNREAD_MAX]:
            self._deliver(outgoing)
        # Whoever opens a chat is about to write: the sandbox can start while they type.
        self._keep_warm(group)

    def _group(self, folder: str) -> Group:
        group = next((g for name, g in self._groups.items() if name.lower() == folder.lower()), None)
        if group is None:
            raise UserError(f"no group is named {folder!r}", f"there is: {', '.join(self._groups)}", status=2)
        return group

    def status(self) -> dict[str, Any]:
        """What `nanoclaw status` shows, as plain JSON values."""
        return {
            "pid": os.getpid(),
            "since": self._started_at,
            "home": str(self._parts.home.data),
            "engine": self._parts.enforcement.engine,
            "engine_version": self._parts.enforcement.version,
            "not_enforced": self._parts.enforcement.missing,
            "image": self._parts.image.id,
            "rehearsal": self.rehearsing,
            "groups": sorted(self._groups),
            "turns": sorted(self._attempts),
            "warm": self._pool.warm,
            "sandboxes": self._pool.live,
            "store": self._store.stats(),
        }


def read_authorities(ca_file: Path | None) -> str:
    """The further certificate authorities of the config, as they are now; it was a PEM file at the start."""
    try:
        return ca_file.read_text(encoding="ascii") if ca_file else ""
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"model.ca_file cannot be read any more: {e}") from e


def install_id(data: Path) -> str:
    """Names this home to the engine, so that only its own sandboxes are ever reaped. Made at first use."""
    path = data / "install-id"
    if not path.exists():
        temporary = path.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(6) + "\n", encoding="ascii")
        temporary.rename(path)
    made = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{12}", made):
        raise UserError(f"{path} does not hold this home's id", "remove it: a new one is made")
    return made
