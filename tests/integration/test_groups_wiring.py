"""Groups in a whole host, with a fake runner: who is answered, who may ask what, and what ends when a group goes."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host import control
from host.errors import UserError
from tests.fakes.home import FakeHome

Open = Callable[..., FakeHome]


@pytest.fixture
def open_home(tmp_path: Path) -> Iterator[Open]:
    made: list[FakeHome] = []

    def open_one(**options: Any) -> FakeHome:
        made.append(FakeHome(tmp_path / str(len(made)), **options))
        return made[-1]

    yield open_one
    for home in made:
        home.close()


def prompts(home: FakeHome, group: str) -> list[str]:
    """What the agent was shown, as the polite fake says it back."""
    return [html.unescape(text.removeprefix("you said ")) for text in home.said(group, "reply")]


# --- who is answered ----------------------------------------------------------------------------------------


def test_a_message_without_the_trigger_word_is_context_for_the_next_that_has_it(open_home: Open) -> None:
    home = open_home()
    home.register("family", needs_trigger=True, trigger="Amy")
    assert not home.write("family", "soup tonight?")
    assert not home.write("family", "@Amyx no")
    home.quiet()
    assert home.engine.launched == []
    assert home.store.groups_with_pending() == []  # it is not looked at again
    assert home.write("family", "@amy what do you think?")
    home.quiet()
    (prompt,) = prompts(home, "family")
    assert prompt.index("soup tonight?") < prompt.index("@Amyx no") < prompt.index("@amy what")


def test_who_is_not_among_the_senders_does_not_call(open_home: Open) -> None:
    home = open_home()
    home.register("family")
    home.app.call("update_group", {"group": "family", "settings": {"senders": ["ann"]}})
    assert not home.write("family", "hello", sender="eve")
    assert home.write("family", "hi", sender="ann")
    home.quiet()
    (prompt,) = prompts(home, "family")
    assert 'from="eve"' in prompt


def test_a_terminal_is_told_whether_its_message_calls(open_home: Open) -> None:
    home = open_home()
    home.register("family", needs_trigger=True)
    home.send("family", "watch me", sender="mia")
    assert home.send("family", "hello", sender="mia")["wanted"] is False
    assert home.send("family", "@Andy hello", sender="mia")["wanted"] is True
    assert home.send("family", "x", sender="two words")["event"] == "refused"
    home.quiet()
    (prompt,) = prompts(home, "family")
    assert 'from="mia"' in prompt


def test_one_that_is_removed_is_heard_no_more_and_its_turn_ends(open_home: Open) -> None:
    home = open_home(behaviour="echo")
    home.register("family")
    assert home.write("family", "hello")
    home.until(lambda: "family" in home.app._work.attempts and home.app._work.attempts["family"]._handed_over)
    assert home.ask("remove_group", folder="family", trash=True)["event"] == "result"
    assert "family" not in home.app._work.attempts
    assert home.write("family", "hello?") is False
    assert home.store.group("family") is None
    home.until(lambda: home.app._pool.live == 0)
    home.register("family")  # and may be registered anew, with nothing of the old
    assert list(home.store.pending("family")) == []


def test_one_that_waits_for_a_place_and_is_removed_does_not_start(open_home: Open) -> None:
    home = open_home(behaviour="echo", max_sandboxes=1)
    home.register("first")
    home.register("second")
    home.write("first", "hello")
    home.write("second", "hello")
    home.ask("remove_group", folder="second", trash=False)
    home.ask("remove_group", folder="first", trash=False)
    home.quiet()
    assert [spec.group for spec in home.engine.launched] == ["first"]


def test_a_day_s_tokens_are_a_bound(open_home: Open) -> None:
    home = open_home()
    home.register("family")
    home.app.call("update_group", {"group": "family", "settings": {"tokens_per_day": 1000, "timezone": "Asia/Tokyo"}})
    home.write("family", "one")
    home.quiet()
    assert len(home.said("family", "reply")) == 1
    with home.store._transaction() as db:
        db.execute("UPDATE turns SET tokens_in = 999, tokens_out = 1")
    home.write("family", "two")
    home.quiet()
    (error,) = home.said("family", "error")
    assert "1000 tokens" in error
    with home.store._transaction() as db:  # yesterday's do not count
        db.execute("UPDATE turns SET started_at = ?", (time.time() - 2 * 86_400,))
    home.write("family", "three")
    home.quiet()
    assert "two" in prompts(home, "family")[-1]


def test_a_limit_that_the_machine_does_not_enforce_keeps_the_turn_from_starting(open_home: Open) -> None:
    home = open_home(missing={"memory limit": "the cgroup is off"}, groups={"family": {"memory": 512 << 20}})
    home.register("family")
    home.write("family", "hello")
    home.quiet()
    assert home.engine.launched == []
    (error,) = home.said("family", "error")
    assert "does not enforce the memory limit" in error
    accepted = open_home(
        missing={"memory limit": "the cgroup is off"},
        groups={"family": {"memory": 512 << 20}},
        accept_not_enforced=("memory limit",),
    )
    accepted.register("family")
    accepted.write("family", "hello")
    accepted.quiet()
    assert accepted.engine.launched[0].resources.memory_bytes == 512 << 20


def test_a_group_has_its_own_resources_zone_and_mounts(open_home: Open) -> None:
    home = open_home()
    home.register("family")
    settings = {"memory": "300 MB", "cpus": 0.5, "processes": 64, "timezone": "Asia/Tokyo"}
    home.app.call("update_group", {"group": "family", "settings": settings})
    home.write("family", "hello")
    home.quiet()
    (spec,) = home.engine.launched
    assert (spec.resources.memory_bytes, spec.resources.cpus, spec.resources.processes) == (300 << 20, 0.5, 64)
    assert {mount.target: mount.readonly for mount in spec.mounts} == {
        "/workspace/group": False, "/workspace/global": True, "/workspace/inbox": True,
    }  # fmt: skip
    assert 'timezone="Asia/Tokyo"' in prompts(home, "family")[0]
    home.write("main", "hello")
    home.quiet()
    assert {mount.target: mount.readonly for mount in home.engine.launched[1].mounts} == {
        "/workspace/group": False, "/workspace/global": False, "/workspace/inbox": True, "/workspace/project": True,
    }  # fmt: skip


# --- what agents ask for ------------------------------------------------------------------------------------


def asked(home: FakeHome, who: str, method: str, /, **params: Any) -> dict[str, Any]:
    """What this group's agent is answered; it asks over its own pipe."""
    before = len(home.said(who, "reply"))
    home.write(who, "ask " + json.dumps({"method": method, "params": params}))
    home.until(lambda: len(home.said(who, "reply")) > before)
    home.quiet()
    answer: dict[str, Any] = json.loads(home.said(who, "reply")[-1])
    return answer


