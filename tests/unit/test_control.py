"""The control socket: who gets in, what is understood, and that nothing a client sends harms the host."""

from __future__ import annotations

import os
import socket
import tempfile
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host import control
from host.control import Ack, Call, Client, Control, Request, Send, Status, StopTurn, Watch
from host.lines import JsonLines
from host.loop import Loop
from runner.protocol import MAX_TEXT, PeerError

EXAMPLES: list[Request] = [
    Send("1", "main", "hi\n\0", ""),
    Send("2", "fam", "@Andy", "anna"),
    Watch("main", 3),
    Ack(7),
    StopTurn("main"),
    Status(),
    Call("3", "update_group", {"settings": {"cpus": 0.5}}),
]


def spin(loop: Loop, rounds: int = 20) -> None:
    for _ in range(rounds):
        loop.call_soon(lambda: None)
        loop.step()


@pytest.mark.parametrize("request_", EXAMPLES)
def test_requests_survive_the_wire(request_: Request) -> None:
    line = control.encode_request(request_)
    (record,) = JsonLines(control.LINE_LIMIT).feed(line)
    assert control.decode_request(record) == request_


@pytest.mark.parametrize(
    "request_",
    [
        Send("\udcff", "main", "hi", ""),
        Send("1", "main", "hi", "\udcff"),
        Watch("\udcff", 1),
        Call("1", "x", {"a": [{"\udcff": 1}]}),
    ],
)
def test_what_has_no_utf8_is_refused_before_the_store_meets_it(request_: Request) -> None:
    (record,) = JsonLines(control.LINE_LIMIT).feed(control.encode_request(request_))
    with pytest.raises(PeerError, match="UTF-8"):
        control.decode_request(record)


def test_the_longest_message_fits_however_it_is_escaped() -> None:
    assert len(control.encode_request(Send("x" * 64, "x" * 64, "\1" * MAX_TEXT, "x" * 200))) <= control.LINE_LIMIT


def test_requests_have_exact_fields() -> None:
    assert all(f.default is MISSING for c in typing.get_args(Request) for f in fields(c))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(["request", "id", "group", "text", "history", "out", "more"]), JSON))
def test_any_object_is_a_request_or_a_peer_error(record: dict[str, object]) -> None:
    try:
        decoded = control.decode_request(record)
    except PeerError:
        return
    assert {"request": type(decoded).__name__.lower(), **vars(decoded)} == record


def test_a_client_gets_answers_and_a_malformed_one_is_told_and_dropped(loop: Loop, tmp_path: Path) -> None:
    got: list[Request] = []

    def answer(client: Client, request: Request) -> None:
        got.append(request)
        client.send("fine", value=1)

    server = Control(loop, answer)
    server.listen(tmp_path / "host.sock")
    assert (tmp_path / "host.sock").stat().st_mode & 0o777 == 0o600
    good, bad = (control.connect(tmp_path / "host.sock") for _ in range(2))
    assert good is not None
    assert bad is not None
    good.send(control.encode_request(Status()))
    bad.send(b'{"request":"shutdown"}\n')
    spin(loop)
    assert good.recv(999) == b'{"event":"fine","value":1}\n'
    assert b"malformed request" in bad.recv(999)
    assert bad.recv(999) == b""
    assert got == [Status()]
    assert len(server.clients) == 1
    good.close()
    bad.close()
    spin(loop)
    assert server.clients == set()
    server.close()
    assert not (tmp_path / "host.sock").exists()


def test_a_line_without_end_costs_a_bounded_buffer_and_the_connection(loop: Loop) -> None:
    here, there = socket.socketpair()
    server = Control(loop, lambda *_: None)
    server.adopt(there.detach())
    here.setblocking(False)
    sent = 0
    while server.clients and sent < 3 * control.LINE_LIMIT:
        try:
            sent += here.send(b"x" * 65536)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            spin(loop, 3)
    assert server.clients == set()
    here.close()


def test_only_watchers_of_a_group_hear_of_it(loop: Loop) -> None:
    server = Control(loop, lambda *_: None)
    ends = []
    for group in ("main", "family"):
        here, there = socket.socketpair()
        server.adopt(there.detach()).watches.add(group)
        ends.append(here)
    server.broadcast("family", "reply", text="hello")
    spin(loop)
    assert b"hello" in ends[1].recv(999)
    ends[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[0].recv(999)
    server.close()
    for end in ends:
        end.close()


def test_a_home_that_lies_deep_is_reachable(loop: Loop, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = Control(loop, lambda *_: None)
    server.listen(deep / "host.sock")
    connection = control.connect(deep / "host.sock")
    assert connection is not None
    connection.close()
    server.close()


def test_a_dead_host_s_socket_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert control.connect(path) is None
    assert control.connect(tmp_path / "never") is None


def test_the_kernel_tells_who_connected() -> None:
    here, there = socket.socketpair()
    assert control.peer_uid(here) == os.getuid()
    here.close()
    there.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can walk into: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="nanoclaw-control-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user: needs root")
def test_another_user_is_turned_away(loop: Loop, open_folder: Path) -> None:
    server = Control(loop, lambda *_: None)
    server.listen(open_folder / "host.sock")
    (open_folder / "host.sock").chmod(0o666)  # what is tested is the kernel's word, not the file's mode
    own = control.connect(open_folder / "host.sock")
    spin(loop)
    assert len(server.clients) == 1  # the positive control: this user is let in
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        other = socket.socket(socket.AF_UNIX)
        other.connect(str(open_folder / "host.sock"))
        os._exit(0 if other.recv(1) == b"" else 1)
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        spin(loop, 1)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert len(server.clients) == 1
    assert own is not None
    own.close()
    server.close()
