"""Files beneath a folder that somebody hostile writes to, also while we look."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host import beneath
from host.errors import UserError

SECRET = b"NCC-outside-7f3a91"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "group"
    made.mkdir()
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_bytes(SECRET)
    return made


# --- reading ------------------------------------------------------------------------------------------


def test_a_plain_file_is_read(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "CLAUDE.md").write_bytes(b"remember")
    (folder / "empty").touch()
    assert beneath.read_file(folder, "a/b/CLAUDE.md") == b"remember"
    assert beneath.read_file(folder, "empty") == b""


def test_what_is_not_there_is_not_there(folder: Path) -> None:
    for path in ("no", "no/no"):
        with pytest.raises(FileNotFoundError):
            beneath.read_file(folder, path)
    with pytest.raises(FileNotFoundError):
        beneath.read_file(folder / "no", "x")


TRAPS: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file": lambda f, o: (f / "x").symlink_to(o / "secret"),
    "a link within": lambda f, o: ((f / "y").write_text("y"), (f / "x").symlink_to("y")),
    "a dangling link": lambda f, o: (f / "x").symlink_to("nowhere"),
    "a link to itself": lambda f, o: (f / "x").symlink_to("x"),
    "a hard link": lambda f, o: (f / "x").hardlink_to(o / "secret"),
    "a FIFO": lambda f, o: os.mkfifo(f / "x"),
    "a folder": lambda f, o: (f / "x").mkdir(),
    "a terabyte of nothing": lambda f, o: os.truncate(os.open(f / "x", os.O_CREAT | os.O_WRONLY), 1 << 40),
    "too long a file": lambda f, o: (f / "x").write_bytes(b"x" * 101),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_refused_at_once(folder: Path, outside: Path, name: str) -> None:
    TRAPS[name](folder, outside)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        beneath.read_file(folder, "x", limit=100)
    assert time.monotonic() - started < 1
    assert "x" in str(caught.value)


def test_a_socket_and_a_held_file_are_refused_at_once(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "x"))
        with pytest.raises(UserError):
            beneath.read_file(folder, "x")
    (folder / "held").write_bytes(b"held")
    fd = os.open(folder / "held", os.O_RDONLY)
    old = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        pytest.skip("no leases on this file system")
    else:
        # Another process, since one's own lease does not hold oneself up.
        code = f"from pathlib import Path\nfrom host import beneath\nbeneath.read_file(Path({str(folder)!r}), 'held')"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
        assert "is being held" in done.stderr
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, old)


def test_a_link_in_the_middle_or_as_the_root_is_refused(folder: Path, outside: Path) -> None:
    (folder / "d").symlink_to(outside)
    with pytest.raises(UserError):
        beneath.read_file(folder, "d/secret")
    with pytest.raises(UserError):
        beneath.read_file(folder / "d", "secret")
    with pytest.raises(UserError):
        beneath.list_folder(folder, "d")
    with pytest.raises(UserError):
        beneath.write_file(folder, "d/new", b"x")
    with pytest.raises(UserError):
        beneath.ensure_folder(folder, "d/new")
    assert os.listdir(outside) == ["secret"]  # noqa: PTH208


@pytest.mark.parametrize(
    "path", ["", "..", "../outside/secret", "a/../x", "./x", "/etc/passwd", "a//b", "x/", "a\0b", "\ud800", "\udcff/.."]
)
def test_paths_that_are_none_are_refused(folder: Path, outside: Path, path: str) -> None:
    for attempt in (
        lambda: beneath.read_file(folder, path),
        lambda: beneath.write_file(folder, path, b"x"),
        lambda: beneath.ensure_folder(folder, path) if path else beneath.read_file(folder, path),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value).isprintable()
    assert (outside / "secret").read_bytes() == SECRET


# --- writing ------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_with_its_mode_and_owner(folder: Path) -> None:
    beneath.write_file(folder, "x", b"first", mode=0o644)
    owner = (4321, 4322) if os.geteuid() == 0 else None
    beneath.write_file(folder, "x", b"second", owner, mode=0o640)
    seen = (folder / "x").stat()
    assert (folder / "x").read_bytes() == b"second"
    assert seen.st_mode & 0o777 == 0o640
    if owner:
        assert (seen.st_uid, seen.st_gid) == owner
    assert [p.name for p in folder.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "name", ["a link to a file", "a hard link", "a FIFO", "a dangling link", "a terabyte of nothing"]
)
def test_what_is_in_the_way_is_replaced_and_not_written_to(folder: Path, outside: Path, name: str) -> None:
    TRAPS[name](folder, outside)
    beneath.write_file(folder, "x", b"mine")
    assert (folder / "x").read_bytes() == b"mine"
    assert not (folder / "x").is_symlink()
    assert (outside / "secret").read_bytes() == SECRET


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    (folder / "x").mkdir()
    with pytest.raises(UserError):
        beneath.write_file(folder, "x", b"data")
    assert [p.name for p in folder.iterdir()] == ["x"]


# --- folders ------------------------------------------------------------------------------------------


def test_folders_are_made_and_given_away(folder: Path) -> None:
    owner = (4321, 4322) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    (folder / "a").mkdir()
    beneath.ensure_folder(folder, "a/b/c", owner)
    beneath.ensure_folder(folder, "a/b/c", owner)
    for made in ("a/b", "a/b/c"):
        seen = (folder / made).stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (*owner, 0o700)
    assert (folder / "a").stat().st_uid == os.geteuid()
    beneath.ensure_folder(folder, "", owner)
    assert folder.stat().st_uid == owner[0]


def test_a_listing_names_kinds_and_follows_nothing(folder: Path, outside: Path) -> None:
    (folder / "file").write_bytes(b"12345")
    (folder / "dir").mkdir()
    (folder / "link").symlink_to(outside / "secret")
    os.mkfifo(folder / "fifo")
    (folder / "a\nb").touch()
    found = beneath.list_folder(folder)
    kinds = {entry.name: entry.kind for entry in found.entries}
    assert kinds == {"file": "file", "dir": "folder", "link": "link", "fifo": "other", "a\nb": "file"}
    assert [entry.size for entry in found.entries if entry.name == "file"] == [5]
    assert found.complete
    assert [entry.name for entry in found.entries] == sorted(kinds)


def test_a_listing_and_a_count_have_an_end(folder: Path) -> None:
    for number in range(50):
        (folder / str(number)).touch()
    found = beneath.list_folder(folder, limit=20)
    assert (len(found.entries), found.complete) == (20, False)
    assert beneath.list_folder(folder, limit=50).complete
    counted = beneath.folder_size(folder, limit=20)
    assert (counted.entries, counted.complete) == (20, False)
    assert beneath.folder_size(folder, limit=50).complete
    assert not beneath.folder_size(folder, seconds=-1).complete


def test_what_is_counted_is_what_the_disk_holds(folder: Path, outside: Path) -> None:
    (outside / "big").write_bytes(bytes(4 << 20))
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(os.urandom(1 << 20))
    (folder / "again").hardlink_to(folder / "a" / "file")
    (folder / "link").symlink_to(outside)
    os.truncate(os.open(folder / "sparse", os.O_CREAT | os.O_WRONLY), 1 << 40)
    counted = beneath.folder_size(folder)
    assert 1 << 20 <= counted.bytes < (1 << 20) + 100_000
    assert (counted.entries, counted.complete) == (5, True)


def test_a_tree_that_is_too_deep_is_counted_as_far_as_it_goes(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    counted = beneath.folder_size(folder)
    assert not counted.complete
    assert counted.entries == beneath.MAX_DEPTH + 1
    assert len(os.listdir("/proc/self/fd")) < before  # noqa: PTH208
    subprocess.run(["rm", "-rf", str(folder)], check=True)  # deeper than Python's own walk goes


# --- the race -----------------------------------------------------------------------------------------

SWAP = """
import os, sys
from contextlib import suppress
group, outside = sys.argv[1:]
os.chdir(group)
def plain():
    with open("f", "w") as f: f.write("inside")
