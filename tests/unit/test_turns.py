"""Who runs when: never over the limit, never two of one group, nobody starved, no call and no task lost."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host.turns import Command, Feed, Start, Turns

GROUPS = [f"g{n}" for n in range(6)]
TASKS = {f"{group}-t{n}": group for group in GROUPS[:3] for n in range(3)}


def test_one_turn_per_group_and_follow_ups_are_fed() -> None:
    turns = Turns(2)
    assert turns.message_arrived("a") == [Start("a")]
    assert turns.message_arrived("a") == [Feed("a")]
    assert turns.message_arrived("b") == [Start("b")]
    assert turns.message_arrived("c") == []
    assert turns.message_arrived("c") == []
    assert turns.turn_ended("b", False) == [Start("c")]
    assert turns.turn_ended("a", False) == []
    assert turns.turn_ended("c", False) == []


def test_a_busy_group_goes_behind_those_that_waited() -> None:
    turns = Turns(1)
    turns.message_arrived("busy")
    turns.message_arrived("b")
    turns.message_arrived("c")
    assert turns.turn_ended("busy", True) == [Start("b")]
    assert turns.turn_ended("b", False) == [Start("c")]
    assert turns.turn_ended("c", False) == [Start("busy")]


def test_alone_it_starts_again_at_once() -> None:
    turns = Turns(1)
    turns.message_arrived("a")
    assert turns.turn_ended("a", True) == [Start("a")]


def test_messages_and_tasks_of_a_group_take_turns_in_the_order_they_came() -> None:
    turns = Turns(3)
    assert turns.task_due("a", "t1") == [Start("a", "t1")]
    assert turns.task_due("a", "t2") == []
    assert turns.message_arrived("a") == []  # not fed to a task's turn
    assert turns.task_due("a", "t3") == []
    assert turns.turn_ended("a", True) == [Start("a", "t2")]
    assert turns.turn_ended("a", True) == [Start("a")]
    assert turns.message_arrived("a") == [Feed("a")]
    assert turns.turn_ended("a", False) == [Start("a", "t3")]
    assert turns.turn_ended("a", False) == []


def test_a_task_that_waits_or_works_is_not_queued_again() -> None:
    turns = Turns(1)
    assert turns.task_due("a", "t1") == [Start("a", "t1")]
    assert turns.task_due("a", "t1") == []
    assert turns.task_due("a", "t2") == []
    assert turns.task_due("a", "t2") == []
    assert turns.turn_ended("a", False) == [Start("a", "t2")]
    assert turns.turn_ended("a", False) == []
    assert turns.task_due("a", "t1") == [Start("a", "t1")]


def test_a_cancelled_task_leaves_the_queue_and_its_group_with_it() -> None:
    turns = Turns(1)
    turns.message_arrived("a")
    turns.task_due("b", "t1")
    turns.message_arrived("c")
    assert turns.cancel_task("t1")
    assert not turns.cancel_task("t1")
    assert turns.turn_ended("a", False) == [Start("c")]
    assert turns.turn_ended("c", False) == []


def test_a_run_that_works_is_not_taken_out_of_the_queue() -> None:
    turns = Turns(1)
    turns.task_due("a", "t1")
    assert not turns.cancel_task("t1")
    assert turns.turn_ended("a", False) == []


def test_a_group_that_is_forgotten_waits_for_nothing() -> None:
    turns = Turns(1)
    turns.message_arrived("a")
    for task in ("t1", "t2"):
        turns.task_due("b", task)
    turns.message_arrived("b")
    turns.message_arrived("c")
    turns.forget("b")
    turns.forget("nobody")
    assert not turns.cancel_task("t1")
    assert turns.turn_ended("a", False) == [Start("c")]
    assert turns.turn_ended("c", False) == []
    assert turns.task_due("b", "t1") == [Start("b", "t1")]  # registered again


def test_messages_that_call_nobody_any_more_are_not_waited_for() -> None:
    turns = Turns(1)
    turns.task_due("a", "t1")
    turns.message_arrived("a")
    assert turns.turn_ended("a", False) == []


def test_a_group_with_a_hundred_tasks_delays_another_by_one_turn() -> None:
    turns = Turns(1)
    for number in range(100):
        turns.task_due("busy", f"t{number}")
    turns.message_arrived("b")
    assert turns.turn_ended("busy", False) == [Start("b")]
    assert turns.turn_ended("b", False) == [Start("busy", "t1")]


def test_two_thousand_things_in_five_hundred_groups_are_each_done_once() -> None:
    turns, rng = Turns(4), random.Random(1)
    groups = [f"g{n}" for n in range(500)]
    running: list[str] = []
    started: list[str] = []

    def carry_out(commands: list[Command]) -> None:
        assert len(commands) <= 4
        for command in commands:
            assert isinstance(command, Start)
            running.append(command.folder)
            started.append(command.task or command.folder)

    for group in groups:
        carry_out(turns.message_arrived(group))
        for number in range(3):
            carry_out(turns.task_due(group, f"{group}-{number}"))
    while running:
        carry_out(turns.turn_ended(running.pop(rng.randrange(len(running))), False))
    assert len(started) == len(set(started)) == 2000


class Machine(RuleBasedStateMachine):
    """A model beside it: who runs, what waits in each group, and since when."""

    @initialize(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.turns = Turns(limit)
        self.running: dict[str, str | None] = {}
        self.lines: dict[str, list[str | None]] = {}
        """What waits, in each group's order; None: its messages."""
        self.unmet: dict[str, int] = {}
        """Groups that wait and do not run → how many turns of others began since."""

    def wait(self, group: str, item: str | None) -> None:
        line = self.lines.setdefault(group, [])
        if item not in line:
            line.append(item)
        if group not in self.running:
            self.unmet.setdefault(group, 0)

    def leave(self, group: str, item: str | None) -> None:
        line = self.lines.get(group, [])
        if item in line:
            line.remove(item)
        if not line:
            self.lines.pop(group, None)
            self.unmet.pop(group, None)

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(folder, task):
                    assert folder not in self.running, "two turns of one group"
                    assert folder in self.unmet, "a turn for nothing"
                    assert self.lines[folder][0] == task, "not in the order they came"
                    assert self.unmet[folder] == max(self.unmet.values()), "someone has waited longer"
                    self.running[folder] = task
                    self.leave(folder, task)
                    self.unmet.pop(folder, None)
                    self.unmet = {group: passed + 1 for group, passed in self.unmet.items()}
                case Feed(folder):
                    assert self.running.get(folder, "nothing") is None, "fed what is no turn for messages"

    @rule(group=st.sampled_from(GROUPS))
    def message(self, group: str) -> None:
        if self.running.get(group, "nothing") is None:
            assert self.turns.message_arrived(group) == [Feed(group)]
        else:
            self.wait(group, None)
            self.carry_out(self.turns.message_arrived(group))

    @rule(task=st.sampled_from(sorted(TASKS)))
    def due(self, task: str) -> None:
        group = TASKS[task]
        if self.running.get(group) != task:
            self.wait(group, task)
        self.carry_out(self.turns.task_due(group, task))

    @rule(task=st.sampled_from(sorted(TASKS)))
    def cancel(self, task: str) -> None:
        assert self.turns.cancel_task(task) == (task in self.lines.get(TASKS[task], []))
        self.leave(TASKS[task], task)

    @rule(group=st.sampled_from(GROUPS))
    def forget(self, group: str) -> None:
        self.turns.forget(group)
        self.lines.pop(group, None)
        self.unmet.pop(group, None)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.booleans())
    def end(self, data: st.DataObject, more: bool) -> None:
        group = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[group]
        if more:
            self.wait(group, None)
        else:
            self.leave(group, None)
        if group in self.lines:
            self.unmet.setdefault(group, 0)
        self.carry_out(self.turns.turn_ended(group, more))

    @invariant()
    def within_the_limit_and_nobody_waits_beside_a_free_place(self) -> None:
        assert len(self.running) <= self.limit
        assert not self.unmet or len(self.running) == self.limit, "a lost wake-up"
        assert self.lines.keys() <= self.unmet.keys() | self.running.keys(), "a lost task"

    @invariant()
    def nobody_is_starved(self) -> None:
        # Whoever waits is overtaken by each other group at most once.
        assert all(passed <= len(GROUPS) for passed in self.unmet.values())

    def teardown(self) -> None:
        """Whatever waits is started in the end."""
        for _ in range(200):
            if not self.running:
                break
            group = min(self.running)
            del self.running[group]
            self.leave(group, None)
            if group in self.lines:
                self.unmet.setdefault(group, 0)
            self.carry_out(self.turns.turn_ended(group, False))
        assert not getattr(self, "lines", None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
