"""The sandbox actor's contract, the same on every engine: how it starts, what it lets through, how it ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from host.loop import Loop
from host.sandbox import STDERR_BYTES
from runner.protocol import Done, Failed, Input, Progress, Say
from tests.contract.house import INSTALL, REAL, Edited, House, a_turn, no_image
from tests.fakes.engine_subprocess import SubprocessEngine

# The actor sees of podman without root what it sees of podman: half a minute saved.
EVERY = ["subprocess", *[name for name in REAL if name != "podman-user"]]


@pytest.mark.parametrize("house", EVERY, indirect=True)
class TestSandbox:
    def test_a_turn_from_hello_to_done(self, house: House) -> None:
        w = house.start("polite")
        w.hand_over("hi")
        w.until(lambda: len(w.frames) == 2)
        assert w.frames == [Progress("status", "working"), Done("you said hi", 0)]
        w.sandbox.stop("the turn is over", 5)
        gone = w.wait_gone()
        assert (gone.kind, gone.message) == ("stopped", "the turn is over")
        assert w.sandbox.state == "gone"
        assert w.ready == 1

    def test_input_reaches_the_runner_and_stop_ends_it(self, house: House) -> None:
        w = house.start("echo")
        w.hand_over()
        w.sandbox.send(Input("ünïcode\n\t🙂"))
        w.until(lambda: w.frames)
        assert w.frames == [Say("ünïcode\n\t🙂")]
        before = time.monotonic()
        w.sandbox.stop("asked", 5)
        assert w.wait_gone().kind == "stopped"
        assert time.monotonic() - before < 5
        assert not any(isinstance(frame, Failed) for frame in w.frames)  # what comes after a stop is dropped

    def test_a_payload_of_several_megabytes_arrives_whole(self, house: House) -> None:
        text = "ä" * (4 << 20)
        w = house.start("polite")
        w.hand_over(text)
        w.until(lambda: len(w.frames) == 2 or w.gone, 60)
        assert w.gone[0].kind == "peer"  # the answer is as long as the question, and over the runner's limit

    def test_a_runner_that_exits_is_reported_with_its_last_words_made_harmless(self, house: House) -> None:
        w = house.start("exits")
        w.hand_over()
        gone = w.wait_gone()
        assert (gone.kind, gone.status) == ("exited", 7)
        assert "a reason ?[31mfor people" in gone.message

    def test_a_runner_that_cannot_start_is_the_engine_s_fault(self, house: House) -> None:
        gone = house.start("fails_at_start").wait_gone()
        assert gone.kind == "engine"
        assert "cannot start: a reason" in gone.message

    @pytest.mark.parametrize("behaviour", ["early_frame", "two_payload_frames"])
    def test_a_frame_before_its_time_ends_it(self, house: House, behaviour: str) -> None:
        w = house.start(behaviour)
        assert w.wait_gone().kind == "peer"
        assert w.frames == []

    @pytest.mark.parametrize("behaviour", ["garbage", "second_hello"])
    def test_a_broken_rule_ends_it(self, house: House, behaviour: str) -> None:
        w = house.start(behaviour)
        w.hand_over()
        assert w.wait_gone().kind == "peer"
        assert w.frames == []

    def test_a_flood_without_a_newline_is_cut_at_the_limit(self, house: House) -> None:
        w = house.start("floods")
        w.hand_over()
        assert w.wait_gone().kind == "peer"

    def test_of_stderr_only_the_end_is_kept(self, house: House) -> None:
        w = house.start("floods_stderr")
        w.hand_over()
        gone = w.wait_gone()
        assert gone.stderr_tail.endswith("the end\n")
        assert len(gone.stderr_tail) <= STDERR_BYTES

    def test_a_runner_that_ignores_everything_is_stopped_all_the_same(self, house: House) -> None:
        w = house.start("ignores_everything")
        w.hand_over()
        before = time.monotonic()
        w.sandbox.stop("enough", 0.3)
        assert w.wait_gone(20).kind == "stopped"
        assert time.monotonic() - before < 10
        assert house.engine.orphans(INSTALL) == []

    def test_a_runner_that_does_not_read_cannot_make_the_host_hold_more_than_its_limit(self, house: House) -> None:
        w = house.start("does_not_read")
        w.hand_over()
        for _ in range(300):
            w.sandbox.send(Input("x" * 200_000))
        assert w.wait_gone().kind == "peer"

    def test_the_end_is_reported_though_something_left_behind_holds_the_pipe(self, house: House) -> None:
        w = house.start("leaves_a_child")
        w.hand_over()
        gone = w.wait_gone(15)
        assert gone.kind in {"exited", "peer"}
        assert isinstance(w.frames[0], Done)

    def test_stop_before_hello(self, house: House) -> None:
        w = house.start("silent")
        w.sandbox.stop("never mind", 0)
        assert w.wait_gone(20).kind == "stopped"
        assert w.ready == 0

    def test_stop_while_it_waits(self, house: House) -> None:
        w = house.start("polite")
        w.wait_ready()
        before = time.monotonic()
        w.sandbox.stop("not needed", 0)
        gone = w.wait_gone()
        assert (gone.kind, gone.status) == ("stopped", 0)  # it left by itself, at the end of its stdin
        assert time.monotonic() - before < 3

    def test_a_silent_one_is_given_up(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("host.sandbox.START_SECONDS", 2.0)
        assert house.start("silent").wait_gone(20).kind == "timeout"

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({"hello": {"version": 99}}, "version 99"),
            ({"hello": {"build": "another"}}, "another build"),
            ({"checks": {"uid": 0}}, "uid"),
            ({"checks": {"dumpable": 1}}, "dumpable"),
            ({"checks": {"cap_eff": 1}}, "cap_eff"),
            ({"checks": {"cap_bnd": 1}}, "cap_bnd"),
            ({"checks": {"no_new_privs": 0}}, "no_new_privs"),
            ({"checks": {"interfaces": 1}}, "interfaces"),
            ({"checks": {"pid": 2}}, "pid"),
            ({"hello": {"checks": {}}}, "not told"),
            ({"hello": {"mounts": {}}}, "another folder"),
            ({"hello": {"mounts": {"/workspace/group": "1:1"}}}, "another folder"),
        ],
    )
    def test_a_hello_that_is_not_what_was_asked_for_is_given_nothing(
        self, house: House, options: dict[str, object], word: str
    ) -> None:
        w = house.start("polite", **options)
        gone = w.wait_gone()
        assert gone.kind == "hello"
        assert word in gone.message
        assert w.ready == 0

    def test_a_mount_that_was_not_asked_for_is_refused(self, house: House) -> None:
        seen = {m.target: f"{m.identity[0]}:{m.identity[1]}" for m in house.spec().mounts}
        gone = house.start("polite", hello={"mounts": {**seen, "/workspace/extra/more": "1:1"}}).wait_gone()
        assert gone.kind == "hello"
        assert "1 more mounts" in gone.message

    def test_a_payload_for_one_that_is_not_ready_is_a_bug(self, house: House) -> None:
        w = house.start("polite")
        with pytest.raises(RuntimeError):
            w.sandbox.hand_over(a_turn())


class TestLadder:
    """Rungs that only a program can be made to refuse."""

    def test_an_engine_program_that_hangs_does_not_hang_the_host(
        self, loop: Loop, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("host.sandbox.KILL_SECONDS", 0.5)
        hanging = ("/bin/sleep", "1000")
        house = House(loop, SubprocessEngine(killer=hanging, remover=hanging), no_image(), place)
        w = house.start("ignores_everything")
        w.hand_over()
        w.sandbox.stop("enough", 0.1)
        assert w.wait_gone(10).kind == "stopped"
        house.close()

    def test_a_runner_that_closes_its_output_and_goes_on_is_killed(self, loop: Loop, place: Path) -> None:
        """Engines' own programs hold the other end as well, so there only the turn's time limit ends such a one."""
        house = House(loop, SubprocessEngine(), no_image(), place)
        w = house.start("closes_output")
        w.hand_over()
        assert w.wait_gone(20).kind == "peer"

    def test_a_program_that_is_not_there(self, loop: Loop, place: Path) -> None:
        house = House(loop, SubprocessEngine(), no_image(), place)
        engine = Edited(house.engine, lambda launch: type(launch)(("/nowhere/docker", "run")))
        gone = house.start_with(house.spec(), engine).wait_gone()
        assert gone.kind == "engine"
        assert "No such file" in gone.message

    def test_stop_before_start_and_twice(self, loop: Loop, place: Path) -> None:
        house = House(loop, SubprocessEngine(), no_image(), place)
        w = house.start("polite")
        w.sandbox.stop("one", 0)
        w.sandbox.stop("two", 0)
        assert w.wait_gone().message == "one"
        w.sandbox.stop("three", 0)
        for _ in range(3):
            loop.call_soon(lambda: None)
            loop.step()
        assert len(w.gone) == 1
