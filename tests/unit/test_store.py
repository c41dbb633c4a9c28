"""The store: what each state of a message means on disk, what is never lost, and what a person is told."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host import store as storage
from host.errors import UserError
from host.model import Connection, Group, Message, Outgoing, Stored
from host.store import Store, lookback, messages, upkeep

MAIN = Group("main", "console", "main", "main", is_main=True)
FAMILY = Group("family", "console", "fam", "Family", needs_trigger=True)
HELLO: list[dict[str, Any]] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
]
NO_USAGE = (0, 0)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nanoclaw.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    made = Store(path, clock)
    made.add_group(MAIN)
    made.add_group(FAMILY)
    yield made
    made.close()


def message(number: int | str, text: str = "hello", group: Group = MAIN) -> Message:
    return Message(group.channel, str(number), group.chat, "ann@x", "Ann", text, 1_700_000_000.0)


def add(store: Store, number: int | str, text: str = "hello", group: Group = MAIN) -> Stored:
    stored = store.add_message(message(number, text, group))
    assert stored is not None
    return stored


def texts(messages: list[Stored] | Iterator[Stored]) -> list[str]:
    return [stored.message.text for stored in messages]


def rows(path: Path, query: str) -> list[Any]:
    """What another process would see: committed, and nothing else."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


# --- the file -----------------------------------------------------------------------------------------


def test_it_is_closed_to_others_and_synced_and_says_so(store: Store, path: Path) -> None:
    add(store, 1)
    for file in path.parent.glob("nanoclaw.db*"):
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert store._rows("PRAGMA synchronous") == [(2,)]
    assert store._rows("PRAGMA foreign_keys") == [(1,)]


def test_a_file_that_others_could_read_is_closed(path: Path) -> None:
    path.touch()
    path.chmod(0o644)
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_settings_are_back_after_a_transaction_that_is_not_synced(store: Store) -> None:
    store.add_event("main", "t", "refused", "why")
    assert store._rows("PRAGMA synchronous") == [(2,)]
    with pytest.raises(ZeroDivisionError), store._transaction(durable=False):
        _ = 1 / 0
    assert store._rows("PRAGMA synchronous") == [(2,)]


def test_a_transaction_that_fails_leaves_nothing(store: Store, path: Path) -> None:
    add(store, 1)
    store.begin_turn("main", "t1")
    bad: list[dict[str, Any]] = [*HELLO, {"role": "user", "content": object()}]
    with pytest.raises(TypeError):
        store.finish_turn("main", "t1", 1, "reply", bad, NO_USAGE)
    assert rows(path, "SELECT count(*) FROM outbox") == [(0,)]
    assert rows(path, "SELECT count(*) FROM transcript") == [(0,)]
    assert texts(store.pending("main")) == ["hello"]
    assert store.finish_turn("main", "t1", 1, "reply", HELLO, NO_USAGE) is not None


# --- S1: kept -----------------------------------------------------------------------------------------


def test_a_message_is_on_disk_when_it_was_taken(store: Store, path: Path) -> None:
    stored = add(store, 1, "grüße\x00\n'); DROP TABLE messages; --")
    assert rows(path, "SELECT seq, text FROM messages") == [(stored.seq, stored.message.text)]
    assert list(store.pending("main")) == [stored]


def test_a_repeat_is_not_stored_and_keeps_its_number(store: Store, path: Path) -> None:
    first = add(store, 1)
    assert store.add_message(message(1, "something else")) is None
    assert store.messages.seq_of("console", "1") == first.seq
    assert store.messages.seq_of("console", "nothing") == 0
    other_channel = replace(message(1), channel="whatsapp")
    store.add_group(Group("wa", "whatsapp", "main", "wa"))
    assert store.add_message(other_channel) is not None
    assert rows(path, "SELECT count(*) FROM messages") == [(2,)]


def test_of_a_chat_that_is_not_registered_only_that_it_wrote_is_kept(store: Store, path: Path, clock: Clock) -> None:
    stranger = Message("whatsapp", "1", "stranger", "s@x", "Mallory", "private words", 1.0)
    assert store.add_message(stranger) is None
    clock.now += 5
    assert store.add_message(replace(stranger, id="2")) is None
    assert rows(path, "SELECT * FROM chats") == [("whatsapp", "stranger", "Mallory", clock.now, "")]
    assert rows(path, "SELECT count(*) FROM messages") == [(0,)]
    store.close()
    assert b"private words" not in path.read_bytes()


def test_messages_of_one_second_all_count(store: Store) -> None:
    for number in range(5):
        add(store, number, f"m{number}")
    assert texts(store.pending("main")) == [f"m{n}" for n in range(5)]


