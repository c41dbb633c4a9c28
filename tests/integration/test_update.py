"""Updates of the one file: only what was signed takes the place, whole or not at all, and one can go back.

The files are stand-ins in the real format, whose launcher is a line of shell (`tests.fakes.onefile`); what updates is
the real command.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host import store
from host.model import Group, Message
from tests.fakes import onefile

SECONDS = 60
GROUP = Group("family", "console", "family", "family", is_main=False, needs_trigger=False)


@dataclass
class Machine:
    """A program that was installed, a newer one that was signed, and a home with a database."""

    folder: Path
    key: Path
    public: str
    old: Path
    new: Path

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "nanoclaw"

    @property
    def previous(self) -> Path:
        return self.folder / "bin" / "nanoclaw.previous"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def database(self) -> Path:
        return self.home / "data" / "nanoclaw.db"

    def run(self, *args: str, program: Path | None = None, tracer: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Exit status, output and errors."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        environ = {**kept, "NANOCLAW_HOME": str(self.home), "HOME": str(self.folder)}
        argv = [*tracer, str(program or self.program), *args]
        done = subprocess.run(
            argv,
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def update(self, *args: str, file: Path | None = None, tracer: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return self.run("update", "--from", str(file or self.new), *args, tracer=tracer)

    def version(self) -> str:
        status, out, err = self.run("version", "--json")
        assert status == 0, err
        return str(json.loads(out)["version"])

    def sign(self, path: Path, key: Path | None = None) -> None:
        onefile.sign_release("--key", key or self.key, path)

    def message(self, text: str) -> None:
        """Arrives, as it does at a host of the schema that is there."""
        with contextlib.closing(sqlite3.connect(self.database)) as db, db:
            db.execute(
                "INSERT INTO messages (channel, id, chat, sender, sender_name, text, sent_at, arrived_at)"
                " VALUES ('console', ?1, 'family', 'mia', 'Mia', ?1, 1.0, 2.0)",
                (text,),
            )

    def texts(self, path: Path | None = None) -> list[str]:
        return [text for (text,) in self.query("SELECT text FROM messages ORDER BY seq", path)]

    def schema(self, path: Path | None = None) -> int:
        return int(self.query("PRAGMA user_version", path)[0][0])

    def query(self, sql: str, path: Path | None = None) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{path or self.database}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return db.execute(sql).fetchall()

    def refused(self, words: str, *args: str, file: Path | None = None) -> str:
        """Not updated, in such words: what is there is as it was, and still starts."""
        before = sorted((path.name, path.read_bytes()) for path in self.program.parent.iterdir())
        status, out, err = self.update(*args, file=file)
        assert status in {1, 2}, (out, err)
        assert words in err
        assert "Traceback" not in err
        assert all(line.startswith(("nanoclaw: ", "copying", "checking", "starting")) for line in err.splitlines()), err
        assert sorted((path.name, path.read_bytes()) for path in self.program.parent.iterdir()) == before
        assert self.version() == "0.1.0"
        return err


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the key, and with the programs that most tests are about."""
    folder = tmp_path_factory.mktemp("releases")
    public = onefile.sign_release("--new-key", folder / "key")
    onefile.build(folder / "old", "0.1.0", [public])
    new = onefile.build(folder / "new", "0.2.0", [public], steps=["ALTER TABLE groups ADD COLUMN colour TEXT"])
    onefile.sign_release("--key", folder / "key", new)
    return folder, public


