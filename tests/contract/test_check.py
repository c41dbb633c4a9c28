"""A task's check by the real runner: its command's status comes back, and there is no key anywhere to be found."""

from __future__ import annotations

import pytest

from runner.protocol import Check, Checked
from tests.contract.house import REAL, House, Watched

pytestmark = pytest.mark.parametrize("house", REAL, indirect=True)


def check(house: House, command: str, seconds: int = 20) -> Watched:
    watched = house.start_with(house.spec(), house.engine, build=house.image.build)
    watched.wait_ready()
    watched.sandbox.hand_over(Check(command, seconds, "Asia/Tokyo"))
    watched.until(lambda: watched.frames or watched.gone)
    return watched


def test_it_ends_as_its_command_does_and_leaves(house: House) -> None:
    watched = check(house, "pwd; echo kept > note; date +%Z; echo to stderr >&2; exit 3")
    assert watched.frames == [Checked(3, "/workspace/group\nJST\nto stderr\n")]
    assert watched.wait_gone().status == 0
    assert (house.folder / "group" / "note").read_text() == "kept\n"


def test_it_is_ended_at_its_time(house: House) -> None:
    watched = check(house, "echo begun; sleep 60", seconds=1)
    assert watched.frames == [Checked(124, "begun\n")]
    assert watched.wait_gone().status == 0


def test_its_environment_is_the_agent_s_and_holds_no_key(house: House) -> None:
    (frame,) = check(house, "env | cut -d= -f1 | sort | tr '\\n' ' '; ls /sys/class/net 2>/dev/null").frames
    assert isinstance(frame, Checked)
    names = frame.output.splitlines()[0].split()
    assert {"HOME", "PATH", "TZ"} <= set(names)
    assert [name for name in names if "KEY" in name or "TOKEN" in name or "ANTHROPIC" in name] == []
    assert set(frame.output.splitlines()[1:]) <= {"lo"}
