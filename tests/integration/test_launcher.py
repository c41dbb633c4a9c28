"""The launcher, as it is compiled: where it unpacks, what it refuses, and what it hands over."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import random
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes import launcher as made
from tests.fakes.launcher import STATIC, TELLS, WAITS
from tests.fakes.onefile import pack

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="mounts and other users are root's to make")
NOBODY = 65534

FILE = tarfile.REGTYPE
LINK = tarfile.SYMTYPE


class Stage:
    """One file and one home; the environment holds nothing else than what is said."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.file = made.file_of(folder, made.tree(folder / "tree"))

    def run(self, *args: str, file: Path | str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), **environ}
        argv = [str(file or self.file), *args]
        return subprocess.run(
            argv, env={k: v for k, v in env.items() if v}, cwd=self.folder, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60, check=False, errors="replace",
        )  # fmt: skip

    def told(self, *args: str, file: Path | str | None = None, **environ: str) -> dict[str, list[str]]:
        done = self.run(*args, file=file, **environ)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return parsed(done.stdout)

    @property
    def shelf(self) -> Path:
        return self.home / ".cache" / "nanoclaw" / "host"

    @property
    def copy(self) -> Path:
        return self.shelf / identity(self.file)


def parsed(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        found.setdefault(kind, []).append(rest)
    return found


def identity(file: Path) -> str:
    return struct.unpack(pack.TRAILER, file.read_bytes()[-128:])[-1].hex()[:32]


def is_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""  # nothing of the program ran
    error, hint = done.stderr.splitlines()
    assert error.startswith("nanoclaw: error: ")
    assert hint.startswith("nanoclaw: hint: ")
    for word in words:
        assert word in error


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    for parent in tmp_path.parents:  # so that another user can reach it
        with contextlib.suppress(OSError):
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o055)
    return Stage(tmp_path)


# --- the start ------------------------------------------------------------------------------------------


def test_it_unpacks_once_and_becomes_the_program(stage: Stage) -> None:
    first = stage.told("one", "--two", "th ree", "")
    assert first["argument"] == ["one", "--two", "th ree", ""]
    assert first["program"] == [str(stage.copy / "nanoclaw")]
    assert (stage.copy / "lib" / "data").read_bytes() == bytes(200_000)
    assert (stage.copy / "link").read_text() == "other\n"
    assert (stage.copy / "lib" / "empty").read_bytes() == b""
    before = [(p, p.lstat().st_ino, p.lstat().st_mtime_ns) for p in sorted(stage.home.rglob("*"))]
    assert stage.told()["inode"] == first["inode"]
    assert [(p, p.lstat().st_ino, p.lstat().st_mtime_ns) for p in sorted(stage.home.rglob("*"))] == before


def test_what_it_makes_is_closed_to_others_and_the_umask_is_given_back(stage: Stage) -> None:
    before = os.umask(0)
    try:
        assert stage.told()["umask"] == ["0000"]
    finally:
        os.umask(before)
    for path in stage.home.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


def test_the_program_is_given_the_file_itself(stage: Stage) -> None:
    told = stage.told()
    assert told["file"] == [hashlib.sha256(stage.file.read_bytes()[:8192]).hexdigest()]
    environ = dict(line.split("=", 1) for line in told["environment"])
    assert environ["_NANOCLAW_FILE"].partition(":")[2] == str(stage.file)
    assert environ["_NANOCLAW_HOLD"].isdecimal()


def test_the_environment_stays_but_for_what_frozen_programs_leave_there(stage: Stage) -> None:
    theirs = {"LD_LIBRARY_PATH_ORIG": "/x", "_MEIPASS2": "/x", "_PYI_ARCHIVE_FILE": "/x", "_NANOCLAW_FILE": "9:/x"}
    told = stage.told(MINE="1", LD_LIBRARY_PATH="/mine", **theirs)
    environ = dict(line.split("=", 1) for line in told["environment"])
    assert environ["MINE"] == "1"
    assert environ["LD_LIBRARY_PATH"] == "/mine"
    assert "/x" not in [environ.get(name, "").removeprefix("9:") for name in theirs]


