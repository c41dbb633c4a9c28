"""`ask`, `chat`, `run` and `status` as a person uses them, through real sandboxes and the rehearsal model."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cli import Terminal, command, environment, nanoclaw, reply_of, rows, running, wait_for
from tests.e2e.conftest import EVERY

PROOF = "run id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/1/status; cat /proc/net/dev"


@pytest.mark.parametrize("engine", EVERY, indirect=True)
def test_ask_is_answered_from_a_sealed_sandbox(home: Path, engine: str) -> None:
    done = nanoclaw(home, engine, "ask", PROOF)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^[1-9]\d*$", done.stdout, re.MULTILINE), "not uid 0"
    assert "CapEff:\t0000000000000000" in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout
    assert re.findall(r"^ *(\w+):.*\d", done.stdout, re.MULTILINE)[-1] == "lo"
    assert "a rehearsal script answers, not an AI" in done.stderr


def test_ask_json_and_quiet(home: Path, engine: str) -> None:
    done = nanoclaw(home, engine, "ask", "--json", "say first things first\nrepeat done")
    assert done.returncode == 0, done.stderr
    record = reply_of(done)
    assert record["outcome"] == "done"
    assert record["said"] == ["first things"]
    assert "done" in record["reply"]
    assert done.stderr == ""


def test_ask_reads_standard_input_for_a_dash(home: Path, engine: str) -> None:
    done = nanoclaw(home, engine, "ask", "-", stdin="repeat grüße\n".encode())
    assert done.returncode == 0, done.stderr
    assert "grüße" in done.stdout


def test_memory_and_files_outlive_the_turn_and_nothing_else_does(home: Path, engine: str) -> None:
    first = nanoclaw(home, engine, "ask", "remember that the cat is called Mia\nrun touch /tmp/gone ~/gone kept")
    assert first.returncode == 0, first.stderr
    second = nanoclaw(home, engine, "ask", "run ls -a /tmp ~ .")
    assert "kept" in second.stdout
    assert "gone" not in second.stdout
    assert "Mia" in nanoclaw(home, engine, "ask", "what do you remember?").stdout
    assert "Mia" in (home / "data/groups/main/CLAUDE.md").read_text()


def test_the_conversation_so_far_reaches_the_next_turn(home: Path, engine: str) -> None:
    nanoclaw(home, engine, "ask", "repeat one")
    nanoclaw(home, engine, "ask", "repeat two")
    assert rows(home, "SELECT count(*) FROM transcript") == [(4,)]


@pytest.mark.parametrize("kind", ["401", "529", "refuse", "truncate"])
def test_a_turn_that_fails_says_why_and_exits_1(home: Path, kind: str, engine: str) -> None:
    done = nanoclaw(home, engine, "ask", f"fail {kind}")
    assert done.returncode == 1
    assert re.search(r"^nanoclaw: error: .{20,}", done.stderr, re.MULTILINE), done.stderr
    assert done.stdout == ""


def test_a_message_that_failed_is_part_of_the_next_turn(home: Path, engine: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (home / "config").mkdir(mode=0o700, exist_ok=True)
    settings = home / "config/.env"
    settings.touch(mode=0o600)
    settings.write_text(f"ANTHROPIC_BASE_URL=http://127.0.0.1:{port}\n")
    assert nanoclaw(home, engine, "ask", "repeat from before").returncode == 1
    settings.unlink()
    done = nanoclaw(home, engine, "ask", "repeat from now")
    assert done.returncode == 0, done.stderr
    assert "from before" in done.stdout
    assert "from now" in done.stdout


def test_chat_over_a_pipe_answers_every_line_and_ends(home: Path, engine: str) -> None:
    done = nanoclaw(home, engine, "chat", stdin=b"repeat one\nrepeat two\n")
    assert done.returncode == 0, done.stderr
    assert "one" in done.stdout
    assert "two" in done.stdout
    assert rows(home, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(0,)]


def test_clients_talk_to_the_host_that_runs(home: Path, engine: str) -> None:
    with running(home, engine) as host:
        status = reply_of(nanoclaw(home, engine, "status", "--json"))
        assert status["running"]
        assert status["pid"] == host.pid
        assert status["engine"] == engine
        done = nanoclaw(home, engine, "ask", "repeat over the socket")
        assert done.returncode == 0, done.stderr
        assert "over the socket" in done.stdout
        assert ((home / "data/host.sock").stat().st_mode & 0o777) == 0o600
        second = nanoclaw(home, engine, "run")
        assert second.returncode == 1
        assert str(host.pid) in second.stderr
    assert nanoclaw(home, engine, "status").stdout.startswith("no host runs")
    assert not (home / "data/host.sock").exists()


def test_two_questions_at_once_are_both_answered(home: Path, engine: str) -> None:
    with running(home, engine):
        asked = [
            subprocess.Popen(
                command(home, engine, "ask", f"repeat number {n}"), env=environment(), stdout=subprocess.PIPE
            )
            for n in (1, 2)
        ]
        answers = [process.communicate(timeout=120)[0].decode() for process in asked]
    assert [process.returncode for process in asked] == [0, 0]
    assert "number 1" in answers[0]
    assert "number 2" in answers[1]


def test_chat_at_a_terminal_control_c_stops_the_turn_and_not_the_program(home: Path, engine: str) -> None:
    terminal = Terminal(*command(home, engine, "chat"))
    terminal.expect("listens in main")
    terminal.type("repeat hello there\r")
    terminal.expect("hello there(.|\n)*hello there")
    # What is shown is the text as it is written; a message before the turn's end would be fed into it.
    wait_for(lambda: rows(home, "SELECT outcome FROM turns") == [("done",)])
    terminal.type("think slowly 60\r")
    wait_for(lambda: len(rows(home, "SELECT 1 FROM turns")) == 2)
    terminal.expect(r"\w\w\w")
    terminal.type("\x03")
    terminal.expect("stopped")
    terminal.type("repeat still here\r")
    terminal.expect("still here(.|\n)*still here")
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_chat_shows_the_conversation_so_far(home: Path, engine: str) -> None:
    nanoclaw(home, engine, "ask", "repeat yesterday's words")
    terminal = Terminal(*command(home, engine, "chat"))
    terminal.expect("owner: repeat yesterday's words")
    terminal.expect("listens in main")
    terminal.type("\x04")
    assert terminal.wait() == 0


@pytest.mark.parametrize("engine", EVERY, indirect=True)
def test_the_host_stops_on_sigterm_and_leaves_no_sandbox(home: Path, engine: str) -> None:
    with running(home, engine) as host:
        nanoclaw(home, engine, "ask", "repeat something")
        host.send_signal(signal.SIGTERM)
        assert host.wait(30) == 0
