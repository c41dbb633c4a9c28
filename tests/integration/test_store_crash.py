"""`kill -9` of a process that writes, and a disk that fills up: what was acknowledged is there, once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

KILLS = 20

# Plays a host: takes messages, runs turns, sends replies, and says on its standard output what it has been
# told is done, the instant after. Ids go on where the last one stopped.
WRITER = """
import os, random, signal, sys
from pathlib import Path
from host.model import Group, Message
from host.store import Store

def ack(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

seed, path = int(sys.argv[1]), Path(sys.argv[2])
chance = random.Random(seed)
store = Store(path)
if not store.groups():
    store.add_group(Group("main", "console", "main", "main", is_main=True))
store.recover()
for outgoing in store.outbox.pending("console"):
    store.outbox.mark_sent(outgoing.id)
    ack("sent", outgoing.id)
for number in range(100_000):
    for part in range(chance.randint(1, 3)):
        name = f"{seed}-{number}-{part}"
        stored = store.add_message(Message("console", name, "main", "ann", "Ann", "x" * chance.randint(1, 9000), 1.0))
        ack("kept", name, stored.seq)
    turn = f"turn-{seed}-{number}"
    store.begin_turn("main", turn)
    if "hold" in sys.argv:
        ack("begun", turn)
        signal.pause()
    upto = store.context("main").messages[-1].seq
    if chance.random() < 0.3:
        ack("said", store.add_say("main", turn, "one moment").id)
    entries = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y" * chance.randint(1, 20_000)}]
    outgoing = store.finish_turn("main", turn, upto, f"answer of {turn}", entries, (1, 2))
    ack("answered", turn, upto, outgoing.id)
    store.outbox.mark_sent(outgoing.id)
    ack("sent", outgoing.id)
"""


def rows(path: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def write_until_killed(path: Path, seed: int, seconds: float, *, hold: bool = False) -> list[list[str]]:
    """What the writer was told is done before it died; with `hold` it dies in the middle of its first turn."""
    argv = [sys.executable, "-c", WRITER, str(seed), str(path), *(["hold"] if hold else [])]
    writer = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert writer.stdout is not None
    first = writer.stdout.readline()
    while hold and b"begun" not in first:
        first += writer.stdout.readline()
    time.sleep(seconds)  # not a wait for anything: the moment of the kill is what varies
    writer.kill()
    rest = writer.stdout.read()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    # The last line may be half written.
    return [line.split() for line in (first + rest).decode().split("\n")[:-1]]


def check(path: Path, acked: list[list[str]]) -> None:
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    kept = dict(rows(path, "SELECT id, seq FROM messages"))
    outcome = dict(rows(path, "SELECT id, outcome FROM turns"))
    outbox = dict(rows(path, "SELECT id, sent_at IS NOT NULL FROM outbox"))
    cursors = rows(path, "SELECT answered_upto, seen_upto FROM groups")[0]
    for word, *values in acked:
        match word:
            case "kept":
                assert kept[values[0]] == int(values[1])
            case "answered":
                assert outcome[values[0]] == "done"
                assert min(cursors) >= int(values[1])
                assert int(values[2]) in outbox
            case "said":
                assert int(values[0]) in outbox
            case "sent":
                assert outbox[int(values[0])]
    # Each turn that ended has exactly one reply and its transcript, and no other turn has any of it.
    done = sorted(turn for turn, how in outcome.items() if how == "done")
    assert [turn for (turn,) in rows(path, "SELECT turn FROM outbox WHERE kind = 'reply' ORDER BY turn")] == done
    counts = rows(path, "SELECT turn, count(*) FROM transcript GROUP BY turn ORDER BY turn")
    assert counts == [(turn, 2) for turn in done]
    # And the cursor stands where the last of them put it: every message has one answer, or is pending.
    assert cursors[0] == cursors[1] == rows(path, "SELECT ifnull(max(upto), 0) FROM turns WHERE outcome = 'done'")[0][0]
    answers = "SELECT count(*) FROM turns t WHERE t.outcome = 'done' AND m.seq BETWEEN t.from_seq AND t.upto"
    assert rows(path, f"SELECT seq FROM messages m WHERE ({answers}) != (seq <= {cursors[0]})") == []


def test_twenty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "nanoclaw.db"
    chance = random.Random(20)
    acked: list[list[str]] = []
    for seed in range(KILLS):
        # The first one is sure to hit a turn in its middle; the others hit what they hit.
        acked += write_until_killed(path, seed, chance.uniform(0, 0.15), hold=seed == 0)
        check(path, acked)
    words = [word for word, *_ in acked]
    assert words.count("answered") > KILLS
    assert rows(path, "SELECT count(*) > 0 FROM turns WHERE outcome = 'interrupted'") == [(1,)]


FILLER = """
import os, sys
from pathlib import Path
from host.errors import UserError
from host.model import Group, Message
from host.store import Store

folder = Path(sys.argv[1])
path = folder / "nanoclaw.db"
store = Store(path)
store.add_group(Group("main", "console", "main", "main", is_main=True))
for number in range(20):
    store.add_message(Message("console", str(number), "main", "a", "A", "x" * 1000, 1.0))
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(b"x" * 4096)
    except OSError:
        pass
kept, errors = 20, []
for number in range(20, 40):
    try:
        store.add_message(Message("console", str(number), "main", "a", "A", "x" * 30_000, 1.0))
        kept += 1
    except UserError as e:
        errors.append(str(e))
assert errors, "the disk never was full"
assert all(str(path) in e and "the disk is full" in e for e in errors), errors
try:
    for number in range(50):
        store.begin_turn("main", f"t{number}")
        store.finish_turn("main", f"t{number}", 5, "reply " * 1000, [{"role": "user", "content": "q"}], (1, 2))
    print("the disk never was full")
except UserError as e:
    turn = f"t{number}"
assert len(list(store.pending("main"))) >= kept - 5
os.unlink(folder / "filler")
store.begin_turn("main", turn)
outgoing = store.finish_turn("main", turn, 19, "reply", [{"role": "user", "content": "q"}], (1, 2))
assert outgoing.text == "reply"
store.add_message(Message("console", "after", "main", "a", "A", "there is room again", 1.0))
store.close()
again = Store(path)
assert len(again._rows("SELECT id FROM messages")) == kept + 1
assert again._rows("PRAGMA integrity_check") == [("ok",)]
again.close()
print("fine", kept)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_full_disk_is_named_loses_nothing_and_is_got_over(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = tmp_path / "filler.py"
    script.write_text(FILLER)
    steps = (
        f"mount -t tmpfs -o size=900k,mode=700 none {folder} && PYTHONPATH=. exec {sys.executable} {script} {folder}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", steps],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fine"), done.stdout


OPEN_ON_FULL = """
import sys
from pathlib import Path
from host import store
from host.errors import UserError
folder = Path(sys.argv[1])
try:
    while True:
        with open(folder / "filler", "ab", buffering=0) as filler:
            filler.write(b"x" * 4096)
except OSError:
    pass
for what in (store.lock, lambda folder: store.Store(folder / "nanoclaw.db")):
    try:
        what(folder)
        print("done")
    except UserError as e:
        print(e)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_disk_that_is_full_from_the_start_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = tmp_path / "open.py"
    script.write_text(OPEN_ON_FULL)
    steps = f"mount -t tmpfs -o size=64k,mode=700 none {folder} && PYTHONPATH=. exec {sys.executable} {script} {folder}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", steps],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the disk is full") == 2, done.stdout