def test_it_is_found_however_it_is_started(stage: Stage) -> None:
    (stage.folder / "bin").mkdir()
    (stage.folder / "bin" / "claw").symlink_to(stage.file)
    path = f"{stage.folder}/bin:{os.environ['PATH']}"
    for argv in (["./nanoclaw-linux"], ["bin/claw"], ["sh", "-c", "claw"], ["sh", "-c", "exec claw"]):
        told = stage.told(*argv[1:], file=argv[0], PATH=path)
        environ = dict(line.split("=", 1) for line in told["environment"])
        assert environ["_NANOCLAW_FILE"].partition(":")[2] == str(stage.file)


def test_closed_descriptors_do_not_become_the_programs_standard_streams(stage: Stage) -> None:
    script = f'"{stage.file}" > "{stage.folder}/out" 0<&- 2>&-'
    subprocess.run(["/bin/sh", "-c", script], env={"HOME": str(stage.home), "PATH": os.environ["PATH"]}, check=True)
    told = parsed((stage.folder / "out").read_text())
    environ = dict(line.split("=", 1) for line in told["environment"])
    assert int(environ["_NANOCLAW_FILE"].partition(":")[0]) > 2
    assert told["file"] == [hashlib.sha256(stage.file.read_bytes()[:8192]).hexdigest()]


