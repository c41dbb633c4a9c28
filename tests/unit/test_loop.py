"""The loop and its pipes, on real descriptors, children and signals."""

import os
import signal
import socket
import subprocess
import sys
import threading

from host.loop import CHUNK, Loop, Pipe


def run(loop: Loop, seconds: float = 10) -> None:
    """Run until a callback stops the loop; fail instead of hanging."""
    expired: list[bool] = []
    timer = loop.call_later(seconds, lambda: (expired.append(True), loop.stop()))
    loop.run()
    timer.cancel()
    assert not expired


def test_timers_run_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(0.02, lambda: (ran.append("second"), loop.stop()))
    loop.call_later(0.01, lambda: ran.append("first"))
    loop.call_later(0, lambda: ran.append("never")).cancel()
    run(loop)
    assert ran == ["first", "second"]


def test_a_callback_that_reschedules_itself_does_not_starve_timers(loop: Loop) -> None:
    def again() -> None:
        loop.call_soon(again)

    again()
    loop.call_later(0.01, loop.stop)
    run(loop)


def test_another_thread_wakes_a_sleeping_loop(loop: Loop) -> None:
    threading.Timer(0.05, lambda: loop.call_threadsafe(loop.stop)).start()
    run(loop)


def test_a_child_s_end_is_reported_once_with_its_code(loop: Loop) -> None:
    codes: list[int] = []
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    loop.watch_child(child, lambda code: (codes.append(code), loop.stop()))
    run(loop)
    assert codes == [7]


def test_a_child_that_ended_before_it_was_watched_is_reported(loop: Loop) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    loop.watch_child(child, lambda code: loop.stop())
    run(loop)


def test_a_stop_that_comes_before_run_is_not_forgotten(loop: Loop) -> None:
    loop.stop()
    loop.run()


def test_signals_arrive_through_the_loop(loop: Loop) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    loop.call_soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    run(loop)


def test_pipe_carries_more_than_the_kernel_buffers(loop: Loop) -> None:
    a, b = socket.socketpair()
    got = bytearray()
    sent = os.urandom(3_000_000)
    writer = Pipe(loop, fd := a.detach(), fd, lambda _: None, lambda _: None, 4_000_000)
    sizes: list[int] = []

    def take(data: bytes) -> None:
        sizes.append(len(data))
        got.extend(data)
        if len(got) == len(sent):
            loop.stop()

    reader = Pipe(loop, fd := b.detach(), fd, take, lambda _: None, 0)
    writer.write(sent)
    run(loop)
    assert bytes(got) == sent
    assert max(sizes) <= CHUNK
    assert writer.buffered == 0
    writer.close()
    reader.close()


def test_pipe_that_nobody_reads_is_closed_at_its_limit_and_says_so(loop: Loop) -> None:
    a, b = socket.socketpair()
    reasons: list[str] = []
    pipe = Pipe(loop, fd := a.detach(), fd, lambda _: None, lambda why: (reasons.append(why), loop.stop()), 1_000_000)
    for _ in range(40):
        pipe.write(bytes(100_000))
    assert reasons == []  # never from inside write
    run(loop)
    assert reasons == ["write buffer full"]
    b.close()


def test_finish_flushes_then_closes_the_write_side_only(loop: Loop) -> None:
    here_read, there_write = os.pipe()
    there_read, here_write = os.pipe()
    got: list[bytes] = []
    pipe = Pipe(loop, here_read, here_write, lambda d: (got.append(d), loop.stop()), lambda _: None, 1000)
    pipe.write(b"last words")
    pipe.finish()
    pipe.write(b"too late")
    assert os.read(there_read, 100) == b"last words"
    assert os.read(there_read, 100) == b""
    os.write(there_write, b"answer")
    run(loop)
    assert got == [b"answer"]
    pipe.close()
    os.close(there_read)
    os.close(there_write)


def test_a_peer_that_stops_reading_is_still_read_to_its_end(loop: Loop) -> None:
    here_read, there_write = os.pipe()
    there_read, here_write = os.pipe()
    got: list[bytes] = []
    reasons: list[str] = []
    pipe = Pipe(loop, here_read, here_write, got.append, lambda why: (reasons.append(why), loop.stop()), 1000)
    os.close(there_read)
    pipe.write(b"nobody hears this")
    os.write(there_write, b"final")
    os.close(there_write)
    run(loop)
    assert got == [b"final"]
    assert reasons == ["closed by the other end"]


def test_an_unwatched_or_closed_fd_is_not_called_in_the_same_round(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def first_one_wins(index: int) -> None:
        called.append(index)
        for a, _ in pairs:
            loop.unwatch(a.fileno())
        loop.call_later(0.01, loop.stop)

    for index, (a, b) in enumerate(pairs):
        b.send(b"x")
        loop.watch(a.fileno(), readable=lambda index=index: first_one_wins(index))  # type: ignore[misc]
    run(loop)
    assert len(called) == 1
    for a, b in pairs:
        a.close()
        b.close()


def test_a_paused_pipe_reads_nothing_until_resumed(loop: Loop) -> None:
    a, b = socket.socketpair()
    got: list[bytes] = []
    pipe = Pipe(loop, fd := a.detach(), fd, lambda d: (got.append(d), loop.stop()), lambda _: None, 0)
    pipe.pause()
    b.send(b"x")
    loop.call_later(0.05, loop.stop)
    run(loop)
    assert got == []
    pipe.resume()
    run(loop)
    assert got == [b"x"]
    pipe.close()
    b.close()
