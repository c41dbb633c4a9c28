"""A whole host and a channel that is a program: what comes in calls the agent, what it says goes out, and what fails on
either side is neither lost nor said twice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from channel import wire
from host import app
from host.channels import program as programs
from host.channels.program import Command
from host.errors import UserError
from host.intake import reference
from host.model import Mention
from host.post import arrivals, delivery
from host.store.messages import KnownChat
from tests.fakes.home import FakeHome

FAKE = Path(__file__).resolve().parents[1] / "fakes" / "channel_program.py"
CHAT = {"id": "1@g", "alt": "", "name": "The family", "kind": "group"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100_000)


class Line:
    """The channel's side: what it will say, and what it was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True)
        self._seq = 0

    def says(self, text: str = "", frame: str = "message", **more: Any) -> int:
        self._seq += 1
        sender = {"id": "ann@x", "alt": "7@lid", "name": "Ann"}
        line = {"frame": frame, "seq": self._seq, "chat": CHAT, "id": f"m{self._seq}", "sender": sender, "own": False,
                "at": int(time.time())}  # fmt: skip
        if frame in {"message", "edited"}:
            line["text"] = text
        with (self.folder / "script.jsonl").open("a") as file:
            file.write(json.dumps(line | more) + "\n")
        return self._seq

    def got(self, frame: str = "") -> list[dict[str, Any]]:
        path = self.folder / "sent.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if not frame or line["frame"] == frame]

    @property
    def kept(self) -> int:
        return int((self.folder / "kept").read_text()) if (self.folder / "kept").exists() else 0


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "line")


@pytest.fixture
def start(tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeHome]]:
    monkeypatch.setattr(programs, "BACK_OFF", (0.01,))
    homes: list[FakeHome] = []

    def make(behaviour: str = "polite", registered: bool = True, channel: str = "polite", **config: Any) -> FakeHome:
        command = Command((sys.executable, "-I", str(FAKE), channel), line.folder)
        home = FakeHome(tmp_path, behaviour, channels={"fake": command}, **config)
        homes.append(home)
        if registered and home.store.group("family") is None:
            home.register("family", chat="1@g", channel="fake")
        return home

    yield make
    for home in homes:
        home.close()


def stored(home: FakeHome) -> list[Any]:
    return [each.message for each in home.store.context("family").messages]


def test_a_message_calls_the_agent_and_the_reply_goes_out_with_typing_and_a_read_mark(
    start: Callable[..., FakeHome], line: Line
) -> None:
    line.says("hello there")
    home = start()
    home.until(lambda: line.got("send"))
    (sent,) = line.got("send")
    assert sent["chat"] == "1@g"
    assert "hello there" in sent["text"]
    assert sent["quote"] == {"id": "m1", "sender": "ann@x", "text": "hello there"}
    home.until(lambda: line.kept == 1)
    home.until(lambda: [each["on"] for each in line.got("typing")][-1:] == [False])
    assert [each["on"] for each in line.got("typing")] == [True, False]
    assert [each["messages"] for each in line.got("read")] == [["m1"]]
    assert home.app._post.lines["fake"].takes_files
    home.until(lambda: home.store.outbox.pending("fake") == [])
    assert home.store.outbox.was_sent("fake", f"1@g s{sent['id']}")


def test_a_reaction_of_the_agent_s_goes_out_before_its_reply(start: Callable[..., FakeHome], line: Line) -> None:
    wish = {"method": "react", "params": {"message": reference("fake", "1@g m1"), "emoji": "👍"}}
    line.says("ask " + json.dumps(wish))
    home = start("asks")
    home.until(lambda: line.got("send"))
    out = [each for each in line.got() if each["frame"] in {"react", "send"}]
    assert [each["frame"] for each in out] == ["react", "send"]
    assert {**out[0], "id": 0} == {
        "frame": "react", "id": 0, "chat": "1@g", "message": "m1", "sender": "ann@x", "emoji": "👍"
    }  # fmt: skip
    home.until(lambda: home.store.outbox.pending("fake") == [])
    assert home.events_of("family")[0][0] == "done"


