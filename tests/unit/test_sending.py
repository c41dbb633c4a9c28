"""Files for the chat: pieces of a pipe that may lie, and what is in the outbox of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host import sending
from host.credentials import Scrubber
from host.model import Group, Outgoing
from host.sending import Sending, file_name, keep, sweep
from host.store import Store
from runner.protocol import CHUNK, MAX_SENT_FILE, File, PeerError, Refused, Result

GROUP = Group("main", "whatsapp", "1@s", "main", is_main=True)
SECRET = "sk-ant-0123456789abcdef0123456789"
SCRUB = Scrubber({"api_key": SECRET})


class Turn:
    def __init__(self, folder: Path, group: Group = GROUP) -> None:
        self.store = Store(folder / "nanoclaw.db")
        self.store.add_group(group)
        self.store.begin_turn("main", "t1")
        self.outbox, self.answers, self.delivered = folder / "outbox", list[Any](), list[Outgoing]()
        house: Any = SimpleNamespace(
            takes_files="whatsapp".__eq__, outbox=self.outbox, store=self.store, deliver=self.delivered.append
        )
        self.sending = Sending(house, group, "t1", self.answers.append)

    def send(self, data: bytes, number: int = 1, name: str = "a.png", caption: str = "") -> Any:
        for at in range(0, max(1, len(data)), CHUNK):
            self.sending.take(File(number, name, caption, data[at : at + CHUNK], at + CHUNK >= len(data)), SCRUB)
        return self.answers[-1]


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    made = Turn(tmp_path)
    yield made
    made.store.close()


def test_a_file_is_on_disk_and_in_the_outbox_before_the_agent_is_told(turn: Turn) -> None:
    data = bytes(range(256)) * 1000
    assert turn.send(data, 7, "photo.png", f"look: {SECRET}") == Result(7, {})
    (row,) = turn.store.outbox.pending("whatsapp")
    assert turn.delivered == [row]
    assert (row.file_name, row.text, row.kind) == ("photo.png", "look: [secret removed]", "say")
    path = turn.outbox / row.file
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert turn.outbox.stat().st_mode & 0o777 == 0o700


def test_a_file_with_the_key_in_it_stays_and_the_same_without_it_goes(turn: Turn) -> None:
    split = b"x" * (CHUNK - 10)
    answer = turn.send(split + SECRET.encode() + b"y", 1)
    assert isinstance(answer, Refused)
    assert SECRET not in answer.reason
    assert list(turn.store.outbox.pending("whatsapp")) == []
    assert not turn.outbox.exists()
    assert turn.send(split + b"y", 2) == Result(2, {})


def test_a_chat_that_takes_no_files_says_so(tmp_path: Path) -> None:
    turn = Turn(tmp_path, dataclasses.replace(GROUP, channel="console"))
    assert "takes no files" in turn.send(b"x").reason
    turn.store.close()


def test_too_many_are_refused_and_far_too_many_end_the_sandbox(turn: Turn) -> None:
    answers = [turn.send(b"x", n) for n in range(1, sending.TOO_MANY + 1)]
    assert sum(isinstance(answer, Result) for answer in answers) == sending.MAX_FILES
    with pytest.raises(PeerError):
        turn.send(b"x", sending.TOO_MANY + 1)


def test_pieces_without_end_and_of_two_files_at_once_are_refused(turn: Turn) -> None:
    piece = File(1, "a", "", bytes(CHUNK), last=False)
    for _ in range(MAX_SENT_FILE // CHUNK):
        turn.sending.take(piece, SCRUB)
    with pytest.raises(PeerError, match="limit"):
        turn.sending.take(piece, SCRUB)
    other = Turn(turn.outbox.parent / "other") if (turn.outbox.parent / "other").mkdir() is None else turn
    other.sending.take(piece, SCRUB)
    with pytest.raises(PeerError, match="two files"):
        other.sending.take(dataclasses.replace(piece, id=2), SCRUB)
    other.store.close()


def test_what_waits_to_be_sent_is_bounded(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_UNSENT", 10)
    assert turn.send(b"x" * 8, 1) == Result(1, {})
    assert "wait to be sent" in turn.send(b"x" * 3, 2).reason
    assert len(list(turn.outbox.iterdir())) == 1


@pytest.mark.parametrize(
    ("untrusted", "shown"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\nb\x1b[31m.txt", "a_b␛[31m.txt"),
        ("x" * 500 + ".pdf", "x" * sending.MAX_NAME + ".pdf"),
        ("...", "file"),
        ("", "file"),
        ("C:\\temp\\a.doc", "C__temp_a.doc"),
    ],
)
def test_a_name_is_one_harmless_line(untrusted: str, shown: str) -> None:
    assert file_name(untrusted) == shown


def test_what_no_row_names_is_swept(tmp_path: Path) -> None:
    one, two = keep(tmp_path, b"1"), keep(tmp_path, b"2")
    sweep(tmp_path, {two.name})
    assert not one.exists()
    assert two.exists()
    sweep(tmp_path / "nothing", set())
