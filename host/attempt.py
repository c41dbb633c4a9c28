"""One try at answering one group: from the sandbox taken to the one transaction that ends the turn."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from host import intake
from host.config import Config
from host.credentials import Scrubber, StreamScrubber
from host.errors import EngineError, UserError
from host.gate import Gate, Resolver
from host.log import Log
from host.loop import Loop, Timer
from host.model import Connection, Endpoint, Group, Outgoing, Stored
from host.pool import Pool
from host.sandbox import Gone, Sandbox
from host.store import Store
from runner.protocol import (
    FAILURES,
    MAX_TEXT,
    Bytes,
    Call,
    Close,
    Credit,
    Done,
    Entries,
    Failed,
    Frame,
    Input,
    Open,
    PeerError,
    Progress,
    Refused,
    Say,
    Turn,
    Usage,
)

# The runner ends a turn at its time limit itself; this much later the host does, whatever it says.
TIME_GRACE_SECONDS: Final = 15
# A stopped runner has this long to say so before the stop ladder's next rung.
STOP_GRACE_SECONDS: Final = 2.0
MAX_TRANSCRIPT_BYTES: Final = 16 * 1024 * 1024
"""Most that one turn may add to its group's transcript."""
HISTORY_BYTES: Final = 400 * 1024
"""Most of the transcript that a turn is given: about 100,000 tokens."""
MAX_SAYS: Final = 50
"""Most texts said during one turn; a loop that says more is told to stop."""
COMMIT_RETRY_SECONDS: Final = 5.0
ENDPOINT_FAILURES: Final = frozenset({"auth", "endpoint", "overloaded"})


@dataclass(frozen=True)
class Access:
    """How the model is reached, read anew for each turn; held only until the payload is written."""

    secrets: dict[str, str]
    endpoint: Endpoint
    ca_pem: str = ""


class Tell(Protocol):
    """Tell whoever watches a group."""

    def __call__(self, group: str, event: str, **values: Any) -> None: ...


@dataclass(frozen=True)
class House:
    """What an attempt works with; one for the whole host."""

    loop: Loop
    store: Store
    pool: Pool
    resolver: Resolver
    config: Config
    log: Log
    tell: Tell
    access: Callable[[], Access]
    deliver: Callable[[Outgoing], None]


