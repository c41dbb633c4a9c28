"""Fair use: many groups at once on few sandboxes, and one that never ends, in a whole host with a fake runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.home import FakeHome

GROUPS = 200
EACH = 5
LIMIT = 4
SECONDS = 240
"""Some four hundred processes are started, four at a time, beside whatever else the machine does."""


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeHome]:
    """`request.param`: the group whose agent never comes to an end."""
    endless = getattr(request, "param", "")
    made = FakeHome(tmp_path, unlike={endless: "echo"}, max_sandboxes=LIMIT)
    for number in range(GROUPS):
        made.register(f"group{number:03}")
    yield made
    made.close()


def write(home: FakeHome, group: int, text: str) -> None:
    assert home.write(f"group{group:03}", f"[{group}:{text}]")


def wait(home: FakeHome, groups: list[int]) -> dict[str, list[str]]:
    last = {f"group{number:03}": f"{number}:m{EACH - 1}" for number in groups}
    looked = [0]

    def all_answered() -> bool:
        looked[0] += 1  # reading the outbox takes longer than a step of the loop
        return looked[0] % 50 == 0 and all(mark in home.numbered().get(group, []) for group, mark in last.items())

    home.until(all_answered, SECONDS)
    return home.numbered()


def test_all_are_answered_once_and_in_order(home: FakeHome) -> None:
    for number in range(EACH):
        for group in range(GROUPS):
            write(home, group, f"m{number}")
    assert wait(home, list(range(GROUPS))) == {
        f"group{n:03}": [f"{n}:m{k}" for k in range(EACH)] for n in range(GROUPS)
    }
    assert home.most == LIMIT
    # First come, first served: nobody has a second turn before everybody had a first.
    assert len({spec.group for spec in home.engine.launched[:GROUPS]}) == GROUPS


@pytest.mark.parametrize("home", ["group000"], indirect=True)
def test_an_endless_turn_delays_nobody_beyond_its_share(home: FakeHome) -> None:
    """It holds one of the four places, and its further messages take none."""
    others = list(range(1, 40))
    write(home, 0, "m0")
    for number in range(EACH):
        for group in others:
            write(home, group, f"m{number}")
        write(home, 0, f"more{number}")
    replies = wait(home, others)
    assert {group: marks for group, marks in replies.items() if group != "group000"} == {
        f"group{n:03}": [f"{n}:m{k}" for k in range(EACH)] for n in others
    }
    assert [spec.group for spec in home.engine.launched].count("group000") == 1
    assert "group000" in home.app._work.attempts
    assert home.most == LIMIT
