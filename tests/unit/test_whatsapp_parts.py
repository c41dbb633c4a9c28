"""The parts of the WhatsApp program that need no library: ids, pace, files' references, memory, the spool."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel import wire
from channel.spool import Spool
from whatsapp import media
from whatsapp.account import Account, Ears, is_linked
from whatsapp.identity import Directory, Jid, Pair, pair_of, parse
from whatsapp.pace import Manners, Pace, backoff
from whatsapp.recent import Recent

PHONE, LID = Jid("4915", "s.whatsapp.net"), Jid("9900", "lid")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4915@s.whatsapp.net", PHONE),
        ("4915:7@s.whatsapp.net", PHONE),
        ("4915.0:7@s.whatsapp.net", PHONE),
        ("9900:1@lid", LID),
        ("1203-55@g.us", Jid("1203-55", "g.us")),
        ("@g.us", None),
        ("4915", None),
        ("a b@lid", None),
        ("4915@s.whatsapp.net\n", None),
    ],
)
def test_ids_are_read_without_their_device(text: str, expected: Jid | None) -> None:
    assert parse(text) == expected


@given(st.text(max_size=80))
def test_any_text_is_an_id_that_the_wire_takes_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or wire._ID.match(str(found))


def test_a_person_goes_by_the_phone_id_where_it_is_known() -> None:
    assert pair_of(LID, PHONE) == pair_of(PHONE, LID) == Pair("4915", "9900")
    assert Pair("4915", "9900").person("Ann") == wire.Person("4915@s.whatsapp.net", "9900@lid", "Ann")
    assert Pair(lid="9900").person() == wire.Person("9900@lid")
    assert pair_of(None, Jid("1203", "g.us")) is None


def test_nobody_is_the_same_as_somebody_without_ids() -> None:
    assert not Pair().is_same(Pair())
    assert Pair("4915").is_same(Pair("4915", "9900"))
    assert not Pair("4915").is_same(Pair("4916"))


def test_the_directory_completes_what_it_has_seen_and_asks_for_the_rest_once() -> None:
    asked: list[Jid] = []

    def look_up(jid: Jid) -> Jid | None:
        asked.append(jid)
        return PHONE if jid == LID else None

    directory = Directory(look_up, limit=4)
    assert directory.person(LID) == Pair("4915", "9900")
    assert directory.person(LID) == directory.person(PHONE) == Pair("4915", "9900")
    assert asked == [LID]
    assert directory.person(Jid("77", "lid")) == Pair(lid="77")
    for number in range(10):
        directory.person(Jid(f"1{number}", "lid"), Jid(f"2{number}", "s.whatsapp.net"))
    assert len(directory._pairs) <= 4


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1)), min_size=1, max_size=60))
def test_no_burst_is_longer_and_no_gap_shorter_than_manners_allow(steps: list[tuple[float, float]]) -> None:
    manners, now, sent = Manners(), 1000.0, []
    pace = Pace(manners, now)
    for idle, dice in steps:
        now += idle
        now += pace.wait(now, dice)
        sent.append(now)
    gaps = [b - a for a, b in itertools.pairwise(sent)]
    assert all(gap >= manners.gap - 1e-6 for gap in gaps)
    for first in range(len(sent) - manners.burst):
        assert sent[first + manners.burst] - sent[first] >= manners.seconds_each - 1e-3


def test_the_first_message_goes_at_once() -> None:
    assert Pace(Manners(), 50.0).wait(50.0, 0.7) == 0


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_is_bounded(failures: int, dice: float) -> None:
    assert 1 <= backoff(failures, dice) <= 360
    assert backoff(1, dice) <= 3


@given(st.builds(media.Ref, st.sampled_from(sorted(media.FIELDS)), st.text(max_size=50), *[st.binary(max_size=40)] * 3,
                 st.integers(0, 2**40)))  # fmt: skip
def test_a_reference_is_read_as_it_was_written(ref: media.Ref) -> None:
    assert media.read_ref(media.write_ref(ref)) == ref


@given(st.text(max_size=60) | st.sampled_from(['["image","p","","","",true]', '["x","p","","","",1]', "[]", "{}", "1"]))
def test_any_other_reference_is_none(text: str) -> None:
    assert media.read_ref(text) is None


@given(st.text(max_size=50), st.integers(0, 60))
def test_cutting_never_breaks_a_character(text: str, limit: int) -> None:
    out = media.cut(text, limit)
    assert len(out.encode()) <= limit
    assert text.encode("utf-8", "replace").decode().startswith(out)
    assert out == text.encode("utf-8", "replace").decode() or len(out.encode()) > limit - 4, (
        "no more than one character"
    )


def test_memory_is_bounded_and_repeats_stay() -> None:
    recent = Recent(3)
    for one in ("a", "b", "c", "a", "d"):
        recent.add(one)
    assert ["a" in recent, "b" in recent, "c" in recent, "d" in recent] == [True, False, True, True]


def message(seq: int, text: str = "") -> wire.Message:
    return wire.Message(seq, wire.Chat("c", "", "", "group"), f"M{seq}", wire.Person("p"), False, 1, text)


def put(spool: Spool, text: str = "") -> int:
    seq = spool.next_seq()
    spool.put(seq, wire.encode(message(seq, text)))
    return seq


def again(lines: list[bytes]) -> list[str]:
    frames = [wire.decode(line[:-1], wire.TO_HOST) for line in lines]
    return [frame.text for frame in frames if isinstance(frame, wire.Message)]


def test_what_is_kept_is_forgotten_and_what_is_not_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "unkept"
    spool = Spool(path, 1.0)
    first, second = put(spool, "one"), put(spool, "two")
    assert second > first
    spool.kept(first)
    after = Spool(path, 2.0)
    # The file is only emptied when all is kept: a repeat does no harm, a loss would.
    assert again(after.resume())[-1] == "two"
    after.kept(after.next_seq())
    assert len(after) == 0
    assert path.read_bytes() == b""
    assert Spool(path, 3.0).resume() == []


def test_numbers_grow_over_runs_and_over_a_clock_that_stands_still(tmp_path: Path) -> None:
    first = [Spool(tmp_path / "a", 100.0).next_seq() for _ in range(2)]
    assert first[0] == first[1]  # two runs in the same millisecond: the host hears of one socket at a time
    spool = Spool(tmp_path / "a", 100.0)
    assert spool.next_seq() < spool.next_seq() < Spool(tmp_path / "a", 101.0).next_seq()


def test_a_line_that_was_cut_and_one_of_another_version_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "unkept"
    good = wire.encode(message(5, "good"))
    path.write_bytes(b'{"frame":"message","old":1}\n' + good + wire.encode(wire.Done(1)) + good[:-20])
    assert again(Spool(path, 1.0).resume()) == ["good"]


def test_the_file_is_nobody_elses_and_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channel.spool.LIMIT", 10_000)
    path = tmp_path / "unkept"
    spool = Spool(path, 1.0)
    for _ in range(200):
        spool.kept(put(spool, "x" * 100) - 1)  # one is always left
    assert path.stat().st_size < 20_000
    assert path.stat().st_mode & 0o077 == 0


LEFT_IN_THE_MIDDLE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript("CREATE TABLE whatsmeow_device (jid); INSERT INTO whatsmeow_device VALUES ('me'); CREATE TABLE t (x)")
db.executescript("PRAGMA cache_size = 1; BEGIN")
for _ in range(5000):
    db.execute("INSERT INTO t VALUES (?)", ("x" * 500,))
os.kill(os.getpid(), 9)
"""


def test_a_session_whose_program_was_killed_while_it_wrote_is_still_linked(tmp_path: Path) -> None:
    database = tmp_path / "session.db"
    assert not is_linked(database)
    database.touch()
    assert not is_linked(database)
    subprocess.run([sys.executable, "-c", LEFT_IN_THE_MIDDLE, database], check=False)
    assert (tmp_path / "session.db-journal").exists()
    with (
        pytest.raises(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db,
    ):
        db.execute("SELECT * FROM whatsmeow_device")  # the control: who may not roll it back reads nothing
    assert is_linked(database)


def test_an_account_that_logged_us_out_is_given_a_moment_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(*_: object) -> Any:
        return None

    gone = Account(tmp_path / "session.db", "", Ears(nothing, nothing, nothing, nothing))
    monkeypatch.setattr("whatsapp.account.is_linked", lambda _: next(answers))
    answers = iter([True])
    assert not gone._is_free(), "one that is linked stays so"
    gone._logged_out = True
    answers = iter([True, True, False])
    assert gone._is_free()
    answers = iter([True])
    assert not gone._is_free(), "and only once: what is linked then is another"
