"""What may be asked of the host: by whom, about whom, and with which values."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host import calls, policy
from host.calls import METHODS, Caller, Denied, Desk, carry_out, offered
from host.config import Config, Home
from host.errors import UserError
from host.model import Enforcement, Group, Message, Outgoing
from host.store import Store
from runner.protocol import MIB

MAIN = Group("main", "console", "main", "main", is_main=True)
FAMILY = Group("family", "console", "fam", "Family", needs_trigger=True)
WORK = Group("work", "console", "wrk", "main")  # its display name claims to be main
NOW = 1_772_366_400.0
AGENTS = [MAIN, FAMILY, WORK]

VALUES: dict[str, dict[str, Any]] = {
    "send": {"text": "hello"},
    "register_group": {"folder": "newone", "channel": "console", "chat": "n"},
    "update_group": {"settings": {"model": "m"}},
    "remove_group": {"folder": "work"},
    "grant_host": {"host": "ok.example"},
    "revoke_host": {"host": "ok.example"},
    "grant_mount": {"path": "/srv/nowhere"},
    "revoke_mount": {"name": "nothing"},
    "schedule_task": {"prompt": "p", "kind": "interval", "schedule": "3600"},
}


@functools.cache
def template() -> bytes:
    """A database with the groups: making it takes longer than what is done with it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "nanoclaw.db", clock=lambda: NOW)
        for group in AGENTS:
            store.add_group(group)
        store.close()
        return (Path(folder) / "nanoclaw.db").read_bytes()


class Scene:
    """A desk with three groups, a task of each, and what the hooks were told."""

    def __init__(self, folder: Path) -> None:
        home = Home(folder / "config", folder / "data", folder / "cache")
        for each in (home.config, home.data, home.cache):
            each.mkdir(parents=True, exist_ok=True)
        (home.data / "nanoclaw.db").write_bytes(template())
        self.store = Store(home.data / "nanoclaw.db", clock=lambda: NOW)
        self.store._db.execute("PRAGMA synchronous = OFF")
        self.changed: list[str] = []
        self.stopped: list[str] = []
        self.said: list[Outgoing] = []
        self.desk = Desk(
            store=self.store, config=Config(grantable_hosts=()), home=home, now=lambda: NOW,
            group_changed=self.changed.append, stop_group=lambda folder, why: self.stopped.append(folder),
            deliver=self.said.append,
        )  # fmt: skip
        self.tasks: dict[str, str] = {}

    def with_tasks(self) -> Scene:
        for group in AGENTS:
            made = self.ask(None, "schedule_task", group=group.folder, **VALUES["schedule_task"])
            self.tasks[group.folder] = made["task"]["id"]
        return self

    def ask(self, untrusted_caller: Group | None, method: str, **params: Any) -> dict[str, Any]:
        return carry_out(self.desk, Caller(untrusted_caller), method, params)

    def dump(self) -> list[str]:
        """All that is stored, but the audit."""
        return [line for line in self.store._db.iterdump() if "events" not in line]

    def others(self) -> list[str]:
        """What is stored of everybody but the family."""
        return [line for line in self.dump() if "'family'" not in line and "sqlite_sequence" not in line]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.store.close()


# --- who may ---------------------------------------------------------------------------------------------


def params_for(scene: Scene, method: str, target: str) -> dict[str, Any]:
    values = dict(VALUES.get(method, {}))
    if METHODS[method].whose in ("group", "groups"):
        values["group"] = target
    if METHODS[method].whose == "task":
        values["id"] = scene.tasks[target]
    return values