def test_at_a_terminal_it_shows_how_far_it_is_and_else_it_is_quiet(stage: Stage) -> None:
    ours, theirs = pty.openpty()
    env = {"HOME": str(stage.home), "PATH": os.environ["PATH"]}
    subprocess.run([stage.file], env=env, stderr=theirs, stdout=subprocess.DEVNULL, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"unpacking itself" in shown
    assert shown.endswith(b"\r\x1b[K")


# --- where it unpacks -----------------------------------------------------------------------------------


def where(told: dict[str, list[str]]) -> Path:
    return Path(told["program"][0]).parents[2]


def test_the_home_of_the_command_line_and_the_environment(stage: Stage) -> None:
    f = stage.folder
    assert where(stage.told("--home", str(f / "a"))) == f / "a" / "cache"
    assert where(stage.told("chat", f"--home={f / 'b'}")) == f / "b" / "cache"
    assert where(stage.told("--home", "c/d")) == f / "c" / "d" / "cache"
    assert where(stage.told(NANOCLAW_HOME=str(f / "e"))) == f / "e" / "cache"
    assert where(stage.told("--home", str(f / "a"), NANOCLAW_HOME=str(f / "e"))) == f / "a" / "cache"
    assert where(stage.told(XDG_CACHE_HOME=str(f / "x"))) == f / "x" / "nanoclaw"
    assert where(stage.told(XDG_CACHE_HOME="relative")) == stage.home / ".cache" / "nanoclaw"
    assert where(stage.told("ask", "--", "--home", "z")) == stage.home / ".cache" / "nanoclaw"


def test_without_a_home_a_folder_of_our_own_where_everyone_may_write(stage: Stage) -> None:
    runtime = stage.folder / "run"
    runtime.mkdir(mode=0o700)
    assert where(stage.told(HOME="", XDG_RUNTIME_DIR=str(runtime))) == runtime / f"nanoclaw-{os.geteuid()}"
    assert (runtime / f"nanoclaw-{os.geteuid()}").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("trap", ["link", "open", "file", "everyones"])
def test_a_shared_folder_that_others_could_have_prepared_is_not_used(stage: Stage, trap: str) -> None:
    runtime, own = stage.folder / "run", stage.folder / "run" / f"nanoclaw-{os.geteuid()}"
    runtime.mkdir(mode=0o700)
    if trap == "link":
        (stage.folder / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(stage.folder / "elsewhere")
    elif trap == "open":
        own.mkdir()
        own.chmod(0o755)
    elif trap == "file":
        own.touch()
    else:
        runtime.chmod(0o777)
    chosen = where(stage.told(HOME="", XDG_RUNTIME_DIR=str(runtime)))
    assert chosen.parent in {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")}
    assert not (stage.folder / "elsewhere" / "host").exists()
    shutil.rmtree(chosen / "host" / identity(stage.file))


def test_a_cache_that_others_can_write_to_is_not_used(stage: Stage) -> None:
    runtime = stage.folder / "run"
    runtime.mkdir(mode=0o700)
    stage.shelf.parent.mkdir(parents=True)
    stage.shelf.parent.chmod(0o777)
    assert where(stage.told(XDG_RUNTIME_DIR=str(runtime))).parent == runtime
    stage.shelf.parent.chmod(0o700)
    assert where(stage.told(XDG_RUNTIME_DIR=str(runtime))) == stage.shelf.parent


@as_root
def test_a_home_of_someone_else_is_left_alone(stage: Stage) -> None:
    runtime = stage.folder / "run"
    runtime.mkdir(mode=0o700)
    os.chown(stage.home, NOBODY, NOBODY)
    assert where(stage.told(XDG_RUNTIME_DIR=str(runtime))).parent == runtime
    assert list(stage.home.iterdir()) == []
    (stage.home / "cache").mkdir()
    os.chown(stage.home / "cache", NOBODY, NOBODY)
    assert where(stage.told(NANOCLAW_HOME=str(stage.home), XDG_RUNTIME_DIR=str(runtime))).parent == runtime


@as_root
def test_it_works_as_an_ordinary_user(stage: Stage) -> None:
    os.chown(stage.home, NOBODY, NOBODY)
    shutil.copy(stage.file, stage.home / "mine")
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(stage.file)]
    told = stage.told(*argv[1:], file=argv[0])
    assert where(told) == stage.home / ".cache" / "nanoclaw"
    stage.file.chmod(0o711)
    is_refused(stage.run(*argv[1:], file=argv[0]), "cannot be read")
    stage.file.chmod(0o4755)
    is_refused(stage.run(*argv[1:], file=argv[0]), "another's rights")


Mounted = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mounted(stage: Stage) -> Iterator[Mounted]:
    """Runs the file with every place that it may choose mounted as said, and then shell commands."""
    if not ROOT:
        pytest.skip("only root mounts")
    (stage.folder / "point").mkdir()

    def run(after: str = "true", *, home: str, others: str) -> subprocess.CompletedProcess[str]:
        mounts = [f"mount --bind {stage.folder} /mnt", f"mount -t tmpfs -o {home} tmpfs /mnt/point"]
        mounts += [f"mount -t tmpfs -o {others} tmpfs {path}" for path in ("/tmp", "/var/tmp", "/dev/shm")]
        script = f"{' && '.join(mounts)} && cd / && /mnt/nanoclaw-linux; status=$?; {after}; exit $status"
        return stage.run("-m", "sh", "-c", script, file="unshare", HOME="/mnt/point")

    yield run


ROOMY = "size=8m,mode=1777"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("size=8m,noexec,mode=1777", "noexec"),
        ("size=8m,ro,mode=1777", "read-only"),
        ("size=64k,mode=1777", "no room"),
        ("size=8m,nr_inodes=8,mode=1777", "no room"),
    ],
)
def test_where_it_cannot_be_unpacked_another_folder_serves_and_else_one_line_says_why(
    mounted: Mounted, bad: str, why: str
) -> None:
    debris = "find /mnt/point /tmp /var/tmp /dev/shm -name '*.part' -o -name '*.list' -o -name data | sed 's/^/left /'"
    elsewhere = mounted(home=bad, others=ROOMY)
    assert where(parsed(elsewhere.stdout)) == Path("/tmp/nanoclaw-0")
    assert where(parsed(mounted(home=ROOMY, others=bad).stdout)) == Path("/mnt/point/.cache/nanoclaw")
    nowhere = mounted(debris, home=bad, others=bad)
    is_refused(nowhere, "found no folder", "/mnt/point/.cache/nanoclaw: ", why)


