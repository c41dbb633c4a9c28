"""Groups and tasks by talking: main's assistant administers, on real engines, and nobody else's does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.cli import nanoclaw, rows, running, wait_for


def ask(home: Path, engine: str, group: str, text: str) -> str:
    done = nanoclaw(home, engine, "--quiet", "ask", "--group", group, text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tool(name: str, **params: Any) -> str:
    return f"tool {name} {json.dumps(params)}"


def test_main_s_assistant_adds_a_group_and_gives_it_a_folder(home: Path, engine: str, tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "one").write_text("la la\n")
    tmp_path.chmod(0o755)
    with running(home, engine):
        added = json.loads(
            ask(home, engine, "main", tool("register_group", folder="fam", channel="console", chat="f",
                                           needs_trigger=False))
        )  # fmt: skip
        assert added["group"]["folder"] == "fam"
        assert "does not offer it" in ask(home, engine, "fam", tool("list_groups"))
        refused = ask(home, engine, "main", tool("grant_mount", group="fam", path=str(songs)))
        assert "cannot be given" in refused  # nothing is, before the person says so at the terminal
        assert nanoclaw(home, engine, "mounts", "allow", str(tmp_path)).returncode == 0
        assert json.loads(ask(home, engine, "main", tool("grant_mount", group="fam", path=str(songs))))["inside"]
        assert "la la" in ask(home, engine, "fam", "run cat /workspace/extra/songs/one")
        assert "No such file" in ask(home, engine, "main", "run cat /workspace/extra/songs/one")


def test_a_task_runs_where_its_check_says_so_and_its_check_has_no_key(home: Path, engine: str) -> None:
    with running(home, engine):
        check = "env > seen; cat /proc/*/environ >> seen 2>/dev/null; test -e due"
        made = json.loads(
            ask(home, engine, "main", tool("schedule_task", prompt="run echo watered", kind="interval",
                                           schedule="3600", check=check))
        )["task"]["id"]  # fmt: skip

        def runs() -> list[str]:
            shown = json.loads(nanoclaw(home, engine, "tasks", "show", made, "--json").stdout)
            return [run["outcome"] for run in shown["task"]["runs"]]

        ask(home, engine, "main", tool("run_task_now", id=made))
        wait_for(lambda: len(runs()) == 1)
        assert runs() == ["nothing to do"]
        ask(home, engine, "main", "write due: yes")
        ask(home, engine, "main", tool("run_task_now", id=made))
        wait_for(lambda: len(runs()) == 2)
        assert runs()[0] == "done"
        assert "watered" in json.dumps(rows(home, "SELECT text FROM outbox ORDER BY id"))
        assert "ANTHROPIC" not in ask(home, engine, "main", "run cat seen")