def test_main_administers_by_talking_and_nobody_else_does(open_home: Open) -> None:
    home = open_home(behaviour="asks")
    home.register("family")
    wish = {"folder": "choir", "channel": "console", "chat": "choir", "needs_trigger": False}
    refused = asked(home, "family", "register_group", **wish)
    assert refused["frame"] == "refused"
    assert "main group only" in refused["reason"]
    assert home.store.group("choir") is None
    assert home.events_of("family") == [("denied", f"register_group: {refused['reason']}")]
    done = asked(home, "main", "register_group", **wish)
    assert done["value"]["group"]["folder"] == "choir"
    assert home.store.group("choir") is not None
    assert home.events_of("main")[0][0] == "done"
    # At once, and without a restart.
    assert asked(home, "choir", "list_groups")["frame"] == "refused"


@pytest.mark.parametrize("claim", [{"group": "main"}, {"is_main": True}, {"caller": "main"}, {"folder": "main"}])
def test_identity_is_the_pipe_whatever_the_request_says(open_home: Open, claim: dict[str, Any]) -> None:
    home = open_home(behaviour="asks")
    home.register("family")
    for method in ("list_groups", "send", "schedule_task", "grant_host", "remove_group"):
        assert asked(home, "family", method, **claim)["frame"] == "refused", method
    assert [group.folder for group in home.store.groups()] == ["main", "family"]
    assert home.said("main") == []


def test_main_speaks_in_another_s_chat(open_home: Open) -> None:
    home = open_home(behaviour="asks")
    home.register("family")
    assert asked(home, "main", "send", group="family", text="dinner at 8")["value"] == {"sent_to": "family"}
    assert home.said("family", "say") == ["dinner at 8"]


def test_a_key_in_a_request_does_not_come_to_rest(open_home: Open) -> None:
    home = open_home(behaviour="asks")
    key = "sk-ant-test-0123456789abcdefghij"
    (home.home.config / ".env").write_text(f"ANTHROPIC_API_KEY={key}\nANTHROPIC_BASE_URL=http://127.0.0.1:9\n")
    asked(home, "main", "schedule_task", prompt=f"say {key}", kind="interval", schedule="3600")
    asked(home, "main", key, text=key)
    # The message that brought it here is the test's own doing; nothing else may hold it.
    kept = [line for line in home.store._db.iterdump() if key in line and 'INTO "messages"' not in line]
    assert kept == []


