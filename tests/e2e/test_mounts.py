"""Folders of the machine that groups are given: from the command line to what an agent finds, and back."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli import environment, nanoclaw, running

BARE = environment(PATH="/nonexistent")
"""Where no engine could be found by anyone."""
CANARY = "NCC-m0unts"


@pytest.fixture
def srv() -> Iterator[Path]:
    """Folders of people's, which the sandbox's user can read; and one that it can write."""
    folder = Path(tempfile.mkdtemp(prefix="nanoclaw-mounts-", dir="/var/tmp")).resolve()
    for name in ("music/live", "photos", "shared/inner"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(f"{name} is here")
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o777 if each.name in {"shared", "inner"} else 0o755)
    yield folder
    shutil.rmtree(folder)


def told(home: Path, *args: str, status: int = 0) -> str:
    done = nanoclaw(home, "bubblewrap", *args, env=BARE)
    assert "Traceback" not in done.stderr
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout


def answer(home: Path, *args: str, status: int = 0) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(told(home, *args, "--json", status=status))
    return record


def runs(home: Path, engine: str, command: str, group: str = "main") -> str:
    """What a shell command of that group's agent prints."""
    done = nanoclaw(home, engine, "ask", "--group", group, f"run {command}")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- without a host, an engine or an image ----------------------------------------------------------------


def test_check_says_what_would_be_and_why(home: Path, srv: Path) -> None:
    refused = answer(home, "mounts", "check", str(srv / "music"), status=1)
    assert (refused["allowed"], refused["real_path"]) == (False, None)
    assert "there is no allowlist" in refused["reason"]
    change = answer(home, "mounts", "allow", str(srv / "music"))
    assert (change["changed"], [root["path"] for root in change["roots"]]) == (True, [str(srv / "music")])
    assert answer(home, "mounts", "check", str(srv / "music/live"), "--rw", "--as", "songs") == {
        "path": str(srv / "music/live"),
        "group": "main",
        "allowed": True,
        "reason": f"it lies in {srv / 'music'}, which the allowlist permits; read-only, because that entry does not "
        "have allowReadWrite",
        "real_path": str(srv / "music/live"),
        "target": "/workspace/extra/songs",
        "readonly": True,
    }
    text = told(home, "mounts", "check", str(srv / "music"))
    assert text.startswith(f"allowed: main would see {srv / 'music'} as /workspace/extra/music, to read\nwhy: ")
    outside = told(home, "mounts", "check", str(srv / "photos"), status=1)
    assert outside.startswith("refused: ")
    assert f"nanoclaw mounts allow {srv / 'photos'}" in outside
    assert not (home / "data/nanoclaw.db").exists(), "a question makes no home"


def test_attacks_on_the_path(home: Path, srv: Path) -> None:
    """`..`, a link to a folder of keys, a folder that is called like the beginning of an allowed one, and
    what is never mounted although it is on the list."""
    (srv / "secret").mkdir()
    (srv / "music-evil").mkdir()
    (srv / "music/link").symlink_to(srv / "secret")
    (srv / "keys/.ssh").mkdir(parents=True)
    (srv / "music/keys").symlink_to(srv / "keys/.ssh")
    told(home, "mounts", "allow", str(srv / "music"))
    for path in ("music/../secret", "music/link", "music-evil", "music/keys", "music/nothing", "music/file"):
        record = answer(home, "mounts", "check", str(srv / path), status=1)
        assert not record["allowed"]
        assert record["reason"]
    told(home, "mounts", "allow", "/")
    own = [home, home / "config", home / "data", home / "cache", Path.home(), Path(__file__).resolve().parents[2]]
    for path in (*own, "/", "/proc", "/run", srv / "music/keys"):
        record = answer(home, "mounts", "check", str(path), "--as", "x", status=1)
        assert "never mounted" in record["reason"], record
    assert answer(home, "mounts", "check", str(srv / "music-evil"))["allowed"]


def test_a_file_that_was_written_for_nanoclaw(home: Path, srv: Path) -> None:
    folder = home / "config"
    folder.mkdir(mode=0o700)
    text = json.dumps(
        {
            "allowedRoots": [{"path": str(srv), "allowReadWrite": True, "description": "All of it"}],
            "blockedPatterns": ["photo"],
            "nonMainReadOnly": True,
        },
        indent=2,
    )
    (folder / "mount-allowlist.json").write_text(text)
    (folder / "mount-allowlist.json").chmod(0o644)
    assert told(home, "mounts") == f"{srv}\tread-write\tok\tAll of it\n"
    assert not answer(home, "mounts", "check", str(srv / "music"), "--rw")["readonly"]
    told(home, "groups", "add", "family")
    assert answer(home, "mounts", "check", str(srv / "music"), "--rw", "--group", "family")["readonly"]
    answer(home, "mounts", "check", str(srv / "photos"), status=1)
    assert (folder / "mount-allowlist.json").read_text() == text


