"""A task's check: its command, run in a sandbox of its group that is never given the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from host.config import GroupSettings
from host.errors import EngineError, UserError
from host.gate import Gate
from host.house import House
from host.loop import Timer
from host.model import Endpoint, Group
from host.sandbox import Gone, Sandbox
from host.text import clean_text
from runner.protocol import KIB, Bytes, Check, Checked, Close, Credit, Failed, Frame, Open, PeerError, Progress

NO_MODEL: Final = Endpoint("", "", 0, tls=False)
"""No connection to it is ever allowed: no host has an empty name."""
GRACE_SECONDS: Final = 10
MAX_OUTPUT: Final = 64 * KIB
"""Most bytes of what the command printed; the runner itself cuts it far below that."""


class CheckRun:
    """Owns the sandbox. `then` is called once: with the exit status and what was printed, or None and why not."""

    def __init__(
        self,
        house: House,
        group: Group,
        turn: str,
        settings: GroupSettings,
        command: str,
        then: Callable[[int | None, str], None],
    ) -> None:
        self._house, self._group, self._turn, self._settings = house, group, turn, settings
        self._command, self._then = command, then
        self._sandbox: Sandbox | None = None
        self._gate: Gate | None = None
        self._timer: Timer | None = None
        self._ended = False

    def start(self) -> None:
        try:
            self._sandbox = self._house.pool.take(self._group, self)
        except (UserError, EngineError) as e:
            self._end(None, str(e))
            return
        if self._sandbox.state == "ready":
            self.sandbox_ready()

    def stop(self) -> None:
        """Nobody waits for it any more."""
        self._ended = True
        self._release()

    def sandbox_ready(self) -> None:
        if self._ended or self._sandbox is None:
            return
        self._gate = self._house.open_gate(
            self._sandbox, self._turn, self._settings, NO_MODEL, lambda why: self._end(None, why)
        )
        seconds = self._settings.turn.command_seconds
        self._timer = self._house.loop.call_later(
            seconds + GRACE_SECONDS, lambda: self._end(None, f"the check took longer than {seconds} seconds")
        )
        self._sandbox.hand_over(Check(self._command, seconds, self._settings.timezone))

    def sandbox_frame(self, untrusted_frame: Frame) -> None:
        if self._ended:
            return
        match untrusted_frame:
            case Open() | Bytes() | Credit() | Close():
                assert self._gate is not None
                self._gate.handle(untrusted_frame)
            case Progress():
                pass  # nobody waits at a terminal for it
            case Checked(status, untrusted_output):
                self._end(status, _bounded(untrusted_output))
            case Failed(_, untrusted_message):
                self._end(None, f"the check failed: {_bounded(untrusted_message)}")
            case _:
                raise PeerError(f"{type(untrusted_frame).__name__.lower()} during a check")

    def sandbox_gone(self, gone: Gone) -> None:
        self._end(None, f"the check's sandbox ended: {gone.message}")

    def _end(self, status: int | None, output: str) -> None:
        if not self._ended:
            self._ended = True
            self._release()
            # From the loop: whoever is told may start a sandbox, and must not do so inside this one's call.
            self._house.loop.call_soon(lambda: self._then(status, output))

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._gate is not None:
            self._gate.close()
        if self._sandbox is not None:
            self._sandbox.stop("the check is over", grace=0)


def _bounded(untrusted_text: str) -> str:
    if len(untrusted_text.encode()) > MAX_OUTPUT:
        raise PeerError("a check's output over the limit")
    return clean_text(untrusted_text)
