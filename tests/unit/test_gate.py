"""The gate: what is carried, within which bounds, and what is written down. Real sockets, on loopback."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from host import gate as gate_module
from host.model import AllowedHost
from runner.protocol import CHUNK, MAX_STREAMS, WINDOW, Bytes, Close, Credit, Frame, Open, PeerError
from tests.fakes.gate_bench import Bench, Server, bench

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` send a reset."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def slow() -> Iterator[Server]:
    """A server whose kernel takes little that it has not read."""
    made = Server()
    made.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    yield made
    made.close()


@pytest.fixture
def model(server: Server) -> Iterator[Bench]:
    with bench(server) as made:
        yield made


def fill(model: Bench, leave: int = 0) -> None:
    """Send until the runner has only this much credit left, and no more is coming."""
    while model.room(1) > leave:
        model.send(1, bytes(min(CHUNK, model.room(1) - leave)))
        model.settle(0.002)


# --- carrying -----------------------------------------------------------------------------------------


def test_bytes_go_both_ways_and_the_row_counts_them(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    model.send(1, b"question")
    assert far.recv(100) == b"question"
    far.sendall(b"the answer")
    model.until(lambda: model.received(1) == b"the answer")
    far.close()
    model.until(lambda: model.of(Close, 1))
    assert not model.rows
    model.gate.handle(Close(1))
    (row,) = model.rows
    assert (row.group, row.turn, row.kind, row.host, row.port) == ("home", "t1", "model", "127.0.0.1", server.port)
    assert (row.address, row.sent, row.received, row.outcome) == ("127.0.0.1", 8, 10, "closed")
    assert 0 <= row.seconds < 10
    assert model.of(Close, 1) == [Close(1)]


def test_the_runner_s_end_reaches_the_server_and_the_answer_still_comes(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    model.send(1, b"all")
    model.gate.handle(Close(1))
    assert far.recv(100) == b"all"
    assert far.recv(100) == b""
    far.sendall(b"late answer")
    far.close()
    model.until(lambda: model.rows)
    assert model.received(1) == b"late answer"
    assert model.of(Close, 1) == [Close(1)]
    assert model.rows[0].outcome == "closed"


def test_the_server_s_end_leaves_the_other_direction_open(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    far.shutdown(socket.SHUT_WR)
    model.until(lambda: model.of(Close, 1))
    model.send(1, b"still going")
    model.gate.handle(Close(1))
    assert far.recv(100) == b"still going"
    assert far.recv(100) == b""
    assert [row.outcome for row in model.rows] == ["closed"]


def test_both_ends_closed_is_not_the_end_while_bytes_wait_for_the_server(slow: Server) -> None:
    with bench(slow) as model:
        far = model.open(1, slow)
        fill(model)
        model.gate.handle(Close(1))
        far.shutdown(socket.SHUT_WR)
        model.until(lambda: model.of(Close, 1))
        assert not model.rows
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        came = 0
        while piece := far.recv(1 << 20):
            came += len(piece)
            model.settle(0.001)
        assert [(row.outcome, row.sent) for row in model.rows] == [("closed", came)]


def test_a_reset_reaches_the_runner_as_an_error(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    far.close()
    close = model.until(lambda: model.of(Close, 1))[0]
    assert close.error == "failed: Connection reset by peer"
    assert model.rows[0].outcome == close.error


def test_a_server_that_hangs_up_on_an_upload_is_still_heard(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    far.sendall(b"413 too long")
    far.close()
    model.until(lambda: model.of(Close, 1))
    # What the server no longer takes is taken from the runner all the same, so that it gets to read.
    for _ in range(3 * WINDOW // CHUNK):
        model.until(lambda: model.room(1) >= CHUNK)
        model.send(1, bytes(CHUNK))
    model.gate.handle(Close(1))
    model.until(lambda: model.rows)
    assert model.received(1) == b"413 too long"


def test_an_error_from_the_runner_cuts_the_connection(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    model.gate.handle(Close(1, "the tool hung up"))
    assert far.recv(100) == b""
    assert [row.outcome for row in model.rows] == ["closed"]
    assert not model.of(Close, 1)


def test_ten_megabytes_each_way_arrive_unchanged(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    data = bytes(range(256)) * 40_000
    digest = hashlib.sha256()

    def serve() -> None:
        sender = threading.Thread(target=far.sendall, args=(data,))
        sender.start()
        left = len(data)
        while left and (piece := far.recv(65536)):
            digest.update(piece)
            left -= len(piece)
        sender.join()
        far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    sent = consumed = 0
    while sent < len(data) or not model.of(Close, 1):
        if room := min(CHUNK, model.room(1), len(data) - sent):
            model.send(1, data[sent : sent + room])
            sent += room
        fresh = sum(len(f.data) for f in model.of(Bytes, 1)) - consumed
        if fresh >= WINDOW // 4:
            model.gate.handle(Credit(1, fresh))
            consumed += fresh
        model.loop.call_later(0.001, lambda: None)
        model.loop.step()
    thread.join()
    assert model.received(1) == data
    assert digest.digest() == hashlib.sha256(data).digest()


# --- windows ------------------------------------------------------------------------------------------


def test_the_host_never_sends_beyond_the_runner_s_credit(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    far.setblocking(False)
    pushed = 0
    for _ in range(200):
        try:
            pushed += far.send(bytes(65536))
        except BlockingIOError:
            model.settle(0.002)
    assert len(model.received(1)) == WINDOW
    assert pushed > WINDOW  # the rest waits in the kernel, and then in the server
    model.gate.handle(Credit(1, 1000))
    model.until(lambda: len(model.received(1)) == WINDOW + 1000)
    model.settle()
    assert len(model.received(1)) == WINDOW + 1000
    assert all(len(frame.data) <= CHUNK for frame in model.of(Bytes, 1))


def test_an_end_behind_unread_bytes_comes_after_them(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    thread = threading.Thread(target=lambda: (far.sendall(bytes(WINDOW + 5)), far.close()))
    thread.start()
    model.until(lambda: len(model.received(1)) == WINDOW)
    model.settle()
    assert not model.of(Close, 1)
    model.gate.handle(Credit(1, 6))
    model.until(lambda: model.of(Close, 1))
    assert len(model.received(1)) == WINDOW + 5
    thread.join()


def test_credit_is_given_only_for_what_the_server_took(slow: Server) -> None:
    with bench(slow) as model:
        far = model.open(1, slow)
        fill(model)
        stuck = model.credit(1)
        model.settle(0.1)
        assert model.credit(1) == stuck
        came = 0
        while model.credit(1) == stuck:
            came += len(far.recv(65536))
            model.settle(0.001)
        assert model.credit(1) <= came + 8 * 1024 * 1024  # the kernel's own buffer may hold some


def test_a_hundred_thousand_frames_of_one_byte_are_held_in_little_more(slow: Server) -> None:
    with bench(slow) as model:
        model.open(1, slow)
        fill(model, leave=100_000)
        frame = Bytes(1, b"x")
        tracemalloc.start()
        for _ in range(100_000):
            model.gate.handle(frame)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 2 * WINDOW


# --- rules --------------------------------------------------------------------------------------------


def test_a_runner_that_sends_beyond_its_credit_is_cut_off(slow: Server) -> None:
    with bench(slow) as model:
        model.open(1, slow)
        fill(model)
        with pytest.raises(PeerError, match="beyond the credit"):
            model.gate.handle(Bytes(1, b"x"))
        assert [row.outcome for row in model.rows] == ["cut"]


BROKEN: dict[str, list[Frame]] = {
    "credit beyond the window": [Credit(1, 1)],
    "no credit": [Credit(1, 0)],
    "negative credit": [Credit(1, -5)],
    "huge credit": [Credit(1, 2**62)],
    "bytes without a byte": [Bytes(1, b"")],
    "two clean closes": [Close(1), Close(1)],
    "bytes after a close": [Close(1), Bytes(1, b"x")],
    "the same number again": [Open(1, "model", "127.0.0.1", 1)],
    "a smaller number": [Open(0, "model", "127.0.0.1", 1)],
    "an unknown kind": [Open(2, "udp", "127.0.0.1", 1)],
    "bytes for an unknown stream": [Bytes(7, b"x")],
    "bytes for stream zero": [Bytes(0, b"x")],
    "credit for an unknown stream": [Credit(7, 1)],
    "a close of an unknown stream": [Close(7)],
    "bytes before opened": [Open(2, "tool", "slow.test", 80), Bytes(2, b"x")],
    "credit before opened": [Open(2, "tool", "slow.test", 80), Credit(2, 1)],
    "a clean close before opened": [Open(2, "tool", "slow.test", 80), Close(2)],
}


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_a_rule_loses_everything(server: Server, name: str) -> None:
    gone = threading.Event()
    allowed = (AllowedHost("slow.test"),)
    with bench(server, allowed, {"slow.test": lambda: gone.wait(10) and None}) as model:
        far = model.open(1, server)
        with pytest.raises(PeerError):
            for frame in BROKEN[name]:
                model.gate.handle(frame)  # type: ignore[arg-type]  # all are stream frames
        gone.set()
        assert far.recv(10) == b""
        assert {row.outcome for row in model.rows} == {"cut"}
        assert len(model.rows) == 1 + ("slow.test" in str(BROKEN[name]))
        model.gate.handle(Bytes(1, b"the pipe may hold more"))


def test_more_streams_than_the_limit_are_a_broken_rule(model: Bench, server: Server) -> None:
    for number in range(1, MAX_STREAMS + 1):
        model.gate.handle(Open(number, "model", "127.0.0.1", server.port))
    with pytest.raises(PeerError, match="open streams"):
        model.gate.handle(Open(MAX_STREAMS + 1, "model", "127.0.0.1", server.port))
    assert [row.outcome for row in model.rows] == ["cut"] * MAX_STREAMS


def test_streams_that_ended_make_room(model: Bench, server: Server) -> None:
    for number in range(1, 3 * MAX_STREAMS):
        model.open(number, server).close()
        model.gate.handle(Close(number))
        model.until(lambda number=number: len(model.rows) == number)
    assert {row.outcome for row in model.rows} == {"closed"}


def test_the_number_of_rows_in_a_turn_has_an_end(model: Bench) -> None:
    for number in range(1, gate_module.MAX_OPENS + 1):
        model.gate.handle(Open(number, "tool", "no.test", 80))
    with pytest.raises(PeerError, match="in one turn"):
        model.gate.handle(Open(gate_module.MAX_OPENS + 1, "tool", "no.test", 80))
    assert len(model.rows) == gate_module.MAX_OPENS


def test_frames_that_crossed_our_close_are_ignored(model: Bench, server: Server) -> None:
    far = model.open(1, server)
    model.send(1, b"x")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    far.close()
    model.until(lambda: model.rows)
    frames: list[Bytes | Credit | Close] = [Bytes(1, bytes(CHUNK)), Credit(1, 3), Close(1), Close(1, "too")]
    for frame in frames:
        model.gate.handle(frame)
    with pytest.raises(PeerError, match="too much"):
        for _ in range(WINDOW // CHUNK + 1):
            model.gate.handle(Bytes(1, bytes(CHUNK)))
    assert len(model.rows) == 1


@pytest.mark.parametrize("frame", [Bytes(1, b""), Credit(1, 1), Close(1)])
def test_frames_without_bytes_cannot_follow_a_close_for_ever(model: Bench, frame: Bytes | Credit | Close) -> None:
    assert model.refusal(1, "tool", "no.test", 80).startswith("refused")
    with pytest.raises(PeerError, match="too much"):
        for _ in range(gate_module.LATE_FRAMES + 1):
            model.gate.handle(frame)


# --- ends ---------------------------------------------------------------------------------------------


def test_close_cuts_everything_at_every_stage_and_writes_it_down(server: Server) -> None:
    gone = threading.Event()
    allowed = (AllowedHost("slow.test"),)
    with bench(server, allowed, {"slow.test": lambda: gone.wait(10) and None}) as model:
        far = model.open(1, server)
        model.gate.handle(Open(2, "tool", "slow.test", 80))
        model.gate.handle(Open(3, "model", "127.0.0.1", server.port))
        model.gate.handle(Open(4, "tool", "no.test", 80))
        model.gate.close()
        gone.set()
        model.gate.close()
        assert far.recv(10) == b""
        outcomes = sorted((row.host, row.outcome[:3]) for row in model.rows)
        assert outcomes == [("127.0.0.1", "cut"), ("127.0.0.1", "cut"), ("no.test", "ref"), ("slow.test", "cut")]
        sent = len(model.frames)
        model.settle(0.1)
        assert len(model.frames) == sent


def test_a_tool_s_connection_that_says_nothing_is_ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "TOOL_IDLE_SECONDS", 0.2)
    allowed = (AllowedHost("127.0.0.1", (server.port,), ("127.0.0.0/8",)),)
    with bench(server, allowed) as model:
        far = model.open(1, server, "tool")
        model.open(2, server)
        for _ in range(6):
            far.sendall(b".")
            model.settle(0.05)
        assert not model.rows
        model.until(lambda: model.rows)
        assert [(row.kind, row.outcome) for row in model.rows] == [("tool", "failed: idle for too long")]
        model.settle(0.3)
        assert len(model.rows) == 1  # the model's stays: it may think for as long as it wants


def test_giving_up_before_it_is_connected_is_written_down(server: Server) -> None:
    gone = threading.Event()
    with bench(server, (AllowedHost("slow.test"),), {"slow.test": lambda: gone.wait(10) and None}) as tool:
        tool.gate.handle(Open(1, "tool", "slow.test", 80))
        tool.gate.handle(Close(1, "no answer in time"))
        gone.set()
        assert [row.outcome for row in tool.rows] == ["failed: given up before it was connected"]
