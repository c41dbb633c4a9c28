"""A channel's program, as its owner sees it: whatever it does, it has an end, a reason, and a next time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from channel import wire
from channel.wire import Done, Failed, Frame
from host.channels import program as programs
from host.channels.program import Command, Program
from host.loop import Loop

FAKE = Path(__file__).resolve().parents[1] / "fakes" / "channel_program.py"


class Kept:
    """The owner: what it was told."""

    def __init__(self, loop: Loop, folder: Path, behaviour: str) -> None:
        self.loop, self.frames, self.states = loop, list[Frame](), list[tuple[str, str]]()
        self.folder = folder
        command = Command((sys.executable, "-I", str(FAKE), behaviour), folder, {"GIVEN": "1"})
        self.program = Program(loop, "fake", command, self)

    def channel_frame(self, name: str, untrusted_frame: Frame) -> None:
        self.frames.append(untrusted_frame)

    def channel_changed(self, name: str) -> None:
        self.states.append((self.program.state, self.program.why))

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        late: list[bool] = []
        timer = self.loop.call_later(seconds, lambda: late.append(True))
        while not condition():
            assert not late, self.states
            self.loop.step()
        timer.cancel()

    def start(self, state: str) -> None:
        self.program.start()
        self.until(lambda: self.program.state == state)

    def ask(self, build: Callable[[int], Frame], **more: Any) -> Done | Failed:
        answers: list[Done | Failed] = []
        self.program.request(build, answers.append, **more)
        self.until(lambda: answers)
        return answers[0]

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "sent.jsonl").read_text().splitlines()]


@pytest.fixture
def owned(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(programs, "BACK_OFF", (0.01, 3600.0))
    loop = Loop()
    kept = Kept(loop, tmp_path / "channel", getattr(request, "param", "polite"))
    yield kept
    gone: list[bool] = []
    kept.program.stop(lambda: gone.append(True))
    kept.until(lambda: gone)
    loop.close()


def behaves(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("owned", names, indirect=True)


def test_it_is_asked_and_answers(owned: Kept) -> None:
    owned.start("connected")
    assert owned.program.account == wire.Person("me@x", "", "Me")
    answer = owned.ask(lambda number: wire.Send(number, "1@s", "hello"))
    assert isinstance(answer, Done)
    assert owned.sent()[-1]["text"] == "hello"


@behaves("shows")
def test_it_inherits_nothing(owned: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789abcdef")
    owned.start("connected")
    owned.ask(wire.Ping)
    (report, *_) = owned.sent()
    assert set(report["env"]) <= {"PATH", "LANG", "GIVEN", "PWD", "LC_CTYPE", "_", "SHLVL", "OLDPWD"}
    # 0 to 2, the socket, and the folder that is being listed
    assert report["fds"] == 5
    assert oct(owned.folder.stat().st_mode & 0o777) == "0o700"


def test_a_file_follows_its_request_whole(owned: Kept, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(data)
    owned.start("connected")
    answers: list[Done | Failed] = []
    file = wire.File("a.bin", "", len(data))
    owned.program.request_with_file(
        lambda number: wire.Send(number, "1@s", "look", file=file), tmp_path / "file", answers.append, 60
    )
    owned.until(lambda: answers)
    (answer,) = answers
    assert isinstance(answer, Done)
    assert (owned.folder / f"got-{answer.id}").read_bytes() == data


@behaves("dies")
def test_one_that_dies_is_started_again_and_why_is_known(owned: Kept) -> None:
    owned.program.start()
    owned.until(lambda: owned.program.restarts == 2)
    state, why = owned.states[-1]
    assert state == "down"
    assert "status 3: the card is gone" in why
    assert "again in 3600 s" in why


@behaves("gives_up")
def test_why_it_gave_up_it_says_itself(owned: Kept) -> None:
    owned.program.start()
    owned.until(lambda: owned.program.restarts)
    assert ("down", "the library does not load; it is started again in 0 s") in owned.states


@behaves("dies_after_hello")
def test_who_waits_for_one_that_dies_is_answered(owned: Kept) -> None:
    owned.start("connected")
    answer = owned.ask(lambda number: wire.Send(number, "1@s", "hello"))
    assert isinstance(answer, Failed)
    assert (answer.reason, answer.retry) == ("internal", 1)


@behaves("hangs")
def test_one_that_hangs_is_ended(owned: Kept) -> None:
    owned.start("connected")
    answer = owned.ask(wire.Ping, seconds=0.1)
    assert isinstance(answer, Failed)
    owned.until(lambda: owned.program.restarts == 1)
    assert any(state == "down" and "did not answer in time" in why for state, why in owned.states)


@behaves("silent")
def test_one_that_never_says_hello_is_ended(owned: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "HELLO_SECONDS", 0.1)
    owned.program.start()
    owned.until(lambda: owned.program.restarts == 1)
    assert "no word from it" in owned.states[-1][1]


@behaves("garbage", "endless", "early", "old", "unasked")
def test_one_that_breaks_the_rules_is_ended(owned: Kept) -> None:
    owned.program.start()
    owned.until(lambda: owned.program.restarts == 1)
    assert "broke the rules" in next(why for state, why in owned.states if state == "down")


def test_one_that_is_not_there_is_said_so(owned: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "BACK_OFF", (3600.0,))  # the next one would outlive the loop
    program = Program(owned.loop, "fake", Command(("/nowhere/channel",), owned.folder), owned)
    program.start()
    owned.until(lambda: program.restarts)
    assert program.state == "down"
    assert "not found" in program.why or "cannot start" in program.why
    program.stop(lambda: None)


@behaves("hangs")
def test_one_that_does_not_stop_is_killed(owned: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "STOP_SECONDS", 0.1)
    owned.start("connected")
    process = owned.program._process
    assert process is not None
    gone: list[bool] = []
    owned.program.stop(lambda: gone.append(True))
    owned.until(lambda: gone)
    assert process.poll() == -9
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_before_it_runs_and_after_it_ended_the_answer_is_that_it_does_not_run(owned: Kept) -> None:
    answer = owned.ask(wire.Ping)
    assert isinstance(answer, Failed)
    assert answer.reason == "offline"