def test_a_reaction_that_fails_is_soon_given_up_and_told(
    start: Callable[..., FakeHome], line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TRIES", (0.01,) * 20)
    line.says("hello", history=True)
    home = start("ignores_everything")
    home.until(lambda: line.kept == 1)
    seq = home.store.messages.seq_of("fake", "1@g m1")
    home.store.begin_turn("family", "t1")
    home.app.deliver(home.store.outbox.react("family", seq, "💥"))
    home.app.deliver(home.store.outbox.react("family", seq + 1, "👍"))  # on nothing
    home.app.deliver(home.store.add_say("family", "t1", "the next one"))
    home.until(lambda: line.got("send") and home.store.outbox.pending("fake") == [])
    assert [each["emoji"] for each in line.got("react")] == ["💥"] * 3
    assert [(row["text"], row["why"]) for row in home.app.status()["not_sent"]] == [
        ("👍", "its message is gone"),
        ("💥", "no"),
    ]


def test_people_are_named_both_ways(start: Callable[..., FakeHome], line: Line) -> None:
    line.says("what does @7 say?", sender={"id": "bob@x", "name": "Bob"}, mentions=[{"id": "ann@x", "alt": "7@lid"}])
    line.says("I am Ann", history=True)
    home = start("ignores_everything")
    home.until(lambda: line.kept == 2)
    home.store.begin_turn("family", "t1")
    home.app.deliver(home.store.add_say("family", "t1", "@Bob asks, @ann."))
    home.until(lambda: line.got("send"))
    assert (line.got("send")[0]["text"], line.got("send")[0]["mentions"]) == (
        "@bob@x asks, @ann@x.",
        ["bob@x", "ann@x"],
    )
    line.says("and @7?", sender={"id": "bob@x", "name": "Bob"}, mentions=[{"id": "7@lid"}])
    home.app._post.lines["fake"].program._process.kill()  # its next run says it
    home.until(lambda: line.kept == 3)
    assert stored(home)[0].mentions == (Mention("ann@x", "", "@7"),)
    assert stored(home)[2].mentions == (Mention("ann@x", "Ann", "@7"),)


@pytest.mark.parametrize(("main", "signed"), [("me@x", True), ("somebody@x", False)])
def test_with_a_person_s_own_account_it_says_who_writes(
    start: Callable[..., FakeHome], line: Line, main: str, signed: bool
) -> None:
    home = start("ignores_everything")
    home.app.call("move_group", {"group": "main", "channel": "fake", "chat": main})
    home.until(lambda: home.app._post.lines["fake"].program.state == "connected")
    home.store.begin_turn("family", "t1")
    home.app.deliver(home.store.add_say("family", "t1", "five"))
    home.until(lambda: line.got("send"))
    assert line.got("send")[0]["text"] == ("**Andy:** five" if signed else "five")


def test_what_is_said_twice_is_answered_once(start: Callable[..., FakeHome], line: Line) -> None:
    line.says("hello")
    line.says("hello", id="m1")
    home = start()
    home.until(lambda: line.kept == 2)
    home.until(lambda: home.store.outbox.pending("fake") == [] and line.got("send"))
    assert len(line.got("send")) == 1


def test_of_an_unknown_chat_only_that_it_wrote_is_kept(start: Callable[..., FakeHome], line: Line) -> None:
    line.says("a secret", attachments=[{"kind": "image", "name": "", "type": "", "size": 1, "ref": "photo"}])
    home = start(registered=False)
    home.until(lambda: line.kept == 1)
    assert KnownChat("fake", "1@g", "The family", "group", "") in home.store.messages.chats()
    assert line.got("fetch") == []
    database = home.home.data / "nanoclaw.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    written = database.read_bytes()
    assert b"The family" in written, "what is stored is found there"
    assert b"a secret" not in written


def test_files_are_in_the_inbox_before_the_agent_is_called(start: Callable[..., FakeHome], line: Line) -> None:
    (line.folder / "files/photo").write_bytes(PNG)
    attachment = {"kind": "image", "name": "../../x y.exe", "type": "text/html", "size": len(PNG), "ref": "photo"}
    gone = {**attachment, "ref": "gone"}
    big = {**attachment, "size": 10**9}
    line.says("look", attachments=[attachment, gone, big])
    line.says("and this")
    home = start("ignores_everything")
    home.until(lambda: line.kept == 2)
    first, second = stored(home)
    assert (first.text, second.text) == ("look", "and this")
    took, lost, refused = first.attachments
    assert took.type == "image/png"
    assert took.path.endswith(".png")
    kept = home.home.data / "inbox/family" / took.path
    assert kept.read_bytes() == PNG
    assert "no longer there" in lost.why
    assert "larger than 20 MB" in refused.why
    assert len(line.got("fetch")) == 2


def test_a_message_that_is_taken_back_takes_its_file_along(start: Callable[..., FakeHome], line: Line) -> None:
    (line.folder / "files/photo").write_bytes(PNG)
    line.says("look", attachments=[{"kind": "image", "name": "", "type": "", "size": 9, "ref": "photo"}])
    line.says(frame="deleted", id="m1")
    home = start("ignores_everything")
    home.until(lambda: line.kept == 2)
    assert len(line.got("fetch")) == 1
    assert list((home.home.data / "inbox/family").iterdir()) == []
    assert [message.text for message in stored(home)] == [""]


def test_edits_reactions_and_history_are_followed_and_call_nobody(start: Callable[..., FakeHome], line: Line) -> None:
    line.says("long ago", at=int(time.time()) - 90_000)
    line.says("before", history=True)
    line.says("at seven", frame="edited", id="m2")
    line.says(frame="reaction", id="m1", emoji="👍")
    line.says("and you?")
    home = start()
    home.until(lambda: line.got("send"))
    assert [each["quote"]["id"] for each in line.got("send")] == ["m5"], "who called is the one who is answered"
    with contextlib.closing(sqlite3.connect(home.home.data / "nanoclaw.db")) as connection:
        found = connection.execute("SELECT kind, text, context_only FROM messages WHERE channel = 'fake' ORDER BY seq")
        assert found.fetchall() == [
            ("message", "long ago", 1), ("message", "at seven", 1), ("reaction", "👍", 0), ("message", "and you?", 0)
        ]  # fmt: skip


def test_one_person_s_two_ids_are_one_sender(start: Callable[..., FakeHome], line: Line) -> None:
    line.says("one")
    line.says("two", sender={"id": "7@lid", "alt": "", "name": "Ann"})
    home = start("ignores_everything")
    home.until(lambda: line.kept == 2)
    assert {message.sender for message in stored(home)} == {"ann@x"}


@pytest.mark.parametrize(("retry", "tries"), [(-1, 1), (0, 3)])
def test_a_reply_that_fails_is_tried_again_and_then_told(
    start: Callable[..., FakeHome], line: Line, monkeypatch: pytest.MonkeyPatch, retry: int, tries: int
) -> None:
    monkeypatch.setattr(delivery, "TRIES", (0.01, 0.01))
    home = start("polite")
    home.store.begin_turn("family", "t1")
    home.app.deliver(home.store.add_say("family", "t1", f"fail {retry}"))
    home.app.deliver(home.store.add_say("family", "t1", "the next one"))
    home.until(home.store.outbox.given_up)
    home.until(lambda: home.store.outbox.pending("fake") == [])
    texts = [each["text"] for each in line.got("send")]
    assert texts.count(f"fail {retry}") == tries
    assert texts.count("the next one") == 1
    (row,) = home.app.status()["not_sent"]
    assert row["why"] == "no"


def test_nothing_is_lost_or_doubled_when_the_channel_dies_over_and_over(
    start: Callable[..., FakeHome], line: Line
) -> None:
    for number in range(100):
        line.says(f"number {number}")
    home = start("ignores_everything", channel="careful")
    killed = 0
    while line.kept < 100:
        home.loop.step()
        process = home.app._post.lines["fake"].program._process
        if killed < 3 and line.kept > 25 * (killed + 1) and process is not None:
            process.kill()
            killed += 1
    assert killed == 3
    assert [message.text for message in stored(home)] == [f"number {number}" for number in range(100)]


def test_a_file_of_the_agent_s_goes_out_and_away(start: Callable[..., FakeHome], line: Line) -> None:
    from host.sending import keep

    home = start("polite")
    home.store.begin_turn("family", "t1")
    kept = keep(home.home.data / "outbox", PNG)
    home.app.deliver(home.store.add_file("family", "t1", (kept.name, "a.png"), "look"))
    home.until(lambda: home.store.outbox.pending("fake") == [])
    (sent,) = line.got("send")
    assert sent["file"] == {"name": "a.png", "type": "", "size": len(PNG)}
    assert (line.folder / f"got-{sent['id']}").read_bytes() == PNG
    assert not kept.exists()


def test_a_host_that_ends_waits_for_a_channel_that_does_not_want_to(
    start: Callable[..., FakeHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = start(channel="hangs")
    program = home.app._post.lines["fake"].program
    home.until(lambda: program.state == "connected")
    process = program._process
    assert process is not None
    monkeypatch.setattr(programs, "STOP_SECONDS", 0.1)
    assert programs.STOP_SECONDS < app.CLOSE_SECONDS
    home.close()
    assert process.returncode == -9


def test_what_comes_while_the_host_ends_is_left_for_the_next(start: Callable[..., FakeHome], line: Line) -> None:
    home = start("ignores_everything")
    arriving = home.app._post.lines["fake"]
    home.until(lambda: arriving.program.state == "connected")
    sender = wire.Person("ann@x")
    late = wire.Message(7, wire.Chat("1@g", "", "", "group"), "late", sender, False, int(time.time()), "too late")
    arriving.stop(lambda: None)
    arriving.channel_frame("fake", late)
    assert stored(home) == []
    assert line.kept == 0


def test_an_answer_of_the_wrong_kind_ends_the_channel_and_nothing_else(
    start: Callable[..., FakeHome], line: Line
) -> None:
    """While something is asked of it, a channel may say what belongs to another question."""
    (line.folder / "confused").touch()
    (line.folder / "files/photo").write_bytes(PNG)
    line.says("look", attachments=[{"kind": "image", "name": "", "type": "", "size": 9, "ref": "photo"}])
    home = start("ignores_everything")
    program = home.app._post.lines["fake"].program
    home.until(lambda: program.restarts >= 2)  # a code in the place of the file
    assert "broke the rules" in (home.home.data / "log/nanoclaw.log").read_text()
    assert line.kept == 0
    before = program.restarts
    home.until(lambda: program.state == "connected")
    home.app._post.lines["fake"].link("")  # a piece of a file in the place of a code
    home.until(lambda: program.restarts > before)
    (line.folder / "confused").unlink()
    home.until(lambda: line.kept == 1)
    assert [message.attachments[0].bytes for message in stored(home)] == [len(PNG)]


@pytest.mark.parametrize("frame", ["chats", "send"])
def test_a_full_disk_stops_neither_the_host_nor_what_is_asked_of_it(
    start: Callable[..., FakeHome], line: Line, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    """Who is who is noted in the database, also while chats are named and while a reply goes out."""
    monkeypatch.setattr(delivery, "STORE_RETRY_SECONDS", 0.05)
    home = start("ignores_everything")
    full: list[str] = []

    def no_room(channel: str, named: str, also: str = "") -> str:
        full.append(named)
        raise UserError("the disk is full")

    home.until(lambda: home.app._post.lines["fake"].program.state == "connected")
    with monkeypatch.context() as filled:
        filled.setattr(home.store.messages, "person", no_room)
        if frame == "chats":
            chat = wire.Chat("1@g", "2@g", "The family", "group")
            home.app._post.lines["fake"].channel_frame("fake", wire.Chats(0, [chat]))
            assert full
            return
        home.store.begin_turn("family", "t1")
        home.app.deliver(home.store.add_say("family", "t1", "said all the same"))
        home.until(lambda: len(full) >= 2)
        assert line.got("send") == []
    home.until(lambda: line.got("send"))


def test_a_message_that_finds_no_room_keeps_the_files_that_it_has(
    start: Callable[..., FakeHome], line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "STORE_RETRY_SECONDS", 0.05)
    (line.folder / "files/photo").write_bytes(PNG)
    line.says("look", attachments=[{"kind": "image", "name": "", "type": "", "size": 9, "ref": "photo"}])
    home = start("ignores_everything")
    add, tried = home.store.add_message, list[Any]()

    def no_room_at_first(message: Any) -> Any:
        tried.append(message)
        if len(tried) < 3:
            raise UserError("the disk is full")
        return add(message)

    monkeypatch.setattr(home.store, "add_message", no_room_at_first)
    home.until(lambda: line.kept == 1)
    assert len(tried) == 3
    assert len(line.got("fetch")) == 1
    (kept,) = (home.home.data / "inbox/family").iterdir()
    assert [message.attachments[0].path for message in stored(home)] == [kept.name]


def test_no_choice_of_ids_makes_two_messages_one_or_one_s_removal_another_s(
    start: Callable[..., FakeHome], line: Line
) -> None:
    """Who writes chooses the id on some services, and chats are called what they are called."""
    odd = {**CHAT, "id": "1@g/a"}
    line.says("of the odd chat", chat=odd, id="b")
    line.says("of ours", id="a/b")
    line.says("in the place of a removal", id="a/b/deletion")
    line.says(frame="deleted", id="a/b")
    line.says("answer me", chat=odd, id="c/d")
    home = start("ignores_everything", registered=False)
    home.register("odd", chat="1@g/a", channel="fake")
    home.register("family", chat="1@g", channel="fake", needs_trigger=True)
    home.until(lambda: line.kept == 5)
    assert [message.text for message in stored(home)] == ["", "in the place of a removal"]
    assert [each.message.text for each in home.store.context("odd").messages] == ["of the odd chat", "answer me"]
    home.until(lambda: line.got("read"))
    assert [each["messages"] for each in line.got("read")] == [["b"], ["c/d"]]
