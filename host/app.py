"""The host's wiring: channels, store, turns, sandboxes and terminals, on one loop."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from host import calls, intake, post, store
from host.access import ModelAccess
from host.attempt import Attempt
from host.channels import Channel, program
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
from host.model import Enforcement, Group, Image, Message, Outgoing, Task, TaskRun
from host.mounts import Judged, judged
from host.pool import Folders, Pool
from host.resolver import Resolver
from host.tasks import Scheduler
from host.terminals import Terminals
from host.turns import Command, Feed, Start, Turns

LOCK_SECONDS: Final = 1.0
"""How long a host that starts waits for a command that holds the home's lock meanwhile."""
PRUNE_SECONDS: Final = 86_400.0
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
        self._turns = Turns(parts.config.max_sandboxes)
        self._attempts: dict[str, Attempt] = {}
        self._sees_to_tasks = False
        self._runs: dict[str, TaskRun] = {}
        """Runs that wait for their turn, by task."""
        self._model = ModelAccess(home, parts.config, parts.enforcement, parts.environment_secrets)
        folders = Folders.of(home.data, parts.project)
        self._pool = Pool(
            loop, parts.engine, parts.image, parts.config, folders, install_id(home.data), self._judged_mounts, log
        )
        self._terminals = Terminals(self, self._store, parts.config)
        self.control = Control(loop, self._on_request)
        console = Console(self.control)
        self._post = self._make_post(home)
        self._channels: dict[str, Channel] = {console.name: console, **self._post.lines}
        self._scheduler = Scheduler(loop, self._store, self._zone_of, self._task_due, log)
        self._desk = self._make_desk()
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
            takes_files=frozenset(name for name, channel in self._channels.items() if channel.takes_files),
        )

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
            group_changed=self._group_changed,
            stop_group=self._stop_group,
            tasks_changed=self._scheduler.changed,
            run_task=self._run_task,
            task_updated=self._task_updated,
            task_cancelled=self._task_cancelled,
            running=self._running,
            deliver=self.deliver,
            channels=frozenset(self._channels),
            lines=lambda: self._post.lines,
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
        for folder in self._store.groups_with_pending():
            self._take_up(self._groups[folder])
        self._sees_to_tasks = tasks
        if tasks:  # a host that is gone after one answer does not link up with the world either
            self._scheduler.start()
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

        self._scheduler.stop()
        for attempt in self._attempts.values():
            attempt.abandon()
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
        return stored.seq, group is not None and self._take_up(group)

    def _receive_from_line(self, message: Message) -> None:
        if self.receive(message)[1] and message.kind == "message":
            self._post.mark_read(message)

    def _take_up(self, group: Group) -> bool:
        """A turn for what is pending, if any of it calls the agent. Else it is only context for the next one
        that does, and is not looked at again."""
        if self._wanted(group):
            self._carry_out(self._turns.message_arrived(group.folder))
            return True
        self._store.pass_over(group.folder)
        return False

    def _wanted(self, group: Group) -> bool:
        pending = self._store.pending(group.folder)
        try:
            settings = self._parts.config.group(group)
        except UserError:
            return any(True for _ in pending)  # a turn, which says what is wrong with the group's settings
        senders = settings.senders
        if senders is not None:  # whichever of their ids was written down
            senders = tuple(self._store.messages.person(group.channel, each) for each in senders)
        return intake.wants_agent(settings.trigger, senders, pending)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(folder, task):
                    self._start(folder, self._runs.pop(task) if task else None)
                case Feed(folder):
                    self._attempts[folder].feed()

    def _start(self, folder: str, run: TaskRun | None) -> None:
        attempt = self._attempts[folder] = Attempt(self._house, self._groups[folder], self._turn_ended, run)
        self._post.typing(self._groups[folder], run is None)
        # From the loop, not from here: an attempt that fails at once ends its turn, and must not do so inside the
        # call that started it.
        self._loop.call_soon(attempt.start)

    def _turn_ended(self, group: Group) -> None:
        attempt = self._attempts.pop(group.folder)
        self._post.typing(group, on=False)
        if attempt.run is not None:
            self._scheduler.changed()
        kept = self._groups.get(group.folder)
        more = kept is not None and self._wanted(kept)
        if kept is not None and not more:
            self._store.pass_over(group.folder)
        self._carry_out(self._turns.turn_ended(group.folder, more))
        if kept is not None:
            self.keep_warm(kept)

    def keep_warm(self, group: Group) -> None:
        if group.folder in self._attempts:
            return
        try:
            self._pool.keep_warm(group)
        except UserError as e:  # the next turn will meet it too, and tells the person then
            self._log.warning("no warm sandbox", group=group.folder, why=str(e))

    def _judged_mounts(self, group: Group) -> Judged:
        return judged(self._parts.home, self._parts.config, group, self._groups.values())

    # --- tasks ------------------------------------------------------------------------------------

    def _task_due(self, run: TaskRun) -> None:
        self._runs[run.task.id] = run
        self._queue(run.task.id)

    def _run_task(self, run: TaskRun) -> None:
        """Now, because someone asked: from the loop, since who asked may be a turn that is at work. Where this host
        sees to no tasks, the run is on record as waiting, and the next one takes it up."""
        if self._sees_to_tasks:
            self._runs[run.task.id] = run  # it waits from here on, and may be cancelled before the loop comes to it
            self._loop.call_soon(lambda: self._queue(run.task.id))

    def _queue(self, task: str) -> None:
        if run := self._runs.get(task):
            self._carry_out(self._turns.task_due(run.task.group, task))

    def _task_updated(self, task: Task) -> None:
        if task.id in self._runs:
            self._runs[task.id] = replace(self._runs[task.id], task=task)

    def _running(self, folder: str) -> TaskRun | None:
        attempt = self._attempts.get(folder)
        return attempt.run if attempt is not None else None

    def _task_cancelled(self, task: str) -> None:
        self._turns.cancel_task(task)
        self._runs.pop(task, None)

    def _zone_of(self, folder: str) -> str:
        return self._parts.config.group(self._groups[folder]).timezone

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

    def _group_changed(self, folder: str) -> None:
        group = self._store.group(folder)
        if group is None:
            self._groups.pop(folder, None)
            self._pool.drop(folder)
        else:
            self._groups[group.folder] = group
        self._scheduler.changed()

    def _stop_group(self, folder: str) -> None:
        """It is about to be removed: nothing of it runs or waits any more when this returns, and nothing of it is
        started until `_group_changed` says what became of it."""
        for task in [task for task, run in self._runs.items() if run.task.group == folder]:
            self._task_cancelled(task)
        self._turns.forget(folder)
        self._groups.pop(folder, None)
        attempt = self._attempts.get(folder)
        if attempt is not None:
            attempt.stop("the group is being removed")
        if folder in self._attempts:
            raise UserError(f"the turn of {folder} cannot be ended now", "try again in a moment")

    # --- replies out: step 10 ---------------------------------------------------------------------

    def deliver(self, outgoing: Outgoing) -> None:
        channel = self._channels.get(outgoing.channel)
        if channel is not None:
            channel.deliver(outgoing)

    # --- terminals --------------------------------------------------------------------------------

    def _on_request(self, client: Client, request: Request) -> None:
        self._terminals.on_request(client, request)

    @property
    def rehearsing(self) -> bool:
        """Whether no model is configured, so that the stand-in answers. `UserError` if `.env` is bad."""
        return self._model.rehearsing

    def attempt(self, folder: str) -> Attempt | None:
        return self._attempts.get(self.group(folder).folder)

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
            "turns": sorted(self._attempts),
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
