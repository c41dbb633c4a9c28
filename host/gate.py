"""What leaves a sandbox leaves here: TCP connections carried over the pipe, each decided, counted, written down.

The container has no network. Its runner asks with `Open`; the host decides, resolves, vets the addresses,
connects to a vetted one, and carries bytes both ways within windows of credit. What one stream can hold in
memory is its window; what one turn can hold is `MAX_STREAMS` of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from host.link import CONNECT_SECONDS, Link
from host.loop import Loop
from host.model import AllowedHost, Connection, Endpoint
from host.resolver import MAX_HOST, Answer, Lookup, Resolver, matches, normal_host, permitted
from runner.protocol import (
    CHUNK,
    MAX_STREAMS,
    WINDOW,
    Bytes,
    Close,
    Credit,
    Open,
    Opened,
    PeerError,
    ToRunner,
)

MAX_OPENS: Final = 10_000
"""Connections, and so audit rows, of one turn. A package install makes some hundreds."""
DEFAULT_PORTS: Final = (80, 443)
CREDIT_STEP: Final = WINDOW // 4
"""Bytes that the far side took before the runner is told: few frames, and its window never runs dry."""
# A tool whose connection says nothing for ten minutes has hung. A model may think for as long as it wants:
# the turn's own limit ends it.
TOOL_IDLE_SECONDS: Final = 600.0
LATE_FRAMES: Final = 64
"""Frames without data that may come for a stream that is over: they crossed our close on their way."""

__all__ = ["Gate", "Resolver"]


class Gate:
    """The streams of one running turn. `send` takes frames for its runner, `audit` each connection's row."""

    def __init__(
        self,
        loop: Loop,
        resolver: Resolver,
        *,
        group: str,
        turn: str,
        endpoint: Endpoint,
        allowed: tuple[AllowedHost, ...],
        send: Callable[[ToRunner], None],
        audit: Callable[[Connection], None],
    ) -> None:
        self.loop, self.resolver = loop, resolver
        self._group, self._turn = group, turn
        self._endpoint, self._allowed = endpoint, allowed
        self.send, self._audit = send, audit
        self._streams: dict[int, Stream] = {}
        self._graves: dict[int, Grave] = {}  # at most MAX_OPENS
        self._last = self._opens = 0
        self._closed = False

    def handle(self, untrusted_frame: Open | Bytes | Credit | Close) -> None:
        """One stream frame of the runner. After a `PeerError` nothing is open any more."""
        if self._closed:
            return
        try:
            self._dispatch(untrusted_frame)
        except PeerError:
            self.close()
            raise

    def close(self) -> None:
        """The turn is over: cut what is open. Nothing is sent; the runner ends too."""
        self._closed = True
        for stream in list(self._streams.values()):
            stream.end("cut")

    def forget(self, stream: Stream, outcome: str) -> None:
        """A stream is over, its socket closed: write its row."""
        del self._streams[stream.number]
        self._graves[stream.number] = Grave(stream.may_come)
        self._write_row(stream.asked, outcome, stream)

    def _dispatch(self, untrusted_frame: Open | Bytes | Credit | Close) -> None:
        if isinstance(untrusted_frame, Open):
            self._open(untrusted_frame)
            return
        stream = self._streams.get(untrusted_frame.stream)
        if stream is None:
            self._late(untrusted_frame)
            return
        match untrusted_frame:
            case Bytes(_, untrusted_data):
                stream.came(untrusted_data)
            case Credit(_, count):
                stream.credited(count)
            case Close(_, error):
                stream.closed(error)

    def _open(self, untrusted: Open) -> None:
        if untrusted.stream <= self._last:
            raise PeerError("a stream's number was used again")
        if len(self._streams) >= MAX_STREAMS:
            raise PeerError(f"more than {MAX_STREAMS} open streams")
        if self._opens >= MAX_OPENS:
            raise PeerError(f"more than {MAX_OPENS} connections in one turn")
        if untrusted.kind not in ("model", "tool"):
            raise PeerError("a stream of an unknown kind")
        self._last = untrusted.stream
        self._opens += 1
        host = normal_host(untrusted.host)
        asked = Open(untrusted.stream, untrusted.kind, host or _shown(untrusted.host), untrusted.port)
        if host is None or (refusal := self._refusal(asked)):
            outcome = f"refused: {'not a host name' if host is None else refusal}"
            self._graves[asked.stream] = Grave(0)
            self._write_row(asked, outcome, None)
            self.send(Close(asked.stream, outcome))
            return
        self._streams[asked.stream] = stream = Stream(self, asked, self._networks(asked))
        stream.start()

    def _refusal(self, asked: Open) -> str:
        """Why it may not go out; empty if it may."""
        if asked.kind == "model":
            configured = (normal_host(self._endpoint.host), self._endpoint.port)
            return "" if (asked.host, asked.port) == configured else "not the configured model endpoint"
        if self._rules(asked):
            return ""
        return f"{asked.host}:{asked.port} is not among this group's allowed hosts"

    def _rules(self, asked: Open) -> list[AllowedHost]:
        return [r for r in self._allowed if asked.port in (r.ports or DEFAULT_PORTS) and matches(r.pattern, asked.host)]

    def _networks(self, asked: Open) -> list[str] | None:
        """The ranges beside the global ones in which its address may lie. None: wherever it is, since the
        owner of this home has configured it."""
        if asked.kind == "model":
            return None
        return [network for rule in self._rules(asked) for network in rule.networks]

    def _write_row(self, asked: Open, outcome: str, stream: Stream | None) -> None:
        self._audit(
            Connection(
                group=self._group,
                turn=self._turn,
                kind=asked.kind,
                host=asked.host,
                port=asked.port,
                address=stream.address if stream else "",
                sent=stream.sent if stream else 0,
                received=stream.received if stream else 0,
                outcome=outcome,
                started_at=stream.started_at if stream else time.time(),
                seconds=round(self.loop.now() - stream.started, 3) if stream else 0.0,
            )
        )

    def _late(self, untrusted_frame: Bytes | Credit | Close) -> None:
        grave = self._graves.get(untrusted_frame.stream)
        if grave is None:
            raise PeerError("a frame for a stream that is not open")
        grave.take(untrusted_frame)