@as_root
def test_a_folder_whose_room_ends_while_it_is_written(stage: Stage, mounted: Mounted) -> None:
    """By a limit that statvfs does not tell of: the largest file that this process may write."""
    script = f"ulimit -f 100; trap '' XFSZ; '{stage.file}'; find '{stage.home}' -name '*.part*' -o -name data"
    done = stage.run("-c", script, file="sh", XDG_RUNTIME_DIR="")
    assert "nanoclaw: error: NanoClaw found no folder" in done.stderr
    assert done.stdout == ""
    stage.told()


# --- a copy that is not what it was -----------------------------------------------------------------------


def _content(copy: Path) -> None:
    (copy / "lib" / "data").write_bytes(b"x" * 200_000)


def _size(copy: Path) -> None:
    os.truncate(copy / "lib" / "data", 100)


def _mode(copy: Path) -> None:
    (copy / "nanoclaw").chmod(0o600)


def _added(copy: Path) -> None:
    (copy / "lib" / "deep" / "more.py").touch()


def _gone(copy: Path) -> None:
    (copy / "lib" / "empty").unlink()


def _link(copy: Path) -> None:
    (copy / "link").unlink()
    (copy / "link").symlink_to("lib/data")


def _folder(copy: Path) -> None:
    (copy / "lib" / "deep").rename(copy / "lib" / "deep2")
    (copy / "lib" / "deep").symlink_to("deep2")


def _list_gone(copy: Path) -> None:
    copy.with_name(f"{copy.name}.list").unlink()


def _list_cut(copy: Path) -> None:
    os.truncate(copy.with_name(f"{copy.name}.list"), 60)


def _list_garbage(copy: Path) -> None:
    copy.with_name(f"{copy.name}.list").write_bytes(b"40700 0\n\n \nend\n" + os.urandom(500))


def _all_gone(copy: Path) -> None:
    shutil.rmtree(copy)


CHANGES = [_content, _size, _mode, _added, _gone, _link, _folder, _list_gone, _list_cut, _list_garbage, _all_gone]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_an_altered_copy_is_made_anew(stage: Stage, change: Callable[[Path], None]) -> None:
    first = stage.told()
    assert stage.told()["inode"] == first["inode"]
    change(stage.copy)
    stage.told()
    assert (stage.copy / "nanoclaw").stat().st_ino != int(first["inode"][0]) or change is _all_gone
    assert (stage.copy / "lib" / "data").read_bytes() == bytes(200_000)
    assert (stage.copy / "link").read_text() == "other\n"
    assert sorted(p.name for p in stage.shelf.iterdir()) == [
        *(f"{stage.copy.name}{ending}" for ending in ("", ".list", ".run")), "lock",
    ]  # fmt: skip
    again = stage.told()
    assert stage.told()["inode"] == again["inode"]


def test_a_link_in_the_place_of_the_shelf_is_not_followed(stage: Stage) -> None:
    stage.told()
    (stage.folder / "elsewhere").mkdir(mode=0o700)
    shutil.rmtree(stage.shelf)
    stage.shelf.symlink_to(stage.folder / "elsewhere")
    runtime = stage.folder / "run"
    runtime.mkdir(mode=0o700)
    assert where(stage.told(XDG_RUNTIME_DIR=str(runtime))).parent == runtime
    assert list((stage.folder / "elsewhere").iterdir()) == []


# --- a file that is not what was built ----------------------------------------------------------------------


def test_a_file_that_was_cut_is_refused(stage: Stage) -> None:
    whole = stage.file.read_bytes()
    cut = stage.folder / "cut"
    size = len(made.launcher().read_bytes())
    for length in (len(whole) - 1, len(whole) - 128, len(whole) - 4096, size, size + 100):
        cut.write_bytes(whole[:length])
        cut.chmod(0o755)
        is_refused(stage.run(file=cut), "this file is damaged")
    assert list(stage.home.iterdir()) == []
    cut.write_bytes(whole)
    stage.told(file=cut)


