"""What a group may rely on whichever channel it is on: shown on the terminal and on a program, in a whole host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from channel import wire
from host import control
from host.channels.program import Command
from host.intake import reference
from host.post import delivery
from tests.fakes.home import FakeHome

ROOT = Path(__file__).resolve().parents[2]


class End(Protocol):
    """A person at the other end of a channel, over as many hosts as it takes."""

    name: str
    reacts: bool

    def open(self, *, takes: bool = True) -> FakeHome:
        """A host, with this end's group `g`. `takes`: what is said is taken; else it is shown, and nobody acks it."""

    def says(self, home: FakeHome, number: int, text: str) -> None: ...
    def heard(self, home: FakeHome) -> list[str]:
        """The texts that this host gave to the channel."""

    def close(self) -> None: ...


class Terminal:
    name, reacts = "console", False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._takes = True
        self._acked: set[int] = set()

    def open(self, *, takes: bool = True) -> FakeHome:
        self._takes = takes
        home = FakeHome(self._folder)
        if home.store.group("g") is None:
            home.register("g")
        home.session.request(control.Watch("g", 0))
        return home

    def says(self, home: FakeHome, number: int, text: str) -> None:
        home.session.request(control.Send(f"m{number}", "g", text, ""))

    def heard(self, home: FakeHome) -> list[str]:
        found = [event for event in home.events if event["event"] in {"reply", "say"}]
        for event in found:
            if self._takes and event["out"] not in self._acked:
                self._acked.add(event["out"])
                home.session.request(control.Ack(event["out"]))
        return [event["text"] for event in found]

    def close(self) -> None:
        pass


class Scripted:
    """`channel.scripted`, with the test as its service."""

    name, reacts = "scripted", True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "line"
        self._data.mkdir()
        (self._data / "linked").touch()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(folder / "stage"))
        self._listener.listen()
        self._listener.settimeout(30)
        self._service: socket.socket | None = None

    def open(self, *, takes: bool = True) -> FakeHome:
        argv = (sys.executable, "-B", "-m", "channel.scripted", str(self._folder / "stage"), str(self._data))
        home = FakeHome(self._folder, channels={"scripted": Command(argv, self._data, {"PYTHONPATH": str(ROOT)})})
        if home.store.group("g") is None:
            home.register("g", chat="1@g", channel="scripted")
        if self._service is not None:
            self._service.close()
        self._service, _ = self._listener.accept()
        self._service.setblocking(False)
        self._decoder = wire.Decoder(wire.TO_CHANNEL)
        self._heard: list[str] = []
        if not takes:
            self._script(answer={"send": {"frame": "failed", "reason": "offline", "text": "", "retry": 1}})
        self._script(say={"frame": "connected", "account": {"id": "me@x"}})
        return home

    def _script(self, **line: Any) -> None:
        assert self._service is not None
        self._service.sendall(json.dumps(line).encode() + b"\n")

    def says(self, home: FakeHome, number: int, text: str) -> None:
        chat, ann = wire.Chat("1@g", "", "G", "group"), wire.Person("ann@x", "", "Ann")
        frame = wire.Message(0, chat, f"m{number}", ann, False, int(time.time()), text)
        self._script(say=json.loads(wire.encode(frame)))

    def heard(self, home: FakeHome) -> list[str]:
        assert self._service is not None
        with contextlib.suppress(BlockingIOError):
            while data := self._service.recv(65536):
                self._heard += [frame.text for frame in self._decoder.feed(data) if isinstance(frame, wire.Send)]
        return self._heard

    def close(self) -> None:
        if self._service is not None:
            self._service.close()
        self._listener.close()


@pytest.fixture(params=[Terminal, Scripted])
def end(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[End]:
    monkeypatch.setattr(delivery, "TRIES", (0.05,))
    made: End = request.param(tmp_path)
    yield made
    made.close()


def test_what_is_said_is_answered_once_in_order_and_acked(end: End) -> None:
    with contextlib.closing(end.open()) as home:
        for number in range(1, 4):
            end.says(home, number, f"number {number}")
            home.until(lambda number=number: len(end.heard(home)) == number)  # type: ignore[misc]
        assert [f"number {n}" in text for n, text in enumerate(end.heard(home), 1)] == [True] * 3
        home.until(lambda: home.store.outbox.pending(end.name) == [])


def test_a_repeat_is_the_same_message(end: End) -> None:
    with contextlib.closing(end.open()) as home:
        end.says(home, 1, "apples")
        home.until(lambda: len(end.heard(home)) == 1)
        end.says(home, 1, "apples")
        end.says(home, 2, "pears")
        home.until(lambda: len(end.heard(home)) == 2)
        assert "pears" in end.heard(home)[1]
        assert "apples" not in end.heard(home)[1]


def test_what_nobody_took_the_next_host_says_again_and_what_was_taken_it_does_not(end: End) -> None:
    with contextlib.closing(end.open(takes=False)) as home:
        end.says(home, 1, "apples")
        home.until(lambda: end.heard(home))
        assert [out.text for out in home.store.outbox.pending(end.name)] == list(dict.fromkeys(end.heard(home)))
    with contextlib.closing(end.open()) as home:
        home.until(lambda: end.heard(home))
        home.until(lambda: home.store.outbox.pending(end.name) == [])
        assert "apples" in end.heard(home)[0]
    with contextlib.closing(end.open()) as home:
        end.says(home, 2, "pears")
        home.until(lambda: end.heard(home))
        home.until(lambda: home.store.outbox.pending(end.name) == [])
        assert [("apples" in text, "pears" in text) for text in end.heard(home)] == [(False, True)]


def test_what_a_channel_cannot_do_is_refused_in_words(end: End) -> None:
    with contextlib.closing(end.open()) as home:
        end.says(home, 1, "apples")
        home.until(lambda: end.heard(home))
        message = next(iter(home.store.messages.recent("g"))).message
        ref = reference(message.channel, message.id)
        answer = home.ask("react", group="g", message=ref, emoji="👍")
        assert (answer["event"] == "result") == end.reacts
        assert end.reacts or "takes no reactions" in answer["error"]