def test_requests_without_end_are_refused_and_the_turn_goes_on(open_home: Open) -> None:
    home = open_home(behaviour="asks_on")
    home.write("main", "250")
    home.quiet()
    (reply,) = home.said("main", "reply")
    assert json.loads(reply) == {"result": 200, "refused": 50}
    assert len(home.events_of("main")) == 201  # and the audit does not grow with them


def test_who_never_stops_asking_is_ended(open_home: Open) -> None:
    home = open_home(behaviour="asks_on")
    home.write("main", "2500")
    home.quiet(60)
    (error,) = home.said("main", "error")
    assert "more than 2000 requests" in error
    assert len(home.events_of("main")) == 201


def test_every_group_is_offered_what_it_may_use(open_home: Open) -> None:
    home = open_home(behaviour="tools")
    home.register("family")
    home.write("main", "hello")
    home.write("family", "hello")
    home.quiet()
    mains, familys = (set(json.loads(home.said(group, "reply")[0])) for group in ("main", "family"))
    assert {"register_group", "send", "schedule_task", "grant_mount"} <= mains
    assert "schedule_task" in familys
    assert not {"register_group", "update_group", "send", "grant_mount", "list_groups"} & familys


# --- tasks --------------------------------------------------------------------------------------------------


def test_a_task_is_a_turn_of_its_group_and_says_what_it_finds(open_home: Open) -> None:
    home = open_home()
    home.register("family")
    made = home.app.call(
        "schedule_task", {"group": "family", "prompt": "water?", "kind": "interval", "schedule": "3600"}
    )
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.until(lambda: home.said("family"))
    home.quiet()
    (prompt,) = prompts(home, "family")
    assert prompt.startswith("<task ")
    assert "water?</task>" in prompt
    (run,) = home.app.call("get_task", {"id": made["task"]["id"]})["task"]["runs"]
    assert run["outcome"] == "done"


@pytest.mark.parametrize(("status", "asked_model"), [(0, True), (1, False), (124, False)])
def test_a_check_decides_whether_the_model_is_asked(open_home: Open, status: int, asked_model: bool) -> None:
    home = open_home(behaviour="checks")
    home.register("family")
    made = home.app.call(
        "schedule_task",
        {"group": "family", "prompt": "tell", "kind": "interval", "schedule": "3600", "check": f"exit {status}"},
    )
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.until(lambda: home.app.call("get_task", {"id": made["task"]["id"]})["task"]["runs"])
    home.quiet()
    assert bool(home.said("family", "reply")) == asked_model
    assert home.said("family", "error") == []
    assert len(home.engine.launched) == (2 if asked_model else 1)
    if asked_model:
        assert "<check_output>found</check_output>" in prompts(home, "family")[0]


@pytest.mark.parametrize("method", ["cancel_task", "pause_task", "remove_group"])
def test_a_run_that_is_taken_back_in_the_same_breath_does_not_come(open_home: Open, method: str) -> None:
    home = open_home()
    home.register("family")
    made = home.app.call("schedule_task", {"group": "family", "prompt": "t", "kind": "interval", "schedule": "3600"})
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.app.call(method, {"folder": "family"} if method == "remove_group" else {"id": made["task"]["id"]})
    late: list[bool] = []
    home.loop.call_soon(lambda: late.append(True))
    home.until(lambda: late)
    assert home.app._work.attempts == {}
    assert home.engine.launched == []


def test_what_is_written_while_a_task_runs_has_a_turn_of_its_own(open_home: Open) -> None:
    home = open_home()
    home.register("family")
    made = home.app.call("schedule_task", {"group": "family", "prompt": "t", "kind": "interval", "schedule": "3600"})
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.until(lambda: "family" in home.app._work.attempts)
    home.write("family", "and this?")
    home.until(lambda: len(home.said("family", "reply")) == 2)
    home.quiet()
    task, message = prompts(home, "family")
    assert "and this?" not in task
    assert "and this?" in message
    assert "<task" not in message


def test_a_host_for_one_answer_leaves_tasks_to_the_next(tmp_path: Path) -> None:
    """`ask` would interrupt them when it is done, and a run that is interrupted too often is given up."""
    asking = FakeHome(tmp_path, tasks=False)
    made = asking.app.call("schedule_task", {"group": "main", "prompt": "t", "kind": "interval", "schedule": "3600"})
    asking.app.call("run_task_now", {"id": made["task"]["id"]})
    asking.write("main", "hello")
    asking.quiet()
    asking.until(lambda: asking.said("main"))
    assert [spec.group for spec in asking.engine.launched] == ["main"]
    asking.close()
    lasting = FakeHome(tmp_path)
    lasting.until(lambda: lasting.app.call("get_task", {"id": made["task"]["id"]})["task"]["runs"])
    lasting.quiet()
    lasting.close()