def test_allowed_if_and_only_if_the_table_says_so(tmp_path: Path) -> None:
    """Every request, by every caller, about every group: through the door that agents' requests come in by."""
    denied = allowed = 0
    for number, (method, caller, target) in enumerate(itertools.product(METHODS, AGENTS, AGENTS)):
        (tmp_path / str(number)).mkdir()
        scene = Scene(tmp_path / str(number)).with_tasks()
        before = scene.dump()
        whose = METHODS[method].whose
        may = policy.authorize(method, caller, None if whose == "home" else target.folder) is None
        try:
            scene.ask(caller, method, **params_for(scene, method, target.folder))
        except Denied:
            assert not may, (method, caller.folder, target.folder)
            assert scene.dump() == before
            assert not scene.changed + scene.stopped + scene.said  # type: ignore[operator]
            denied += 1
        except UserError:
            assert may, (method, caller.folder, target.folder)  # permitted, and not possible with these values
            allowed += 1
        else:
            assert may, (method, caller.folder, target.folder)
            allowed += 1
        scene.store.close()
    assert denied > 80
    assert allowed > 50


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["group", "folder", "is_main", "isMain", "caller", "id", "text", "settings", "host", "path", "rw"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from([*METHODS, "write_global_memory", "__init__", "call"]) | st.text(max_size=12),
    st.dictionaries(
        names | st.text(max_size=8), anything | st.sampled_from(["main", "family", "work", "MAIN"]), max_size=4
    ),
)
def test_whatever_a_group_asks_for_it_changes_nothing_of_another(
    tmp_path_factory: pytest.TempPathFactory, method: str, params: dict[str, Any]
) -> None:
    scene = Scene(tmp_path_factory.mktemp("scene")).with_tasks()
    before, others = scene.dump(), scene.others()
    try:
        carry_out(scene.desk, Caller(FAMILY), method, params)
    except UserError:  # refused, or not possible: in words, and never another exception
        assert scene.dump() == before
    assert scene.others() == others
    assert not [out for out in scene.said if out.group != "family"]
    scene.store.close()


@pytest.mark.parametrize("field", ["isMain", "is_main", "caller", "source", "privileged", "network", "seccomp"])
def test_a_field_that_claims_a_role_is_no_parameter(scene: Scene, field: str) -> None:
    with pytest.raises(Denied):
        scene.ask(FAMILY, "register_group", **VALUES["register_group"], **{field: True})
    with pytest.raises(UserError, match="no parameter"):
        scene.ask(MAIN, "register_group", **VALUES["register_group"], **{field: True})


def test_a_refusal_does_not_tell_which_groups_there_are(scene: Scene) -> None:
    with pytest.raises(Denied) as there:
        scene.ask(FAMILY, "send", group="work", text="x")
    with pytest.raises(Denied) as not_there:
        scene.ask(FAMILY, "send", group="nobody", text="x")
    assert str(there.value) == str(not_there.value)


def test_another_s_task_is_refused_in_the_words_for_one_that_is_not_there(scene: Scene) -> None:
    scene.with_tasks()
    with pytest.raises(UserError) as there:
        scene.ask(FAMILY, "cancel_task", id=scene.tasks["work"])
    with pytest.raises(UserError) as not_there:
        scene.ask(FAMILY, "cancel_task", id="t-nowhere")
    assert str(there.value).replace(scene.tasks["work"], "ID") == str(not_there.value).replace("t-nowhere", "ID")


def test_an_agent_is_shown_what_it_may_use(scene: Scene) -> None:
    mains, familys = ({tool["name"] for tool in offered(group)} for group in (MAIN, FAMILY))
    assert {"register_group", "remove_group", "grant_host", "send", "schedule_task"} <= mains
    assert familys == {name for name in METHODS if name.endswith("_task") or name in ("list_tasks", "run_task_now")}
    for tool in offered(FAMILY):
        assert "group" not in tool["input_schema"]["properties"]


# --- groups ----------------------------------------------------------------------------------------------


def test_a_group_is_registered_changed_and_removed(scene: Scene) -> None:
    made = scene.ask(MAIN, "register_group", folder="choir", channel="console", chat="c", trigger="Amy")["group"]
    assert (made["folder"], made["trigger"], made["main"]) == ("choir", "@Amy", False)
    changed = scene.ask(MAIN, "update_group", group="Choir", settings={"senders": ["ann"], "memory": "256 MB"})["group"]
    assert changed["senders"] == ["ann"]
    assert changed["limits"]["memory"] == 256 * MIB
    back = scene.ask(MAIN, "update_group", group="choir", settings={"senders": None})["group"]
    assert back["senders"] is None
    scene.ask(MAIN, "remove_group", folder="choir")
    assert scene.store.group("choir") is None
    assert scene.changed == ["choir"] * 4
    assert scene.stopped == ["choir"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"folder": "fami1y"}, "looks like"),
        ({"folder": "WORK"}, "already"),
        ({"folder": "../x"}, "cannot be"),
        ({"chat": "fam"}, "already has this chat"),
        ({"channel": "telegram"}, "no channel"),
        ({"chat": ""}, "empty"),
        ({"chat": "a\nb"}, "control"),
        ({"trigger": "two\nlines"}, "trigger"),
        ({"name": ""}, "name"),
        ({"needs_trigger": "yes"}, "true or false"),
        ({"folder": 7}, "not a text"),
    ],
)
def test_what_cannot_be_registered_says_why_and_changes_nothing(
    scene: Scene, params: dict[str, Any], words: str
) -> None:
    before = scene.dump()
    with pytest.raises(UserError, match=words):
        scene.ask(MAIN, "register_group", **VALUES["register_group"] | params)
    assert scene.dump() == before