@pytest.fixture
def machine(tmp_path: Path, releases: tuple[Path, str]) -> Machine:
    folder, public = releases
    name = f"nanoclaw-linux-{onefile.ARCH}"
    new = tmp_path / "download" / name
    new.parent.mkdir()
    shutil.copy(folder / "new" / name, new)
    shutil.copy(folder / "new" / f"{name}.sig", f"{new}.sig")
    made = Machine(tmp_path, folder / "key", public, folder / "old" / name, new)
    made.program.parent.mkdir()
    shutil.copy(made.old, made.program)
    (made.home / "data").mkdir(mode=0o700, parents=True)
    made.home.chmod(0o700)
    with contextlib.closing(store.Store(made.database)) as opened:
        opened.add_group(GROUP)
        opened.add_message(Message("console", "m1", "family", "mia", "Mia", "before", 1.0))
    return made


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def built(machine: Machine, version: str = "0.2.0", **how: Any) -> Path:
    """Another signed release."""
    path = onefile.build(machine.folder / f"built-{version}", version, [machine.public], **how)
    machine.sign(path)
    return path


# --- it updates, and goes back --------------------------------------------------------------------------------


def test_a_newer_one_takes_the_place_and_the_old_one_is_kept(machine: Machine) -> None:
    status, out, err = machine.update("--json")
    assert status == 0, err
    said = json.loads(out)
    assert (said["from"], said["to"], said["changed"], said["host_pid"]) == ("0.1.0", "0.2.0", True, None)
    assert machine.version() == "0.2.0"
    assert machine.program.read_bytes() == machine.new.read_bytes()
    assert machine.program.stat().st_mode & 0o777 == 0o755
    assert machine.previous.read_bytes() == machine.old.read_bytes()
    assert machine.texts(Path(said["backup"])) == ["before"]
    assert sorted(path.name for path in machine.program.parent.iterdir()) == ["nanoclaw", "nanoclaw.previous"]
    status, out, _ = machine.update("--json")
    assert (status, json.loads(out)["changed"]) == (0, False)
    assert machine.previous.read_bytes() == machine.old.read_bytes(), "updating to the same is no update"


def test_completions_and_man_page_are_of_the_program_that_is_there(machine: Machine) -> None:
    assert machine.run("install", "--to", str(machine.program.parent), program=machine.old)[0] == 0
    page = machine.folder / "share" / "man" / "man1" / "nanoclaw.1"
    assert '"NanoClaw 0.1.0"' in page.read_text()
    status, out, err = machine.update()
    assert status == 0, err
    assert "its completions and man page are of that version now" in out
    assert '"NanoClaw 0.2.0"' in page.read_text()
    assert machine.previous.read_bytes() == machine.old.read_bytes(), "writing them is no second update"
    status, out, err = machine.run("rollback", "--yes")
    assert status == 0, err
    assert "are of that version now" in out
    assert '"NanoClaw 0.1.0"' in page.read_text()


def test_completions_and_man_page_that_are_not_wanted_are_not_written(machine: Machine) -> None:
    """Never installed; or installed, and removed since by the person."""
    assert machine.update()[0] == 0
    assert machine.run("rollback", "--yes")[0] == 0
    assert not (machine.folder / "share").exists()
    assert machine.run("install", "--to", str(machine.program.parent), program=machine.old)[0] == 0
    shutil.rmtree(machine.folder / "share")
    assert "man page" not in machine.update()[1]
    assert not (machine.folder / "share").exists()


def test_the_database_is_migrated_by_the_new_one_after_a_copy_and_the_old_one_refuses_it(machine: Machine) -> None:
    known = machine.schema()
    assert machine.update()[0] == 0
    assert machine.schema() == known, "the update itself does not touch it"
    assert machine.run("groups")[0] == 0
    assert machine.schema() == known + 1
    assert machine.schema(machine.database.with_name(f"nanoclaw.db.schema-{known}")) == known
    (backup,) = (machine.home / "data" / "backup").iterdir()
    assert (machine.schema(backup), machine.texts(backup)) == (known, ["before"])
    status, _, err = machine.run("groups", program=machine.previous)
    assert status == 1
    assert "newer NanoClaw" in err
    assert machine.schema() == known + 1