class Attempt:
    """Owns one sandbox and the turn in it. `on_end` is called once, after the outcome is on disk.

    S2 (claimed) is this object's existence: in memory only, so a crash before the end reruns the turn.
    """

    def __init__(self, house: House, group: Group, on_end: Callable[[Group], None]) -> None:
        self._house, self.group, self._on_end = house, group, on_end
        self.turn = secrets.token_hex(8)
        self._sandbox: Sandbox | None = None
        self._gate: Gate | None = None
        self._timer: Timer | None = None
        self._scrub = Scrubber({})
        self._stream = StreamScrubber(self._scrub)
        self._entries: list[dict[str, Any]] = []
        self._entry_bytes = self._says = 0
        self._tokens_in = self._tokens_out = 0
        self._shown_upto = 0
        """Highest message that the agent has been given in the payload."""
        self._inputs: list[int] = []
        """Highest message of each follow-up sent, in order; `Done.inputs` says how many were seen."""
        self._where = ""
        self._handed_over = self._ended = False
        self._stop_reason = ""

    # --- the way in -------------------------------------------------------------------------------

    def start(self) -> None:
        try:
            self._house.store.begin_turn(self.group.folder, self.turn)
        except UserError as e:
            self._trouble(e, 0)
            self._house.loop.call_later(COMMIT_RETRY_SECONDS, self.start)
            return
        self._house.tell(self.group.folder, "started", turn=self.turn)
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
        self._scrub = Scrubber(access.secrets)
        self._stream = StreamScrubber(self._scrub)
        folder, config = self.group.folder, self._house.config
        self._gate = Gate(
            self._house.loop,
            self._house.resolver,
            group=folder,
            turn=self.turn,
            endpoint=access.endpoint,
            allowed=config.group(self.group).allow_hosts,
            send=self._sandbox.send,
            audit=self._audit,
        )
        self._timer = self._house.loop.call_later(config.turn.seconds + TIME_GRACE_SECONDS, self._too_long)
        self._handed_over = True
        self._sandbox.hand_over(self._payload(access))

    def feed(self) -> None:
        """More messages have come: give them to the running turn."""
        if not self._handed_over or self._ended or self._sandbox is None:
            return  # the payload, when it is made, takes them in
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
        """The host goes away: leave the messages pending, so that the next host answers them."""
        self._ended = True
        self._release(0)

    def _payload(self, access: Access) -> Turn:
        store, config, folder = self._house.store, self._house.config, self.group.folder
        context = store.context(folder)
        self._shown_upto = context.messages[-1].seq if context.messages else 0
        return Turn(
            turn=self.turn,
            group=folder,
            is_main=self.group.is_main,
            assistant=config.assistant,
            prompt=self._render(context.messages, context.left_out),
            history=store.history(folder, HISTORY_BYTES),
            secrets=access.secrets,
            base_url=access.endpoint.base_url,
            model=config.model,
            max_tokens=config.max_tokens,
            limits=config.turn,
            tools=[],
            timezone=config.group(self.group).timezone,
            ca_pem=access.ca_pem,
        )

    def _render(self, messages: list[Stored], left_out: int) -> str:
        zone = self._house.config.group(self.group).timezone
        return intake.render(messages, zone, left_out)

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
                self._progress(kind, text)
            case Say(text):
                self._say(text)
            case Entries(entries):
                self._keep(entries)
            case Usage():
                self._tokens_in += untrusted_frame.input_tokens + untrusted_frame.cache_read_tokens
                self._tokens_in += untrusted_frame.cache_write_tokens
                self._tokens_out += untrusted_frame.output_tokens
            case Call(id, method, _):
                self._refuse(id, method)
            case Done(text, inputs):
                self._finish(text, inputs)
            case Failed(kind, message):
                self._failed(kind, message)
            case _:
                raise PeerError(f"{type(untrusted_frame).__name__.lower()} during a turn")

    def sandbox_gone(self, gone: Gone) -> None:
        if not self._ended:
            last_words = self._scrub.scrub(gone.stderr_tail)
            self._house.log.warning("sandbox ended", turn=self.turn, kind=gone.kind, stderr=last_words)
            self._fail("stopped" if gone.kind == "stopped" else "sandbox", gone.message)

    def _progress(self, kind: str, untrusted_text: str) -> None:
        if kind == "text":
            self._show("text", self._stream.feed(untrusted_text))
        else:
            self._show("text", self._stream.flush())
            self._show(kind, self._scrub.scrub(untrusted_text))

    def _show(self, kind: str, text: str) -> None:
        if text:
            self._house.tell(self.group.folder, "progress", kind=kind, text=intake.clean_text(text))

    def _say(self, untrusted_text: str) -> None:
        self._says += 1
        if self._says > MAX_SAYS:
            raise PeerError(f"more than {MAX_SAYS} messages in one turn")
        text = self._checked(untrusted_text)
        if not text:
            return
        try:
            self._house.deliver(self._house.store.add_say(self.group.folder, self.turn, text))
        except UserError as e:
            self._fail("disk", str(e))

    def _audit(self, connection: Connection) -> None:
        try:
            self._house.store.add_connection(connection)
        except UserError as e:
            # What leaves is written down, or does not leave.
            why = str(e)
            self._house.loop.call_soon(lambda: None if self._ended else self._fail("disk", why))

    def _keep(self, untrusted_entries: list[dict[str, Any]]) -> None:
        clean = [self._scrub.scrub_json(entry) for entry in untrusted_entries]
        self._entry_bytes += sum(len(str(entry)) for entry in clean)
        if self._entry_bytes > MAX_TRANSCRIPT_BYTES:
            raise PeerError("the turn's transcript is too long")
        self._entries.extend(clean)

    def _refuse(self, call: int, untrusted_method: str) -> None:
        reason = f"there is no request named {untrusted_method[:64]!r}"
        self._house.store.add_event(self.group.folder, self.turn, "refused", reason)
        assert self._sandbox is not None
        self._sandbox.send(Refused(call, reason))

    def _checked(self, untrusted_text: str) -> str:
        if len(untrusted_text.encode()) > MAX_TEXT:
            raise PeerError("a text over the limit")
        return intake.clean_text(self._scrub.scrub(untrusted_text)).strip()

    # --- the way out: each ends in one transaction, and only then in `on_end` ----------------------

    def _finish(self, untrusted_text: str, untrusted_inputs: int) -> None:
        if not 0 <= untrusted_inputs <= len(self._inputs):
            raise PeerError("more follow-ups seen than sent")
        upto = [self._shown_upto, *self._inputs][untrusted_inputs]
        text = self._checked(untrusted_text)
        self._show("text", self._stream.flush())
        usage = (self._tokens_in, self._tokens_out)
        self._end(
            "done",
            upto,
            lambda: self._house.store.finish_turn(self.group.folder, self.turn, upto, text, self._entries, usage),
        )

    def _failed(self, untrusted_kind: str, untrusted_message: str) -> None:
        kind = untrusted_kind if untrusted_kind in FAILURES else "internal"
        message = self._checked(untrusted_message) or "the agent gave no reason"
        # The person can only act on it knowing which server it was; the runner's word is not needed for that.
        where = f" (the model's endpoint is {self._where})" if kind in ENDPOINT_FAILURES else ""
        self._fail(kind, message + where)

    def _fail(self, kind: str, message: str) -> None:
        text = intake.clean_text(self._scrub.scrub(message))
        upto = self._upto_given()
        self._house.log.warning("turn failed", group=self.group.folder, turn=self.turn, kind=kind, why=text[:500])
        self._end(
            f"failed:{kind}", upto, lambda: self._house.store.fail_turn(self.group.folder, self.turn, upto, kind, text)
        )

    def _finish_stopped(self) -> None:
        upto = self._upto_given()
        self._end("stopped", upto, lambda: self._house.store.stop_turn(self.group.folder, self.turn, upto))

    def _upto_given(self) -> int:
        """All that came until now: whoever wrote it is told of the outcome."""
        pending = self._house.store.pending(self.group.folder)
        return max([self._shown_upto, *self._inputs, *(m.seq for m in pending)])

    def _too_long(self) -> None:
        self._fail("limit", f"the turn took longer than {self._house.config.turn.seconds} seconds and was ended")

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
        if self._gate is not None:
            self._gate.close()
        if self._sandbox is not None:
            self._sandbox.stop(self._stop_reason or "the turn is over", grace=grace)
