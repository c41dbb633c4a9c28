"""`kill -9` of the host at different moments of a turn: nothing lost, nothing answered twice, nothing left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from host.app import install_id
from tests.e2e.cli import command, environment, nanoclaw, rows, running, wait_for

KILLS = 20
ANSWERED_TWICE = """
    SELECT m.seq, count(t.id) FROM messages m
    LEFT JOIN turns t ON m.seq BETWEEN t.from_seq AND t.upto AND t.outcome = 'done'
    GROUP BY m.seq HAVING count(t.id) != 1
"""


def kill_during_a_turn(home: Path, engine: str, moment: float, number: int) -> None:
    """Start a host, give it a message, and kill it `moment` of a turn's length later."""
    host = subprocess.Popen(
        command(home, engine, "run"), env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: (home / "data/host.sock").exists() or host.poll() is not None)
    asking = subprocess.Popen(
        command(home, engine, "ask", f"run echo {number}\nsay part {number} first\nrepeat reply {number}"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: rows(home, "SELECT count(*) FROM messages") == [(number,)])
    time.sleep(moment)  # not a wait for anything: the moment of the kill is what the test varies
    host.send_signal(signal.SIGKILL)
    host.wait()
    asking.wait(60)
    (home / "data/host.sock").unlink(missing_ok=True)


def test_every_message_has_exactly_one_reply_after_twenty_kills(home: Path, engine: str) -> None:
    # What many kills leave pending is answered in one turn, a round for each line of it.
    (home / "config").mkdir(mode=0o700, exist_ok=True)
    (home / "config/config.toml").write_text("[limits]\nrounds = 500\n")
    for begin in ("repeat begin", "run echo 2\nsay part 2 first\nrepeat reply 2"):
        nanoclaw(home, engine, "ask", begin)
    length = rows(home, "SELECT finished_at - started_at FROM turns ORDER BY started_at DESC")[0][0]
    moments = random.Random(7)
    for number in range(3, KILLS + 3):
        kill_during_a_turn(home, engine, moments.uniform(0, 1.5 * length), number)
    interrupted = rows(home, "SELECT count(*) FROM turns WHERE outcome IS NULL OR outcome = 'interrupted'")
    assert interrupted[0][0] >= KILLS // 4, "the kills missed the turns"
    with running(home, engine):
        wait_for(lambda: rows(home, "SELECT answered_upto FROM groups") == rows(home, "SELECT max(seq) FROM messages"))
    assert rows(home, ANSWERED_TWICE) == []
    replies = rows(home, "SELECT count(*), count(DISTINCT turn) FROM outbox WHERE kind = 'reply'")
    assert replies[0][0] == replies[0][1]
    assert orphans(engine, home) == ""


def orphans(engine: str, home: Path) -> str:
    """What the engine (or the process list) still has of this home."""
    install = install_id(home / "data")
    if engine == "docker":
        argv = ["docker", "ps", "-aq", "--filter", f"name=nanoclaw-{install}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = [p for p in Path("/proc").glob("[0-9]*/cmdline") if sandboxed(p)]
    return " ".join(map(str, found))


def sandboxed(cmdline: Path) -> bool:
    try:
        return b"/opt/nanoclaw/runner" in cmdline.read_bytes() and belongs_here(int(cmdline.parent.name))
    except (OSError, ValueError):
        return False  # it ended while we looked


def belongs_here(pid: int) -> bool:
    """Whether `pid` has lost its parent: a sandbox of another test that runs now still has its own."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]) == 1


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_sandbox_does_not_outlive_its_host(home: Path, engine: str, signum: int) -> None:
    host = subprocess.Popen(
        command(home, engine, "run"), env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for((home / "data/host.sock").exists)
    asking = subprocess.Popen(
        command(home, engine, "ask", "run touch started\nrun sleep 300"), env=environment(), stderr=subprocess.DEVNULL
    )
    wait_for((home / "data/groups/main/started").exists)
    os.kill(host.pid, signum)
    host.wait(30)
    assert asking.wait(30) == 1
    wait_for(lambda: orphans(engine, home) == "", seconds=30)