def test_going_back_restores_a_database_only_after_saying_what_is_lost(machine: Machine) -> None:
    known = machine.schema()
    assert machine.update()[0] == 0
    machine.message("between the update and the migration")
    assert machine.run("groups")[0] == 0
    machine.message("after")
    status, _, err = machine.run("rollback")
    assert status == 2
    assert "1 messages and 0 turns" in err
    assert "--yes" in err
    assert (machine.version(), machine.schema()) == ("0.2.0", known + 1), "nothing changes before a yes"
    status, out, err = machine.run("rollback", "--yes", "--json")
    assert status == 0, err
    said = json.loads(out)
    assert (said["to"], said["messages"], machine.version(), machine.schema()) == ("0.1.0", 1, "0.1.0", known)
    assert machine.texts() == ["before", "between the update and the migration"], "the fuller of two copies"
    assert machine.texts(Path(said["kept"]))[-1] == "after", "what is lost to the old one is not lost"
    assert machine.run("groups")[0] == 0
    # And forward: the new one makes its copy anew, of what is there now.
    machine.message("back at the old one")
    assert machine.run("rollback")[0] == 0
    assert machine.version() == "0.2.0"
    assert machine.run("groups")[0] == 0
    assert machine.texts(machine.database.with_name(f"nanoclaw.db.schema-{known}"))[-1] == "back at the old one"


def test_going_back_leaves_a_database_that_the_old_one_can_read(machine: Machine) -> None:
    assert machine.update()[0] == 0
    machine.message("after")
    status, out, err = machine.run("rollback")
    assert status == 0, err
    assert "0.1.0 again" in out
    assert machine.texts() == ["before", "after"]


def test_one_can_go_back_with_the_old_one_where_the_new_one_does_not_start_any_more(machine: Machine) -> None:
    assert machine.update()[0] == 0
    machine.program.write_bytes(machine.new.read_bytes()[:50])
    status, _, err = machine.run("rollback", program=machine.previous)
    assert status == 0, err
    assert machine.version() == "0.1.0"


def test_there_is_nothing_to_go_back_to_before_an_update(machine: Machine) -> None:
    status, _, err = machine.run("rollback")
    assert status == 1
    assert "no program from before" in err


def test_a_host_that_runs_is_named_and_goes_on(machine: Machine) -> None:
    with contextlib.closing(store.lock(machine.home / "data")):
        status, out, _ = machine.update()
        assert status == 0
        assert f"pid {os.getpid()}" in out
        assert machine.version() == "0.2.0"
        # With the host there, a database that must be put back is not touched.
        newer = machine.schema() + 1
        onlyhost = sqlite3.connect(machine.database)
        onlyhost.execute(f"PRAGMA user_version = {newer}")
        onlyhost.close()
        status, _, err = machine.run("rollback", "--yes")
        assert status == 1
        assert "another host" in err
        assert (machine.version(), machine.schema()) == ("0.2.0", newer)


def test_copies_of_the_database_are_kept_until_the_next_update(machine: Machine) -> None:
    assert machine.update()[0] == 0
    third = built(machine, "0.3.0")
    assert machine.update(file=third)[0] == 0
    (backup,) = (machine.home / "data" / "backup").iterdir()
    assert backup.name == f"of-{_digest(machine.new)[:16]}.db"
    assert machine.previous.read_bytes() == machine.new.read_bytes()


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["launcher", "parcel", "index", "trailer", "last"])
def test_a_flipped_byte_is_refused_wherever_it_is(machine: Machine, where: str) -> None:
    size = machine.new.stat().st_size
    at = {"launcher": 100, "parcel": 5000, "index": size - 300, "trailer": size - 128, "last": size - 1}[where]
    flipped(machine.new, at)
    machine.refused("not the one that was signed")
    flipped(machine.new, at)
    assert machine.update()[0] == 0, "with the byte put right, it is accepted"