@pytest.mark.parametrize(
    "wish",
    [{"memory": "1 KB"}, {"cpus": 0}, {"cpus": "many"}, {"timezone": "Mars/Base"}, {"senders": []}, {"senders": "ann"},
     {"colour": "red"}, {"tokens_per_day": 1}, {"needs_trigger": None}, {"model": ""}, {"model": "m", "rounds": 0}],
)  # fmt: skip
def test_a_setting_that_means_nothing_changes_nothing(scene: Scene, wish: dict[str, Any]) -> None:
    before = scene.dump()
    with pytest.raises(UserError):
        scene.ask(None, "update_group", group="family", settings=wish)
    assert scene.dump() == before


def test_an_agent_gives_no_more_of_the_machine_than_the_home_does_and_no_host_unlisted(scene: Scene) -> None:
    for wish in ({"memory": "64 GB"}, {"seconds": 7200}, {"rounds": 500}):
        with pytest.raises(UserError, match="at most"):
            scene.ask(MAIN, "update_group", group="family", settings=wish)
        scene.ask(None, "update_group", group="family", settings=wish)  # the person may
    with pytest.raises(UserError, match="not set this way"):
        scene.ask(MAIN, "update_group", group="family", settings={"allow_hosts": ["evil.example"]})
    with pytest.raises(UserError, match="may be granted"):
        scene.ask(MAIN, "grant_host", group="family", host="evil.example")
    config = Config(grantable_hosts=calls.groups.of_groups.check("allow_hosts", ["ok.example"]))
    scene.desk = replace(scene.desk, config=config)
    scene.ask(MAIN, "grant_host", group="family", host="ok.example")
    assert [host.pattern for host in config.group(scene.store.groups()[1]).allow_hosts] == ["ok.example"]
    scene.ask(MAIN, "revoke_host", group="family", host="ok.example")
    assert scene.store.groups()[1].settings.get("allow_hosts") is None


def test_an_agent_spends_no_more_in_a_day_than_the_person_set(scene: Scene) -> None:
    scene.ask(MAIN, "update_group", group="family", settings={"tokens_per_day": 900_000})  # the person set no bound
    scene.ask(None, "update_group", group="family", settings={"tokens_per_day": 50_000})
    for wish in (60_000, None):
        with pytest.raises(UserError, match="at most 50000"):
            scene.ask(MAIN, "update_group", group="family", settings={"tokens_per_day": wish})
    scene.ask(MAIN, "update_group", group="family", settings={"tokens_per_day": 40_000})
    scene.ask(None, "update_group", group="family", settings={"tokens_per_day": None})  # the person may


def test_what_config_toml_decides_nothing_else_does(scene: Scene) -> None:
    scene.desk = replace(scene.desk, config=Config(groups={"family": {"model": "theirs"}}))
    with pytest.raises(UserError, match=r"config\.toml"):
        scene.ask(None, "update_group", group="family", settings={"model": "mine"})


def test_a_bound_that_the_machine_does_not_enforce_is_refused_unless_accepted(scene: Scene) -> None:
    missing = Enforcement("docker", "1", {"memory limit": "the cgroup is off"})
    scene.desk = replace(scene.desk, enforcement=missing)
    with pytest.raises(UserError, match="does not enforce the memory limit"):
        scene.ask(None, "update_group", group="family", settings={"memory": "512 MB"})
    scene.desk = replace(scene.desk, config=Config(accept_not_enforced=("memory limit",)))
    scene.ask(None, "update_group", group="family", settings={"memory": "512 MB"})


def test_main_stays(scene: Scene) -> None:
    with pytest.raises(UserError, match="main cannot be removed"):
        scene.ask(None, "remove_group", folder="main")
    with pytest.raises(UserError, match="no trigger"):
        scene.ask(MAIN, "update_group", settings={"needs_trigger": True})


