"""Streams over the pipe: order, credit, and every way in which one ends."""

from __future__ import annotations

import threading
import time

import pytest

from runner.protocol import CHUNK, MAX_STREAMS, WINDOW, Bytes, Close, Credit, Frame, Open, Opened, PeerError
from runner.streams import Stream, StreamError, Streams


class Pipe:
    """The host's end, as a list of what was sent, and a table that answers `open` at once."""

    def __init__(self, answer: Frame | None = None) -> None:
        self.sent: list[Frame] = []
        self.answer = answer
        self.streams = Streams(self.send)

    def send(self, frame: Frame) -> None:
        self.sent.append(frame)
        if isinstance(frame, Open) and self.answer is not None:
            self.streams.take(type(self.answer)(**{**vars(self.answer), "stream": frame.stream}))  # type: ignore[arg-type]

    def open(self) -> Stream:
        return self.streams.open("tool", "host.test", 80, 1)

    def of(self, kind: type[Frame]) -> list[Frame]:
        return [frame for frame in self.sent if isinstance(frame, kind)]


@pytest.fixture
def pipe() -> Pipe:
    return Pipe(Opened(0))


def test_numbers_rise_from_one_and_are_never_used_twice(pipe: Pipe) -> None:
    first = pipe.open()
    first.close()
    pipe.open()
    assert pipe.of(Open) == [Open(1, "tool", "host.test", 80), Open(2, "tool", "host.test", 80)]


def test_bytes_come_in_order_and_then_the_end(pipe: Pipe) -> None:
    stream = pipe.open()
    for data in (b"one", b"two"):
        pipe.streams.take(Bytes(1, data))
    pipe.streams.take(Close(1))
    assert [stream.read(4), stream.read(100), stream.read(100)] == [b"onet", b"wo", b""]


def test_a_reader_waits_for_bytes(pipe: Pipe) -> None:
    stream = pipe.open()
    threading.Timer(0.1, pipe.streams.take, (Bytes(1, b"late"),)).start()
    assert stream.read(10, 5) == b"late"
    with pytest.raises(TimeoutError):
        stream.read(10, 0.05)


def test_a_writer_stays_within_its_credit_and_goes_on_when_more_comes(pipe: Pipe) -> None:
    stream = pipe.open()
    data = bytes(range(256)) * (3 * WINDOW // 256)
    writer = threading.Thread(target=stream.write, args=(data, 5))
    writer.start()
    written = 0
    while written < len(data):
        time.sleep(0.01)
        now = sum(len(frame.data) for frame in pipe.of(Bytes))  # type: ignore[union-attr]
        assert now - written <= WINDOW
        if now > written:
            pipe.streams.take(Credit(1, now - written))
            written = now
    writer.join(5)
    assert b"".join(frame.data for frame in pipe.of(Bytes)) == data  # type: ignore[union-attr]
    assert max(len(frame.data) for frame in pipe.of(Bytes)) == CHUNK  # type: ignore[union-attr]


def test_a_writer_without_credit_gives_up_in_time(pipe: Pipe) -> None:
    stream = pipe.open()
    stream.write(bytes(WINDOW))
    with pytest.raises(TimeoutError):
        stream.write(b"x", 0.05)


def test_what_was_read_is_given_back_as_credit(pipe: Pipe) -> None:
    stream = pipe.open()
    for _ in range(4 * WINDOW // CHUNK):
        pipe.streams.take(Bytes(1, bytes(CHUNK)))  # never beyond what was granted: else it raises
        read = 0
        while read < CHUNK:
            read += len(stream.read(CHUNK))
    granted = sum(frame.bytes for frame in pipe.of(Credit))  # type: ignore[union-attr]
    assert 4 * WINDOW - WINDOW <= granted <= 4 * WINDOW


@pytest.mark.parametrize(
    "frames",
    [
        [Bytes(1, bytes(CHUNK))] * (WINDOW // CHUNK + 1),
        [Credit(1, 1)],
        [Credit(1, 0)],
        [Credit(1, -5)],
        [Opened(1)],
        [Close(1), Close(1)],
        [Close(1), Bytes(1, b"x")],
        [Bytes(2, b"x")],
        [Opened(0)],
        [Close(-1)],
    ],
)
def test_broken_rules(pipe: Pipe, frames: list[Opened | Bytes | Credit | Close]) -> None:
    pipe.open()
    with pytest.raises(PeerError):
        for frame in frames:
            pipe.streams.take(frame)


def test_bytes_before_opened_break_the_rules() -> None:
    with pytest.raises(PeerError):
        Pipe(Bytes(0, b"x")).open()


def test_a_refusal_is_told() -> None:
    pipe = Pipe(Close(0, "refused: not allowed"))
    with pytest.raises(StreamError, match="refused: not allowed"):
        pipe.open()
    assert pipe.of(Close) == []  # it is gone already: no answer needed


def test_no_answer_in_time() -> None:
    pipe = Pipe()
    with pytest.raises(TimeoutError):
        pipe.streams.open("tool", "host.test", 80, 0.05)
    assert pipe.of(Close) == [Close(1, "no answer in time")]
    pipe.streams.take(Opened(1))  # it crossed our close: nothing happens


def test_each_direction_ends_by_itself(pipe: Pipe) -> None:
    stream = pipe.open()
    stream.finish()
    stream.finish()
    with pytest.raises(StreamError):
        stream.write(b"x")
    pipe.streams.take(Bytes(1, b"still coming"))
    pipe.streams.take(Close(1))
    assert stream.read(100) == b"still coming"
    assert stream.read(100) == b""
    stream.close()
    assert pipe.of(Close) == [Close(1)]


def test_the_other_end_first(pipe: Pipe) -> None:
    stream = pipe.open()
    pipe.streams.take(Close(1))
    stream.write(b"more")
    stream.finish()
    assert pipe.sent[-2:] == [Bytes(1, b"more"), Close(1)]
    pipe.streams.take(Credit(1, 4))  # the stream is forgotten, and late frames with it


def test_a_break_wakes_readers_and_writers_and_keeps_what_had_come(pipe: Pipe) -> None:
    stream = pipe.open()
    stream.write(bytes(WINDOW))
    pipe.streams.take(Bytes(1, b"last"))
    threading.Timer(0.1, pipe.streams.take, (Close(1, "failed: reset"),)).start()
    with pytest.raises(StreamError, match="reset"):
        stream.write(b"x", 5)
    assert stream.read(100) == b"last"
    with pytest.raises(StreamError, match="reset"):
        stream.read(100)


def test_our_close_wakes_a_reader(pipe: Pipe) -> None:
    stream = pipe.open()
    threading.Timer(0.1, stream.close).start()
    assert stream.read(100, 5) == b""
    stream.close()
    assert pipe.of(Close) == [Close(1, "closed")]
    pipe.streams.take(Bytes(1, b"crossed"))


def test_readable_is_true_for_data_and_for_the_end(pipe: Pipe) -> None:
    stream = pipe.open()
    assert not stream.readable
    pipe.streams.take(Bytes(1, b"x"))
    assert stream.readable
    stream.read(1)
    assert not stream.readable
    pipe.streams.take(Close(1))
    assert stream.readable


def test_the_number_of_open_streams_is_bounded(pipe: Pipe) -> None:
    streams = [pipe.open() for _ in range(MAX_STREAMS)]
    with pytest.raises(StreamError, match="open already"):
        pipe.open()
    streams[0].close()
    pipe.open()