def link(): os.symlink(outside + "/secret", "f")
def hard(): os.link(outside + "/secret", "f")
def fifo(): os.mkfifo("f")
def sparse():
    with open("f", "w") as f: f.truncate(1 << 40)
def folders():
    "d: now a folder with a plain file, now a link to the folder outside"
    os.mkdir("e")
    with open("e/secret", "w") as f: f.write("inside")
    os.rename("e", "d")
    os.rename("d", "e")
    os.symlink(outside, "d")
    os.unlink("e/secret")
    os.rmdir("e")
    os.unlink("d")
print("ready", flush=True)
while True:
    for make in (plain, link, plain, hard, plain, fifo, plain, sparse):
        with suppress(OSError):
            make()
            os.rename("f", "x")
        with suppress(OSError):
            folders()
        if os.path.isdir("e"):
            for name in os.listdir("e"):
                with suppress(OSError): os.unlink("e/" + name)
            with suppress(OSError): os.rmdir("e")
"""


@pytest.fixture
def swapper(folder: Path, outside: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that, as fast as it can, puts now this and now that where we read and write."""
    argv = [sys.executable, "-c", SWAP, str(folder), str(outside)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    assert process.poll() is None, "the swapper died, so nothing was tested"
    process.kill()
    process.wait()
    process.stdout.close()


def naive_read(folder: Path, name: str) -> bytes:
    """What one writes at first: look whether it is a plain file, then open it."""
    path = folder / name
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or path.stat().st_size > 100:
        raise UserError("refused")
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
        return file.read(100)


def naive_write(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise UserError("refused")
    with open(path, "wb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
        file.write(b"ours")


def escapes(times: int, act: Callable[[str], bytes | None], outside: Path, seconds: float) -> tuple[int, int]:
    """How often something from outside was read or written to, and how often the act went through."""
    out = done = 0
    until = time.monotonic() + seconds
    for number in range(times):
        try:
            data = act(("x", "d/secret")[number % 2])
            done += 1
        except (UserError, OSError):
            data = None
        if data == SECRET:
            out += 1
        if (outside / "secret").read_bytes() != SECRET:
            out += 1
            (outside / "secret").write_bytes(SECRET)
        assert time.monotonic() < until, f"only {number} in {seconds} seconds"
    return out, done


def test_twenty_thousand_reads_and_writes_in_a_race_stay_inside(
    folder: Path, outside: Path, swapper: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the race is about names; a disk would make it a minute's
    reads, read = escapes(10_000, lambda name: beneath.read_file(folder, name, 100), outside, 60)
    writes, written = escapes(10_000, lambda name: beneath.write_file(folder, name, b"ours"), outside, 60)
    assert (reads, writes) == (0, 0)
    assert read > 100
    assert written > 100
    assert sorted(p.name for p in outside.iterdir()) == ["secret"]


def test_the_race_is_real(folder: Path, outside: Path, swapper: subprocess.Popen[str]) -> None:
    """The control: who checks first and opens then is led outside, both ways."""
    out = 0
    until = time.monotonic() + 60
    while not out and time.monotonic() < until:
        out += escapes(2_000, lambda name: naive_read(folder, name), outside, 60)[0]
    assert out
    out = 0
    while not out and time.monotonic() < until:
        out += escapes(2_000, lambda name: naive_write(folder, name), outside, 60)[0]
    assert out
