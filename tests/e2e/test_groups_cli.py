"""Groups as the person administers them: with a host that runs and with none, and what cannot be had."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from host.model import Image
from tests.conftest import require_engine
from tests.e2e.cli import (
    BARE,
    Terminal,
    answer,
    command,
    nanoclaw,
    reply_of,
    rows,
    running,
    told,
    wait_for,
)


def folders(home: Path) -> list[str]:
    return [group["folder"] for group in answer(home, "groups")["groups"]]


def test_a_group_is_added_shown_changed_and_removed(place: Path) -> None:
    assert told(place, "groups") == "main\tconsole:main\teverything\tmain\n"
    assert "nanoclaw chat family" in told(place, "groups", "add", "family", "--name", "The family")
    assert told(place, "groups", "list").splitlines()[1] == "family\tconsole:family\t@Andy\tThe family"

    told(place, "groups", "set", "family", "trigger=Robin", "seconds=300", "senders=mia,tom", "needs_trigger=true")
    group = answer(place, "groups", "show", "FAMILY")["group"]
    assert group["trigger"] == "@Robin"
    assert group["limits"]["seconds"] == 300
    assert group["senders"] == ["mia", "tom"]
    assert "mia tom\n" in told(place, "groups", "show", "family")

    told(place, "groups", "set", "family", "seconds=", "senders=", "trigger=")
    back = answer(place, "groups", "show", "family")["group"]
    assert (back["trigger"], back["senders"], back["chosen"]) == ("@Andy", None, {})
    assert back["limits"] == answer(place, "groups", "show", "main")["group"]["limits"]

    (place / "data/groups/family").mkdir(parents=True, exist_ok=True)
    (place / "data/groups/family/CLAUDE.md").write_text("The cat is called Mia.")
    assert answer(place, "groups", "remove", "family")["kept"] == [str(place / "data/groups/family")]
    assert folders(place) == ["main"]
    assert (place / "data/groups/family/CLAUDE.md").exists()

    told(place, "groups", "add", "family")  # the same chat: it finds its folder again
    (moved,) = answer(place, "groups", "remove", "family", "--trash")["moved_to"]
    assert not (place / "data/groups/family").exists()
    assert (Path(moved) / "CLAUDE.md").read_text() == "The cat is called Mia."
    assert Path(moved).parent == place / "data/trash"
    told(place, "groups", "add", "family", "--chat", "another")


# Arguments that cannot be had, and a word that says why.
BAD = [
    (("add", "Family"), "family"),
    (("add", "MAIN"), "main"),
    (("add", "farnily"), "looks like"),
    (("add", "fami1y"), "looks like"),
    (("add", "global"), "itself"),
    (("add", "Trash"), "itself"),
    (("add", "../x"), "letters"),
    (("add", ""), "empty"),
    (("add", "a b"), "letters"),
    (("add", "x" * 65), "letters"),
    (("add", "café"), "letters"),
    (("add", "other", "--chat", "family"), "family"),
    (("add", "main2", "--chat", "main"), "main"),
    (("add", "other", "--chat", ""), "chat"),
    (("add", "other", "--channel", "telegram", "--chat", "1"), "telegram"),
    (("add", "other", "--name", "two\nlines"), "name"),
    (("add", "other", "--trigger", "@"), "trigger"),
    (("show", "nobody"), "nobody"),
    (("set", "nobody", "memory=1GB"), "nobody"),
    (("set", "family", "colour=red"), "colour"),
    (("set", "family", "cpus=2", "memori=1GB"), "memory"),
    (("set", "family", "memory=lots"), "size"),
    (("set", "family", "memory=1KB"), "192 MB"),
    (("set", "family", "cpus=true"), "number"),
    (("set", "family", "needs_trigger=perhaps"), "true or false"),
    (("set", "family", "timezone=Mars/Olympus"), "Mars"),
    (("set", "family", "senders=[]"), "senders"),
    (("set", "family", "allow_hosts=https://a.example"), "host"),
    (("set", "main", "needs_trigger=true"), "main"),
    (("remove", "nobody"), "nobody"),
    (("remove", "main"), "main"),
    (("remove", "main", "--trash"), "main"),
]


def test_what_cannot_be_had_is_one_clear_error_and_changes_nothing(place: Path) -> None:
    told(place, "groups", "add", "family")
    before = answer(place, "groups"), answer(place, "groups", "show", "family"), answer(place, "groups", "show", "main")
    for args, word in BAD:
        done = nanoclaw(place, "bubblewrap", "groups", *args, env=BARE)
        assert done.returncode in (1, 2), args
        assert done.stdout == "", args
        assert done.stderr.count("nanoclaw: error: ") == 1, (args, done.stderr)
        assert "Traceback" not in done.stderr, (args, done.stderr)
        assert word in done.stderr, (args, done.stderr)
    after = answer(place, "groups"), answer(place, "groups", "show", "family"), answer(place, "groups", "show", "main")
    assert after == before
    assert not (place / "data/trash").exists()


def test_a_bound_that_the_engine_does_not_keep_is_refused_unless_it_is_accepted_by_name(hosted: Path) -> None:
    done = nanoclaw(hosted, "bubblewrap", "groups", "set", "main", "memory=512 MB", "seconds=300")
    assert done.returncode == 2
    assert "does not enforce the memory limit" in done.stderr
    assert "accept_not_enforced" in done.stderr
    assert answer(hosted, "groups", "show", "main")["group"]["chosen"] == {}


def test_a_bound_that_was_accepted_to_be_missing_may_be_set(home: Path, image: Image) -> None:
    require_engine("bubblewrap")
    (home / "config").mkdir(mode=0o700)
    (home / "config/config.toml").write_text('accept_not_enforced = ["memory limit"]\n')
    with running(home, "bubblewrap"):
        told(home, "groups", "set", "main", "memory=512 MB")
        assert "memory\t512 MB\n" in told(home, "groups", "show", "main")


def test_what_config_toml_decides_is_not_changed_here(home: Path) -> None:
    (home / "config").mkdir(mode=0o700)
    (home / "config/config.toml").write_text('[groups.family]\ntrigger = "Robin"\n')
    told(home, "groups", "add", "family")
    done = nanoclaw(home, "bubblewrap", "groups", "set", "family", "trigger=Andy")
    assert done.returncode == 2
    assert "config.toml" in done.stderr
    assert "trigger (config.toml)" in told(home, "groups", "show", "family")


def test_commands_at_once_wait_for_each_other(home: Path) -> None:
    told(home, "groups")
    adding = [
        subprocess.Popen(command(home, "auto", "groups", "add", f"group{name}"), env=BARE, stdout=subprocess.PIPE)
        for name in ("A", "B", "C")
    ]
    for process in adding:
        process.communicate(timeout=60)
    assert [process.returncode for process in adding] == [0, 0, 0]
    assert sorted(folders(home)) == ["groupA", "groupB", "groupC", "main"]


def test_a_message_that_does_not_call_the_assistant_is_kept_for_the_one_that_does(hosted: Path) -> None:
    told(hosted, "groups", "add", "family", "--trigger", "Robin")
    quiet = nanoclaw(hosted, "bubblewrap", "ask", "--as", "mia", "--group", "family", "the cat is called Mimi")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert "@Robin" in quiet.stderr
    record = reply_of(nanoclaw(hosted, "bubblewrap", "ask", "--json", "--group", "family", "and the dog Rex"))
    assert record == {"outcome": "not called", "reply": "", "said": [], "turn": ""}
    assert rows(hosted, "SELECT count(*) FROM turns") == [(0,)]

    called = nanoclaw(hosted, "bubblewrap", "ask", "--as", "tom", "--group", "family", "@robin\nrepeat hello")
    assert called.returncode == 0, called.stderr
    assert "hello" in called.stdout
    (asked,) = rows(hosted, "SELECT content FROM transcript WHERE role = 'user' ORDER BY id LIMIT 1")
    assert all(words in asked[0] for words in ("mia", "Mimi", "Rex", "tom"))

    told(hosted, "groups", "set", "family", "needs_trigger=false")
    assert "at once" in nanoclaw(hosted, "bubblewrap", "ask", "--group", "family", "repeat at once").stdout


def test_only_listed_senders_call_the_assistant(hosted: Path) -> None:
    told(hosted, "groups", "add", "family", "--no-trigger")
    told(hosted, "groups", "set", "family", "senders=tom")
    for sender in ((), ("--as", "mia"), ("--as", "Tom"), ("--as", "tom✓")):
        done = nanoclaw(hosted, "bubblewrap", "ask", *sender, "--group", "family", "repeat hello")
        assert (done.returncode, done.stdout) == (0, ""), sender
        assert "not among those who may call" in done.stderr
    done = nanoclaw(hosted, "bubblewrap", "ask", "--as", "tom", "--group", "family", "repeat hello")
    assert "hello" in done.stdout, done.stderr


def test_a_chat_tells_how_to_call_and_shows_who_wrote(hosted: Path) -> None:
    told(hosted, "groups", "add", "family")
    assert nanoclaw(hosted, "bubblewrap", "ask", "--as", "tom", "--group", "family", "good evening").returncode == 0
    terminal = Terminal(*command(hosted, "bubblewrap", "chat", "--as", "mia", "family"))
    terminal.expect("tom: good evening")
    terminal.expect("listens in family")
    terminal.expect("begin with @Andy")
    terminal.expect("mia> ")
    terminal.type("hello tom\r")
    terminal.expect("does not call Andy")
    terminal.type("@Andy\x1b[200~\nrepeat hello mia\x1b[201~\r")
    terminal.expect("hello mia(.|\n)*hello mia")
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_control_c_stops_a_turn_however_the_group_is_written(hosted: Path) -> None:
    told(hosted, "groups", "add", "family", "--no-trigger")
    terminal = Terminal(*command(hosted, "bubblewrap", "chat", "FAMILY"))
    terminal.expect("listens in family")
    terminal.type("think slowly 60\r")
    wait_for(lambda: rows(hosted, "SELECT 1 FROM turns"))
    terminal.expect(r"\w\w\w")
    terminal.type("\x03")
    terminal.expect("stopped")
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_a_question_that_calls_nobody_needs_no_host_that_runs(home: Path, image: Image) -> None:
    require_engine("bubblewrap")
    told(home, "groups", "add", "family")
    done = nanoclaw(home, "bubblewrap", "ask", "--group", "family", "--json", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    assert reply_of(done)["outcome"] == "not called"
    assert rows(home, "SELECT text FROM messages") == [("hello",)]


def test_a_chat_over_a_pipe_ends_though_nobody_was_called(hosted: Path) -> None:
    told(hosted, "groups", "add", "family")
    done = nanoclaw(hosted, "bubblewrap", "chat", "family", stdin=b"hello\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert "does not call Andy" in done.stderr


def test_a_group_that_is_removed_answers_no_more(hosted: Path) -> None:
    told(hosted, "groups", "add", "family", "--no-trigger")
    assert nanoclaw(hosted, "bubblewrap", "ask", "--group", "family", "repeat x").returncode == 0
    told(hosted, "groups", "remove", "family", "--trash")
    gone = nanoclaw(hosted, "bubblewrap", "ask", "--group", "family", "repeat x")
    assert gone.returncode == 1
    assert "family" in gone.stderr
    assert rows(hosted, "SELECT count(*) FROM messages") == [(0,)]
    assert not (hosted / "data/groups/family").exists()


def test_a_folder_is_given_to_a_group_where_the_allowlist_permits_it(hosted: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir(mode=0o755)
    (photos / "list.txt").write_text("a picture of Rex")
    told(hosted, "groups", "add", "family", "--no-trigger")
    refused = nanoclaw(hosted, "bubblewrap", "groups", "mount", "family", str(photos), "--as", "pictures")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "cannot be given to family" in refused.stderr
    assert answer(hosted, "groups", "show", "family")["group"]["mounts"] == []

    told(hosted, "mounts", "allow", str(photos))
    given = told(hosted, "groups", "mount", "family", str(photos), "--as", "pictures")
    assert given == f"family sees {photos} as /workspace/extra/pictures from its next sandbox on, to read\n"
    assert f"{photos} as pictures, to read" in told(hosted, "groups", "show", "family")
    look = ("ask", "--group", "family", "run cat /workspace/extra/pictures/list.txt")
    assert "a picture of Rex" in nanoclaw(hosted, "bubblewrap", *look).stdout

    told(hosted, "groups", "unmount", "family", "pictures")
    assert "a picture of Rex" not in nanoclaw(hosted, "bubblewrap", *look).stdout
    assert "was given no folder" in nanoclaw(hosted, "bubblewrap", "groups", "unmount", "family", "pictures").stderr


def test_status_tells_what_is_due_and_what_was_not_mounted(hosted: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir(mode=0o755)
    told(hosted, "mounts", "allow", str(photos))
    told(hosted, "groups", "mount", "main", str(photos))
    told(hosted, "tasks", "add", "--group", "main", "--every", "1d", "Look.")
    told(hosted, "mounts", "deny", str(photos))
    assert nanoclaw(hosted, "bubblewrap", "ask", "repeat x").returncode == 0
    shown = answer(hosted, "status")
    assert "photos" in shown["refused_mounts"]["main"][0]
    assert [task["group"] for task in shown["next_tasks"]] == ["main"]
    text = told(hosted, "status")
    assert re.search(r"^tasks +1 active$", text, re.MULTILINE)
    assert re.search(r"^next task 1 +\S+ +\S+ of main$", text, re.MULTILINE)
    assert re.search(r"^not mounted for main +photos", text, re.MULTILINE)


def test_help_needs_nothing(tmp_path: Path) -> None:
    for words in (["groups"], ["groups", "add"], ["groups", "set"], ["tasks"], ["tasks", "add"], ["mounts"]):
        argv = [sys.executable, "nanoclaw.py", "--home", str(tmp_path / "none"), *words, "--help"]
        done = subprocess.run(argv, env=BARE, capture_output=True, text=True, check=True)
        assert "example" in done.stdout
    assert not (tmp_path / "none").exists()
