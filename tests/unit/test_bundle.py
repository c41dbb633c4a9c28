"""The one file from within: its index, its parcels, what is unpacked of them, and the environment of children."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host import bundle, unpacking
from host.engines import bubblewrap
from host.errors import UserError
from tests.fakes.onefile import pack

REPO = Path(__file__).resolve().parents[2]
NAME = "things"


def tar_xz(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if name.endswith(("program", "bwrap")) else 0o644
            content = what.encode() if kind == tarfile.REGTYPE else b""
            info.size, info.linkname = len(content), "" if kind == tarfile.REGTYPE else what
            tar.addfile(info, io.BytesIO(content))
    return lzma.compress(out.getvalue(), preset=1)


FILE, FOLDER, LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE
THINGS = (("lib", FOLDER, ""), ("lib/data", FILE, "data" * 5000), ("program", FILE, "#!/bin/sh"), ("link", LINK, "lib"))


class OneFile:
    """A packed file with one parcel, and the program that it is to who runs from it."""

    def __init__(self, folder: Path, content: bytes, name: str = NAME) -> None:
        folder.mkdir()
        (folder / "launcher").write_bytes(b"launcher")
        (folder / "tree").mkdir()
        (folder / "tree" / "nanoclaw").touch(mode=0o755)
        (folder / "parcel").write_bytes(content)
        self.path = folder / "nanoclaw-linux"
        pack.pack(folder / "launcher", folder / "tree", {name: folder / "parcel"}, "1", "ab" * 32, "x86_64", self.path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.expected = {name: (self.sha256, len(content), pack.unpacked_length(folder / "parcel"))}
        self.offset = self.path.read_bytes().index(content)
        self.length = len(content)

    def program(self) -> bundle.Program:
        return bundle.Program(os.open(self.path, os.O_RDONLY), str(self.path), self.expected)

    def unpack(self, cache: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
        return self.program().unpack(NAME, cache, progress)

    def flip(self, at: int) -> None:
        with self.path.open("r+b") as f:
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def one(tmp_path: Path) -> OneFile:
    return OneFile(tmp_path / "one", tar_xz(*THINGS))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def release() -> None:
    """As if this process had ended: it uses no copy any more."""
    for lock in unpacking._held.values():
        lock.close()
    unpacking._held.clear()


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    release()


# --- packing, and the index -------------------------------------------------------------------------------


def test_packing_is_the_same_each_time(tmp_path: Path) -> None:
    one, two = (OneFile(tmp_path / name, tar_xz(*THINGS)) for name in ("a", "b"))
    os.utime(tmp_path / "b" / "tree" / "nanoclaw", (1, 1))
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.offset % 4096 == 0
    assert one.path.stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_started_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(pack.PackError, match="no program"):
        pack.host_tar(tmp_path / "tree")
    (tmp_path / "tree" / "nanoclaw").touch(mode=0o755)
    pack.host_tar(tmp_path / "tree")
    for target in ("/etc/passwd", "../out", "lib/../../out"):
        (tmp_path / "tree" / "link").symlink_to(target)
        with pytest.raises(pack.PackError, match="leads out"):
            pack.host_tar(tmp_path / "tree")
        (tmp_path / "tree" / "link").unlink()
    os.mkfifo(tmp_path / "tree" / "pipe")
    with pytest.raises(pack.PackError, match="neither"):
        pack.host_tar(tmp_path / "tree")


def test_a_parcel_is_found_by_the_index(one: OneFile) -> None:
    found = one.program().carried(NAME)
    assert found == bundle.Parcel(NAME, one.offset, one.length, one.sha256, one.expected[NAME][2])
    assert one.program().carried("other") is None
    with one.program().open_parcel(NAME) as f:
        assert hashlib.sha256(f.read()).hexdigest() == one.sha256
    with pytest.raises(UserError, match="does not carry: other"):
        one.program().open_parcel("other")


def test_a_damaged_index_is_refused(one: OneFile) -> None:
    size = one.path.stat().st_size
    for at in (size - 128, size - 120, size - 100, size - 90, size - 150):
        one.flip(at)
        with pytest.raises(UserError, match="is damaged"):
            one.program().carried(NAME)
        one.flip(at)
    assert one.program().carried(NAME)
    os.truncate(one.path, size - 1)
    with pytest.raises(UserError, match="its end is missing"):
        one.program().carried(NAME)
    os.truncate(one.path, 0)
    with pytest.raises(UserError, match="its end is missing"):
        one.program().carried(NAME)


def test_a_parcel_of_another_build_is_refused(one: OneFile, tmp_path: Path) -> None:
    other = OneFile(tmp_path / "other", tar_xz(*THINGS, ("more", FILE, "more")))
    mixed = bundle.Program(os.open(one.path, os.O_RDONLY), "file", other.expected)
    with pytest.raises(UserError, match="not that of this version"):
        mixed.carried(NAME)


def test_the_last_bytes_of_an_altered_parcel_are_never_read(one: OneFile) -> None:
    for at in (one.offset, one.offset + one.length // 2, one.offset + one.length - 1):
        one.flip(at)
        with one.program().open_parcel(NAME) as f, pytest.raises(UserError, match="not what was built"):
            while f.read(100):
                pass
        one.flip(at)
    os.truncate(one.path, one.path.stat().st_size)
    with one.program().open_parcel(NAME) as f:
        assert f.read(10)
        assert len(f.read()) == one.length - 10
        assert f.read(1) == b""


# --- unpacking --------------------------------------------------------------------------------------------


def test_it_is_unpacked_once(one: OneFile, cache: Path) -> None:
    said: list[str] = []
    folder = one.unpack(cache, said.append)
    assert folder == cache / NAME / one.sha256[:32]
    assert (folder / "lib" / "data").read_text() == "data" * 5000
    assert (folder / "program").stat().st_mode & 0o777 == 0o755
    assert (folder / "link").readlink() == Path("lib")
    assert any("100 %" in text for text in said)
    assert sorted(p.name for p in (cache / NAME).iterdir()) == [
        *(f"{one.sha256[:32]}{end}" for end in ("", ".json", ".run")), "lock",
    ]  # fmt: skip
    inode = (folder / "program").stat().st_ino
    assert one.unpack(cache, pytest.fail) == folder
    assert (folder / "program").stat().st_ino == inode


@pytest.mark.parametrize("change", ["content", "mode", "added", "gone", "link", "record", "no record", "folder"])
def test_an_altered_copy_is_made_anew(one: OneFile, cache: Path, change: str) -> None:
    folder = one.unpack(cache)
    record = folder.with_name(f"{folder.name}.json")
    if change == "content":
        (folder / "lib" / "data").write_text("atad" * 5000)
    elif change == "mode":
        (folder / "program").chmod(0o644)
    elif change == "added":
        (folder / "lib" / "more").touch()
    elif change == "gone":
        (folder / "program").unlink()
    elif change == "link":
        (folder / "link").unlink()
        (folder / "link").symlink_to("program")
    elif change == "record":
        record.write_bytes(record.read_bytes()[:-10])
    elif change == "no record":
        record.unlink()
    else:
        shutil.rmtree(folder)
    assert unpacking.altered(folder)
    assert one.unpack(cache) == folder
    assert not unpacking.altered(folder)
    assert (folder / "lib" / "data").read_text() == "data" * 5000
    assert (folder / "program").stat().st_mode & 0o777 == 0o755
    assert not (folder / "lib" / "more").exists()


def test_a_damaged_parcel_leaves_nothing_behind(one: OneFile, cache: Path) -> None:
    for at in range(one.offset, one.offset + one.length, max(1, one.length // 12)):
        one.flip(at)
        with pytest.raises(UserError, match="damaged"):
            one.unpack(cache)
        one.flip(at)
        assert not [p for p in (cache / NAME).iterdir() if p.suffix not in {".run", ""} or p.is_dir()]
    one.unpack(cache)


ODD = {
    "up": [("../out", FILE, "x")],
    "absolute": [("/out", FILE, "x")],
    "inner": [("lib/../../out", FILE, "x")],
    "no folder": [("nowhere/x", FILE, "x")],
    "through a link": [("link/x", FILE, "x")],
    "link up": [("bad", LINK, "../out")],
    "link to root": [("bad", LINK, "/etc")],
    "hard link": [("bad", tarfile.LNKTYPE, "program")],
    "pipe": [("bad", tarfile.FIFOTYPE, "")],
}


@pytest.mark.parametrize("members", ODD.values(), ids=ODD.keys())
def test_nothing_is_written_outside(tmp_path: Path, cache: Path, members: list[tuple[str, bytes, str]]) -> None:
    odd = OneFile(tmp_path / "odd", tar_xz(*THINGS, *members))
    with pytest.raises(UserError, match="damaged"):
        odd.unpack(cache)
    assert not list(tmp_path.rglob("out"))
    assert not Path("/out").exists()
    assert not list((cache / NAME).glob("*.part"))
    OneFile(tmp_path / "good", tar_xz(*THINGS, ("lib/up", LINK, "../program"))).unpack(cache)


def test_what_asks_for_much_memory_or_holds_more_than_it_said_is_refused(tmp_path: Path, cache: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 256 << 20}]
    greedy = OneFile(tmp_path / "greedy", lzma.compress(lzma.decompress(tar_xz(*THINGS)), filters=filters))
    with pytest.raises(UserError, match="damaged"):
        greedy.unpack(cache)
    larger = OneFile(tmp_path / "larger", tar_xz(*THINGS))
    sha256, length, unpacked = larger.expected[NAME]
    parcel = bundle.Parcel(NAME, larger.offset, length, sha256, unpacked - 1)
    with larger.program().open_parcel(NAME) as stream, pytest.raises(UserError, match="damaged"):
        unpacking.unpack(stream, parcel, cache / "larger", lambda _: None, larger.program().damaged)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_one_clear_line_and_no_debris(tmp_path: Path) -> None:
    one = OneFile(tmp_path / "large", tar_xz(("data", FILE, "x" * 400_000)))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small], check=True)
    try:
        with pytest.raises(UserError, match="there is no room for things"):
            one.unpack(small)
        assert not [p for p in (small / NAME).iterdir() if p.suffix not in {".run", ""}]
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert one.unpack(small).is_dir()
    finally:
        release()
        subprocess.run(["umount", "-l", small], check=True)


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {repo!r})
from host import bundle, unpacking
expected = {expected!r}
program = bundle.Program(os.open({path!r}, os.O_RDONLY), "file", expected)
"""
AT_ONCE = """
folder = program.unpack({name!r}, Path({cache!r}), lambda text: print(text, file=sys.stderr, flush=True))
print((folder / "program").stat().st_ino)
"""
KILLED = """
import signal
left = {step}
WATCHED = {{"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.symlink", "fcntl.flock"}}
def on_event(name, args):
    global left
    if name in WATCHED:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
import json, tarfile, lzma, hashlib, struct
program.carried({name!r})
sys.addaudithook(on_event)
program.unpack({name!r}, Path({cache!r}), lambda _: None)
"""