# --- what comes in one breath, and what is set wrongly ---------------------------------------------------------


def test_a_turn_that_is_stopped_before_it_began_ends_as_stopped(open_home: Open) -> None:
    """A message and the wish to stop, in one piece of the socket: the loop has not come to the turn yet."""
    home = open_home()
    home.session.request(control.Send("s1", "main", "hello", ""))
    home.session.request(control.StopTurn("main"))
    home.until(lambda: any(event.get("id") == "s1" for event in home.events))
    home.quiet()
    assert home.engine.launched == []
    assert home.store._rows("SELECT outcome FROM turns") == [("stopped",)]
    home.write("main", "and now?")
    home.quiet()
    assert len(home.said("main", "reply")) == 1


def test_one_that_is_removed_while_its_task_runs_does_not_go_on_to_its_messages(open_home: Open) -> None:
    home = open_home(behaviour="echo")
    home.register("family")
    made = home.app.call("schedule_task", {"group": "family", "prompt": "t", "kind": "interval", "schedule": "3600"})
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.until(lambda: "family" in home.app._work.attempts)
    home.write("family", "and this?")
    assert home.ask("remove_group", folder="family", trash=True)["event"] == "result"
    home.quiet()
    assert [spec.group for spec in home.engine.launched].count("family") <= 1
    assert home.app._groups.keys() == {"main"}


def test_a_removal_that_the_disk_refuses_leaves_the_group_as_it_was(
    open_home: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home()
    home.register("family")

    def full(folder: str) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(home.store.registry, "remove", full)
        assert home.ask("remove_group", folder="family", trash=False)["event"] == "refused"
    home.write("family", "still there?")
    home.quiet()
    assert len(home.said("family", "reply")) == 1


def test_settings_of_one_group_that_mean_nothing_are_told_there_and_stop_no_other(open_home: Open) -> None:
    home = open_home()
    for folder in ("family", "choir"):
        home.register(folder)
    mounts = [{"path": "/nowhere", "name": "songs", "rw": True}]
    chosen = {"family": {"timezone": "Mars/Base", "mounts": mounts}, "choir": {"mounts": mounts}}
    for folder, settings in chosen.items():
        home.store.registry.change(folder, name=folder, needs_trigger=False, settings=settings)
        home.app._work.group_changed(folder)
    home.write("family", "hello")
    home.write("choir", "hello")
    home.quiet()
    (error,) = home.said("family", "error")
    assert "Mars/Base" in error
    assert home.store._rows("SELECT outcome FROM turns WHERE grp = 'family'") == [("failed:settings",)]
    assert len(home.said("choir", "reply")) == 1


def test_a_check_that_floods_is_ended(open_home: Open) -> None:
    home = open_home(behaviour="checks_without_end")
    home.register("family")
    made = home.app.call(
        "schedule_task", {"group": "family", "prompt": "t", "kind": "interval", "schedule": "3600", "check": "exit 0"}
    )
    home.app.call("run_task_now", {"id": made["task"]["id"]})
    home.until(lambda: home.said("family", "error"))
    home.quiet()
    assert len(home.engine.launched) == 1  # and the model was not asked


@pytest.mark.parametrize(
    ("url", "missing", "accepted", "handed_over"),
    [
        ("http://127.0.0.1:9", True, (), False),
        ("http://127.0.0.1:9", True, ("no log on disk",), True),
        ("http://127.0.0.1:9", False, (), True),
        ("https://127.0.0.1:9", True, (), True),
    ],
)
def test_a_key_is_not_handed_to_a_runner_whose_words_are_written_to_disk_unless_encrypted(
    open_home: Open, url: str, missing: bool, accepted: tuple[str, ...], handed_over: bool
) -> None:
    lacks = {"no log on disk": "the engine keeps one"} if missing else {}
    home = open_home(missing=lacks, accept_not_enforced=accepted)
    (home.home.config / ".env").write_text(f"ANTHROPIC_API_KEY=sk-ant-test-0123456789\nANTHROPIC_BASE_URL={url}\n")
    home.write("main", "hello")
    home.quiet()
    assert bool(home.said("main", "reply")) == handed_over
    assert ["would be written" in text for text in home.said("main", "error")] == ([] if handed_over else [True])
