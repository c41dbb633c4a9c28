"""From nothing to a first reply: as a person at a terminal, and as a script."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.rehearsal.child import Rehearsal
from tests.e2e.cli import Terminal, command, environment, nanoclaw, rows, running

KEY = "sk-ant-first-run-0123456789abcdef"
CHOICE = r"\[Enter\] set it up   \[l\] look around first"


@pytest.fixture(params=["bubblewrap"])
def engine(request: pytest.FixtureRequest, image: object) -> str:
    from tests.conftest import require_engine

    require_engine(request.param)
    return str(request.param)


@pytest.fixture
def model() -> Iterator[str]:
    """A model server that takes one key only."""
    rehearsal = Rehearsal(expect_key=KEY)
    yield rehearsal.start().base_url
    rehearsal.stop()


@pytest.fixture
def open_model() -> Iterator[str]:
    """A model server that asks for no key."""
    rehearsal = Rehearsal()
    yield rehearsal.start().base_url
    rehearsal.stop()


def config(home: Path, name: str) -> str:
    path = home / "config" / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text()


# --- at a terminal ---------------------------------------------------------------------------------------------


def test_with_nothing_configured_it_says_what_it_is_sets_itself_up_and_opens_the_chat(
    home: Path, engine: str, model: str
) -> None:
    person = Terminal(*command(home, "auto")[:-2])
    person.expect(CHOICE)
    person.type("\r")
    person.expect(r"1 of 7 .*\n(.*\n)*.*bubblewrap +works(.*\n)*.*the name of another")
    person.type("bubblewrap\r")
    person.expect(r"2 of 7 .*\n(.*\n)*.*or 1, 2, 3")
    person.type("2\r")
    person.expect("Its address")
    person.type(f"{model}\r")
    person.expect("type it .not shown")
    person.type(f"{KEY}\r")
    person.expect(r"3 of 7 .*\n.*another name")
    assert KEY not in person.seen
    person.type("rehearsal\r")
    person.expect("What is it called")
    person.type("@!\r")
    person.expect("error: .*assistant is '@!'")
    person.type("\r")
    person.expect("What is it called")
    person.type("<\r")
    person.expect("3 of 7(.*\n)*.*keep rehearsal|Enter. rehearsal")
    person.type("\r")
    person.expect("What is it called")
    person.type("Robin\r")
    person.expect("The time zone is")
    person.type("\r")
    person.expect(rf"Have Robin say hello.*one real request to {re.escape(model)}, which your key pays for")
    person.type("\r")
    person.expect(r"7 of 7  WhatsApp(.*\n)*.*by a QR code")
    person.type("\r")
    person.expect("I am a script and not an AI")
    person.expect("Robin listens in main")
    person.type("repeat and on\r")
    person.expect(r"and on")
    person.type("\x04")
    assert person.wait() == 0
    assert config(home, "config.toml") == 'engine = "bubblewrap"\nassistant = "Robin"\n\n[model]\nname = "rehearsal"\n'
    assert config(home, ".env") == f"ANTHROPIC_BASE_URL={model}\nANTHROPIC_API_KEY={KEY}\n"
    assert KEY not in person.all

    again = Terminal(*command(home, "auto")[:-2])
    again.expect("Robin listens in main")
    again.type("\x04")
    assert again.wait() == 0
    assert "look around" not in again.all


def test_looking_around_first_is_one_key_away_and_asks_no_more_the_next_time(home: Path, engine: str) -> None:
    person = Terminal(*command(home, engine))
    person.expect(CHOICE)
    person.type("l")
    person.expect("a rehearsal script answers, not an AI")
    person.expect("Andy listens in main")
    person.type("\x04")
    assert person.wait() == 0
    assert not list((home / "config").iterdir())
    again = Terminal(*command(home, engine))
    again.expect("nanoclaw setup(.*\n)*.*Andy listens in main")
    again.type("\x04")
    assert again.wait() == 0


@pytest.mark.parametrize("typed", ["q", "\x04", "\x03"])
def test_whoever_leaves_at_once_has_changed_nothing(home: Path, typed: str) -> None:
    person = Terminal(*command(home, "auto"))
    person.expect(CHOICE)
    person.type(typed)
    assert person.wait() == (130 if typed == "\x03" else 0)
    assert [path.name for path in home.iterdir()] == ["cache"]


def test_whoever_leaves_in_the_middle_keeps_what_was_chosen(home: Path, engine: str, model: str) -> None:
    person = Terminal(*command(home, "auto")[:-2], "setup")
    person.expect("the name of another")
    person.type("bubblewrap\r")
    person.expect("or 1, 2, 3")
    person.type("2\r")
    person.expect("Its address")
    person.type(f"{model}\r")
    person.expect("not shown")
    person.type("\x03")
    person.expect("what was set so far is kept")
    assert person.wait() == 130
    assert config(home, "config.toml") == 'engine = "bubblewrap"\n'
    assert not (home / "config" / ".env").exists()


def test_a_key_that_is_refused_can_be_put_right_on_the_spot(home: Path, engine: str, model: str) -> None:
    person = Terminal(*command(home, engine), "setup", "--url", model, "--key-file", str(wrong(home)), "--name", "Mia")
    person.expect("another name")
    person.type("\r")
    person.expect("time zone")
    person.type("\r")
    person.expect("Have Mia say hello")
    person.type("\r")
    person.expect("error: .*(key|401)")
    person.expect("once more")
    person.type("s\r")
    person.expect("by a QR code")
    person.type("\r")
    person.expect("reply      none")
    assert person.wait() == 0


def wrong(home: Path) -> Path:
    path = home / "wrong"
    path.write_text("not-the-key-that-it-takes\n")
    return path


# --- as a script -----------------------------------------------------------------------------------------------


def test_all_of_it_can_be_said_beforehand(home: Path, engine: str, model: str, tmp_path: Path) -> None:
    (home / "config").mkdir(mode=0o700)
    (home / "config" / "config.toml").write_text("# mine\n[limits]\ncpus = 1  # enough\n")
    given = [
        "--url",
        model,
        "--model",
        "m",
        "--name",
        "Robin",
        "--timezone",
        "Europe/Berlin",
        "--key-file",
        "-",
        "--yes",
    ]
    done = nanoclaw(home, engine, "setup", *given, "--json", stdin=f"{KEY}\n".encode())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"] == ["engine", "key", "url", "model.name", "assistant", "timezone"]
    assert (told["url"], told["key"], told["model"], told["name"]) == (model, True, "m", "Robin")
    assert "I am a script" in told["reply"]
    assert KEY not in done.stdout + done.stderr
    assert config(home, "config.toml") == (
        'engine = "bubblewrap"\nassistant = "Robin"\ntimezone = "Europe/Berlin"\n\n'
        '# mine\n[limits]\ncpus = 1  # enough\n\n[model]\nname = "m"\n'
    )
    assert rows(home, "SELECT outcome FROM turns") == [("done",)]

    again = nanoclaw(home, engine, "setup", *given, "--no-reply", stdin=f"{KEY}\n".encode())
    assert again.returncode == 0, again.stderr
    assert json.loads(nanoclaw(home, engine, "setup", "--yes", "--no-reply", "--json").stdout)["changed"] == []


def test_without_a_terminal_nothing_is_asked(home: Path) -> None:
    done = nanoclaw(home, "auto", "setup")
    assert done.returncode == 2
    assert "no terminal to ask at" in done.stderr
    bare = nanoclaw(home, "bubblewrap", stdin=b"")
    assert "look around" not in bare.stderr + bare.stdout


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--engine", "warp"], "no engine called 'warp'"),
        (["--url", "ftp://x"], "does not begin with https://"),
        (["--url", "http://127.0.0.1:1"], "nobody answers at 127.0.0.1:1"),
        (["--key-file", "/nonexistent"], "cannot be read"),
        (["--name", "@@"], "assistant is '@@'"),
        (["--timezone", "Mars"], "timezone is 'Mars'"),
        (["--model", " "], "model.name is empty"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(home: Path, given: list[str], why: str) -> None:
    done = subprocess.run(
        [*command(home, "")[:-2], "setup", *given, "--yes", "--no-reply"],
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((home / "config").iterdir())


def test_a_key_is_not_told_to_another_endpoint_than_its_own(home: Path, open_model: str) -> None:
    path = home / "key"
    path.write_text(KEY)
    assert nanoclaw(home, "bubblewrap", "setup", "--key-file", str(path), "--yes", "--no-reply").returncode == 0
    assert config(home, ".env") == f"ANTHROPIC_API_KEY={KEY}\n"
    done = nanoclaw(home, "bubblewrap", "setup", "--url", open_model, "--yes", "--no-reply")
    assert (done.returncode, "holds a key for another endpoint" in done.stderr) == (1, True)
    assert config(home, ".env") == f"ANTHROPIC_API_KEY={KEY}\n"
    path.write_text("sk-proj-0123456789abcdef")
    done = nanoclaw(home, "bubblewrap", "setup", "--key-file", str(path), "--yes", "--no-reply")
    assert (done.returncode, "does not begin with sk-ant-" in done.stderr) == (1, True)
    done = nanoclaw(home, "bubblewrap", "setup", "--url", open_model, "--key-file", str(path), "--yes", "--no-reply")
    assert done.returncode == 0, done.stderr


def test_beside_a_host_that_runs_it_says_what_that_host_takes_up(home: Path, engine: str, open_model: str) -> None:
    with running(home, engine):
        done = nanoclaw(home, engine, "setup", "--url", open_model, "--name", "Robin", "--yes")
        assert done.returncode == 0, done.stderr
        assert "goes by its old settings until it is started again" in done.stderr
        assert "I am a script" in done.stdout


def test_a_key_is_no_argument_and_no_child_has_it_in_its_environment(home: Path, model: str) -> None:
    done = nanoclaw(home, "bubblewrap", "setup", "--key", KEY, "--yes")
    assert done.returncode == 2
    env = environment(ANTHROPIC_API_KEY=KEY)
    done = nanoclaw(home, "bubblewrap", "setup", "--url", model, "--yes", "--no-reply", env=env)
    assert not (home / "config" / ".env").exists() or KEY not in config(home, ".env")
