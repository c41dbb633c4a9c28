"""A whole host whose sandboxes are plain subprocesses with a fake runner: for what is the wiring's and no wall's."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from host import control
from host.app import App, Parts
from host.channels.program import Command
from host.cli.session import Event, Session
from host.config import Config, Home, prepare
from host.log import Log
from host.loop import Loop
from host.model import Enforcement, Launch, Message, Spec
from runner.protocol import VERSION
from tests.contract.house import RUNNER, SEALED, no_image
from tests.fakes.engine_subprocess import SubprocessEngine


class Fakes(SubprocessEngine):
    """Every sandbox behaves as `behaviour` says, but for the groups in `unlike`."""

    def __init__(self, behaviour: str, unlike: dict[str, str] | None = None) -> None:
        super().__init__()
        self.behaviour, self.unlike = behaviour, unlike or {}
        self.launched: list[Spec] = []

    def launch(self, spec: Spec) -> Launch:
        self.launched.append(spec)
        seen = {mount.target: str(mount.source) for mount in spec.mounts}
        checks = {**SEALED, "uid": spec.uid, "gid": spec.gid}
        options = {"build": "test-build", "version": VERSION, "stat": seen, "checks": checks}
        behaviour = self.unlike.get(spec.group, self.behaviour)
        plain = super().launch(spec)
        return replace(plain, argv=(*plain.argv[:-1], str(RUNNER), behaviour, json.dumps(options)))


class FakeHome:
    def __init__(
        self,
        folder: Path,
        behaviour: str = "polite",
        unlike: dict[str, str] | None = None,
        missing: dict[str, str] | None = None,
        tasks: bool = True,
        channels: dict[str, Command] | None = None,
        **config: Any,
    ) -> None:
        self.home = Home(folder / "config", folder / "data", folder / "cache")
        prepare(self.home)
        key = self.home.config / ".env"
        key.touch(mode=0o600)
        key.write_text("ANTHROPIC_BASE_URL=http://127.0.0.1:9\n")  # the fake asks no model
        (folder / "project").mkdir(exist_ok=True)
        self.loop, self.engine = Loop(), Fakes(behaviour, unlike)
        enforcement = Enforcement("subprocess", "0", missing or {})
        settings = replace(Config(), **{"warm_sandboxes": 0, **config})
        parts = Parts(self.home, settings, self.engine, enforcement, no_image(), folder / "project", {}, channels or {})
        self.app = App(self.loop, parts, Log(self.home.data / "log" / "nanoclaw.log", to_stderr=False, quiet=True))
        self._closed = False
        self.most = 0
        self.events: list[Event] = []
        here, there = socket.socketpair()
        self.app.control.adopt(there.detach())
        self.session = Session(self.loop, here.detach(), self.events.append, lambda: None)
        self.app.open(listen=False, tasks=tasks)

    @property
    def store(self) -> Any:
        return self.app._store

    def register(self, folder: str, chat: str = "", **params: Any) -> None:
        wish = {"folder": folder, "channel": "console", "chat": chat or folder, "needs_trigger": False, **params}
        self.app.call("register_group", wish)

    def write(self, chat: str, text: str, sender: str = "ann") -> bool:
        """Whether the message calls the agent."""
        self._number = getattr(self, "_number", 0) + 1
        message = Message("console", f"m{self._number}", chat, sender, sender, text, time.time())
        return self.app.receive(message)[1]

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        late: list[bool] = []
        timer = self.loop.call_later(seconds, lambda: late.append(True))
        while not condition():
            # What is waited for may be no event of this loop: look again after a moment.
            tick = self.loop.call_later(0.05, lambda: None)
            self.loop.step()
            tick.cancel()
            self.most = max(self.most, len(self.app._work.attempts))
            assert not late, f"not within {seconds} seconds"
        timer.cancel()

    def quiet(self, seconds: float = 30) -> None:
        """Until nothing runs."""
        self.until(lambda: not self.app._work.attempts, seconds)

    def said(self, group: str, *kinds: str) -> list[str]:
        """What waits in the group's outbox, in order."""
        outs = self.store.outbox.pending("console")
        return [out.text for out in outs if out.group == group and (not kinds or out.kind in kinds)]

    def numbered(self) -> dict[str, list[str]]:
        """Group → the `[…]` marks that its replies repeat, in the order of the replies."""
        found: dict[str, list[str]] = {}
        for out in self.store.outbox.pending("console"):
            assert out.kind == "reply", out
            found.setdefault(out.group, []).extend(re.findall(r"\[([\w:]+)\]", out.text))
        return found

    def ask(self, method: str, **params: Any) -> Event:
        """As `nanoclaw groups …` asks a running host."""
        self._number = getattr(self, "_number", 0) + 1
        name = f"c{self._number}"
        self.session.request(control.Call(name, method, params))
        self.until(lambda: any(event.get("id") == name for event in self.events))
        return next(event for event in self.events if event.get("id") == name)

    def send(self, group: str, text: str, sender: str = "") -> Event:
        self._number = getattr(self, "_number", 0) + 1
        name = f"s{self._number}"
        self.session.request(control.Send(name, group, text, sender))
        self.until(lambda: any(event.get("id") == name for event in self.events))
        return next(event for event in self.events if event.get("id") == name)

    def events_of(self, group: str) -> list[tuple[str, str]]:
        """The audit of what this group's agent asked for."""
        return list(self.store._rows("SELECT what, detail FROM events WHERE grp = ? ORDER BY id", group))

    def close(self) -> None:
        """Once; a second time does nothing."""
        done: list[bool] = []
        if self._closed:
            return
        self._closed = True
        self.session.close()
        self.app.close(lambda: done.append(True))
        self.until(lambda: done)