def test_pending_reads_on_beyond_a_page(store: Store) -> None:
    for number in range(messages.PAGE * 2):
        add(store, number, str(number))
    assert texts(store.pending("main")) == [str(n) for n in range(messages.PAGE * 2)]


def test_groups_do_not_see_each_other(store: Store) -> None:
    add(store, 1, "for main")
    add(store, 2, "for family", FAMILY)
    assert texts(store.pending("main")) == ["for main"]
    assert texts(store.context("family").messages) == ["for family"]
    store.begin_turn("main", "t1")
    store.finish_turn("main", "t1", 2, "reply", HELLO, NO_USAGE)
    assert texts(store.pending("family")) == ["for family"]
    assert store.history("family", 10**6) == []
    assert [line.text for line in store.recent_lines("family", 10)] == ["for family"]


def test_who_has_waited_longest_comes_first(store: Store) -> None:
    add(store, 1, group=FAMILY)
    add(store, 2)
    add(store, 3, group=FAMILY)
    assert store.groups_with_pending() == ["family", "main"]


# --- the context of a prompt --------------------------------------------------------------------------


def test_the_context_has_the_newest_messages_and_says_how_many_it_left_out(store: Store) -> None:
    for number in range(lookback.CONTEXT_MESSAGES + 3):
        add(store, number, str(number))
    context = store.context("main")
    assert context.left_out == 3
    assert texts(context.messages) == [str(n) for n in range(3, lookback.CONTEXT_MESSAGES + 3)]


