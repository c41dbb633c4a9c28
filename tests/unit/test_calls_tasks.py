"""What agents and the person may do with tasks: through the door that every request comes in by."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host import schedule
from host.calls import Caller, Denied, Desk, carry_out, offered
from host.config import Config, Home
from host.errors import UserError
from host.model import Group, Task, TaskRun
from host.store import Store
from host.store import tasks as of_tasks
from host.turns import Start, Turns

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z"""
HOUR = 3600
MAIN = Group("main", "console", "main", "main", is_main=True)
FAMILY = Group("family", "console", "family", "The family", settings={"timezone": "Europe/Berlin"})
WORK = Group("work", "console", "work", "Work", settings={"timezone": "America/New_York"})
GROUPS = (MAIN, FAMILY, WORK)
WISH = {"prompt": "Say good morning.", "kind": "cron", "schedule": "0 8 * * *"}


class Scene:
    """A desk and the turns behind it, as the host has them; no turn takes any time."""

    def __init__(self, folder: Path) -> None:
        home = Home(folder / "config", folder / "data", folder / "cache")
        for each in (home.config, home.data, home.cache):
            each.mkdir()
        self.now = NOW
        self.store = Store(home.data / "nanoclaw.db", clock=lambda: self.now)
        for group in GROUPS:
            self.store.add_group(group)
        self.turns = Turns(1)
        self.waiting: dict[str, TaskRun] = {}
        self.at_work: dict[str, TaskRun] = {}
        self.looks = 0
        self.desk = Desk(
            store=self.store, config=Config(timezone="UTC"), home=home, now=lambda: self.now,
            tasks_changed=self.changed, run_task=self.run, task_updated=self.updated, task_cancelled=self.cancelled,
            running=self.at_work.get,
        )  # fmt: skip

    def ask(self, untrusted_caller: Group | None, method: str, **params: Any) -> dict[str, Any]:
        return carry_out(self.desk, Caller(untrusted_caller), method, params)

    def make(self, caller: Group | None = FAMILY, **more: Any) -> str:
        if caller is None:
            more = {"group": "family"} | more
        made: str = self.ask(caller, "schedule_task", **(WISH | more))["task"]["id"]
        return made

    def show(self, task_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.ask(None, "get_task", id=task_id)["task"]
        return shown

    def changed(self) -> None:
        self.looks += 1

    def run(self, run: TaskRun) -> None:
        self.waiting[run.task.id] = run
        for command in self.turns.task_due(run.task.group, run.task.id):
            assert isinstance(command, Start)
            assert command.task is not None
            self.begin(self.waiting.pop(command.task))

    def begin(self, run: TaskRun) -> None:
        self.at_work[run.task.group] = run
        self.store.begin_turn(run.task.group, f"turn-{run.task.id}-{self.now}", run)

    def end(self, folder: str) -> None:
        run = self.at_work.pop(folder)
        turn = f"turn-{run.task.id}-{self.now}"
        self.store.finish_turn(folder, turn, 0, "done", [], (10, 20), run)
        for command in self.turns.turn_ended(folder, False):
            assert isinstance(command, Start)
            self.begin(self.waiting.pop(command.task or ""))

    def updated(self, task: Task) -> None:
        if task.id in self.waiting:
            self.waiting[task.id] = TaskRun(task, self.waiting[task.id].due)

    def cancelled(self, task_id: str) -> None:
        self.turns.cancel_task(task_id)
        self.waiting.pop(task_id, None)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.store.close()


# --- scheduling -----------------------------------------------------------------------------------------


def test_a_task_is_scheduled_in_its_group_s_own_time(scene: Scene) -> None:
    task = scene.ask(FAMILY, "schedule_task", **WISH)["task"]
    assert task == {
        "id": task["id"], "group": "family", "state": "active", "kind": "cron", "schedule": "0 8 * * *",
        "timezone": "Europe/Berlin", "next_run": NOW + 23 * HOUR, "next": "2027-01-16T08:00+01:00", "queued": False,
        "context": "group", "check": "", "created_by": "family", "prompt": "Say good morning.", "runs": [],
    }  # fmt: skip
    assert scene.looks == 1
    other = scene.ask(MAIN, "schedule_task", group="work", **WISH)["task"]
    assert (other["group"], other["next"], other["created_by"]) == ("work", "2027-01-15T08:00-05:00", "main")
    assert scene.show(scene.make(None))["created_by"] == ""


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"kind": "weekly"}, "kind must be one of: cron, interval, once"),
        ({"schedule": "0 8 * *"}, "has 4 fields"),
        ({"kind": "interval", "schedule": "5"}, "too short"),
        ({"kind": "once", "schedule": "2027-01-15T08:59"}, "has passed: it is 2027-01-15T09:00+01:00 in Europe/Berlin"),
        ({"prompt": " \n "}, "the prompt is empty"),
        ({"prompt": "x" * 20_000}, "over 16384 bytes"),
        ({"context": "global"}, "context must be one of: group, isolated"),
        ({"check": "x" * 5000}, "over 4096 bytes"),
        ({"prompt": 7}, "prompt is not a text"),
        ({"every": "1h"}, "no parameter every"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(scene: Scene, wish: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        scene.ask(FAMILY, "schedule_task", **(WISH | wish))
    assert scene.store.tasks.all() == []
    assert scene.looks == 0


def test_the_prompt_holds_nothing_that_acts_on_a_terminal(scene: Scene) -> None:
    task = scene.show(scene.make(prompt="a\x1b[2Jb\x9b1mc"))
    assert not {"\x1b", "\x9b"} & set(task["prompt"])


def test_ten_thousand_wishes_end_in_a_clear_refusal_and_take_no_memory(scene: Scene) -> None:
    refusals: set[str] = set()

    def wish(count: int) -> int:
        made = 0
        for _ in range(count):
            try:
                scene.make(kind="interval", schedule="60")
                made += 1
            except UserError as e:
                refusals.add(" ".join([str(e), *e.hints]))
        return made

    assert wish(9_000) == of_tasks.MAX_PER_GROUP
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert wish(1_000) == 0
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert refusals == {
        "the group family has 100 tasks already, which is the most "
        "cancel one that is no longer needed (list_tasks shows them)"
    }
    assert grown < 50_000
    assert len(scene.store.tasks.all()) == of_tasks.MAX_PER_GROUP
    scene.make(WORK)  # others are not in its way


# --- looking --------------------------------------------------------------------------------------------


def test_main_and_the_person_see_all_tasks_and_others_their_own(scene: Scene) -> None:
    ids = {group.folder: scene.make(group) for group in GROUPS}

    def listed(caller: Group | None, **params: str) -> set[str]:
        return {task["id"] for task in scene.ask(caller, "list_tasks", **params)["tasks"]}

    assert listed(MAIN) == listed(None) == set(ids.values())
    assert listed(FAMILY) == {ids["family"]}
    assert listed(MAIN, group="WORK") == {ids["work"]}
    assert listed(FAMILY, group="family") == {ids["family"]}
    with pytest.raises(Denied):
        listed(FAMILY, group="work")


def test_a_list_of_the_longest_tasks_is_not_too_long(scene: Scene) -> None:
    task_id = scene.make(prompt="ä" * 8000)
    (listed,) = scene.ask(FAMILY, "list_tasks")["tasks"]
    assert listed["prompt"] == "ä" * 199 + "…"
    assert scene.show(task_id)["prompt"] == "ä" * 8000


def test_the_last_runs_are_shown(scene: Scene) -> None:
    task_id = scene.make()
    for _ in range(12):
        scene.now += HOUR
        scene.ask(FAMILY, "run_task_now", id=task_id)
        scene.end("family")
    runs = scene.show(task_id)["runs"]
    assert len(runs) == 10
    assert (runs[0]["started_at"], runs[0]["outcome"], runs[0]["tokens"]) == (scene.now, "done", 30)


def test_each_agent_is_offered_these_tools_and_main_may_name_a_group() -> None:
    for group in GROUPS:
        tools = {tool["name"]: tool["input_schema"]["properties"] for tool in offered(group)}
        assert {"schedule_task", "list_tasks", "get_task", "update_task", "pause_task", "resume_task", "cancel_task",
                "run_task_now"} <= tools.keys()  # fmt: skip
        assert ("group" in tools["schedule_task"]) == group.is_main
        assert set(tools["update_task"]) == {"id", "prompt", "kind", "schedule", "context", "check"}


# --- changing -------------------------------------------------------------------------------------------


def test_what_is_left_out_of_an_update_stays(scene: Scene) -> None:
    task_id = scene.make(check="true", context="isolated")
    before = scene.show(task_id)
    scene.now += HOUR
    assert scene.ask(FAMILY, "update_task", id=task_id, prompt="Say good night.")["task"] == before | {
        "prompt": "Say good night."
    }
    after = scene.ask(FAMILY, "update_task", id=task_id, kind="interval", schedule="7200", check="")["task"]
    assert (after["next_run"], after["check"], after["context"]) == (scene.now + 7200, "", "isolated")
    assert scene.ask(FAMILY, "update_task", id=task_id, schedule="3600")["task"]["next_run"] == scene.now + 3600


def test_a_bad_update_changes_nothing(scene: Scene) -> None:
    task_id = scene.make()
    before = scene.show(task_id)
    for wish in ({"kind": "interval"}, {"schedule": "x", "prompt": "new"}, {"prompt": ""}, {"context": "x"}):
        with pytest.raises(UserError):
            scene.ask(FAMILY, "update_task", id=task_id, **wish)
    assert scene.show(task_id) == before


def test_a_run_that_waits_is_of_the_task_as_it_is_now(scene: Scene) -> None:
    scene.ask(WORK, "run_task_now", id=scene.make(WORK))
    task_id = scene.make()
    scene.ask(FAMILY, "run_task_now", id=task_id)
    scene.ask(FAMILY, "update_task", id=task_id, prompt="Say good night.")
    scene.end("work")
    assert scene.at_work["family"].task.prompt == "Say good night."


def test_a_paused_task_waits_for_its_next_time_when_it_is_resumed(scene: Scene) -> None:
    task_id = scene.make()
    assert scene.ask(FAMILY, "pause_task", id=task_id)["task"]["state"] == "paused"
    with pytest.raises(UserError, match="is not paused"):
        scene.ask(WORK, "resume_task", id=scene.make(WORK, kind="once", schedule="2027-12-01T08:00"))
    scene.now += 49 * HOUR
    assert scene.store.tasks.claim_due(scene.now) == []
    task = scene.ask(FAMILY, "resume_task", id=task_id)["task"]
    assert (task["state"], task["next"]) == ("active", "2027-01-18T08:00+01:00")
    assert scene.store.tasks.claim_due(scene.now) == []


def test_a_new_schedule_does_not_wake_a_task_that_rests(scene: Scene) -> None:
    task_id = scene.make()
    scene.ask(FAMILY, "pause_task", id=task_id)
    task = scene.ask(FAMILY, "update_task", id=task_id, schedule="0 9 * * *")["task"]
    assert (task["state"], task["next_run"]) == ("paused", None)
    assert scene.ask(FAMILY, "resume_task", id=task_id)["task"]["next"] == "2027-01-16T09:00+01:00"


def test_a_time_that_passed_while_it_rested_does_not_come_back(scene: Scene) -> None:
    task_id = scene.make(kind="once", schedule="2027-01-15T10:00")
    scene.ask(FAMILY, "pause_task", id=task_id)
    scene.now += 2 * HOUR
    with pytest.raises(UserError, match="has passed"):
        scene.ask(FAMILY, "resume_task", id=task_id)


def test_one_that_is_done_may_be_given_a_new_time(scene: Scene) -> None:
    task_id = scene.make(kind="once", schedule="2027-01-15T10:00")
    scene.now += 2 * HOUR
    for run in scene.store.tasks.claim_due(scene.now):
        scene.run(run)
    scene.end("family")
    assert scene.show(task_id)["state"] == "done"
    for method in ("pause_task", "resume_task"):
        with pytest.raises(UserError):
            scene.ask(FAMILY, method, id=task_id)
    task = scene.ask(FAMILY, "update_task", id=task_id, schedule="2027-01-16T10:00")["task"]
    assert (task["state"], task["next"]) == ("active", "2027-01-16T10:00+01:00")


@pytest.mark.parametrize("method", ["cancel_task", "pause_task"])
def test_a_run_that_waits_does_not_come(scene: Scene, method: str) -> None:
    scene.ask(WORK, "run_task_now", id=scene.make(WORK))
    task_id = scene.make()
    scene.ask(FAMILY, "run_task_now", id=task_id)
    assert scene.show(task_id)["queued"]
    scene.ask(FAMILY, method, id=task_id)
    scene.end("work")
    assert scene.at_work == {}
    assert [run.task.id for run in scene.store.tasks.unfinished()[0]] == []
    assert scene.store.tasks.runs(task_id, 10) == []


def test_a_run_that_works_goes_on_when_its_task_is_cancelled(scene: Scene) -> None:
    task_id = scene.make()
    scene.ask(FAMILY, "run_task_now", id=task_id)
    assert scene.ask(FAMILY, "cancel_task", id=task_id) == {"cancelled": task_id}
    scene.end("family")
    assert len(scene.store.tasks.runs(task_id, 10)) == 1
    with pytest.raises(UserError, match="there is no task"):
        scene.ask(FAMILY, "get_task", id=task_id)


def test_a_task_is_not_run_beside_itself(scene: Scene) -> None:
    task_id = scene.make()
    scene.ask(FAMILY, "run_task_now", id=task_id)
    with pytest.raises(UserError, match="waits or works already"):
        scene.ask(FAMILY, "run_task_now", id=task_id)
    scene.end("family")
    scene.ask(FAMILY, "run_task_now", id=task_id)


# --- a task that makes tasks ----------------------------------------------------------------------------


def test_a_task_that_schedules_two_copies_of_itself_is_refused(scene: Scene) -> None:
    task_id = scene.make()
    scene.ask(FAMILY, "run_task_now", id=task_id)
    scene.make(kind="once", schedule="2027-01-17T08:00")  # itself again, once
    with pytest.raises(UserError, match="scheduled itself again already"):
        scene.make(kind="once", schedule="2027-01-18T08:00")
    with pytest.raises(UserError, match="scheduled itself again already"):
        scene.make(prompt=f"  {WISH['prompt']}\n")
    scene.end("family")
    scene.make()  # a person's message asked: the positive control


def test_what_tasks_make_stays_few_however_it_is_worded(scene: Scene) -> None:
    """A chain letter: each run of each task asks for two more, with words of their own."""
    scene.make()
    generation = 0
    while generation < 20:
        generation += 1
        for task in scene.store.tasks.all("family"):
            scene.ask(FAMILY, "run_task_now", id=task.id)
            for copy in range(2):
                try:
                    scene.make(prompt=f"copy {copy} of {task.id} in {generation}")
                except UserError as e:
                    assert "tasks that tasks made are there already" in str(e)
            scene.end("family")
            scene.now += 1
    assert len(scene.store.tasks.all("family")) == 1 + of_tasks.MAX_MADE_BY_RUNS


def test_main_s_runs_make_tasks_for_others_within_the_same_bound(scene: Scene) -> None:
    scene.ask(MAIN, "run_task_now", id=scene.make(MAIN))
    for number in range(of_tasks.MAX_MADE_BY_RUNS):
        scene.make(MAIN, group="work", prompt=f"no {number}")
    with pytest.raises(UserError, match="tasks that tasks made"):
        scene.make(MAIN, group="work", prompt="one more")
    # The person is not their run, whatever is at work.
    assert scene.store.tasks.get(scene.make(None, group="main")).made_in == ""  # type: ignore[union-attr]


def test_a_changed_zone_shows_in_the_next_time(scene: Scene) -> None:
    task_id = scene.make()
    scene.store.tasks.rezone("family", "Asia/Tokyo", scene.now)
    assert scene.show(task_id)["next"] == schedule.local(NOW + 15 * HOUR, "Asia/Tokyo") == "2027-01-16T08:00+09:00"
