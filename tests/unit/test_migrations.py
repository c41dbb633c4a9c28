"""From any older schema to today's: each step whole or not at all, and a copy before the first."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.errors import UserError
from host.migrations import STEPS, migrate
from host.model import Group
from host.store import Store

FUTURE = (
    ("CREATE TABLE one (x INTEGER)", "INSERT INTO one VALUES (1)"),
    ("ALTER TABLE one ADD COLUMN y INTEGER", "UPDATE one SET y = x + 1"),
    ("CREATE TABLE three AS SELECT y FROM one",),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nanoclaw.db"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def schema(db: sqlite3.Connection) -> list[Any]:
    return db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def version(path: Path) -> int:
    with opened(path) as db:
        number: int = db.execute("PRAGMA user_version").fetchone()[0]
        return number


def copies(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.glob("nanoclaw.db.*"))


def test_an_empty_file_comes_to_today_s_schema_without_a_copy(path: Path) -> None:
    Store(path).close()
    assert version(path) == len(STEPS)
    assert copies(path) == []
    Store(path).close()  # and a second time there is nothing to do


def test_every_group_s_first_cursor_is_where_its_chat_is(path: Path) -> None:
    store = Store(path)
    store.add_group(Group("main", "console", "main", "main", is_main=True))
    assert store._rows("SELECT answered_upto, seen_upto FROM groups") == [(0, 0)]
    store.close()


@pytest.mark.parametrize("start", range(len(FUTURE) + 1))
def test_from_each_older_version_the_result_is_the_same(path: Path, start: int) -> None:
    with opened(path) as db:
        migrate(db, path, FUTURE[:start])
        before = schema(db)
        migrate(db, path, FUTURE)
        with opened(path.with_name("straight.db")) as straight:
            migrate(straight, path.with_name("straight.db"), FUTURE)
            assert schema(db) == schema(straight)
        assert db.execute("SELECT y FROM three").fetchall() == [(2,)]
    assert version(path) == len(FUTURE)
    if start in (0, len(FUTURE)):
        assert copies(path) == []
    else:
        copy = path.with_name(f"nanoclaw.db.schema-{start}")
        assert copies(path) == [copy.name]
        assert copy.stat().st_mode & 0o777 == 0o600
        with opened(copy) as db:
            assert schema(db) == before


@pytest.mark.parametrize("start", range(len(FUTURE)))
def test_a_step_that_fails_leaves_the_version_before_it(path: Path, start: int) -> None:
    broken = (*FUTURE[:start], (*FUTURE[start], "INSERT INTO nowhere VALUES (1)"))
    with opened(path) as db:
        migrate(db, path, FUTURE[:start])
        before = schema(db)
        with pytest.raises(sqlite3.OperationalError):
            migrate(db, path, broken)
        assert schema(db) == before
        assert db.execute("PRAGMA user_version").fetchone() == (start,)
        assert not db.in_transaction
        migrate(db, path, FUTURE)  # the program that is put right goes on from there
    assert version(path) == len(FUTURE)


@pytest.mark.parametrize("step", range(len(FUTURE)))
def test_a_kill_in_the_middle_of_a_step_leaves_the_version_before_it(path: Path, step: int) -> None:
    script = f"""
import os, signal, sqlite3, sys
from pathlib import Path
from host.migrations import migrate
from tests.unit.test_migrations import FUTURE
path = Path(sys.argv[1])
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
steps = list(FUTURE)
steps[{step}] = (*steps[{step}], "SELECT die()")
migrate(db, path, steps)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with opened(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (step,)
        migrate(db, path, FUTURE)
        assert db.execute("SELECT y FROM three").fetchall() == [(2,)]


@pytest.mark.parametrize("step", range(len(FUTURE)))
def test_a_kill_between_a_step_and_its_version_undoes_the_step(path: Path, step: int) -> None:
    script = f"""
import os, signal, sqlite3, sys
from pathlib import Path
from host.migrations import migrate
from tests.unit.test_migrations import FUTURE
path = Path(sys.argv[1])
db = sqlite3.connect(path, isolation_level=None)
def watch(action, name, value, *_):
    if (action, name, value) == (sqlite3.SQLITE_PRAGMA, "user_version", "{step + 1}"):
        os.kill(os.getpid(), signal.SIGKILL)
    return sqlite3.SQLITE_OK
db.set_authorizer(watch)
migrate(db, path, FUTURE)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with opened(path) as db:
        migrate(db, path, FUTURE)
        assert db.execute("SELECT y FROM three").fetchall() == [(2,)]


def test_a_half_made_copy_is_made_again_and_a_whole_one_stays(path: Path) -> None:
    with opened(path) as db:
        migrate(db, path, FUTURE[:1])
        part = path.with_name("nanoclaw.db.schema-1.part")
        part.write_bytes(b"half")
        migrate(db, path, FUTURE[:2])
    assert copies(path) == ["nanoclaw.db.schema-1"]
    kept = path.with_name("nanoclaw.db.schema-1")
    with opened(kept) as copy:
        assert copy.execute("SELECT x FROM one").fetchall() == [(1,)]
    before = kept.stat()
    with opened(path) as db:
        db.execute("PRAGMA user_version = 1")
        with pytest.raises(sqlite3.OperationalError):
            migrate(db, path, FUTURE)
    assert os.path.samestat(kept.stat(), before)


def test_a_newer_database_is_refused_and_left_alone(path: Path) -> None:
    with opened(path) as db:
        db.execute("CREATE TABLE groups (new)")
        db.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    with pytest.raises(UserError, match="newer NanoClaw") as caught:
        Store(path)
    assert caught.value.hints
    with opened(path) as db:
        assert [name for _, name, _ in schema(db)] == ["groups"]
