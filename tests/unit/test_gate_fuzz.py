"""Whatever a runner sends, the gate carries it, ignores it or says `PeerError`; and it leaves no socket behind."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.model import AllowedHost
from runner.protocol import (
    CHUNK,
    MAX_STREAMS,
    TO_HOST,
    WINDOW,
    Bytes,
    Close,
    Credit,
    Open,
    Opened,
    PeerError,
    decode,
    encode,
)
from tests.fakes.gate_bench import Bench, Server, bench

HOSTS = [
    "127.0.0.1",
    "tool.test",
    "no.test",
    "private.test",
    "gone.test",
    "",
    "a b",
    "*.test",
    "[::1]",
    "\u200b",
    "x" * 300,
]

numbers = st.integers(1, 6) | st.integers(-2, 70) | st.integers(-(2**63), 2**63 - 1)
sizes = st.sampled_from([0, 1, 100, CHUNK - 1, CHUNK])
amounts = st.sampled_from([-1, 0, 1, WINDOW, WINDOW + 1]) | st.integers(-(2**63), 2**63 - 1)


def frames(port: int) -> st.SearchStrategy[Any]:
    ports = st.sampled_from([port, port, port, 1, 0, -1, 65536, 2**40])
    opens = st.builds(Open, numbers, st.sampled_from(["model", "tool", "tool", "x", ""]), st.sampled_from(HOSTS), ports)
    return (
        opens
        | st.builds(Bytes, numbers, sizes.map(bytes))
        | st.builds(Credit, numbers, amounts)
        | st.builds(Close, numbers, st.sampled_from(["", "", "gone", "x" * 1000]))
    )


# What may happen between two frames: the far side acts, or the loop runs.
acts = st.sampled_from(["step", "step", "accept", "send", "read", "shut", "reset", "close"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    made.listening.setblocking(False)
    yield made
    made.close()


def allowed(server: Server) -> tuple[AllowedHost, ...]:
    return (AllowedHost("*.test", (server.port, 1), ("127.0.0.0/8",)),)


NAMES = {"tool.test": ["127.0.0.1"], "private.test": ["10.0.0.1", "::1"], "gone.test": []}


def far_side(server: Server, act: str) -> None:
    """The other end does something with the newest of its connections."""
    with suppress(OSError):
        if act == "accept":
            server.accepted.append(server.listening.accept()[0])
            server.accepted[-1].setblocking(False)
            return
        newest = server.accepted[-1] if server.accepted else None
        if newest is None:
            return
        if act == "send":
            newest.send(bytes(100_000))
        elif act == "read":
            newest.recv(1_000_000)
        elif act == "shut":
            newest.shutdown(socket.SHUT_WR)
        elif act in ("reset", "close"):
            if act == "reset":
                newest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            server.accepted.pop().close()


def play(made: Bench, server: Server, script: list[Any]) -> int:
    """How many `Open` frames the gate took, before it had enough or the script ended."""
    opens = 0
    for item in script:
        if item == "step":
            made.loop.call_later(0, lambda: None)
            made.loop.step()
        elif isinstance(item, str):
            far_side(server, item)
        else:
            made.gate.handle(item)
            opens += isinstance(item, Open)
    return opens


def check(made: Bench, opens: int) -> None:
    """What holds whatever was sent: one row an `Open`, never more bytes than credit, an orderly stream."""
    assert len(made.rows) == opens
    sent: Counter[int] = Counter()
    ended: set[int] = set()
    opened: set[int] = set()
    for frame in made.frames:
        encode(frame)
        assert frame.stream not in ended
        if isinstance(frame, Opened):
            assert frame.stream not in opened
            opened.add(frame.stream)
        elif isinstance(frame, Bytes):
            assert frame.stream in opened
            assert 0 < len(frame.data) <= CHUNK
            sent[frame.stream] += len(frame.data)
        elif isinstance(frame, Credit):
            assert 0 < frame.bytes <= WINDOW
        elif frame.error:
            ended.add(frame.stream)
    closes = Counter(frame.stream for frame in made.frames if isinstance(frame, Close) and not frame.error)
    assert all(count == 1 for count in closes.values())


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_frames_give_rows_or_a_peer_error(server: Server, data: st.DataObject) -> None:
    script = data.draw(st.lists(frames(server.port) | acts, max_size=60))
    with bench(server, allowed(server), dict(NAMES)) as made:
        opens = 0
        try:
            opens = play(made, server, script)
        except PeerError:
            assert not made.gate._streams
            opens = len(made.rows)
        made.gate.close()
        check(made, opens)
    while server.accepted:
        server.accepted.pop().close()


TARGETS = [("model", "127.0.0.1"), ("tool", "tool.test"), ("tool", "no.test"), ("tool", "gone.test")]


@dataclass
class Known:
    """What the honest runner knows of one of its streams."""

    opened: bool = False
    may_send: int = WINDOW
    owed: int = 0
    ended: bool = False
    far_ended: bool = False


class Honest:
    """A runner that keeps every rule, as far as it has heard of what the host did."""

    def __init__(self, rng: random.Random, port: int) -> None:
        self.rng, self.port = rng, port
        self.streams: dict[int, Known] = {}
        self.opens = 0

    def frame(self) -> Any:
        """Its next frame, or None where it has nothing to say."""
        live = [number for number, known in self.streams.items() if known.opened]
        if self.rng.random() < 0.15 and len(self.streams) < MAX_STREAMS:
            self.opens += 1
            self.streams[self.opens] = Known()
            return Open(self.opens, *self.rng.choice(TARGETS), self.port)
        return self._say(self.rng.choice(live)) if live else None

    def _say(self, number: int) -> Any:
        known, choice = self.streams[number], self.rng.random()
        if choice < 0.05:
            del self.streams[number]
            return Close(number, "gone")
        if choice < 0.3 and known.owed:
            owed, known.owed = known.owed, 0
            return Credit(number, owed)
        if known.ended or not known.may_send:
            return None
        if choice < 0.4:
            known.ended = True
            self._forget_if_over(number)
            return Close(number)
        size = min(self.rng.choice([1, 1000, CHUNK]), known.may_send)
        known.may_send -= size
        return Bytes(number, bytes(size))

    def hear(self, frame: Any) -> None:
        known = self.streams.get(frame.stream)
        if known is None:
            return
        if isinstance(frame, Opened):
            known.opened = True
        elif isinstance(frame, Bytes):
            known.owed += len(frame.data)
        elif isinstance(frame, Credit):
            known.may_send += frame.bytes
        elif frame.error:
            del self.streams[frame.stream]
        else:
            known.far_ended = True
            self._forget_if_over(frame.stream)

    def _forget_if_over(self, number: int) -> None:
        if self.streams[number].ended and self.streams[number].far_ended:
            del self.streams[number]


@pytest.mark.parametrize("seed", range(30))
def test_an_honest_runner_is_never_accused_whatever_the_servers_do(server: Server, seed: int) -> None:
    """Frames cross on their way: the runner here hears of what the host did only some steps later."""
    rng = random.Random(seed)
    runner, heard = Honest(rng, server.port), 0
    with bench(server, allowed(server), dict(NAMES)) as made:
        for _ in range(1500):
            frame = runner.frame() if rng.random() < 0.6 else None
            if frame is not None:
                made.gate.handle(decode(encode(frame).rstrip(b"\n"), TO_HOST))  # type: ignore[arg-type]
            play(
                made, server, [rng.choice(["step", "step", "step", "accept", "send", "read", "shut", "reset", "close"])]
            )
            if rng.random() < 0.3:
                for said in made.frames[heard:]:
                    runner.hear(said)
                heard = len(made.frames)
        made.gate.close()
        check(made, runner.opens)
        assert {"closed", "failed"} <= {row.outcome.partition(":")[0] for row in made.rows}
    while server.accepted:
        server.accepted.pop().close()