def test_what_a_removed_group_left_is_not_handed_to_another_chat(scene: Scene) -> None:
    scene.store.add_message(Message("console", "1", "fam", "ann", "Ann", "our secret", NOW))
    folder = scene.desk.home.data / "groups" / "family"
    folder.mkdir(parents=True)
    (folder / "CLAUDE.md").write_text("our memory")
    kept = scene.ask(MAIN, "remove_group", folder="family")
    assert (folder / "CLAUDE.md").exists()
    assert kept["kept"] == [str(folder)]
    with pytest.raises(UserError, match="already") as caught:
        scene.ask(MAIN, "register_group", folder="family", channel="console", chat="strangers")
    assert "--trash" in caught.value.hints[0]
    scene.ask(MAIN, "register_group", folder="family", channel="console", chat="fam")  # the same chat may come back
    scene.ask(MAIN, "remove_group", folder="family", trash=True)
    assert not folder.exists()
    assert len(list((scene.desk.home.data / "trash").iterdir())) == 1
    assert not any("our secret" in line for line in scene.dump())
    scene.ask(MAIN, "register_group", folder="family", channel="console", chat="strangers")
    assert not folder.exists()


def test_trash_moves_a_link_and_not_what_it_points_to(scene: Scene, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (scene.desk.home.data / "groups").mkdir()
    (scene.desk.home.data / "groups" / "family").symlink_to(outside)
    scene.ask(None, "remove_group", folder="family", trash=True)
    assert outside.is_dir()


# --- other chats -------------------------------------------------------------------------------------------


def test_main_speaks_in_another_chat(scene: Scene) -> None:
    assert scene.ask(MAIN, "send", group="family", text="dinner\x1b[2J at 8") == {"sent_to": "family"}
    (out,) = scene.said
    assert (out.group, out.chat, out.kind) == ("family", "fam", "say")
    assert "\x1b" not in out.text
    with pytest.raises(UserError, match="no group is named"):
        scene.ask(MAIN, "send", group="strangers", text="x")
    with pytest.raises(UserError, match="empty"):
        scene.ask(MAIN, "send", group="family", text=" \n")


# --- folders -----------------------------------------------------------------------------------------------


def allow(scene: Scene, *roots: dict[str, Any], non_main_read_only: bool = False) -> None:
    content = {"allowedRoots": list(roots), "blockedPatterns": [], "nonMainReadOnly": non_main_read_only}
    path = scene.desk.home.config / "mount-allowlist.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))


def test_a_folder_is_granted_within_the_allowlist_and_no_further(scene: Scene, tmp_path: Path) -> None:
    music, other = tmp_path / "music" / "jazz", tmp_path / "other"
    for folder in (music, other):
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be given"):  # there is no allowlist
        scene.ask(None, "grant_mount", group="family", path=str(music))
    allow(scene, {"path": str(tmp_path / "music"), "allowReadWrite": False})
    for caller in (None, MAIN):
        with pytest.raises(UserError, match="cannot be given"):
            scene.ask(caller, "grant_mount", group="family", path=str(other))
    granted = scene.ask(MAIN, "grant_mount", group="family", path=str(music), name="songs")
    assert (granted["inside"], granted["readonly"]) == ("/workspace/extra/songs", True)
    assert scene.store.groups()[1].settings["mounts"] == [{"path": str(music), "name": "songs", "rw": False}]
    with pytest.raises(UserError, match="was given no folder as 'video'"):
        scene.ask(MAIN, "revoke_mount", group="family", name="video")
    scene.ask(MAIN, "revoke_mount", group="family", name="songs")
    assert "mounts" not in scene.store.groups()[1].settings


def test_nothing_beneath_what_another_group_may_write(scene: Scene, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "inner").mkdir(parents=True)
    allow(scene, {"path": str(tmp_path), "allowReadWrite": True})
    scene.ask(None, "grant_mount", group="work", path=str(shared), rw=True)
    with pytest.raises(UserError, match="write"):
        scene.ask(None, "grant_mount", group="family", path=str(shared / "inner"))
    scene.ask(None, "revoke_mount", group="work", name="shared")
    scene.ask(None, "grant_mount", group="family", path=str(shared / "inner"))  # the control: nobody writes there now
