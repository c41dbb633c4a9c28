"""The host's wiring: channels, store, turns, sandboxes and terminals, on one loop."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from host import calls, post, store
from host.access import ModelAccess
from host.attempt import Attempt
from host.channels import Channel, program, whatsapp
from host.channels.console import Console
from host.config import Config, GroupSettings, Home
from host.config import groups as of_groups
from host.control import Client, Control, Request
from host.engines.base import Engine, sandbox_user
from host.errors import UserError
from host.house import House, registered
from host.inbox import Inbox
from host.log import Log
from host.loop import Loop
from host.model import Enforcement, Group, Image, Message, Outgoing
from host.mounts import Judged, judged
from host.pool import Folders, Pool
from host.resolver import Resolver
from host.terminals import Terminals
from host.work import Work

LOCK_SECONDS: Final = 1.0
"""How long a host that starts waits for a command that holds the home's lock meanwhile."""
PRUNE_SECONDS: Final = 86_400.0
CLOSE_SECONDS: Final = 10.0
"""How long sandboxes and channels have to go away when the host stops. Both are killed well before that, and their ends
are waited for: a child that nobody waits for is a zombie of whoever started us."""


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
    channels: Mapping[str, program.Command] = field(default_factory=dict)
    """Channels that are programs, by name."""


