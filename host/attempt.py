"""One try at answering one group: from the sandbox taken to the one transaction that ends the turn."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from host import calls, intake
from host.access import Access
from host.asking import Asking
from host.check import CheckRun
from host.config import GroupSettings
from host.errors import EngineError, UserError
from host.gate import Gate
from host.house import House
from host.loop import Timer
from host.model import Group, Outgoing, Stored, TaskRun
from host.sandbox import Gone, Sandbox
from host.sending import Sending
from host.text import clean_text
from host.words import Words
from host.zones import midnight
from runner.protocol import (
    FAILURES,
    Bytes,
    Call,
    Close,
    Credit,
    Done,
    Entries,
    Failed,
    File,
    Frame,
    Input,
    Open,
    PeerError,
    Progress,
    Refused,
    Result,
    Say,
    Turn,
    Usage,
)

# The runner ends a turn at its time limit itself; this much later the host does, whatever it says.
TIME_GRACE_SECONDS: Final = 15
# A stopped runner has this long to say so before the stop ladder's next rung.
STOP_GRACE_SECONDS: Final = 2.0
HISTORY_BYTES: Final = 400 * 1024
"""Most of the transcript that a turn is given: about 100,000 tokens."""
COMMIT_RETRY_SECONDS: Final = 5.0
ENDPOINT_FAILURES: Final = frozenset({"auth", "endpoint", "overloaded"})


class Attempt:
    """Owns one sandbox and the turn in it. `on_end` is called once, after the outcome is on disk.

    S2 (claimed) is this object's existence: in memory only, so a crash before the end reruns the turn.
    """

    def __init__(self, house: House, group: Group, on_end: Callable[[Group], None], run: TaskRun | None = None) -> None:
        """`run`: the run of a task that this turn is; without one it answers the group's messages."""
        self._house, self.group, self._on_end, self.run = house, group, on_end, run
        self.turn = secrets.token_hex(8)
        self._asking = Asking(house, group, self.turn, self._reply)
        self._sending = Sending(house, group, self.turn, self._reply)
        self._reacts = house.takes_reactions(group.channel)
        self._settings = GroupSettings()
        self._check: CheckRun | None = None
        self._found: str | None = None
        """What the task's check printed."""
        self._sandbox: Sandbox | None = None
        self._gate: Gate | None = None
        self._timer: Timer | None = None
        self._words = Words(self._show)
        self._shown_upto = 0
        """Highest message that the agent has been given in the payload."""
        self._inputs: list[int] = []
        """Highest message of each follow-up sent, in order; `Done.inputs` says how many were seen."""
        self._where = ""
        self._handed_over = self._ended = False
        self._stop_reason = ""

    # --- the way in -------------------------------------------------------------------------------

    def start(self) -> None:
        if self._ended:
            return  # stopped before it began
        try:
            self._house.store.begin_turn(self.group.folder, self.turn, self.run)
        except UserError as e:
            self._trouble(e, 0)
            self._house.loop.call_later(COMMIT_RETRY_SECONDS, self.start)
            return
        self._house.tell(self.group.folder, "started", turn=self.turn)
        try:
            self._settings = self._house.settings(self.group)
        except UserError as e:
            self._fail("settings", " ".join([str(e), *e.hints]))
            return
        try:
            self._check_budget()
        except UserError as e:
            self._fail("limit", " ".join([str(e), *e.hints]))
            return
        if self.run is not None and self.run.task.check:
            command = self.run.task.check
            self._check = CheckRun(self._house, self.group, self.turn, self._settings, command, self._checked_out)
            self._check.start()
        else:
            self._take_sandbox()

    def _check_budget(self) -> None:
        """A day's tokens are counted from midnight in the group's own zone."""
        most = self._settings.tokens_per_day
        if most is None:
            return
        left = most - self._house.store.tokens_since(self.group.folder, midnight(time.time(), self._settings.timezone))
        if left <= 0:
            raise UserError(f"this group has used its {most} tokens of today", "it goes on tomorrow")
        turn = self._settings.turn
        self._settings = replace(self._settings, turn=replace(turn, tokens=min(turn.tokens, left)))

    def _checked_out(self, status: int | None, output: str) -> None:
        """How the task's check ended: by exit status, or None with the reason that it never ran to its end."""
        self._check = None
        if self._ended:
            return
        if status is None:
            self._fail("sandbox", output)
        elif status == 0:
            self._found = output
            self._take_sandbox()
        else:
            self._finish_idle()

    def _take_sandbox(self) -> None:
        try:
            self._sandbox = self._house.pool.take(self.group, self)
        except (UserError, EngineError) as e:
            self._fail("engine", str(e))
            return
        if self._sandbox.state == "ready":  # a warm one; a new one says so when it is
            self.sandbox_ready()

    def sandbox_ready(self) -> None:
        """Hello was verified: read the key and hand over. Nothing before this instant holds a secret."""
        if self._ended or self._sandbox is None:
            return
        try:
            access = self._house.access()
        except UserError as e:
            self._fail("auth", " ".join([str(e), *e.hints]))
            return
        self._where = f"{access.endpoint.host}:{access.endpoint.port}"
        self._words.hide(access.secrets)
        self._gate = self._house.open_gate(self._sandbox, self.turn, self._settings, access.endpoint, self._not_audited)
        self._timer = self._house.loop.call_later(self._settings.turn.seconds + TIME_GRACE_SECONDS, self._too_long)
        self._handed_over = True
        self._sandbox.hand_over(self._payload(access))

    def feed(self) -> None:
        """More messages have come: give them to the running turn."""
        if not self._handed_over or self._ended or self._sandbox is None or self.run is not None:
            return  # the payload, when it is made, takes them in; a task's turn takes none
        given = self._inputs[-1] if self._inputs else self._shown_upto
        fresh = [m for m in self._house.store.context(self.group.folder).messages if m.seq > given]
        if fresh:
            self._sandbox.send(Input(self._render(fresh, 0)))
            self._inputs.append(fresh[-1].seq)

    def stop(self, reason: str) -> None:
        """End the turn because a person asked."""
        if not self._ended and not self._stop_reason:
            self._stop_reason = reason
            self._finish_stopped()

    def abandon(self) -> None:
        """The host goes away: leave the messages, and the task's run, pending for the next host."""
        self._ended = True
        self._release(0)

    def _payload(self, access: Access) -> Turn:
        store, config, folder = self._house.store, self._house.config, self.group.folder
        alone = self.run is not None and self.run.task.context == "isolated"
        return Turn(
            turn=self.turn,
            group=folder,
            is_main=self.group.is_main,
            assistant=config.assistant,
            prompt=self._prompt(),
            history=[] if alone else store.history(folder, HISTORY_BYTES),
            secrets=access.secrets,
            base_url=access.endpoint.base_url,
            model=self._settings.model,
            max_tokens=min(config.max_tokens, self._settings.turn.tokens),
            limits=self._settings.turn,
            tools=calls.offered(self.group, reacts=self._reacts),
            timezone=self._settings.timezone,
            ca_pem=access.ca_pem,
            notes=[f"The folder {refused}" for refused in self._house.pool.refused_mounts(folder)],
        )

    def _prompt(self) -> str:
        if self.run is not None:
            return intake.render_task(self.run, self._settings.timezone, self._found)
        context = self._house.store.context(self.group.folder)
        self._shown_upto = context.messages[-1].seq if context.messages else 0
        return self._render(context.messages, context.left_out)

    def _render(self, messages: list[Stored], left_out: int) -> str:
        return intake.render(messages, self._settings.timezone, left_out, refs=self._reacts)

    # --- frames -----------------------------------------------------------------------------------

    def sandbox_frame(self, untrusted_frame: Frame) -> None:
        """One frame of the runner, well formed but written by anyone. `PeerError` kills the sandbox."""
        if self._ended:
            return
        match untrusted_frame:
            case Open() | Bytes() | Credit() | Close():
                assert self._gate is not None
                self._gate.handle(untrusted_frame)
            case Progress(kind, text):
                self._words.progress(kind, text)
            case Say(text):
                self._say(text)
            case File():
                self._sending.take(untrusted_frame, self._words.scrub)
            case Entries(entries):
                self._words.keep(entries)
            case Usage():
                self._words.count(untrusted_frame)
            case Call():
                self._asking.answer(untrusted_frame, self._words.scrub)
            case Done(text, inputs):
                self._finish(text, inputs)
            case Failed(kind, message):
                self._failed(kind, message)
            case _:
                raise PeerError(f"{type(untrusted_frame).__name__.lower()} during a turn")

    def sandbox_gone(self, gone: Gone) -> None:
        if not self._ended:
            last_words = self._words.scrub.scrub(gone.stderr_tail)
            self._house.log.warning("sandbox ended", turn=self.turn, kind=gone.kind, stderr=last_words)
            self._fail("stopped" if gone.kind == "stopped" else "sandbox", gone.message)

    def _show(self, kind: str, text: str) -> None:
        self._house.tell(self.group.folder, "progress", kind=kind, text=text)

    def _say(self, untrusted_text: str) -> None:
        text = self._words.said(untrusted_text)
        if not text:
            return
        try:
            self._house.deliver(self._house.store.add_say(self.group.folder, self.turn, text))
        except UserError as e:
            self._fail("disk", str(e))

    def _not_audited(self, why: str) -> None:
        if not self._ended:
            self._fail("disk", why)

    def _reply(self, frame: Refused | Result) -> None:
        if self._sandbox is not None and not self._ended:  # what was asked may have ended this very turn
            self._sandbox.send(frame)

    # --- the way out: each ends in one transaction, and only then in `on_end` ----------------------

    def _finish(self, untrusted_text: str, untrusted_inputs: int) -> None:
        if not 0 <= untrusted_inputs <= len(self._inputs):
            raise PeerError("more follow-ups seen than sent")
        upto = [self._shown_upto, *self._inputs][untrusted_inputs]
        text = self._words.checked(untrusted_text)
        self._words.flush()
        self._end(
            "done",
            upto,
            lambda: self._house.store.finish_turn(
                self.group.folder, self.turn, upto, text, self._words.entries, self._words.usage, self.run
            ),
        )

    def _finish_idle(self) -> None:
        """The task's check found nothing to do: nothing is said, and the model was not asked."""
        self._end(
            "nothing to do",
            0,
            lambda: self._house.store.finish_turn(self.group.folder, self.turn, 0, "", [], (0, 0), self.run),
        )

    def _failed(self, untrusted_kind: str, untrusted_message: str) -> None:
        kind = untrusted_kind if untrusted_kind in FAILURES else "internal"
        message = self._words.checked(untrusted_message) or "the agent gave no reason"
        # The person can only act on it knowing which server it was; the runner's word is not needed for that.
        where = f" (the model's endpoint is {self._where})" if kind in ENDPOINT_FAILURES else ""
        self._fail(kind, message + where)

    def _fail(self, kind: str, message: str) -> None:
        text = clean_text(self._words.scrub.scrub(message))
        upto = self._upto_given()
        self._house.log.warning("turn failed", group=self.group.folder, turn=self.turn, kind=kind, why=text[:500])
        self._end(
            f"failed:{kind}",
            upto,
            lambda: self._house.store.fail_turn(
                self.group.folder, self.turn, upto, kind, text, self.run, self._words.usage
            ),
        )

    def _finish_stopped(self) -> None:
        store, folder, turn, upto = self._house.store, self.group.folder, self.turn, self._upto_given()
        usage = self._words.usage

        def commit() -> None:
            store.begin_turn(folder, turn, self.run)  # a stop may come before the loop comes to the start
            store.stop_turn(folder, turn, upto, self.run, usage)

        self._end("stopped", upto, commit)

    def _upto_given(self) -> int:
        """All that came until now: whoever wrote it is told of the outcome. A task's turn answers no message."""
        if self.run is not None:
            return 0
        pending = self._house.store.pending(self.group.folder)
        return max([self._shown_upto, *self._inputs, *(m.seq for m in pending)])

    def _too_long(self) -> None:
        self._fail("limit", f"the turn took longer than {self._settings.turn.seconds} seconds and was ended")

    def _end(self, outcome: str, upto: int, commit: Callable[[], Outgoing | None]) -> None:
        """S3: the outcome, both cursors and the transcript in one transaction. A disk that is full now may
        have room later, so the outcome is kept and tried again; only a crash loses it, and then the turn
        is rerun."""
        self._ended = True
        self._release(STOP_GRACE_SECONDS)
        self._commit(outcome, upto, commit)

    def _commit(self, outcome: str, upto: int, commit: Callable[[], Outgoing | None]) -> None:
        try:
            outgoing = commit()
        except UserError as e:
            self._trouble(e, upto)
            self._house.loop.call_later(COMMIT_RETRY_SECONDS, lambda: self._commit(outcome, upto, commit))
            return
        if outgoing is not None:
            self._house.deliver(outgoing)
        self._house.tell(self.group.folder, "ended", turn=self.turn, outcome=outcome, upto=upto)
        self._on_end(self.group)

    def _trouble(self, e: UserError, upto: int) -> None:
        self._house.log.warning("cannot store", group=self.group.folder, why=str(e))
        self._house.tell(self.group.folder, "trouble", error=str(e), hints=list(e.hints), upto=upto)

    def _release(self, grace: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._check is not None:
            self._check.stop()
        if self._gate is not None:
            self._gate.close()
        if self._sandbox is not None:
            self._sandbox.stop(self._stop_reason or "the turn is over", grace=grace)