class Grave:
    """What may still come for a stream that is over."""

    def __init__(self, bytes_left: int) -> None:
        self._bytes, self._frames = bytes_left, LATE_FRAMES

    def take(self, untrusted_frame: Bytes | Credit | Close) -> None:
        if isinstance(untrusted_frame, Bytes) and untrusted_frame.data:
            self._bytes -= len(untrusted_frame.data)
        else:
            self._frames -= 1
        if self._bytes < 0 or self._frames < 0:
            raise PeerError("too much for a stream that was closed")


class Stream:
    """One connection, from `Open` to its audit row."""

    def __init__(self, gate: Gate, asked: Open, networks: list[str] | None) -> None:
        self._gate, self.asked, self._networks = gate, asked, networks
        self.number = asked.stream
        self.address = ""
        self.sent = self.received = 0
        self.started_at, self.started = time.time(), gate.loop.now()
        self.may_come = WINDOW
        """Bytes that the runner may still send."""
        self._may_send = WINDOW
        """Bytes that the runner will still take."""
        self._taken = 0
        """Bytes that the far side took since the runner was last told."""
        self._lookup: Lookup | None = None
        self._link: Link | None = None
        self._runner_ended = self._far_ended = self._over = False

    # --- the way up: look up, vet, connect ---

    def start(self) -> None:
        host, port = self.asked.host, self.asked.port
        self._lookup = self._gate.resolver.resolve(host, port, self._resolved, self.asked.kind)

    def _resolved(self, untrusted_answer: Answer) -> None:
        if isinstance(untrusted_answer, str):
            self._fail(f"failed: {untrusted_answer}")
            return
        addresses = untrusted_answer
        if self._networks is not None:
            vetted = [permitted(address, self._networks) for address in untrusted_answer]
            addresses = [address for address in vetted if address is not None]
        if not addresses:
            host, found = self.asked.host, ", ".join(untrusted_answer[:3])
            self._fail(f"refused: {host} is at {found or 'no address'}, which is not allowed")
            return
        idle = TOOL_IDLE_SECONDS if self.asked.kind == "tool" else None
        self._link = Link(self._gate.loop, addresses, self.asked.port, self, idle)
        self._link.connect(CONNECT_SECONDS)

    def connected(self, address: str) -> None:
        self.address = address
        self._gate.send(Opened(self.number))

    # --- from the runner ---

    def came(self, untrusted_data: bytes) -> None:
        if self._link is None or not self.address or self._runner_ended:
            raise PeerError("bytes on a stream that is not open")
        if not untrusted_data:
            raise PeerError("bytes without a byte")
        self.may_come -= len(untrusted_data)
        if self.may_come < 0:
            raise PeerError("bytes beyond the credit")
        self._link.write(untrusted_data)

    def credited(self, count: int) -> None:
        self._may_send += count
        if not 0 < count <= WINDOW or self._may_send > WINDOW or not self.address:
            raise PeerError("credit out of range")
        if self._link is not None:
            self._link.watch()

    def closed(self, error: str) -> None:
        if error:
            self.end("closed" if self.address else "failed: given up before it was connected")
        elif self._runner_ended or self._link is None or not self.address:
            raise PeerError("a clean close of a stream that is not open")
        else:
            self._runner_ended = True
            self._link.finish()

    # --- from the link ---

    def room(self) -> int:
        """Most bytes that may be read from the far side now."""
        return min(self._may_send, CHUNK)

    def read(self, data: bytes) -> None:
        self._may_send -= len(data)
        self.received += len(data)
        self._gate.send(Bytes(self.number, data))

    def wrote(self, count: int) -> None:
        """The far side took this much. What was thrown away because it has hung up counts as taken, not as sent."""
        self._taken += count
        if self._taken >= CREDIT_STEP and not self._runner_ended:
            credit, self._taken = self._taken, 0
            self.may_come += credit
            self._gate.send(Credit(self.number, credit))

    def ended(self) -> None:
        """The far side sends no more."""
        self._far_ended = True
        self._gate.send(Close(self.number))
        self._end_if_both()

    def finished(self) -> None:
        """All that the runner sent has left, and its end with it."""
        self._end_if_both()

    def failed(self, why: str) -> None:
        self._fail(f"failed: {why}")

    # --- the end ---

    def _end_if_both(self) -> None:
        if self._far_ended and self._runner_ended and self._link is not None and self._link.flushed:
            self.end("closed")

    def _fail(self, outcome: str) -> None:
        self.end(outcome)
        self._gate.send(Close(self.number, outcome))

    def end(self, outcome: str) -> None:
        """Over, both ways; the first outcome counts."""
        if self._over:
            return
        self._over = True
        if self._lookup is not None:
            self._lookup.cancel()
        if self._link is not None:
            self.sent = self._link.sent
            self._link.close()
        self._gate.forget(self, outcome)


def _shown(untrusted_host: str) -> str:
    """A host that is none, as the audit row shows it."""
    return "".join(c if c.isprintable() else "?" for c in untrusted_host[:MAX_HOST])