class App:
    """One running host. `open`, then run the loop, then `close`."""

    def __init__(self, loop: Loop, parts: Parts, log: Log) -> None:
        self._loop, self._parts, self._log = loop, parts, log
        home = parts.home
        self._lock = store.lock(home.data, patience=LOCK_SECONDS)
        self._store = store.Store(home.data / "nanoclaw.db")
        self._started_at = time.time()
        self._groups = {group.folder: group for group in registered(self._store)}
        self._model = ModelAccess(home, parts.config, parts.enforcement, parts.environment_secrets)
        folders = Folders.of(home.data, parts.project)
        self._pool = Pool(
            loop, parts.engine, parts.image, parts.config, folders, install_id(home.data), self._judged_mounts, log
        )
        self._terminals = Terminals(self, self._store, parts.config)
        self.control = Control(loop, self._on_request)
        self._console = Console(self.control)
        self._post = self._make_post(home)
        self._house = House(
            loop=loop,
            store=self._store,
            pool=self._pool,
            resolver=Resolver(loop),
            config=parts.config,
            log=log,
            tell=self.control.broadcast,
            access=self._model.access,
            deliver=self.deliver,
            settings=self._settings,
            asked=self._asked,
            outbox=home.data / "outbox",
            takes_reactions=lambda name: name in self._channels and self._channels[name].takes_reactions,
            takes_files=lambda name: name in self._channels and self._channels[name].takes_files,
        )
        self._work = Work(self._house, self._post, self._groups)
        self._desk = self._make_desk()

    @property
    def _channels(self) -> dict[str, Channel]:
        return {self._console.name: self._console, **self._post.lines}

    def _make_post(self, home: Home) -> post.Post:
        settings = self._parts.config.channels
        desk = post.Desk(
            loop=self._loop,
            store=self._store,
            settings=settings,
            inbox=Inbox(home.data / "inbox", sandbox_user(), settings.inbox_bytes),
            outbox=home.data / "outbox",
            log=self._log,
            receive=self._receive_from_line,
            assistant=self._parts.config.assistant,
            trouble=self._tell_main,
        )
        return post.Post(desk, self._parts.channels)

    def _make_desk(self) -> calls.Desk:
        return calls.Desk(
            store=self._store,
            config=self._parts.config,
            home=self._parts.home,
            now=time.time,
            enforcement=self._parts.enforcement,
            project=str(self._parts.project),
            group_changed=self._work.group_changed,
            stop_group=self._work.stop_group,
            tasks_changed=self._work.tasks_changed,
            run_task=self._work.run_task,
            task_updated=self._work.task_updated,
            task_cancelled=self._work.task_cancelled,
            running=self._work.running,
            deliver=self.deliver,
            channels=lambda: list(self._channels),
            lines=lambda: self._post.lines,
            begin_line=self._begin_line,
            forget_line=self._post.forget,
        )

    def open(self, *, listen: bool, tasks: bool = True) -> None:
        """Reap what an earlier host left behind, take up its pending messages, and listen. `tasks`: also see to
        those that are due; a host that is gone after one answer would only interrupt them."""
        for name in self._parts.engine.reap(install_id(self._parts.home.data)):
            self._log.info("removed a sandbox that an earlier host left", name=name)
        self._store.recover()
        self._prune()
        if listen:
            self.control.listen(self._parts.home.data / "host.sock")
        self._work.open(tasks=tasks)
        if tasks:  # a host that is gone after one answer does not link up with the world either
            self._post.open()

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

        self._work.close()
        self.control.close()
        self._model.stop()
        open_doors = {"sandboxes", "channels"}

        def shut(door: str) -> None:
            open_doors.discard(door)
            if not open_doors:
                finish()

        self._post.close(lambda: shut("channels"))
        self._pool.on_idle = lambda: shut("sandboxes")
        self._pool.close()
        if not self._pool.live:
            shut("sandboxes")
        self._loop.call_later(CLOSE_SECONDS, finish)

    # --- messages in: steps 3 and 4 of a message's journey ----------------------------------------

    def receive(self, message: Message) -> tuple[int, bool]:
        """S1: on disk when this returns. The message's seq (a repeat has the first one's), and whether the agent
        is called for it."""
        stored = self._store.add_message(message)
        group = self._store.group_of(message.channel, message.chat)
        if stored is None:
            return self._store.messages.seq_of(message.channel, message.id), group is not None
        return stored.seq, group is not None and self._work.take_up(group)

    def _receive_from_line(self, message: Message) -> None:
        if self.receive(message)[1] and message.kind == "message":
            self._post.mark_read(message)

    def keep_warm(self, group: Group) -> None:
        self._work.keep_warm(group)

    def _judged_mounts(self, group: Group) -> Judged:
        return judged(self._parts.home, self._parts.config, group, self._groups.values())

    # --- requests, of agents and of the person ------------------------------------------------------

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """For the person at the terminal."""
        return calls.carry_out(self._desk, calls.Caller(None), method, params)

    def _asked(self, group: Group, untrusted_method: str, untrusted_params: Mapping[str, Any]) -> dict[str, Any]:
        # As the group is today: one that was removed while its turn ran asks for nothing more.
        caller = self._store.group(group.folder)
        if caller is None:
            raise calls.Denied("this group was removed")
        return calls.carry_out(self._desk, calls.Caller(caller), untrusted_method, untrusted_params)

    def _settings(self, group: Group) -> GroupSettings:
        config = self._parts.config
        missing = self._parts.enforcement.missing
        if reason := of_groups.unenforced(config.chosen(group), missing, config.accept_not_enforced):
            raise UserError(reason, "accept it in config.toml by its name (accept_not_enforced), or unset it")
        return config.group(group)

    # --- replies out: step 10 ---------------------------------------------------------------------

    def deliver(self, outgoing: Outgoing) -> None:
        channel = self._channels.get(outgoing.channel)
        if channel is not None:
            channel.deliver(outgoing)

    # --- channels that are programs ---------------------------------------------------------------

    def _begin_line(self, name: str) -> None:
        """WhatsApp, which this host had no use for so far."""
        home, known = self._parts.home, whatsapp.in_use(self._parts.home)
        command = whatsapp.command(home, self._parts.config.channels.whatsapp_proxy, self._log.info)
        whatsapp.begin(home)
        try:
            self._post.begin(name, command)
        except UserError:
            if not known:
                whatsapp.forget(home)
            raise

    def _tell_main(self, channel: str, why: str) -> None:
        """Where main can be reached in another way."""
        main = next((group for group in self._groups.values() if group.is_main), None)
        if main is None or main.channel == channel:
            return
        try:
            self.deliver(self._store.add_say(main.folder, "", f"{channel}: {why}"))
        except UserError as e:
            self._log.warning("main cannot be told", channel=channel, why=str(e))

    # --- terminals --------------------------------------------------------------------------------

    def _on_request(self, client: Client, request: Request) -> None:
        self._terminals.on_request(client, request)

    @property
    def rehearsing(self) -> bool:
        """Whether no model is configured, so that the stand-in answers. `UserError` if `.env` is bad."""
        return self._model.rehearsing

    def attempt(self, folder: str) -> Attempt | None:
        return self._work.attempts.get(self.group(folder).folder)

    def group(self, folder: str) -> Group:
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
            "turns": sorted(self._work.attempts),
            "warm": self._pool.warm,
            "sandboxes": self._pool.live,
            "refused_mounts": {
                folder: refused for folder in sorted(self._groups) if (refused := self._pool.refused_mounts(folder))
            },
            "tasks": self._store.tasks.stats(),
            "channels": self._post.status(),
            "not_sent": [
                {"group": row.group, "text": row.text[:100], "file": row.file_name, "why": why}
                for row, why in self._store.outbox.given_up()
            ],
            "store": self._store.stats(),
        }


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
