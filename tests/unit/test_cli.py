"""The command line against a host that says what the test wants: what is asked of it, and what people then see."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host import config, store
from host.cli import main, out, tables
from host.cli.desk import request
from host.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

GROUP: dict[str, Any] = {
    "folder": "family",
    "name": "The family",
    "channel": "console",
    "chat": "family",
    "main": False,
    "trigger": "@Andy",
    "senders": None,
    "model": "a-model",
    "timezone": "Europe/Berlin",
    "limits": {
        "memory": 512 * 1024**2, "cpus": 1.5, "processes": 128, "seconds": 600, "rounds": 40, "tokens_per_day": None,
    },
    "allow_hosts": ["a.example", "b.example:8443"],
    "mounts": [{"path": "/srv/photos", "name": "photos", "rw": False}],
    "chosen": {"memory": "512 MB"},
    "fixed_by_config": ["timezone"],
}  # fmt: skip
TASK: dict[str, Any] = {
    "id": "t1",
    "group": "family",
    "prompt": "Say good\nmorning.",
    "kind": "interval",
    "schedule": "5400",
    "context": "group",
    "check": "",
    "state": "active",
    "created_by": "",
    "timezone": "Europe/Berlin",
    "next_run": 86_400.0,
    "next": "1970-01-02T01:00+01:00",
    "queued": False,
    "runs": [],
}

GIVEN = {"group": "family", "real_path": "/srv/photos", "inside": "/workspace/extra/photos", "readonly": True}


class FakeHost:
    """Answers at a home's control socket, one connection at a time, with the events that the test set."""

    def __init__(self, home: Path) -> None:
        (home / "data").mkdir(mode=0o700, parents=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(home / "data/host.sock"))
        self._server.listen()
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda _: []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def result(self, value: dict[str, Any]) -> None:
        self.answer = lambda asked: [{"event": "result", "id": asked["id"], "value": value}]

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                asked = json.loads(lines.readline())
                self.asked.append(asked)
                for event in self.answer(asked):
                    connection.sendall(json.dumps(event).encode() + b"\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCLAW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


@pytest.fixture
def host(place: Path) -> Iterator[FakeHost]:
    host = FakeHost(place)
    yield host
    host.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: its exit status, and what it wrote to either stream."""

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            status = main(list(argv))
        except SystemExit as e:
            status = int(e.code or 0)
        return status, *capsys.readouterr()

    return run


# Arguments → the call that they are, and words that its answer is told in.
CALLS: list[tuple[str, str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    (
        "groups",
        "list_groups",
        {},
        {"groups": [GROUP], "removed": ["old"]},
        ("family\tconsole:family\t@Andy\tThe family\n",),
    ),
    ("groups list", "list_groups", {}, {"groups": [], "removed": []}, ()),
    (
        "groups add family",
        "register_group",
        {"folder": "family", "channel": "console", "chat": "family"},
        {"group": GROUP},
        ("family is a group now", "@Andy", "nanoclaw chat family"),
    ),
    (
        "groups add f --channel whatsapp --chat 1@g.us --name X --trigger Robin",
        "register_group",
        {"folder": "f", "channel": "whatsapp", "chat": "1@g.us", "name": "X", "trigger": "Robin"},
        {"group": {**GROUP, "channel": "whatsapp", "trigger": None}},
        ("every message is answered",),
    ),
    (
        "groups add f --no-trigger",
        "register_group",
        {"folder": "f", "channel": "console", "chat": "f", "needs_trigger": False},
        {"group": GROUP},
        (),
    ),
    (
        "groups show family",
        "show_group",
        {"group": "family"},
        {"group": GROUP},
        ("memory\t512 MB\n", "cpus\t1.5\n", "senders\tanyone\n", "a.example b.example:8443", "/srv/photos as photos"),
    ),
    (
        "groups set family memory=1GB needs_trigger=false senders=mia,tom model=",
        "update_group",
        {
            "group": "family",
            "settings": {"memory": "1GB", "needs_trigger": False, "senders": ["mia", "tom"], "model": None},
        },
        {"group": GROUP},
        ("family: memory is 1GB\n", "needs_trigger is false", 'senders is ["mia", "tom"]', "model is as by default"),
    ),
    (
        "groups remove family",
        "remove_group",
        {"folder": "family", "trash": False},
        {"removed": "family", "kept": ["/d/groups/family"], "moved_to": []},
        ("no longer a group", "kept in /d/groups/family"),
    ),
    (
        "groups remove family --trash",
        "remove_group",
        {"folder": "family", "trash": True},
        {"removed": "family", "kept": [], "moved_to": ["/d/trash/family-1"]},
        ("moved to /d/trash/family-1",),
    ),
    (
        "groups mount family /srv/../srv/photos",
        "grant_mount",
        {"group": "family", "path": "/srv/photos", "rw": False},
        GIVEN,
        ("sees /srv/photos as /workspace/extra/photos", "to read\n"),
    ),
    (
        "groups mount family /srv/p --rw --as x",
        "grant_mount",
        {"group": "family", "path": "/srv/p", "rw": True, "name": "x"},
        GIVEN,
        ("lets it read only",),
    ),
    ("groups unmount family x", "revoke_mount", {"group": "family", "name": "x"}, GIVEN, ("no longer",)),
    (
        "tasks",
        "list_tasks",
        {},
        {"tasks": [TASK]},
        ("t1\tfamily\tactive\t1970-01-02 01:00+01:00\tevery 1h30m\tSay good morning.\n",),
    ),
    ("tasks --group family", "list_tasks", {"group": "family"}, {"tasks": []}, ()),
    ("tasks list --group family", "list_tasks", {"group": "family"}, {"tasks": []}, ()),
    (
        "tasks add --group family --every 1h30m --isolated --check true hello",
        "schedule_task",
        {
            "group": "family", "prompt": "hello", "kind": "interval", "schedule": "5400", "context": "isolated",
            "check": "true",
        },
        {"task": TASK},
        ("task t1 of family: active, next: 1970-01-02 01:00+01:00",),
    ),
    (
        "tasks add --group family --at 2026-12-24T18:00 hello",
        "schedule_task",
        {
            "group": "family", "prompt": "hello", "kind": "once", "schedule": "2026-12-24T18:00", "context": "group",
            "check": "",
        },
        {"task": TASK},
        (),
    ),
    ("tasks show t1", "get_task", {"id": "t1"}, {"task": TASK}, ("prompt\tSay good morning.\n", "every 1h30m")),
    (
        "tasks set t1 every=2h prompt=7 check= context=isolated",
        "update_task",
        {"id": "t1", "kind": "interval", "schedule": "7200", "prompt": "7", "check": "", "context": "isolated"},
        {"task": TASK},
        ("next: 1970-01-02 01:00+01:00",),
    ),
    ("tasks pause t1", "pause_task", {"id": "t1"}, {}, ("rests",)),
    ("tasks resume t1", "resume_task", {"id": "t1"}, {"task": TASK}, ("next: ",)),
    ("tasks cancel t1", "cancel_task", {"id": "t1"}, {}, ("cancelled",)),
    ("tasks run t1", "run_task_now", {"id": "t1"}, {}, ("waiting to run",)),
]  # fmt: skip


@pytest.mark.parametrize(("line", "method", "params", "value", "words"), CALLS, ids=[case[0] for case in CALLS])
def test_a_command_is_one_call(
    host: FakeHost, run: Run, line: str, method: str, params: dict[str, Any], value: dict[str, Any], words: tuple[str]
) -> None:
    host.result(value)
    status, out, err = run(*line.split())
    assert (status, err) == (0, "")
    assert [{**asked, "id": ""} for asked in host.asked] == [
        {"request": "call", "id": "", "method": method, "params": params}
    ]
    for word in words:
        assert word in out
    assert json.loads(run(*line.split(), "--json")[1]) == value, "JSON is the answer as it came"


WRONG = [
    "groups lsit",
    "groups add",
    "groups add x --trigger A --no-trigger",
    "groups add x --channel whatsapp",
    "groups set family",
    "groups set family memory",
    "groups set family =1",
    "groups set family cpus=1 cpus=2",
    "groups mount family",
    "tasks add --group family hello",
    "tasks add --every 1h hello",
    "tasks add --group family --every 1h --cron x hello",
    "tasks add --group family --every soon hello",
    "tasks add --group family --every 15 hello",
    "tasks add --group family --every 1h ",
    "tasks set t1 prompt=",
    "tasks set t1 every=",
    "tasks set t1 every=1h cron=x",
    "tasks set t1 state=paused",
    "tasks pause",
    "groups show caf\udce9",
    "ask --as  hello",
    "chat --as a\tb",
    "chat --as caf\udce9",
    "chat caf\udce9",
    "ask --group caf\udce9 hello",
    "nonsense",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_error_and_no_call(host: FakeHost, run: Run, line: str) -> None:
    status, out, err = run(*line.split(" "))
    assert (status, out) == (2, "")
    assert err.startswith("nanoclaw: error: ")
    assert err.count("error:") == 1
    assert all(each.startswith("nanoclaw: hint: ") for each in err.splitlines()[1:])
    assert host.asked == []


def test_a_refusal_is_told_with_its_hints(host: FakeHost, run: Run) -> None:
    host.answer = lambda asked: [
        {"event": "progress", "kind": "text", "text": "something else"},
        {
            "event": "refused",
            "request": "call",
            "id": asked["id"],
            "error": "no such group",
            "hints": ["look"],
            "status": 1,
        },
    ]
    assert run("groups", "show", "x") == (1, "", "nanoclaw: error: no such group\nnanoclaw: hint: look\n")


def test_a_host_that_goes_away_or_is_of_another_version(host: FakeHost, run: Run) -> None:
    status, out, err = run("groups")
    assert (status, out) == (1, "")
    assert "does not answer" in err
    host.answer = lambda _: [{"event": "refused", "request": "", "error": "malformed request", "hints": []}]
    status, out, err = run("tasks")
    assert (status, out) == (1, "")
    assert "malformed request" in err
    assert "hint: it may be an older version" in err


def test_a_lock_that_is_let_go_of_is_waited_for(place: Path) -> None:
    home = config.locate(str(place), {})
    config.prepare(home)
    held = store.lock(home.data)
    letting_go = threading.Timer(0.2, held.close)
    letting_go.start()
    args = argparse.Namespace(home=str(place))
    assert [group["folder"] for group in request(args, "list_groups", {})["groups"]] == ["main"]
    letting_go.join()


def test_a_lock_that_is_kept_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = config.locate(str(place), {})
    config.prepare(home)
    held = store.lock(home.data)
    monkeypatch.setattr("host.cli.desk.TRY_SECONDS", 0)
    with pytest.raises(UserError, match="another host"):
        request(argparse.Namespace(home=str(place)), "list_groups", {})
    held.close()


HOSTILE = "a\x1b[2J\x9b2Jb\nmain\tconsole:main\u202e\x07"


def test_text_of_anyones_is_one_line_that_moves_no_cursor(run: Run, host: FakeHost) -> None:
    host.result({"groups": [{**GROUP, "name": HOSTILE}], "removed": []})
    out = run("groups")[1]
    assert out.count("\n") == 1
    assert out.count("\t") == 3
    assert not set(out) & {"\x1b", "\x9b", "\x07"}
    host.result({"task": {**TASK, "prompt": HOSTILE}})
    assert not set(run("tasks", "show", "t1")[1]) & {"\x1b", "\x9b", "\x07"}


class Screen(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("terminal")
def test_columns_stand_below_each_other() -> None:
    shown = tables.table(("A", "B"), [["x", "1"], ["日本", "2"], ["long one", "3"]], "", Screen())
    assert shown.splitlines() == ["A         B", "x         1", "日本      2", "long one  3"]


@pytest.mark.usefixtures("terminal")
def test_no_line_is_wider_than_the_terminal() -> None:
    shown = tables.table(("A", "B"), [["x", "日" * 40], ["y", "b" * 40]], "", Screen())
    assert all(tables.columns(line) <= 30 for line in shown.splitlines())
    assert shown.splitlines()[2] == "y  " + "b" * 26 + "…"


@pytest.mark.usefixtures("terminal")
def test_an_empty_table_says_so() -> None:
    assert tables.table(("A",), [], "no groups", Screen()) == "no groups"


@pytest.mark.usefixtures("terminal")
def test_a_value_of_several_lines_stays_below_itself() -> None:
    assert tables.fields({"a": "1\n2", "long": "3"}, Screen()) == "a     1\n      2\nlong  3"


@pytest.mark.usefixtures("terminal")
def test_heads_are_bold_unless_colours_are_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert tables.table(("A",), [["x"]], "", Screen()) == "\x1b[1mA\x1b[0m\nx"


def program(*argv: str, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "nanoclaw.py", *argv],
        cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip


def test_an_old_encoding_ends_nothing(host: FakeHost) -> None:
    host.result({"groups": [{**GROUP, "name": "Grüße 日本"}], "removed": []})
    shown = program("groups", PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "family\tconsole:family\t@Andy\tGr??e ??\n", "")
    as_json = program("groups", "--json", PYTHONIOENCODING="ascii")
    assert json.loads(as_json.stdout)["groups"][0]["name"] == "Grüße 日本"
    assert program("--help", PYTHONIOENCODING="ascii").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = program("version", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "nanoclaw: error: cannot write to standard output: No space left on device\n"


def test_what_prints_and_leaves_loads_little() -> None:
    code = (
        "import sys; from host.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = ('host.', 'runner', 'sqlite3', 'ssl', 'ctypes', 'inspect', 'shutil', 'lzma')\n"
        "print([name for name in sys.modules if name.startswith(heavy)], file=sys.stderr)"
    )
    for argv in (["version"], ["--help"], ["groups", "add", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
        few = ("host.cli", "host.errors", "host.cli.out", "host.cli.options", "host.cli.version", "host.carried")
        assert all(name.startswith("host.cli.options") or name in few for name in eval(done.stderr)), done.stderr


def test_percents_get_a_bar_at_a_terminal_and_nothing_else_does() -> None:
    assert out.with_bar("unpacking: 40 %") == "unpacking [########............] 40 %"
    assert out.with_bar("unpacking: 100 %") == f"unpacking [{'#' * 20}] 100 %"
    assert out.with_bar("unpacking: 999 %") == f"unpacking [{'#' * 20}] 999 %"
    assert out.with_bar("40 % of it") == "40 % of it"