def test_a_damaged_file_refuses_everything_and_is_not_rewritten(home: Path, srv: Path) -> None:
    told(home, "mounts", "allow", str(srv))
    file = home / "config/mount-allowlist.json"
    file.write_text(file.read_text().replace("true", "ture"))
    damaged = file.read_text()
    reason = answer(home, "mounts", "check", str(srv / "music"), status=1)["reason"]
    assert "is not valid JSON" in reason
    done = nanoclaw(home, "bubblewrap", "mounts", env=BARE)
    assert (done.returncode, done.stderr.startswith(f"nanoclaw: error: {file} is not valid JSON")) == (1, True)
    assert answer(home, "mounts", status=1)["error"] == reason
    for action in ("allow", "deny"):
        told(home, "mounts", action, str(srv / "music"), status=1)
    assert file.read_text() == damaged


def test_allow_and_deny(home: Path, srv: Path) -> None:
    told(home, "mounts", "allow", str(srv), "--rw")
    assert "nothing was changed" in told(home, "mounts", "allow", str(srv), "--rw")
    assert str(srv) in told(home, "mounts", "deny", str(srv / "photos"))
    answer(home, "mounts", "check", str(srv / "photos"), status=1)
    assert answer(home, "mounts", "check", str(srv / "music"))["allowed"]
    told(home, "mounts", "allow", str(srv / "photos"))
    assert answer(home, "mounts", "check", str(srv / "photos"), "--rw")["readonly"]
    told(home, "mounts", "deny", str(srv))
    answer(home, "mounts", "check", str(srv / "music"), status=1)
    assert "nothing was changed" in told(home, "mounts", "deny", "/nowhere")
    for wrong in (str(srv / "nothing"), str(srv / "music/live/file"), str(home / "data"), "/proc", str(srv / ".ssh")):
        told(home, "mounts", "allow", wrong, status=1)
    told(home, "mounts", "check", str(srv), "--group", "nobody", status=2)
    told(home, "mounts", "check", "", status=2)


# --- in a sandbox -------------------------------------------------------------------------------------------


def test_an_agent_finds_what_it_was_given_until_it_is_taken_back(home: Path, srv: Path, engine: str) -> None:
    told(home, "mounts", "allow", str(srv), "--rw")
    with running(home, engine):
        told(home, "groups", "mount", "main", str(srv / "music"))
        told(home, "groups", "mount", "main", str(srv / "shared"), "--rw", "--as", 'a,b="c"')
        found = runs(
            home, engine, "cat /workspace/extra/music/live/file; ls /workspace/extra; touch /workspace/extra/music/x"
        )
        assert "music/live is here" in found
        assert 'a,b="c"' in found
        assert "Read-only file system" in found
        runs(home, engine, f"echo {CANARY} > '/workspace/extra/a,b=\"c\"/written'")
        assert (srv / "shared/written").read_text() == f"{CANARY}\n"
        assert answer(home, "mounts", "check", str(srv / "music"))["allowed"], "the host was asked for its groups"
        refused = answer(home, "mounts", "check", str(srv / "shared/inner"), status=1)["reason"]
        assert "a folder that an agent can write" in refused
        told(home, "mounts", "deny", str(srv / "music"))  # a warm sandbox has it still, and is not used
        gone = runs(home, engine, "ls /workspace/extra/ /workspace/extra/music")
        assert "No such file" in gone
        assert 'a,b="c"' in gone
        assert "blockedPatterns" in told(home, "status")
        told(home, "mounts", "allow", str(srv / "music"))
        told(home, "groups", "unmount", "main", "music")
        assert "No such file" in runs(home, engine, "ls /workspace/extra/music")


def test_nothing_in_a_folder_that_an_agent_can_write(home: Path, srv: Path, engine: str) -> None:
    told(home, "mounts", "allow", str(srv), "--rw")
    told(home, "groups", "add", "family", "--no-trigger")
    told(home, "groups", "mount", "main", str(srv / "shared"), "--rw")
    for path in (srv / "shared/inner", srv):
        done = nanoclaw(home, engine, "groups", "mount", "family", str(path), env=BARE)
        assert done.returncode != 0
        assert "a folder that an agent can write" in done.stderr
    told(home, "groups", "mount", "family", str(srv / "shared"))
    # By the config file as well, which nobody asks beforehand.
    text = f'[groups.family]\nneeds_trigger = false\nmounts = [{{path = "{srv}/shared/inner", name = "inner"}}]\n'
    (home / "config/config.toml").write_text(text)
    (home / "config/config.toml").chmod(0o600)
    assert "inner" not in runs(home, engine, "ls /workspace /workspace/extra/*", group="family")
