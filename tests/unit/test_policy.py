"""The permission table: allowed if and only if it says so, whatever is asked, by whom and about whom."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model import Group
from host.policy import ANY, MAY, NONE, OWN, authorize

MAIN = Group("main", "console", "main", "main", is_main=True)
FAMILY = Group("Family", "console", "fam", "Family")
# Not even a group that is called main is main.
IMPOSTOR = Group("main2", "console", "m", "main")

# Written out again, and not taken from the code: main, other groups.
TASKS = (
    "schedule_task",
    "list_tasks",
    "get_task",
    "update_task",
    "pause_task",
    "resume_task",
    "cancel_task",
    "run_task_now",
)
ADMINISTRATION = (
    "list_groups", "register_group", "update_group", "remove_group", "refresh_chats", "write_global_memory",
    "grant_mount", "grant_host", "show_group", "revoke_mount", "revoke_host",
)  # fmt: skip
PERSONS = ("channel_status", "link_channel", "unlink_channel", "forget_channel", "list_chats", "move_group")
EXPECTED = {
    "send": (ANY, OWN),
    "react": (OWN, OWN),
    **dict.fromkeys(TASKS, (ANY, OWN)),
    **dict.fromkeys(ADMINISTRATION, (ANY, NONE)),
    **dict.fromkeys(PERSONS, (NONE, NONE)),
}

ACTIONS = [*EXPECTED, "SEND", "send ", "", "__class__", "is_main"]
CALLERS = [MAIN, FAMILY, IMPOSTOR]
TARGETS = [None, "main", "MAIN", "family", "Family", "main2", "nobody", ""]
actions = st.sampled_from(ACTIONS) | st.text(max_size=20)
callers = st.sampled_from(CALLERS)
targets = st.sampled_from(TARGETS) | st.text(max_size=5)


def test_the_table_is_the_one_that_was_decided() -> None:
    assert MAY == EXPECTED


def test_allowed_if_and_only_if_the_table_says_so_for_every_one_of_them() -> None:
    for action, caller, target in itertools.product(ACTIONS, CALLERS, TARGETS):
        check(action, caller, target)


@given(actions, callers, targets)
def test_allowed_if_and_only_if_the_table_says_so_for_anything(action: str, caller: Group, target: str | None) -> None:
    check(action, caller, target)


def check(action: str, caller: Group, target: str | None) -> None:
    own = target is None or target.lower() == caller.folder.lower()
    scope = EXPECTED.get(action, (NONE, NONE))[0 if caller.is_main else 1]
    allowed = scope is ANY or (scope is OWN and own)
    refusal = authorize(action, caller, target)
    assert (refusal is None) == allowed
    if refusal is not None:
        assert refusal.isprintable()
        assert len(refusal) < 400


@given(actions, callers, st.text(max_size=5), st.text(max_size=5))
def test_a_refusal_does_not_tell_which_groups_there_are(action: str, caller: Group, one: str, other: str) -> None:
    folder = caller.folder.lower()
    if folder not in (one.lower(), other.lower()):
        assert authorize(action, caller, one) == authorize(action, caller, other)


@pytest.mark.parametrize("field", ["name", "chat", "channel"])
def test_nothing_but_the_flag_makes_main(field: str) -> None:
    assert authorize("register_group", Group(**{**vars(FAMILY), field: "main"})) is not None