def test_a_changed_byte_of_the_program_is_noticed_before_anything_of_it_runs(stage: Stage) -> None:
    whole = bytearray(stage.file.read_bytes())
    (*_, offset, length, _, _) = struct.unpack(pack.TRAILER, whole[-128:])
    flipped = stage.folder / "flipped"
    for at in (offset, offset + 2, offset + length // 2, offset + length - 5, offset + length - 1):
        whole[at] ^= 1
        flipped.write_bytes(whole)
        flipped.chmod(0o755)
        is_refused(stage.run(file=flipped), "this file is damaged", "not hold what was built")
        whole[at] ^= 1
    assert sorted(p.name for p in stage.shelf.iterdir() if not p.name.endswith(".run")) == ["lock"]
    flipped.write_bytes(whole)
    stage.told(file=flipped)


def test_an_end_that_says_what_cannot_be_is_refused(stage: Stage) -> None:
    whole = stage.file.read_bytes()
    fields = list(struct.unpack(pack.TRAILER, whole[-128:]))
    odd = stage.folder / "odd"
    huge = (1 << 64) - 1
    for field, value in [(0, b"NANOCLAX"), (1, 2), (6, huge), (7, huge), (7, 0), (8, huge), (8, 10), (9, bytes(32))]:
        changed = [*fields[:field], value, *fields[field + 1 :]]
        odd.write_bytes(whole[:-128] + struct.pack(pack.TRAILER, *changed))
        odd.chmod(0o755)
        is_refused(stage.run(file=odd), "this file is damaged")
    odd.write_bytes(whole[:-128] + struct.pack(pack.TRAILER, *fields))
    stage.told(file=odd)


ESCAPES = {
    "up": [("../out", FILE, "x")],
    "inner up": [("lib", tarfile.DIRTYPE, ""), ("lib/../../out", FILE, "x")],
    "absolute": [("/tmp/nanoclaw-out", FILE, "x")],
    "link up": [("link", LINK, "../out")],
    "link in folder": [("lib", tarfile.DIRTYPE, ""), ("lib/link", LINK, "../../out")],
    "link to root": [("link", LINK, "/etc")],
    "through a link": [("lib", tarfile.DIRTYPE, ""), ("link", LINK, "lib"), ("link/x", FILE, "x")],
    "hard link": [("hard", tarfile.LNKTYPE, "nanoclaw")],
    "pipe": [("pipe", tarfile.FIFOTYPE, "")],
    "two lines": [("two\nlines", FILE, "x")],
    "no folder": [("nowhere/x", FILE, "x")],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES.keys())
def test_nothing_is_written_outside(stage: Stage, members: list[tuple[str, bytes, str]]) -> None:
    odd = made.raw_file(stage.folder / "odd", made.tar_of(*members))
    is_refused(stage.run(file=odd), "this file is damaged")
    assert not (stage.shelf / "out").exists()
    assert not (stage.shelf.parent / "out").exists()
    good = [("lib", tarfile.DIRTYPE, ""), ("lib/x", FILE, "x"), ("lib/link", LINK, "../nanoclaw")]
    stage.told(file=made.raw_file(stage.folder / "good", made.tar_of(*good)))


def test_random_parcels_are_refused(stage: Stage) -> None:
    """With digests that are right: what reads them is not led astray."""
    tar = made.tar_of(("lib", tarfile.DIRTYPE, ""), ("lib/x", FILE, "x" * 3000))
    for seed in range(40):
        chance = random.Random(seed)
        odd = bytearray(tar)
        for _ in range(chance.randrange(1, 30)):
            odd[chance.randrange(2 * 512, 6 * 512)] = chance.randrange(256)
        done = stage.run(file=made.raw_file(stage.folder / f"odd{seed}", bytes(odd)))
        assert done.returncode in {0, 1}, (seed, done)
        assert not done.returncode or "nanoclaw: error" in done.stderr


# --- the machine --------------------------------------------------------------------------------------------


def inside(stage: Stage, *options: str, file: str = "nanoclaw-linux") -> subprocess.CompletedProcess[str]:
    """In a system that has nothing but this file and what the options say."""
    base = ["--unshare-all", "--bind", str(stage.folder), "/work", "--tmpfs", "/tmp", "--setenv", "HOME", "/work/home"]
    return stage.run(*base, *options, "--", f"/work/{file}", file="bwrap")


@pytest.fixture
def bare(stage: Stage) -> SimpleNamespace:
    """A file whose program needs nothing of the system."""
    if subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, check=False).returncode:
        pytest.skip("bubblewrap makes no sandbox here")
    source = stage.folder / "static.c"
    source.write_text(STATIC)
    host = stage.folder / "bare"
    host.mkdir()
    shutil.copy(made.compiled("nanoclaw", [source]), host / "nanoclaw")
    made.file_of(stage.folder, host)
    (stage.folder / "libc").mkdir()
    loader = "ld-linux-x86-64.so.2" if made.ARCH == "x86_64" else "ld-linux-aarch64.so.1"
    where = "/lib64" if made.ARCH == "x86_64" else "/lib"
    return SimpleNamespace(loader=loader, mount=("--ro-bind", str(stage.folder / "libc"), where))


