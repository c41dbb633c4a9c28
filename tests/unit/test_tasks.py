"""Tasks on disk, and the scheduler that looks at them: nothing twice, nothing lost, whatever happens between."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host import schedule
from host.errors import UserError
from host.log import Log
from host.model import Group, Task, TaskRun
from host.store import Store
from host.store import tasks as of_tasks
from host.tasks import LOOK_SECONDS, Scheduler
from tests.fakes.clock import Clock

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z"""
HOUR = 3600.0


class Host:
    """A store with two groups, and the scheduler on it; what is due is noted and nothing more."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock(NOW)
        self.path = folder / "nanoclaw.db"
        self.zones = {"main": "UTC", "family": "Europe/Berlin"}
        self.log = Log(folder / "log")
        self.due: list[TaskRun] = []
        self.ids = itertools.count(1)
        self.open()
        for folder_name in ("main", "family"):
            self.store.add_group(Group(folder_name, "console", folder_name, folder_name, is_main=folder_name == "main"))

    def open(self) -> None:
        self.store = Store(self.path, clock=self.clock.time)
        self.tasks = self.store.tasks
        self.scheduler = Scheduler(
            self.clock,
            self.store,
            self.zone_of,
            self.due.append,
            self.log,
            self.clock.time,  # type: ignore[arg-type]
        )

    def zone_of(self, folder: str) -> str:
        zone = self.zones[folder]
        if zone == "broken":
            raise UserError("the group's settings are not right")
        return zone

    def crash(self, seconds_down: float = 0.0) -> None:
        """The next host, on the same file."""
        self.clock.forget()
        self.store.close()
        self.clock.run(seconds_down)
        self.due.clear()
        self.open()
        self.store.recover()

    def add(self, kind: str = "interval", text: str = "3600", group: str = "main", **more: Any) -> Task:
        when = schedule.parse(kind, text, self.zones[group], self.clock.wall)
        next_run = schedule.next_run(when, self.clock.wall)
        task = Task(
            f"t-{next(self.ids)}", group, "do it", when.kind, when.text, "group", "", "active", "", self.clock.wall,
            next_run, zone=when.zone, anchor=when.anchor,
        )  # fmt: skip
        task = dataclasses.replace(task, **more)
        self.tasks.add(task)
        self.scheduler.changed()
        return task

    def began(self, run: TaskRun) -> str:
        turn = f"turn-{run.task.id}-{self.clock.wall}"
        self.store.begin_turn(run.task.group, turn, run)
        return turn

    def ends(self, run: TaskRun, turn: str, text: str = "done") -> None:
        self.store.finish_turn(run.task.group, turn, 0, text, [{"role": "user", "content": "p"}], (3, 4), run)
        self.scheduler.changed()

    def carry_out(self) -> list[tuple[str, float]]:
        """All that is due now is done, in no time: which tasks, due when."""
        runs, self.due[:] = list(self.due), []
        for run in runs:
            self.ends(run, self.began(run))
        return [(run.task.id, run.due) for run in runs]

    def get(self, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        assert task is not None
        return task


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.store.close()
    made.log.close()


# --- the table ------------------------------------------------------------------------------------------


def test_a_task_is_kept_as_it_was_made(host: Host) -> None:
    task = host.add("cron", "0 8 * * *", "family", check="true", context="isolated", made_in="t-9", created_by="family")
    assert host.tasks.get(task.id) == task
    assert host.tasks.get("T-1") is None
    assert host.tasks.all() == [task]
    assert host.tasks.all("FAMILY") == [task]
    assert host.tasks.all("main") == []


def test_what_comes_next_is_listed_first_and_what_is_done_last(host: Host) -> None:
    late, soon, rests = host.add(text="7200"), host.add(text="60"), host.add()
    once = host.add("once", "2027-01-15T08:01")
    host.tasks.pause(rests.id)
    host.clock.run(90)
    host.due[:] = host.tasks.claim_due(host.clock.wall)
    host.carry_out()
    assert [task.id for task in host.tasks.all()] == [soon.id, late.id, once.id, rests.id]
    assert host.tasks.stats() == {"active": 2, "paused": 1, "done": 1, "queued": 0}


def test_of_a_group_there_are_at_most_so_many_and_of_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_tasks, "MAX_PER_GROUP", 5)
    monkeypatch.setattr(of_tasks, "MAX_TASKS", 7)
    made = [host.add() for _ in range(5)]
    with pytest.raises(UserError, match="the group main has 5 tasks already, which is the most"):
        host.add()
    host.add(group="family")
    host.add(group="family")
    with pytest.raises(UserError, match="there are 7 tasks already, which is the most"):
        host.add(group="family")
    host.tasks.cancel(made[0].id)
    host.add()  # a place is free again


def test_tasks_that_tasks_made_are_few(host: Host) -> None:
    for _ in range(of_tasks.MAX_MADE_BY_RUNS):
        host.add(made_in="t-1")
    with pytest.raises(UserError, match="10 tasks that tasks made are there already"):
        host.add(made_in="t-2")
    host.add(made_in="t-1", group="family")
    host.add()


def test_finished_tasks_do_not_count_and_do_not_pile_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_tasks, "MAX_PER_GROUP", 2)
    monkeypatch.setattr(of_tasks, "KEEP_DONE", 3)
    for _ in range(10):
        host.add("once", schedule.local(host.clock.wall + 120, "UTC")[:16])
        host.clock.run(180)
        host.due[:] = host.tasks.claim_due(host.clock.wall)
        assert len(host.carry_out()) == 1
    assert host.tasks.stats()["done"] <= 4


def test_a_done_task_with_a_new_time_counts_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_tasks, "MAX_PER_GROUP", 1)
    done = host.add("once", "2027-01-15T08:05")
    host.clock.run(600)
    host.due[:] = host.tasks.claim_due(host.clock.wall)
    host.carry_out()
    host.add()
    with pytest.raises(UserError, match="which is the most"):
        host.tasks.update(dataclasses.replace(host.get(done.id), state="active", next_run=NOW + HOUR))


def test_a_removed_group_s_tasks_are_gone_and_do_not_come_back(host: Host) -> None:
    task = host.add(text="60", group="family")
    host.clock.run(60)
    host.due[:] = host.tasks.claim_due(host.clock.wall)
    host.carry_out()
    host.store.registry.remove("family")
    assert host.tasks.all() == []
    assert host.tasks.claim_due(NOW + HOUR) == []
    host.store.add_group(Group("family", "console", "family", "family"))
    assert host.tasks.all() == []
    host.store.registry.remove("family")
    assert len(host.tasks.runs(task.id, 10)) == 1
    host.store.registry.forget("family")
    assert host.tasks.runs(task.id, 10) == []


def test_a_task_needs_a_group_that_is_there(host: Host) -> None:
    host.add(group="family")
    task = dataclasses.replace(host.get("t-1"), id="t-x", group="nowhere")
    host.tasks.add(task)
    assert host.tasks.get("t-x") is None


# --- runs -----------------------------------------------------------------------------------------------


def test_a_run_is_logged_with_its_turn(host: Host) -> None:
    task = host.add(text="60")
    host.clock.run(65)
    (run,) = host.tasks.claim_due(host.clock.wall)
    assert run == TaskRun(host.get(task.id), NOW + 60)
    assert host.get(task.id).next_run == NOW + 120
    turn = host.began(run)
    host.clock.run(12)
    host.ends(run, turn)
    assert host.tasks.runs(task.id, 10) == [
        {"due": NOW + 60, "started_at": NOW + 65, "seconds": 12.0, "outcome": "done", "tokens": 7, "turn": turn}
    ]
    assert host.get(task.id).queued_for is None
    host.store.finish_turn("main", turn, 0, "done", [], (3, 4), run)  # the commit's outcome was not known
    assert len(host.tasks.runs(task.id, 10)) == 1


@pytest.mark.parametrize(
    ("how", "outcome"), [("silent", "done"), ("idle", "nothing to do"), ("fail", "failed:engine"), ("stop", "stopped")]
)
def test_how_a_run_ended_is_logged(host: Host, how: str, outcome: str) -> None:
    task = host.add("once", "2027-01-15T08:05")
    host.clock.run(300)
    (run,) = host.tasks.claim_due(host.clock.wall)
    turn = host.began(run)
    if how == "fail":
        assert host.store.fail_turn("main", turn, 0, "engine", "no engine", run, (5, 6)) is not None
    elif how == "stop":
        host.store.stop_turn("main", turn, 0, run, (5, 6))
    else:
        entries = [{"role": "user", "content": "p"}] if how == "silent" else []
        assert host.store.finish_turn("main", turn, 0, "", entries, (0, 0), run) is None
    (logged,) = host.tasks.runs(task.id, 10)
    assert (logged["outcome"], logged["tokens"]) == (outcome, 11 if how in ("fail", "stop") else 0)
    assert host.get(task.id).state == "done"
    said = host.store.history("main", 10_000)
    assert len(said) == {"silent": 1, "idle": 0, "fail": 0, "stop": 2}[how]


@pytest.mark.parametrize("how", ["finish", "stop"])
def test_an_isolated_run_leaves_nothing_in_the_conversation(host: Host, how: str) -> None:
    host.add(text="60", context="isolated")
    host.clock.run(60)
    (run,) = host.tasks.claim_due(host.clock.wall)
    turn = host.began(run)
    if how == "finish":
        host.ends(run, turn, "said")
    else:
        host.store.stop_turn("main", turn, 0, run)
    assert host.store.history("main", 10_000) == []
    assert len(host.tasks.runs("t-1", 10)) == 1


def test_a_run_without_a_turn_is_logged_too(host: Host) -> None:
    host.add(text="60")
    host.clock.run(60)
    (run,) = host.tasks.claim_due(host.clock.wall)
    host.tasks.record_run(run, "nothing to do", 2.5)
    (logged,) = host.tasks.runs("t-1", 10)
    assert (logged["outcome"], logged["seconds"], logged["started_at"]) == ("nothing to do", 2.5, NOW + 57.5)
    assert host.get("t-1").queued_for is None


def test_what_waits_or_works_is_not_claimed_again(host: Host) -> None:
    task = host.add(text="60")
    host.clock.run(60)
    assert len(host.tasks.claim_due(host.clock.wall)) == 1
    host.clock.run(600)
    assert host.tasks.claim_due(host.clock.wall) == []
    assert host.tasks.next_due() is None
    assert host.tasks.claim(task.id, host.clock.wall) is None


def test_a_run_for_now_is_beside_the_schedule(host: Host) -> None:
    task = host.add(text="3600")
    host.clock.run(600)
    run = host.tasks.claim(task.id, host.clock.wall)
    assert run is not None
    assert run.due == NOW + 600
    host.ends(run, host.began(run))
    assert host.get(task.id).next_run == NOW + HOUR
    once = host.add("once", "2027-01-15T10:00")
    run = host.tasks.claim(once.id, host.clock.wall)
    assert run is not None
    host.ends(run, host.began(run))
    assert (host.get(once.id).state, host.get(once.id).next_run) == ("active", NOW + 2 * HOUR)
    assert host.tasks.claim("t-nowhere", host.clock.wall) is None


def test_times_that_pass_while_a_run_waits_are_its_own(host: Host) -> None:
    """Due at 1 min, begun at 5: it answers 1 to 5, and the next is at 6."""
    task = host.add(text="60")
    host.clock.run(60)
    (run,) = host.tasks.claim_due(host.clock.wall)
    host.clock.run(4 * 60)
    turn = host.began(run)
    host.ends(run, turn)
    assert host.get(task.id).next_run == NOW + 6 * 60
    assert host.tasks.claim_due(host.clock.wall) == []


def test_times_that_pass_while_a_run_works_become_one_late_run(host: Host) -> None:
    task = host.add(text="60")
    host.scheduler.start()
    host.clock.run(60)
    (run,) = host.due
    turn = host.began(run)
    host.clock.run(250)
    assert len(host.due) == 1, "it never overlaps itself"
    host.due.clear()
    host.ends(run, turn)
    host.clock.run(1)
    assert host.carry_out() == [(task.id, NOW + 120)]
    host.clock.run(48)
    assert host.due == []
    host.clock.run(1)
    assert host.carry_out() == [(task.id, NOW + 360)]


def test_a_cancelled_task_is_gone_also_from_the_queue_and_its_log_stays(host: Host) -> None:
    task = host.add(text="60")
    host.clock.run(60)
    (run,) = host.tasks.claim_due(host.clock.wall)
    turn = host.began(run)
    host.ends(run, turn)
    host.clock.run(60)
    (waiting,) = host.tasks.claim_due(host.clock.wall)
    host.tasks.cancel(task.id)
    assert host.tasks.get(task.id) is None
    host.crash()
    host.scheduler.start()
    host.clock.run(HOUR)
    assert host.due == []
    assert [run["due"] for run in host.tasks.runs(task.id, 10)] == [NOW + 60]
    # A run of it that had begun gets into the log all the same.
    turn = host.began(waiting)
    host.ends(waiting, turn)
    assert len(host.tasks.runs(task.id, 10)) == 2


def test_a_task_that_rests_runs_for_none_of_the_times_that_pass(host: Host) -> None:
    task = host.add(text="60")
    host.scheduler.start()
    host.tasks.pause(task.id)
    host.clock.run(HOUR)
    assert host.due == []
    assert host.get(task.id).next_run is None


def test_pausing_takes_a_run_out_of_the_queue_and_leaves_one_that_works(host: Host) -> None:
    task = host.add(text="60")
    host.clock.run(60)
    host.tasks.claim_due(host.clock.wall)
    host.tasks.pause(task.id)
    assert host.get(task.id).queued_for is None
    other = host.add(text="60")
    host.clock.run(60)
    (run,) = host.tasks.claim_due(host.clock.wall)
    turn = host.began(run)
    host.tasks.pause(other.id)
    assert host.get(other.id).queued_for == run.due
    host.ends(run, turn)
    assert (host.get(other.id).queued_for, host.get(other.id).state) == (None, "paused")


# --- crashes --------------------------------------------------------------------------------------------


def test_what_was_missed_while_the_host_was_down_is_one_late_run(host: Host) -> None:
    hourly, daily = host.add(text="3600"), host.add(text="86400")
    host.scheduler.start()
    host.crash(5 * HOUR + 10)
    host.scheduler.start()
    host.clock.run(1)
    assert host.carry_out() == [(hourly.id, NOW + HOUR)]
    assert host.get(hourly.id).next_run == NOW + 6 * HOUR
    assert host.get(daily.id).next_run == NOW + 24 * HOUR


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_a_crash_interrupted_is_queued_again(host: Host, begun: bool) -> None:
    task = host.add(text="3600")
    host.scheduler.start()
    host.clock.run(HOUR)
    (run,) = host.due
    if begun:
        host.began(run)
    host.crash(2 * HOUR)
    host.scheduler.start()
    host.clock.run(1)
    assert host.carry_out() == [(task.id, NOW + HOUR)]
    host.clock.run(10)
    assert host.due == [], "the time that passed meanwhile was answered by it"
    assert host.get(task.id).next_run == NOW + 4 * HOUR
    assert len(host.tasks.runs(task.id, 10)) == 1


def test_a_run_that_was_interrupted_three_times_is_given_up(host: Host) -> None:
    poison, innocent = host.add(text="3600"), host.add(text="3600", group="family")
    host.scheduler.start()
    host.clock.run(HOUR)
    for _ in range(of_tasks.MAX_TRIES):
        assert {run.task.id for run in host.due} == {poison.id, innocent.id}
        host.began(next(run for run in host.due if run.task.id == poison.id))
        host.crash(1)
        host.scheduler.start()
    assert [run.task.id for run in host.due] == [innocent.id], "what only waited is no one's fault"
    (logged,) = host.tasks.runs(poison.id, 10)
    assert (logged["outcome"], logged["due"]) == ("failed:interrupted", NOW + HOUR)
    host.clock.run(HOUR)
    assert poison.id in {run.task.id for run in host.due}, "its next time comes"


def test_a_run_of_a_task_that_rests_is_not_queued_again(host: Host) -> None:
    task = host.add(text="3600")
    host.scheduler.start()
    host.clock.run(HOUR)
    host.began(host.due[0])
    host.tasks.pause(task.id)
    host.crash()
    host.scheduler.start()
    host.clock.run(2 * HOUR)
    assert host.due == []
    assert host.get(task.id).queued_for is None
    assert [run["outcome"] for run in host.tasks.runs(task.id, 10)] == ["failed:interrupted"]


# --- the scheduler --------------------------------------------------------------------------------------


def test_a_run_is_due_at_its_time(host: Host) -> None:
    task = host.add(text="3600")
    host.scheduler.start()
    host.clock.run(HOUR - 0.5)
    assert host.due == []
    host.clock.run(0.5)
    assert host.carry_out() == [(task.id, NOW + HOUR)]


def test_without_tasks_nothing_is_looked_at(host: Host) -> None:
    host.scheduler.start()
    host.clock.run(24 * HOUR)
    assert host.clock.calls == 0
    assert not host.clock.waiting
    host.add(text="60")
    host.clock.run(60)
    assert len(host.due) == 1


def test_what_changes_many_times_at_once_is_looked_at_once(host: Host) -> None:
    host.scheduler.start()
    for _ in range(50):
        host.add()
    host.clock.run(0)
    assert host.clock.calls == 1


def test_it_looks_again_each_minute_so_that_a_clock_that_jumped_is_noticed(host: Host) -> None:
    host.add(text="86400")
    host.scheduler.start()
    host.clock.run(10)
    host.clock.wall += 24 * HOUR  # the machine slept, and the loop's own clock stood still
    host.clock.run(LOOK_SECONDS)
    assert len(host.due) == 1


def test_a_clock_that_was_years_ahead_stops_nothing(host: Host) -> None:
    task = host.add(text="3600")
    host.scheduler.start()
    host.clock.wall += 5 * 365 * 24 * HOUR
    host.clock.run(LOOK_SECONDS)
    host.carry_out()
    host.clock.run(1)
    host.clock.wall = NOW + 2 * HOUR + 600  # and set right
    host.clock.run(LOOK_SECONDS)
    assert host.get(task.id).next_run == NOW + 3 * HOUR


def test_a_clock_that_was_years_ahead_before_the_restart_stops_nothing(host: Host) -> None:
    task = host.add(text="3600", next_run=NOW + 5 * 365 * 24 * HOUR)
    host.scheduler.start()
    assert host.get(task.id).next_run == NOW + HOUR


def test_a_clock_that_is_set_back_a_little_does_nothing_twice(host: Host) -> None:
    task = host.add(text="3600")
    host.scheduler.start()
    host.clock.run(HOUR)
    assert host.carry_out() == [(task.id, NOW + HOUR)]
    host.clock.wall -= 600
    host.clock.run(1200)
    assert host.due == []


def test_a_full_disk_loses_no_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(text="3600")
    host.scheduler.start()
    claim = host.tasks.claim_due

    def full(now: float) -> list[TaskRun]:
        raise UserError("the disk is full")

    monkeypatch.setattr(host.tasks, "claim_due", full)
    host.clock.run(HOUR + 30)
    assert host.due == []
    monkeypatch.setattr(host.tasks, "claim_due", claim)
    host.clock.run(LOOK_SECONDS)
    assert len(host.due) == 1


def test_stopped_it_does_nothing_more(host: Host) -> None:
    host.add(text="60")
    host.scheduler.changed()
    host.scheduler.start()
    host.scheduler.changed()
    host.scheduler.stop()
    host.scheduler.changed()
    host.clock.run(HOUR)
    assert host.due == []


# --- time zones -----------------------------------------------------------------------------------------


def test_a_group_s_new_zone_moves_its_tasks_and_no_other_s(host: Host) -> None:
    daily = host.add("cron", "0 12 * * *", "family")
    other = host.add("cron", "0 12 * * *", "main")
    interval = host.add(text="3600", group="family")
    once = host.add("once", "2027-01-16T08:00", "family")
    host.scheduler.start()
    host.zones["family"] = "America/New_York"
    host.scheduler.changed()
    host.clock.run(1)
    assert schedule.local(host.get(daily.id).next_run or 0, "America/New_York") == "2027-01-15T12:00-05:00"
    assert schedule.local(host.get(once.id).next_run or 0, "America/New_York") == "2027-01-16T08:00-05:00"
    assert host.get(interval.id).next_run == NOW + HOUR
    assert host.get(other.id).next_run == NOW + 4 * HOUR
    assert {task.zone for task in host.tasks.all("family")} == {"America/New_York"}


def test_a_zone_in_which_the_time_has_passed_makes_it_due(host: Host) -> None:
    once = host.add("once", "2027-01-15T10:00", "family")  # in an hour
    host.scheduler.start()
    host.zones["family"] = "Asia/Tokyo"
    host.scheduler.changed()
    host.clock.run(1)
    assert [run.task.id for run in host.due] == [once.id]


def test_a_time_that_was_missed_stays_due_in_the_new_zone(host: Host) -> None:
    daily = host.add("cron", "30 9 * * *", "family")
    host.crash(HOUR)
    host.zones["family"] = "America/New_York"  # changed in config.toml meanwhile
    host.scheduler.start()
    host.clock.run(1)
    assert host.carry_out() == [(daily.id, NOW + HOUR / 2)]
    assert schedule.local(host.get(daily.id).next_run or 0, "America/New_York") == "2027-01-15T09:30-05:00"


def test_a_group_whose_settings_are_broken_keeps_its_zone(host: Host) -> None:
    daily = host.add("cron", "30 9 * * *", "family")
    host.zones["family"] = "broken"
    host.scheduler.start()
    host.clock.run(HOUR)
    assert host.carry_out() == [(daily.id, NOW + HOUR / 2)]


def test_a_zone_changed_while_paused_holds_from_the_next_run(host: Host) -> None:
    daily = host.add("cron", "0 12 * * *", "family")
    host.tasks.pause(daily.id)
    host.zones["family"] = "America/New_York"
    host.scheduler.start()
    task = host.get(daily.id)
    assert (task.zone, task.next_run) == ("America/New_York", None)
