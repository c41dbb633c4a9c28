"""One turn of the real runner in a real sandbox, with the rehearsal for a model that was turned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from host.drill.ground import TURN_SECONDS, Edited, Ground, key_of
from host.engines.base import Engine
from host.gate import Gate
from host.loop import Loop, Timer
from host.model import AllowedHost, Connection, Endpoint, Spec
from host.resolver import Resolver
from host.sandbox import Gone, Sandbox
from runner.protocol import Bytes, Close, Credit, Done, Entries, Failed, Frame, Limits, Open, Say, Turn

LIMITS: Final = Limits(rounds=200, seconds=TURN_SECONDS, tokens=50_000_000, command_seconds=20, output_bytes=64 * 1024)
LOOK: Final = "the host may look now"
"""What the agent says when its host is to look around while the sandbox lives."""


@dataclass
class Played:
    """What became of a turn."""

    results: list[str] = field(default_factory=list)
    """What each tool call came back with, in order."""
    reply: str = ""
    failed: str = ""
    gone: Gone | None = None
    was_ready: bool = False
    connections: list[Connection] = field(default_factory=list)

    @property
    def trouble(self) -> str:
        if self.gone is not None and self.gone.kind != "stopped":
            return f"the sandbox ended: {self.gone.message}"
        return self.failed


def call(tool: str, **arguments: Any) -> str:
    """A line of the prompt that has the rehearsal use a tool."""
    return f"call {tool} {json.dumps(arguments)}"


class RealTurn:
    """Plays one prompt. `look` is called, with the sandbox alive, when the agent says `LOOK`."""

    def __init__(
        self,
        loop: Loop,
        resolver: Resolver,
        ground: Ground,
        spec: Spec,
        endpoint: Endpoint,
        *,
        canary: str = "",
        limits: Limits = LIMITS,
        allowed: tuple[AllowedHost, ...] = (),
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop, self._spec, self._endpoint, self._limits, self._look = loop, spec, endpoint, limits, look
        self._key = key_of(canary or ground.canary)
        self.played = Played()
        self._sandbox = Sandbox(
            loop,
            cast(Engine, Edited(ground.engine, ground.tamper)),
            spec,
            expect_build=ground.image.build,
            on_ready=self._ready,
            on_frame=self._frame,
            on_gone=self._gone,
        )
        self._gate = Gate(
            loop,
            resolver,
            group=spec.group,
            turn="drill",
            endpoint=endpoint,
            allowed=allowed,
            send=self._sandbox.send,
            audit=self.played.connections.append,
        )
        self._prompt = ""
        self._late: Timer | None = None

    def begin(self, prompt: str, seconds: float) -> Played:
        """Start it; `Played.gone` is there when it has ended, after `seconds` at the latest."""
        self._prompt = prompt
        self._late = self._loop.call_later(seconds, lambda: self._sandbox.stop("the scene took too long", 0))
        self._sandbox.start()
        return self.played

    def play(self, prompt: str, seconds: float) -> Played:
        played = self.begin(prompt, seconds)
        while played.gone is None:
            self._loop.step()
        return played

    def _ready(self) -> None:
        self.played.was_ready = True
        self._sandbox.hand_over(a_turn(self._spec.group, self._prompt, self._key, self._endpoint, self._limits))

    def _frame(self, untrusted_frame: Frame) -> None:
        match untrusted_frame:
            case Open() | Bytes() | Credit() | Close():
                self._gate.handle(untrusted_frame)
            case Entries(entries):
                self._keep(entries)
            case Say(text) if text == LOOK:
                self._look()
            case Done(text):
                self.played.reply = text
                self._sandbox.stop("done", 1.0)
            case Failed(kind, message):
                self.played.failed = f"the turn failed: {kind}: {message}"
                self._sandbox.stop("failed", 1.0)

    def _keep(self, untrusted_entries: list[dict[str, Any]]) -> None:
        for entry in untrusted_entries:
            for block in entry.get("content", []):
                if isinstance(block, dict) and block.get("type") == "tool_result":
                    self.played.results.append(str(block.get("content")))

    def _gone(self, gone: Gone) -> None:
        self._gate.close()
        if self._late is not None:
            self._late.cancel()
        self.played.gone = gone


def a_turn(group: str, prompt: str, key: str, endpoint: Endpoint, limits: Limits = LIMITS) -> Turn:
    return Turn(
        turn="drill",
        group=group,
        is_main=False,
        assistant="Drill",
        prompt=prompt,
        history=[],
        secrets={"api_key": key},
        base_url=endpoint.base_url,
        model="drill",
        max_tokens=4096,
        limits=limits,
        tools=[],
        timezone="UTC",
    )