def test_a_system_without_glibc_or_with_an_old_one_is_told_so(stage: Stage, bare: SimpleNamespace) -> None:
    is_refused(inside(stage, "--proc", "/proc"), "needs glibc 2.28", "has none")
    link = stage.folder / "libc" / bare.loader
    for name, runs in (("ld-2.27.so", False), ("ld-2.19.so", False), ("ld-2.28.so", True), (None, True)):
        link.unlink(missing_ok=True)
        if name is None:
            link.touch()
        else:
            (stage.folder / "libc" / name).touch()
            link.symlink_to(name)
        done = inside(stage, "--proc", "/proc", *bare.mount)
        if runs:
            assert (done.returncode, done.stdout) == (0, "the program runs\n"), done.stderr
        else:
            is_refused(done, "this system has 2.", "needs glibc 2.28")


def test_without_proc_it_says_so(stage: Stage, bare: SimpleNamespace) -> None:
    (stage.folder / "libc" / bare.loader).touch()
    is_refused(inside(stage, *bare.mount), "needs /proc")
    assert inside(stage, "--proc", "/proc", *bare.mount).returncode == 0


# --- several at once, and several versions --------------------------------------------------------------------


def start(stage: Stage, file: Path | None = None) -> subprocess.Popen[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(stage.home)}
    pipe = subprocess.PIPE
    return subprocess.Popen([file or stage.file], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_several_at_once_unpack_one_copy(stage: Stage) -> None:
    stage.shelf.mkdir(parents=True)
    for folder in (stage.shelf, stage.shelf.parent):
        folder.chmod(0o700)
    with (stage.shelf / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start(stage) for _ in range(6)]
        for process in processes:
            assert process.stderr is not None
            assert process.stderr.readline() == "nanoclaw: waiting for another NanoClaw that is unpacking itself\n"
        assert not stage.copy.exists()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    assert len({parsed(out)["inode"][0] for out, _ in answers}) == 1
    assert [err for _, err in answers] == [""] * 6


def versions(stage: Stage, count: int, program: str = TELLS) -> list[Path]:
    files = []
    for number in range(count):
        folder = stage.folder / f"version-{number}"
        folder.mkdir()
        files.append(made.file_of(folder, made.tree(folder / "tree", program, mark=str(number))))
    return files


def age(stage: Stage) -> None:
    """The versions that are there were unpacked long ago, one after the other."""
    for path in stage.shelf.iterdir():
        if len(path.name) == 32:
            os.utime(path, (path.stat().st_mtime - 1000,) * 2)


def ids(stage: Stage) -> set[str]:
    return {path.name for path in stage.shelf.iterdir() if len(path.name) == 32}


def test_two_versions_are_kept_and_debris_is_not(stage: Stage) -> None:
    files = versions(stage, 4)
    for file in files:
        if stage.shelf.exists():
            age(stage)
        stage.told(file=file)
    assert ids(stage) == {identity(file) for file in files[2:]}
    assert len(list(stage.shelf.iterdir())) == 2 * 3 + 1
    (stage.shelf / f"{'0' * 32}.part").mkdir()
    (stage.shelf / f"{'0' * 32}.part" / "x").touch()
    stage.told(file=files[0])
    assert len(list(stage.shelf.iterdir())) == 2 * 3 + 1


def test_a_version_that_runs_is_not_pruned(stage: Stage) -> None:
    first, *others = versions(stage, 4, WAITS)
    running = start(stage, first)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    for file in others:
        age(stage)
        assert stage.run(file=file).returncode == 0
    assert identity(first) in ids(stage)
    assert len(ids(stage)) == 3
    out, _ = running.communicate("go\n", timeout=60)
    assert out == "went on: go\nstill there\n"
    age(stage)
    stage.told()
    assert identity(first) not in ids(stage)


def test_the_file_may_be_replaced_while_it_runs(stage: Stage) -> None:
    first, second = versions(stage, 2, WAITS)
    running = start(stage, first)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    second.replace(first)
    assert running.communicate("go\n", timeout=60)[0] == "went on: go\nstill there\n"


STEPS = ("openat", "mkdir", "mkdirat", "write", "writev", "symlinkat", "flock", "syncfs", "fsync", "rename", "renameat",
         "renameat2", "unlinkat", "pread64", "close", "execve")  # fmt: skip


def killed_at_each(stage: Stage, call: str, prepare: Callable[[], object]) -> Iterator[int]:
    """Start it as often as it makes this system call, killed at the first, the second and so on; 0 at the end."""
    first = 2 if call == "execve" else 1  # the first is that of strace, which starts it
    for step in range(first, 300):
        prepare()
        argv = ["-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={step}", str(stage.file)]
        done = stage.run(*argv, file="strace")
        if "invalid system call" in done.stderr:
            return  # another processor has no such call
        if "ptrace" in done.stderr:
            pytest.skip(f"strace may not trace here: {done.stderr}")
        if "program" in done.stdout:
            return
        yield step
    raise AssertionError("it never came to its end")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which kills at each step, is not installed")
@pytest.mark.parametrize("before", ["nothing", "altered"])
def test_killed_at_each_step_the_next_start_is_a_good_one(stage: Stage, before: str) -> None:
    tree = stage.folder / "small"
    tree.mkdir()
    (tree / "nanoclaw").write_text(TELLS)
    (tree / "nanoclaw").chmod(0o755)
    (tree / "data").write_bytes(b"whole")
    made.file_of(stage.folder, tree)

    def prepare() -> None:
        shutil.rmtree(stage.home / ".cache", ignore_errors=True)
        if before == "altered":
            stage.told()
            (stage.copy / "data").write_bytes(b"not")

    kills = 0
    for call in STEPS:
        for _ in killed_at_each(stage, call, prepare):
            kills += 1
            stage.told()
            assert (stage.copy / "data").read_bytes() == b"whole"
            assert sorted(p.name[32:] for p in stage.shelf.iterdir()) == ["", "", ".list", ".run"]
    assert kills > 40


# --- sha-256 ----------------------------------------------------------------------------------------------

HARNESS = """\
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "launcher.h"
int main(int argc, char **argv) {
    struct sha256 hash;
    static unsigned char data[4096], digest[32];
    sha256_begin(&hash);
    for (ssize_t got; (got = read(0, data, (size_t)atoi(argv[argc - 1]))) > 0;)
        sha256_add(&hash, data, (size_t)got);
    sha256_end(&hash, digest);
    for (int i = 0; i < 32; i++)
        printf("%02x", digest[i]);
    return 0;
}
"""
NIST = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}


def test_its_sha_256_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "harness.c").write_text(HARNESS)
    program = made.compiled("harness", [tmp_path / "harness.c", made.SOURCES / "sha256.c"])

    def digest(data: bytes, piece: int) -> str:
        return subprocess.run([program, str(piece)], input=data, capture_output=True, check=True).stdout.decode()

    for data, expected in NIST.items():
        assert digest(data, 4096) == expected
    chance = random.Random(1)
    for length in [*range(54, 67), *range(118, 130), *(chance.randrange(10_000) for _ in range(60))]:
        data = chance.randbytes(length)
        assert digest(data, chance.choice([1, 7, 63, 64, 65, 1000])) == hashlib.sha256(data).hexdigest()