def test_a_flipped_byte_of_the_signature_is_refused(machine: Machine) -> None:
    signature = machine.new.with_name(machine.new.name + ".sig")
    size = signature.stat().st_size
    for at in (3, 37, 60, 120, size - 200, size - 100, size - 2, size - 1):
        flipped(signature, at)
        machine.refused("nanoclaw: error: ")
        flipped(signature, at)
    assert machine.update()[0] == 0


@pytest.mark.parametrize("keep", [0, 100, 5000, -129, -128, -1])
def test_a_cut_file_is_refused(machine: Machine, keep: int) -> None:
    machine.new.write_bytes(machine.new.read_bytes()[:keep])
    machine.refused("nanoclaw: error: ")


def test_a_longer_file_is_refused(machine: Machine) -> None:
    with machine.new.open("ab") as file:
        file.write(b"\0")
    machine.refused("not the one that was signed")


def test_another_key_is_refused_even_if_its_public_half_lies_beside_the_file(machine: Machine) -> None:
    other = machine.folder / "other-key"
    public = onefile.sign_release("--new-key", other)
    (machine.new.parent / "KEY").write_text(public)
    (machine.new.parent / "SHA256SUMS").write_text(f"{_digest(machine.new)}  {machine.new.name}\n")
    machine.sign(machine.new, other)
    assert "does not know" in machine.refused("does not know")


def test_a_missing_signature_is_refused(machine: Machine) -> None:
    machine.new.with_name(machine.new.name + ".sig").unlink()
    assert "two files" in machine.refused("cannot read")


def test_a_build_without_keys_refuses_and_says_why(machine: Machine) -> None:
    keyless = onefile.build(machine.folder / "keyless", "0.1.0", [])
    shutil.copy(keyless, machine.program)
    machine.refused("knows no keys")


def test_an_older_one_is_refused_unless_it_is_wanted(machine: Machine) -> None:
    older = built(machine, "0.0.9")
    assert "--allow-older" in machine.refused("older (0.0.9)", file=older)
    assert machine.update("--allow-older", file=older)[0] == 0
    assert machine.version() == "0.0.9"


def test_an_older_one_that_cannot_read_the_database_is_refused_even_if_it_is_wanted(machine: Machine) -> None:
    with contextlib.closing(sqlite3.connect(machine.database)) as db:
        db.execute("PRAGMA user_version = 99")
    older = built(machine, "0.0.9")
    machine.refused("cannot read the database", "--allow-older", file=older)


def test_another_processors_is_refused(machine: Machine) -> None:
    other = "aarch64" if onefile.ARCH == "x86_64" else "x86_64"
    machine.refused(f"another kind of processor ({other})", file=built(machine, arch=other))


def test_one_that_does_not_start_here_is_refused(machine: Machine) -> None:
    start = "echo 'nanoclaw: error: this system is too old' >&2; exit 1"
    machine.refused("does not start on this machine: this system is too old", file=built(machine, start=start))


def test_one_that_says_another_version_than_it_is_signed_for_is_refused(machine: Machine) -> None:
    start = """echo '{"version": "7.0.0"}'; exit 0"""
    machine.refused("says that it is 7.0.0", file=built(machine, start=start))


def test_what_is_no_file_is_refused_without_waiting_for_it(machine: Machine) -> None:
    signature = machine.new.with_name(machine.new.name + ".sig")
    kept = signature.read_bytes()
    signature.unlink()
    os.mkfifo(signature)
    machine.refused("is not a file")
    signature.unlink()
    signature.write_bytes(kept + bytes(5000))
    machine.refused("5")
    signature.write_bytes(kept)
    machine.new.unlink()
    os.mkfifo(machine.new)
    machine.refused("is not a file")
    machine.new.unlink()
    machine.new.mkdir()
    machine.refused("is not a file")


