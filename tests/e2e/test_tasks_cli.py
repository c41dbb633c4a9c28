"""Tasks as the person makes and manages them: with a host that runs and with none, and what cannot be had."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from host.model import Image
from tests.conftest import require_engine
from tests.e2e.cli import BARE, Record, answer, nanoclaw, rows, running, told, wait_for

CHRISTMAS = f"{datetime.now(UTC).year + 1}-12-24T18:00"
"""Within what may be planned, whenever this is run."""


def tasks(home: Path, *args: str) -> list[Record]:
    found: list[Record] = answer(home, "tasks", *args)["tasks"]
    return found


def make(home: Path, *args: str, group: str = "main") -> str:
    made: str = answer(home, "tasks", "add", "--group", group, *args)["task"]["id"]
    return made


def test_a_task_is_made_shown_changed_and_cancelled(place: Path) -> None:
    assert tasks(place) == []
    task = make(place, "--cron", "0 8 * * 1-5", "Say good morning.")
    told(place, "groups", "add", "family")
    other = make(place, "--at", CHRISTMAS, "--isolated", "--check", "test -s x", "A poem.", group="family")
    assert [each["id"] for each in tasks(place)] == [task, other]
    assert [each["id"] for each in tasks(place, "--group", "family")] == [other]
    assert f"{task}\tmain\tactive\t" in told(place, "tasks")
    assert "\t0 8 * * 1-5\tSay good morning.\n" in told(place, "tasks", "list")

    shown = answer(place, "tasks", "show", other)["task"]
    kept = {key: shown[key] for key in ("group", "kind", "schedule", "context", "check", "prompt", "state")}
    assert kept == {
        "group": "family", "kind": "once", "schedule": CHRISTMAS, "context": "isolated",
        "check": "test -s x", "prompt": "A poem.", "state": "active",
    }  # fmt: skip

    told(place, "tasks", "set", other, "every=90m", "context=", "check=", "prompt=7")
    changed = answer(place, "tasks", "show", other)["task"]
    assert (changed["kind"], changed["schedule"], changed["context"], changed["check"], changed["prompt"]) == (
        "interval", "5400", "group", "", "7",
    )  # fmt: skip
    assert "every 1h30m" in told(place, "tasks", "show", other)

    told(place, "tasks", "pause", task)
    assert (answer(place, "tasks", "show", task)["task"]["state"]) == "paused"
    assert "\tpaused\t-\t" in told(place, "tasks")
    assert "next: " in told(place, "tasks", "resume", task)
    told(place, "tasks", "cancel", task)
    assert [each["id"] for each in tasks(place)] == [other]
    told(place, "groups", "remove", "family")
    assert tasks(place) == []


ADD = ("add", "--group", "main")
# Arguments that cannot be had, and a word that says why. ID is that of a task that is there.
BAD = [
    ((*ADD, "--cron", "61 * * * *", "x"), "61"),
    ((*ADD, "--cron", "* * * *", "x"), "five"),
    ((*ADD, "--cron", "0 0 30 2 *", "x"), "30"),
    ((*ADD, "--cron", "", "x"), "five"),
    ((*ADD, "--every", "0s", "x"), "short"),
    ((*ADD, "--every", "sometimes", "x"), "length of time"),
    ((*ADD, "--at", "2001-01-01T00:00", "x"), "passed"),
    ((*ADD, "--at", "tomorrow", "x"), "date"),
    ((*ADD, "--at", "2999-12-24T18:00", "x"), "years"),
    ((*ADD, "--every", "1h", " "), "empty"),
    ((*ADD, "--every", "1h", "x" * 130_000), "16384"),
    ((*ADD, "--every", "1h", "--check", "x" * 130_000, "x"), "4096"),
    (("add", "--group", "nobody", "--every", "1h", "x"), "nobody"),
    (("list", "--group", "nobody"), "nobody"),
    (("show", "nothing"), "nothing"),
    (("set", "nothing", "prompt=x"), "nothing"),
    (("set", "ID", "colour=red"), "colour"),
    (("set", "ID", "cron=61 * * * *"), "61"),
    (("set", "ID", "context=other"), "context"),
    (("set", "ID", "prompt="), "prompt"),
    (("pause", "nothing"), "nothing"),
    (("resume", "nothing"), "nothing"),
    (("cancel", "nothing"), "nothing"),
    (("run", "nothing"), "nothing"),
]


def test_what_cannot_be_had_is_one_clear_error_and_changes_nothing(place: Path) -> None:
    task = make(place, "--every", "1h", "Look.")
    before = answer(place, "tasks", "show", task), tasks(place)
    for args, word in BAD:
        done = nanoclaw(place, "bubblewrap", "tasks", *(task if arg == "ID" else arg for arg in args), env=BARE)
        shown = [arg[:40] for arg in args]
        assert done.returncode in (1, 2), (shown, done.stdout)
        assert done.stdout == "", shown
        assert done.stderr.count("nanoclaw: error: ") == 1, (shown, done.stderr)
        assert "Traceback" not in done.stderr, (shown, done.stderr)
        assert word in done.stderr, (shown, done.stderr)
    assert (answer(place, "tasks", "show", task), tasks(place)) == before


def test_a_prompt_may_come_from_standard_input(home: Path) -> None:
    args = ("tasks", "add", "--json", "--group", "main", "--every", "1h", "-")
    done = nanoclaw(home, "bubblewrap", *args, stdin="grüße\n- \n".encode(), env=BARE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"]["prompt"] == "grüße\n-"


def test_a_task_that_is_run_says_what_it_has_to_say_in_its_groups_chat(hosted: Path) -> None:
    told(hosted, "groups", "add", "family")
    task = make(hosted, "--cron", "0 0 1 1 *", "repeat good morning", group="family")
    told(hosted, "tasks", "run", task)
    wait_for(lambda: answer(hosted, "tasks", "show", task)["task"]["runs"])
    (run,) = answer(hosted, "tasks", "show", task)["task"]["runs"]
    assert run["outcome"] == "done"
    assert [grp for grp, text in rows(hosted, "SELECT grp, text FROM outbox") if "good morning" in text] == ["family"]
    assert "done" in told(hosted, "tasks", "show", task)


def test_a_check_that_says_no_costs_nothing(hosted: Path) -> None:
    task = make(hosted, "--every", "1d", "--check", "test -s inbox.txt", "repeat good morning")
    told(hosted, "tasks", "run", task)
    wait_for(lambda: answer(hosted, "tasks", "show", task)["task"]["runs"])
    (run,) = answer(hosted, "tasks", "show", task)["task"]["runs"]
    assert (run["outcome"], run["tokens"]) == ("nothing to do", 0)
    assert rows(hosted, "SELECT count(*) FROM outbox") == [(0,)]


def test_a_task_that_was_asked_to_run_without_a_host_runs_when_one_does(home: Path, image: Image) -> None:
    require_engine("bubblewrap")
    task = make(home, "--cron", "0 0 1 1 *", "repeat better late")
    told(home, "tasks", "run", task)
    with running(home, "bubblewrap"):
        wait_for(lambda: rows(home, "SELECT 1 FROM outbox WHERE text LIKE '%better late%'"))