def test_the_context_is_bounded_in_bytes_and_always_has_the_newest(store: Store) -> None:
    add(store, 1, "old")
    add(store, 2, "é" * (lookback.CONTEXT_BYTES // 2 + 10))
    context = store.context("main")
    assert [len(text) for text in texts(context.messages)] == [lookback.CONTEXT_BYTES // 2 + 10]
    assert context.left_out == 1
    add(store, 3, "new")
    assert texts(store.context("main").messages) == ["new"]
    assert store.context("main").left_out == 2


# --- S3: answered -------------------------------------------------------------------------------------


def test_a_turn_that_ends_well_moves_everything_at_once(store: Store, path: Path) -> None:
    last = [add(store, n) for n in range(3)][-1].seq
    store.begin_turn("main", "t1")
    assert rows(path, "SELECT from_seq, outcome FROM turns") == [(1, None)]
    late = add(store, "late", "came during the turn")
    outgoing = store.finish_turn("main", "t1", last, "the reply", HELLO, (10, 20))
    assert outgoing is not None
    assert (outgoing.kind, outgoing.text, outgoing.turn, outgoing.upto) == ("reply", "the reply", "t1", last)
    assert (outgoing.channel, outgoing.chat) == ("console", "main")
    assert store.outbox.pending("console") == [outgoing]
    assert list(store.pending("main")) == [late]
    assert store.context("main").messages == [late]
    assert store.history("main", 10**6) == HELLO
    columns = "from_seq, upto, outcome, tokens_in, tokens_out, reply"
    assert rows(path, f"SELECT {columns} FROM turns") == [(1, last, "done", 10, 20, outgoing.id)]


def test_a_turn_with_nothing_to_say_says_nothing(store: Store) -> None:
    seq = add(store, 1).seq
    store.begin_turn("main", "t1")
    assert store.finish_turn("main", "t1", seq, "", HELLO, NO_USAGE) is None
    assert store.outbox.pending("console") == []
    assert list(store.pending("main")) == []


def test_a_failed_turn_is_told_is_not_repeated_and_loses_no_message(store: Store, path: Path) -> None:
    seq = add(store, 1, "first").seq
    store.begin_turn("main", "t1")
    outgoing = store.fail_turn("main", "t1", seq, "auth", "the key was refused")
    assert outgoing is not None
    assert (outgoing.kind, outgoing.text) == ("error", "the key was refused")
    assert list(store.pending("main")) == []
    assert store.groups_with_pending() == []
    assert store.history("main", 10**6) == []
    add(store, 2, "second")
    assert texts(store.context("main").messages) == ["first", "second"]
    store.begin_turn("main", "t2")
    store.finish_turn("main", "t2", 2, "both answered", HELLO, NO_USAGE)
    assert store.context("main").messages == []
    assert rows(path, "SELECT id, from_seq, upto, outcome FROM turns ORDER BY id") == [
        ("t1", 1, 1, "failed:auth"),
        ("t2", 1, 2, "done"),
    ]


def test_a_stopped_turn_is_over_and_the_agent_will_know_of_it(store: Store) -> None:
    seq = add(store, 1, "do something <long>").seq
    store.begin_turn("main", "t1")
    store.stop_turn("main", "t1", seq)
    assert list(store.pending("main")) == []
    assert store.context("main").messages == []
    assert store.outbox.pending("console") == []
    asked, note = store.history("main", 10**6)
    assert asked["role"] == "user"
    assert "do something &lt;long&gt;" in asked["content"]
    assert note["role"] == "assistant"
    assert "stopped" in note["content"]


def test_a_stopped_turn_notes_only_what_it_covers(store: Store) -> None:
    seq = add(store, 1, "covered").seq
    add(store, 2, "later")
    store.begin_turn("main", "t1")
    store.stop_turn("main", "t1", seq)
    assert "later" not in str(store.history("main", 10**6))
    assert texts(store.pending("main")) == ["later"]


def test_cursors_never_go_back(store: Store) -> None:
    for number in range(3):
        add(store, number)
    for turn, upto in (("t1", 3), ("t2", 1), ("t3", 0)):
        store.begin_turn("main", turn)
        store.finish_turn("main", turn, upto, "", [], NO_USAGE)
        assert list(store.pending("main")) == []
    store.begin_turn("main", "t4")
    store.fail_turn("main", "t4", 2, "limit", "x")
    assert list(store.pending("main")) == []


@pytest.mark.parametrize("end", ["finish", "fail", "stop"])
def test_ending_a_turn_again_changes_nothing(store: Store, path: Path, end: str) -> None:
    """A commit whose outcome was not known is tried again: it must not answer twice."""
    seq = add(store, 1).seq
    store.begin_turn("main", "t1")
    store.begin_turn("main", "t1")
    ends: dict[str, Callable[[], Outgoing | None]] = {
        "finish": lambda: store.finish_turn("main", "t1", seq, "reply", HELLO, (1, 2)),
        "fail": lambda: store.fail_turn("main", "t1", seq, "auth", "why"),
        "stop": lambda: store.stop_turn("main", "t1", seq),
    }
    first = ends[end]()
    tables = ("outbox", "transcript", "turns", "groups")
    before = [rows(path, f"SELECT * FROM {table}") for table in tables]
    for again in ends.values():
        assert again() in (first, None)
    assert [rows(path, f"SELECT * FROM {table}") for table in tables] == before


def test_a_turn_that_never_began_cannot_end(store: Store) -> None:
    with pytest.raises(ValueError, match="never begun"):
        store.finish_turn("main", "nothing", 1, "reply", [], NO_USAGE)


def test_what_is_said_during_a_turn_is_on_disk_and_answers_nothing(store: Store, path: Path) -> None:
    add(store, 1)
    store.begin_turn("main", "t1")
    said = store.add_say("main", "t1", "one moment")
    assert rows(path, "SELECT id, kind, text FROM outbox") == [(said.id, "say", "one moment")]
    assert len(list(store.pending("main"))) == 1


def test_recover_marks_what_a_crash_left_open_and_the_messages_are_still_pending(store: Store, path: Path) -> None:
    add(store, 1)
    store.begin_turn("main", "t1")
    store.close()
    again = Store(path)
    assert again.recover() == 1
    assert again.recover() == 0
    assert rows(path, "SELECT outcome FROM turns") == [("interrupted",)]
    assert again.groups_with_pending() == ["main"]
    again.close()


# --- S4: sent -----------------------------------------------------------------------------------------


def test_what_was_sent_is_not_pending_and_a_foreign_number_changes_nothing(
    store: Store, path: Path, clock: Clock
) -> None:
    store.begin_turn("main", "t1")
    outgoing = store.add_say("main", "t1", "hello")
    store.outbox.mark_attempt(outgoing)
    for number in (outgoing.id + 1, 0, -1, 2**63, 2**70):
        store.outbox.mark_sent(number)
    assert store.outbox.pending("console") == [outgoing]
    assert store.outbox.pending("whatsapp") == []
    store.outbox.mark_sent(outgoing.id)
    sent_at, clock.now = clock.now, clock.now + 5
    store.outbox.mark_sent(outgoing.id)
    assert store.outbox.pending("console") == []
    assert rows(path, "SELECT attempts, sent_at FROM outbox") == [(1, sent_at)]


# --- groups -------------------------------------------------------------------------------------------


def test_groups_come_back_as_they_were_registered(store: Store) -> None:
    assert store.groups() == [MAIN, FAMILY]
    assert store.group_of("console", "fam") == FAMILY
    assert store.group_of("console", "nobody") is None


@pytest.mark.parametrize(
    "group",
    [
        replace(FAMILY, chat="x", folder="FAMILY"),
        replace(FAMILY, folder="other"),
        Group("second", "console", "x", "second main", is_main=True),
        Group("global", "console", "x", "reserved"),
        Group("../up", "console", "x", "a way out"),
        Group("new\n", "console", "x", "newline"),
        Group("", "console", "x", "empty"),
    ],
)
def test_a_group_that_is_taken_or_named_badly_is_refused(store: Store, group: Group) -> None:
    with pytest.raises(UserError):
        store.add_group(group)
    assert store.groups() == [MAIN, FAMILY]


# --- looking back -------------------------------------------------------------------------------------


def test_recent_lines_are_the_conversation_in_its_order(store: Store, clock: Clock) -> None:
    for number in range(3):
        clock.now += 1
        seq = add(store, number, f"question {number}").seq
        store.begin_turn("main", f"t{number}")
        clock.now += 1
        store.finish_turn("main", f"t{number}", seq, f"answer {number}", HELLO, NO_USAGE)
    lines = [(line.who, line.kind, line.text) for line in store.recent_lines("main", 3)]
    assert lines == [("", "reply", "answer 1"), ("Ann", "message", "question 2"), ("", "reply", "answer 2")]
    assert store.recent_lines("main", 0) == []


def test_within_one_instant_the_question_comes_before_the_answer(store: Store) -> None:
    seq = [add(store, n, f"q{n}") for n in range(2)][-1].seq
    store.begin_turn("main", "t1")
    store.finish_turn("main", "t1", seq, "answer", HELLO, NO_USAGE)
    assert [line.text for line in store.recent_lines("main", 5)] == ["q0", "q1", "answer"]


def test_recent_lines_are_bounded_in_bytes(store: Store) -> None:
    for number in range(10):
        add(store, number, str(number) * (200 * 1024))
    lines = store.recent_lines("main", 10)
    assert [line.text[0] for line in lines] == ["5", "6", "7", "8", "9"]


def test_history_is_cut_between_turns(store: Store) -> None:
    for number in range(4):
        store.begin_turn("main", f"t{number}")
        entries = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a" * 1000}]
        store.finish_turn("main", f"t{number}", 0, "", entries, NO_USAGE)
    assert [entry["content"][:2] for entry in store.history("main", 2100)] == ["q2", "aa", "q3", "aa"]
    assert len(store.history("main", 10**6)) == 8


def test_the_audit_keeps_every_field(store: Store, path: Path) -> None:
    store.add_connection(Connection("main", "t1", "tool", "a.example", 443, "1.2.3.4", 5, 6, "closed", 7.0, 8.0))
    store.add_event("main", "t1", "refused", "there is no request named 'x'")
    found = rows(path, "SELECT * FROM connections")[0]
    assert found[1:] == ("main", "t1", "tool", "a.example", 443, "1.2.3.4", 5, 6, "closed", 7.0, 8.0)
    assert rows(path, "SELECT what, detail FROM events") == [("refused", "there is no request named 'x'")]


def test_status_numbers(store: Store) -> None:
    add(store, 1)
    store.begin_turn("main", "t1")
    store.fail_turn("main", "t1", 1, "auth", "why")
    add(store, 2)
    store.begin_turn("main", "t2")
    store.finish_turn("main", "t2", 2, "reply", HELLO, (3, 4))
    add(store, 3)
    numbers = store.stats()
    assert numbers.pop("database_bytes") > 0
    assert numbers == {
        "messages": 3, "unanswered": 1, "unsent": 2, "turns": 2, "failed_turns": 1, "tokens_last_day": 7,
    }  # fmt: skip


def test_prune_bounds_what_is_only_looked_back_on(
    store: Store, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "KEEP_AUDIT_ROWS", 5)
    monkeypatch.setattr(upkeep, "KEEP_TRANSCRIPT_BYTES", 100)
    monkeypatch.setattr(upkeep, "KEEP_CHATS", 2)
    add(store, 1, "never pruned")
    for number in range(10):
        clock.now += 1
        store.add_connection(Connection("main", "t", "tool", "h", 1, "", 0, 0, "closed", clock.now, 0.0))
        store.add_message(Message("whatsapp", str(number), f"chat {number}", "s", "S", "x", 1.0))
        store.begin_turn("main", f"t{number}")
        store.finish_turn("main", f"t{number}", 0, f"{number}", [{"role": "user", "content": "x" * 18}], NO_USAGE)
    store.outbox.mark_sent(1)
    store.prune()
    assert rows(path, "SELECT count(*) FROM connections") == [(5,)]
    assert rows(path, "SELECT turn FROM transcript") == [(f"t{n}",) for n in range(5, 10)]
    assert rows(path, "SELECT chat FROM chats ORDER BY chat") == [("chat 8",), ("chat 9",)]
    assert rows(path, "SELECT count(*) FROM outbox") == [(10,)]
    clock.now += (upkeep.KEEP_SENT_DAYS + 1) * upkeep.DAY
    store.prune()
    assert rows(path, "SELECT count(*) FROM connections") == [(0,)]
    assert rows(path, "SELECT min(id), count(*) FROM outbox") == [(2, 9)]
    assert rows(path, "SELECT text FROM messages") == [("never pruned",)]


# --- what can go wrong --------------------------------------------------------------------------------


def test_a_damaged_database_is_named(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match=r"nanoclaw\.db is not a database") as caught:
        Store(path)
    assert caught.value.hints


@pytest.mark.parametrize("structure", [True, False], ids=["any bytes", "text that is none"])
def test_damage_inside_is_named_too(store: Store, path: Path, structure: bool) -> None:
    for number in range(50):
        add(store, number, "x" * 5000)
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 4) if structure else b"\xff" * (size // 4))
    broken = Store(path)
    with pytest.raises(UserError, match="damaged"):
        for number in range(50):
            broken.messages.seq_of("console", str(number))
            texts(broken.pending("main"))
    broken.close()


def test_another_s_database_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(UserError, match="not one of NanoClaw's"):
        Store(path)
    assert rows(path, "SELECT name FROM sqlite_master") == [("theirs",)]


def test_a_lock_that_another_program_holds_ends_in_a_sentence(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._db.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match=r"another program keeps .* locked"):
            add(store, 1)
        other.execute("ROLLBACK")
    add(store, 1)


def test_a_folder_that_is_gone_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Store(tmp_path / "gone" / "nanoclaw.db")


def test_a_folder_that_cannot_be_written_ends_in_a_sentence(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        Store(tmp_path / "nanoclaw.db")
    tmp_path.chmod(0o700)


def test_a_disk_that_takes_no_more_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    """With a limit on the size of files, which works for anyone; the full disk itself is in the integration tests."""
    script = """
import sys, resource
from pathlib import Path
from host.errors import UserError
from host.model import Group, Message
from host.store import Store
store = Store(Path(sys.argv[1]))
store.add_group(Group("main", "console", "main", "main"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
kept = 0
try:
    for number in range(1000):
        store.add_message(Message("console", str(number), "main", "a", "A", "x" * 10_000, 1.0))
        kept += 1
except UserError as e:
    print(kept, e)
"""
    path = tmp_path / "nanoclaw.db"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    kept, said = done.stdout.split(" ", 1)
    assert "nanoclaw.db" in said
    assert 10 < int(kept) < 1000
    assert rows(path, "SELECT count(*) FROM messages") == [(int(kept),)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_statement_that_is_wrong_is_a_bug_and_not_the_person_s(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError):
        store._rows("SELECT nonsense FROM nowhere")
    with pytest.raises(sqlite3.IntegrityError), store._transaction() as db:
        db.execute("UPDATE groups SET seen_upto = 5")


# --- one host per home --------------------------------------------------------------------------------


def test_the_second_host_is_told_who_holds_the_home(tmp_path: Path) -> None:
    held = storage.lock(tmp_path)
    assert (tmp_path / "host.lock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match=rf"another host \(pid {os.getpid()}, since 20\d\d-"):
        storage.lock(tmp_path)
    held.close()
    storage.lock(tmp_path).close()


def test_who_holds_it_is_left_out_until_they_have_said(tmp_path: Path) -> None:
    held = storage.lock(tmp_path)
    (tmp_path / "host.lock").write_bytes(b"\xff half")
    with pytest.raises(UserError, match=r"^another host runs for this home$"):
        storage.lock(tmp_path)
    held.close()


def test_death_lets_go_of_the_home_and_children_do_not_keep_it(tmp_path: Path) -> None:
    script = """
import subprocess, sys
from pathlib import Path
from host import store
held = store.lock(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    with pytest.raises(UserError, match=f"pid {holder.pid}"):
        storage.lock(tmp_path)
    holder.kill()
    holder.communicate()
    storage.lock(tmp_path).close()
    os.kill(child, signal.SIGKILL)


def test_who_has_patience_gets_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    held = storage.lock(tmp_path)
    with pytest.raises(UserError, match="another host"):
        storage.lock(tmp_path, patience=0.2)
    letting_go = threading.Timer(0.2, held.close)
    letting_go.start()
    storage.lock(tmp_path, patience=20).close()
    letting_go.join()