def test_from_source_there_is_nothing_to_update(machine: Machine) -> None:
    done = subprocess.run(
        [shutil.which("python3") or "python3", str(onefile.ROOT / "nanoclaw.py"), "update", "--from", str(machine.new)],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "runs from its source" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_only_root_can_write_is_told_with_the_command(machine: Machine) -> None:
    machine.program.parent.chmod(0o555)
    try:
        assert "sudo " in machine.refused("cannot be written by you")
    finally:
        machine.program.parent.chmod(0o755)


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = machine.program.parent
    old = machine.program.read_bytes()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        machine.program.write_bytes(old)
        machine.program.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_is_one_clear_line(machine: Machine, small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(44 * 1024))
    err = machine.refused("is full; nothing was changed")
    assert err.count("error:") == 1
    (small_disk / "filling").unlink()
    assert machine.update()[0] == 0, "with room it goes on"


# --- killed ---------------------------------------------------------------------------------------------------

CALLS = (
    "fchmod",
    "link,linkat",
    "rename,renameat,renameat2",
    "unlink,unlinkat",
    "fsync,fdatasync",
    "clone,clone3,vfork",
)
"""What changes something that lasts, or starts the new program."""
MOST = 30


def killing(call: str, number: int) -> tuple[str, ...]:
    """Have the kernel's tracer kill the program as it makes its `number`th call of this kind."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: nothing else kills at an exact step")
    options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    return (strace, "-o", "/dev/null", *options)


def _killed(status: int) -> bool:
    return status in {-signal.SIGKILL, 128 + signal.SIGKILL}


def _again(machine: Machine) -> None:
    """Back to the state before an update, quickly."""
    for path in [*machine.program.parent.iterdir(), *(machine.home / "data" / "backup").glob("*")]:
        path.unlink()
    shutil.copy(machine.old, machine.program)


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_any_step_an_update_leaves_a_working_program_and_can_be_run_again(
    machine: Machine, call: str
) -> None:
    for number in range(1, MOST):
        status, out, err = machine.update(tracer=killing(call, number))
        if not _killed(status):
            assert status == 0, (out, err)
            break
        assert machine.version() in {"0.1.0", "0.2.0"}
        assert machine.texts() == ["before"]
        status, out, err = machine.update()
        assert status == 0, (call, number, err)
        assert machine.version() == "0.2.0"
        assert machine.previous.read_bytes() == machine.old.read_bytes(), (call, number)
        assert sorted(path.name for path in machine.program.parent.iterdir()) == ["nanoclaw", "nanoclaw.previous"]
        _again(machine)
    assert 1 < number < MOST - 1, "it was killed at least once, and at last not any more"


@pytest.mark.parametrize("call", [call for call in CALLS if "fchmod" not in call])
def test_killed_at_any_step_going_back_leaves_a_program_that_can_read_the_database(machine: Machine, call: str) -> None:
    known = machine.schema()
    assert machine.update()[0] == 0
    assert machine.run("groups")[0] == 0
    for number in range(1, MOST):
        machine.message(f"after {number}")
        status, out, err = machine.run("rollback", "--yes", tracer=killing(call, number))
        if not _killed(status):
            assert status == 0, (out, err)
            break
        # Whichever program is there: it starts, and reads what is there.
        status, _, err = machine.run("groups")
        assert status == 0, (call, number, err)
        kept = [machine.texts(path) for path in (machine.home / "data" / "backup").glob("of-*.db")]
        assert any(f"after {number}" in texts for texts in [machine.texts(), *kept]), "nothing is lost"
        if machine.version() == "0.1.0":
            assert machine.run("rollback")[0] == 0
            assert machine.run("groups")[0] == 0
        assert (machine.version(), machine.schema()) == ("0.2.0", known + 1)
    assert 1 < number < MOST - 1, "it was killed at least once, and at last not any more"
    assert (machine.version(), machine.schema()) == ("0.1.0", known)


def test_two_updates_at_once_do_not_meet(machine: Machine) -> None:
    import fcntl

    fd = os.open(machine.program.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        machine.refused("another NanoClaw changes")
    finally:
        os.close(fd)
    assert machine.update()[0] == 0