def child(one: OneFile, code: str) -> subprocess.Popen[str]:
    text = CHILD.format(repo=str(REPO), expected=one.expected, path=str(one.path)) + code
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-S", "-c", text], stdout=pipe, stderr=pipe, text=True)


def test_two_at_once_make_one_copy(one: OneFile, cache: Path) -> None:
    (cache / NAME).mkdir(parents=True)
    code = AT_ONCE.format(name=NAME, cache=str(cache))
    with (cache / NAME / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [child(one, code) for _ in range(3)]
        for process in processes:
            assert process.stderr is not None
            assert process.stderr.readline() == f"waiting for another NanoClaw that is unpacking {NAME}\n"
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert sum("unpacking things: 100 %" in err for _, err in answers) == 1


def test_killed_at_each_step_the_next_makes_it_whole(one: OneFile, cache: Path) -> None:
    for step in range(1, 200):
        if step % 2:  # every other time beside an altered copy
            shutil.rmtree(cache, ignore_errors=True)
        else:
            (cache / NAME / one.sha256[:32] / "lib" / "data").write_text("altered")
        killed = child(one, KILLED.format(step=step, name=NAME, cache=str(cache)))
        _, err = killed.communicate(timeout=60)
        assert killed.returncode in {0, -signal.SIGKILL}, err
        folder = one.unpack(cache)
        assert (folder / "lib" / "data").read_text() == "data" * 5000
        assert not list((cache / NAME).glob("*.part"))
        release()
        if killed.returncode == 0:
            assert step > 10
            return
    raise AssertionError("it never came to its end")


def test_old_copies_are_pruned_but_none_that_is_used(tmp_path: Path, cache: Path) -> None:
    files = [OneFile(tmp_path / f"v{n}", tar_xz(*THINGS, ("version", FILE, str(n)))) for n in range(4)]
    shelf = cache / NAME

    def unpack(n: int) -> None:
        for path in shelf.glob("?" * 32):
            os.utime(path, (path.stat().st_mtime - 1000,) * 2)
            record = path.with_name(f"{path.name}.json")
            record.write_text(json.dumps(unpacking.listing(path)))
        files[n].unpack(cache)

    def there() -> set[int]:
        return {n for n, one in enumerate(files) if (shelf / one.sha256[:32]).exists()}

    for n in range(3):
        unpack(n)
    assert there() == {0, 1, 2}  # this process uses them all
    release()
    unpack(3)
    assert there() == {2, 3}
    assert len(list(shelf.iterdir())) == 2 * 3 + 1


def test_errors_that_are_no_full_disk_are_told_too(one: OneFile, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=os.strerror(errno.ENOTDIR)):
        one.unpack(tmp_path / "cache")


# --- the start ----------------------------------------------------------------------------------------------

STARTED = """
import json, os, subprocess, sys
sys.path.insert(0, {repo!r})
sys.frozen = {frozen}
from host import bundle
bundle.start()
seen = json.loads(subprocess.run([sys.executable, "-S", "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
                  stdout=subprocess.PIPE, close_fds=False).stdout)
fds = [fd for fd in {fds} if os.get_inheritable(fd)]
path = str(bundle.executable()) if bundle._program or not sys.frozen else ""
print(json.dumps([seen, fds, path]))
"""
LEFT = {"_MEIPASS2": "x", "_PYI_ARCHIVE_FILE": "x", "_PYI_APPLICATION_HOME_DIR": "x", "_NANOCLAW_HOLD": "1"}


def started(environ: dict[str, str], *fds: int, frozen: bool = True) -> tuple[dict[str, str], list[int], str]:
    code = STARTED.format(repo=str(REPO), fds=list(fds), frozen=frozen)
    argv = [sys.executable, "-S", "-c", code]
    done = subprocess.run(argv, env=environ, pass_fds=fds, capture_output=True, text=True, check=True)
    seen, inheritable, path = json.loads(done.stdout)
    return seen, inheritable, path


def test_children_get_the_persons_environment_and_none_of_our_descriptors(one: OneFile) -> None:
    file, hold = (os.open(one.path, os.O_RDONLY) for _ in range(2))
    try:
        ours = {**LEFT, "_NANOCLAW_FILE": f"{file}:{one.path}", "_NANOCLAW_HOLD": str(hold), "LD_LIBRARY_PATH": "/us"}
        seen, inheritable, path = started({**ours, "MINE": "1"}, file, hold)
        assert seen == {"MINE": "1", "LC_CTYPE": seen.get("LC_CTYPE", "")} or seen == {"MINE": "1"}
        assert inheritable == []
        assert path == str(one.path)
        seen, _, _ = started({**ours, "LD_LIBRARY_PATH_ORIG": "/mine:/too"}, file, hold)
        assert seen["LD_LIBRARY_PATH"] == "/mine:/too"
        assert not [name for name in seen if name.startswith(("_MEI", "_PYI", "_NANOCLAW")) or "ORIG" in name]
    finally:
        os.close(file)
        os.close(hold)


def test_from_source_nothing_is_touched() -> None:
    seen, _, path = started({**LEFT, "LD_LIBRARY_PATH": "/mine"}, frozen=False)
    assert {**LEFT, "LD_LIBRARY_PATH": "/mine"}.items() <= seen.items()
    assert path == str(REPO / "nanoclaw.py")
    assert bundle.carried("image") is None


def test_an_unpacked_part_that_is_started_by_itself_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    bundle.start({"_NANOCLAW_FILE": "nonsense"})
    with pytest.raises(UserError, match="unpacked part"):
        bundle.open_parcel("image")
    assert bundle.carried("image") is None


# --- the bubblewrap that is carried -------------------------------------------------------------------------


def test_the_carried_bubblewrap_serves_where_the_systems_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = "CapEff:\\t0000000000000000\\nNoNewPrivs:\\t1\\nSeccomp:\\t2\\n"
    works = f'#!/bin/sh\n[ "$1" = --version ] && echo "bubblewrap 0.11.0" || printf "{status}"\n'
    old = tmp_path / "bin" / "bwrap"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\necho "bubblewrap 0.4.1"\n')
    old.chmod(0o755)
    content = tar_xz(("bwrap", FILE, works), ("program", FILE, ""))
    one = OneFile(tmp_path / "one", content, bubblewrap.PARCEL)
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    with pytest.raises(Exception, match="too old"):
        bubblewrap.Bubblewrap(root=False).probe()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "cache" / "host" / "id" / "nanoclaw"))
    monkeypatch.setattr(bundle, "_program", one.program())
    monkeypatch.setattr(bundle.build, "PARCELS", one.expected)
    engine = bubblewrap.Bubblewrap(root=False)
    assert engine.probe().version == "0.11.0, carried in this program"
    assert engine.program == str(tmp_path / "cache" / "bubblewrap" / one.sha256[:32] / "bwrap")
    with pytest.raises(Exception, match="too old"):
        bubblewrap.Bubblewrap(str(old), root=False).probe()  # one that was named is not exchanged for another
    old.write_text(works)
    assert bubblewrap.Bubblewrap(root=False).probe().version == "0.11.0"
