"""Who runs when: never over the limit, never two of one group, nobody starved, no call lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host.turns import Command, Feed, Start, Turns

GROUPS = [f"g{n}" for n in range(6)]


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


class Machine(RuleBasedStateMachine):
    """A model beside it: who runs, and who has waited since when."""

    @initialize(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.turns = Turns(limit)
        self.running: set[str] = set()
        self.unmet: dict[str, int] = {}
        """Groups with a message that no turn has taken up → how many turns of others began since."""

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(folder):
                    assert folder not in self.running, "two turns of one group"
                    assert folder in self.unmet, "a turn for nothing"
                    longest = max(self.unmet, key=lambda g: self.unmet[g])
                    assert self.unmet[folder] == self.unmet[longest], "someone has waited longer"
                    self.running.add(folder)
                    del self.unmet[folder]
                    self.unmet = {group: passed + 1 for group, passed in self.unmet.items()}
                case Feed(folder):
                    assert folder in self.running, "fed what does not run"

    @rule(group=st.sampled_from(GROUPS))
    def message(self, group: str) -> None:
        if group not in self.running:
            self.unmet.setdefault(group, 0)
            self.carry_out(self.turns.message_arrived(group))
        else:
            assert self.turns.message_arrived(group) == [Feed(group)]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.booleans())
    def end(self, data: st.DataObject, more: bool) -> None:
        group = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(group)
        if more:
            self.unmet.setdefault(group, 0)
        self.carry_out(self.turns.turn_ended(group, more))

    @invariant()
    def within_the_limit_and_nobody_waits_beside_a_free_place(self) -> None:
        assert len(self.running) <= self.limit
        assert not self.unmet or len(self.running) == self.limit, "a lost wake-up"

    @invariant()
    def nobody_is_starved(self) -> None:
        # Whoever waits is overtaken by each other group at most once.
        assert all(passed <= len(GROUPS) for passed in self.unmet.values())


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
