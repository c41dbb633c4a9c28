"""Which folder may be mounted: by where it is, what it is called, and what no allowlist can open."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.allowlist import Allowlist, Protected, Root, Verdict, judge, writable
from host.allowlist.names import BLOCKED, blocked_by, matches, name_fault, same_name
from host.allowlist.opened import Held, by_openat2, by_walk, open_beneath
from host.allowlist.protected import ROOT, is_beneath
from host.model import MountWish

judging = sys.modules["host.allowlist.judge"]


@dataclass
class Ground:
    """A made-up machine: `srv/safe` is allowed to write, `srv/look` to read; a home with NanoClaw's folders."""

    folder: Path
    made: bool = False

    def __post_init__(self) -> None:
        if self.made:
            return
        for path in ("srv/safe/music", "srv/safe-evil", "srv/look/in", "secret", "me/config", "me/data/groups/main",
                     "me/data/global", "me/data/inbox", "me/cache"):  # fmt: skip
            (self.folder / path).mkdir(parents=True)

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    def allowlist(self, *roots: Root, **changes: Any) -> Allowlist:
        usual = (Root(str(self / "srv/safe"), rw=True), Root(str(self / "srv/look")))
        return Allowlist(self / "allowlist.json", roots or usual, **changes)

    def protected(self, *written: str) -> Protected:
        return Protected.of(self / "me/config", self / "me/data", self / "me/cache", written)

    def judge(self, path: str | Path, allowlist: Allowlist | None = None, **how: Any) -> Verdict:
        whole = path if str(path).startswith(("/", "~")) else self / str(path)
        usual: dict[str, Any] = {"rw": False, "is_main": True, "name": None, "protected": self.protected()}
        return judge(allowlist or self.allowlist(), str(whole), **usual | how)

    def everything(self) -> Allowlist:
        """The most careless of people."""
        return self.allowlist(Root("/", rw=True))


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    made = Ground(tmp_path.resolve())
    monkeypatch.setenv("HOME", str(made / "me"))
    return made


def refused(verdict: Verdict, *words: str) -> None:
    assert not verdict.allowed
    assert (verdict.fd, verdict.identity) == (-1, None)
    assert all(word in verdict.reason for word in words), verdict.reason


def test_a_folder_in_an_allowed_one(ground: Ground) -> None:
    with ground.judge("srv/safe/music") as found:
        assert found.allowed
        assert found.real_path == str(ground / "srv/safe/music")
        assert found.target == "/workspace/extra/music"
        seen = (ground / "srv/safe/music").stat()
        assert found.identity == (seen.st_dev, seen.st_ino)
        assert os.fstat(found.fd).st_ino == seen.st_ino
        assert not os.get_inheritable(found.fd)
    assert found.fd == -1
    assert ground.judge("srv/safe").allowed, "the folder itself, too"


@pytest.mark.parametrize(
    "path,rw,is_main,others_read_only,readonly,word",
    [
        ("srv/safe", False, True, True, True, "as asked for"),
        ("srv/safe", True, True, True, False, "to write"),
        ("srv/safe", True, False, False, False, "to write"),
        ("srv/safe", True, False, True, True, "nonMainReadOnly"),
        ("srv/look", True, True, False, True, "allowReadWrite"),
        ("srv/look/in", True, False, True, True, "allowReadWrite"),
    ],
)
def test_who_may_write(
    ground: Ground, path: str, rw: bool, is_main: bool, others_read_only: bool, readonly: bool, word: str
) -> None:
    allowlist = ground.allowlist(others_read_only=others_read_only)
    found = ground.judge(path, allowlist, rw=rw, is_main=is_main)
    assert (found.allowed, found.readonly) == (True, readonly)
    assert word in found.reason


def test_the_first_entry_decides_as_nanoclaw_has_it(ground: Ground) -> None:
    whole, part = Root(str(ground / "srv"), rw=True), Root(str(ground / "srv/look"))
    assert not ground.judge("srv/look/in", ground.allowlist(whole, part), rw=True).readonly
    assert ground.judge("srv/look/in", ground.allowlist(part, whole), rw=True).readonly
    assert not ground.judge("srv/safe", ground.allowlist(part, whole), rw=True).readonly


# --- where it leads ---------------------------------------------------------------------------------------


def test_what_counts_is_where_a_path_leads(ground: Ground) -> None:
    refused(ground.judge("srv/safe/../../secret"), "no folder that the allowlist permits")
    refused(ground.judge("srv/safe-evil"), "no folder that the allowlist permits")
    (ground / "srv/safe/link").symlink_to(ground / "secret")
    refused(ground.judge("srv/safe/link"), "no folder that the allowlist permits")
    (ground / "way").symlink_to(ground / "srv/safe/music")
    found = ground.judge("way")
    assert (found.allowed, found.real_path) == (True, str(ground / "srv/safe/music"))
    assert found.target == "/workspace/extra/way", "called as it was written"


def test_an_allowed_folder_that_is_a_link_is_followed(ground: Ground) -> None:
    (ground / "disk").symlink_to(ground / "srv/safe")
    allowlist = ground.allowlist(Root(str(ground / "disk")))
    assert ground.judge("disk/music", allowlist).real_path == str(ground / "srv/safe/music")
    assert ground.judge("srv/safe/music", allowlist).allowed
    refused(ground.judge("srv/look", allowlist))


def test_the_home_folder_has_a_short_name(ground: Ground) -> None:
    (ground / "me/photos").mkdir()
    found = ground.judge("~/photos", ground.allowlist(Root("~/photos")))
    assert (found.allowed, found.target) == (True, "/workspace/extra/photos")
    refused(ground.judge("~nobody-of-that-name/photos"), "not an absolute path")


def test_what_is_no_folder(ground: Ground) -> None:
    refused(ground.judge("srv/safe/nothing"), "does not exist")
    (ground / "srv/safe/file").touch()
    refused(ground.judge("srv/safe/file"), "is a file: only folders are mounted")
    refused(ground.judge("srv/safe/file/"), "is a file")
    os.mkfifo(ground / "srv/safe/fifo")
    refused(ground.judge("srv/safe/fifo"), "no folder: only folders")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(ground / "srv/safe", os.O_RDONLY)  # the path itself may be too long for a socket
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    refused(ground.judge("srv/safe/socket"), "no folder: only folders")
    (ground / "srv/safe/circle").symlink_to("circle")
    refused(ground.judge("srv/safe/circle"), "leads in a circle")


@pytest.mark.parametrize("path", ["music", "./music", "", "srv\0x", "/srv/\udcff", "/" + "x" * 5000])
def test_what_is_no_path(ground: Ground, path: str) -> None:
    refused(judge(ground.everything(), path, rw=False, is_main=True, name="x", protected=Protected()))


def test_a_path_that_is_not_utf_8(ground: Ground) -> None:
    Path(os.fsdecode(os.fsencode(ground / "srv/safe") + b"/\xff")).mkdir()
    (ground / "srv/safe/named").symlink_to(os.fsdecode(b"\xff"))
    refused(ground.judge("srv/safe/named"), "not UTF-8")


def test_it_does_not_tell_what_lies_outside(ground: Ground) -> None:
    """Main's agent may ask for mounts: the answers must not show it the machine's other folders."""
    (ground / "secret/file").touch()
    (ground / "srv/safe/out").symlink_to(ground / "secret")
    (ground / "secret/.ssh").mkdir()
    asked = ["secret", "secret/file", "secret/.ssh", "secret/nothing", "srv/safe/out/file", "srv/safe/out/nothing"]
    answers = [ground.judge(path, name="x") for path in asked]
    assert len({(verdict.reason, verdict.real_path) for verdict in answers}) == 1


# --- what it is called ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKED)
def test_names_that_are_never_mounted(ground: Ground, name: str) -> None:
    for part in (name, name.upper(), f"{name}.old", f"{name}.d/x"):
        (ground / "srv/safe" / part).mkdir(parents=True)
        refused(ground.judge(f"srv/safe/{part}"), "never mounted")
    for part in (f"x{name}", f"{name}x", f"{name}-x"):
        (ground / "srv/safe" / part).mkdir(parents=True, exist_ok=True)
        assert ground.judge(f"srv/safe/{part}").allowed


def test_a_blocked_name_is_blocked_by_where_a_path_leads(ground: Ground) -> None:
    (ground / "srv/safe/.ssh/keys").mkdir(parents=True)
    (ground / "srv/safe/innocent").symlink_to(".ssh/keys")
    refused(ground.judge("srv/safe/innocent"), "'.ssh'", "never mounted")


@pytest.mark.parametrize(
    "pattern,path,yes",
    [
        ("secret", "/srv/secret", True),
        ("secret", "/srv/my-secrets/x", True),  # a plain word, wherever it stands: so NanoClaw has it
        ("secret", "/srv/music", False),
        ("srv/mu", "/srv/music", True),
        ("*.key", "/srv/a.key/x", True),
        ("*.key", "/srv/a.keys", False),
        ("priv*", "/srv/private/x", True),
        ("priv*", "/srv/my-private", False),
        ("?at", "/srv/cat", True),
        ("?at", "/srv/chat", False),
        ("[ab]*", "/srv/abc", True),
        ("[!ab]*", "/xyz", True),
        ("/srv/*/private", "/srv/mia/private/x", True),
        ("/srv/*/private", "/other/srv/mia/private", False),
        ("/srv/[[]x]", "/srv/[x]/y", True),
    ],
)
def test_patterns(pattern: str, path: str, yes: bool) -> None:
    assert matches(pattern, path) is yes
    assert (blocked_by(path, [pattern]) is not None) is yes
    assert (blocked_by(path.upper(), [pattern]) is not None) is yes, "upper and lower case make no difference"


def test_patterns_close_what_the_list_would_allow(ground: Ground) -> None:
    (ground / "srv/safe/my-tokens").mkdir()
    refused(ground.judge("srv/safe/my-tokens", ground.allowlist(blocked=("token",))), "'token'", "blockedPatterns")
    assert ground.judge("srv/safe/my-tokens").allowed


BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "/",
    "a\nb",
    "a\0",
    "\x1b[2J",
    "\u202egnp",
    "a\u200bb",
    "\ud800",
    " a",
    "a ",
    "ä" * 128,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_nothing_is_called_inside(ground: Ground, name: str) -> None:
    assert name_fault(name)
    refused(ground.judge("srv/safe", name=name), "cannot be called so inside")


@pytest.mark.parametrize(
    "name", ["a", "a,b", 'quo"te', "co:lon", "equal=s", "sp ace", "-dash", ".dot", "ü", "日本", "a\\b"]
)
def test_names_inside(ground: Ground, name: str) -> None:
    assert ground.judge("srv/safe", name=name).target == f"/workspace/extra/{name}"
    (ground / "srv/safe" / name).mkdir()
    assert ground.judge(f"srv/safe/{name}").target == f"/workspace/extra/{name}"


def test_a_name_is_given_once(ground: Ground) -> None:
    refused(ground.judge("srv/safe/music", taken=["x", "music"]), "'music'", "another mount")
    refused(ground.judge("srv/safe/music", taken=["Music"]), "another mount")
    assert ground.judge("srv/safe/music", taken=["musical"]).allowed
    assert same_name("stra\u00dfe", "STRASSE")
    assert same_name("u\u0308", "\u00fc")


def test_a_folder_whose_own_name_will_not_do(ground: Ground) -> None:
    (ground / "srv/safe/new\nline").mkdir()
    refused(ground.judge("srv/safe/new\nline"), "cannot be called so inside")
    assert ground.judge("srv/safe/new\nline", name="lines").allowed
    assert ground.judge("srv/safe/music/..").target == "/workspace/extra/safe"


# --- what no allowlist can open ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/proc", "/proc/self", "/sys", "/sys/kernel", "/dev", "/dev/shm", "/run", "/var/run", "/run/lock"]
)
def test_the_machines_own_folders(ground: Ground, path: str) -> None:
    if not Path(path).is_dir():
        pytest.skip(f"there is no {path} here")
    refused(ground.judge(path, ground.everything(), name="x"), "never mounted")


def test_peoples_disks_beneath_run(ground: Ground) -> None:
    assert Protected.of(Path("/c"), Path("/d"), Path("/e")).refusal("/run/media/mia/disk", rw=True) is None
    assert Protected.of(Path("/c"), Path("/d"), Path("/e")).refusal("/run/media-x", rw=False)


@pytest.mark.parametrize(
    "path",
    [
        "me",
        "me/config",
        "me/data",
        "me/cache",
        "me/data/groups",
        "me/data/groups/main",
        "me/data/global",
        "me/data/inbox",
    ],
)
def test_the_home_folder_and_nanoclaws_own(ground: Ground, path: str) -> None:
    (ground / path / "beneath").mkdir(exist_ok=True)
    refused(ground.judge(path, ground.everything()), "never mounted")
    found = ground.judge(f"{path}/beneath", ground.everything())
    assert found.allowed is (path == "me"), "people's own folders lie in their home"
    refused(ground.judge("", ground.everything(), name="x"), "it holds", "never mounted")


def with_mounts(ground: Ground, commands: str, *paths: str) -> list[tuple[bool, str]]:
    """What is judged of each path (allowed, and why) where these mounts were made: in a namespace of their own,
    so that nothing outside of it changes and nothing of it remains."""
    code = f"""if True:
        import json
        from pathlib import Path
        from tests.unit.test_allowlist_judge import Ground
        ground = Ground(Path({str(ground.folder)!r}), made=True)
        found = [ground.judge(path, ground.everything(), name="x") for path in {paths!r}]
        print(json.dumps([(v.allowed, v.reason) for v in found]))"""
    script = f"cd '{ground.folder}' && {commands} && cd '{ROOT}' && exec '{sys.executable}' -c \"$1\""
    how = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
        "-",
        code,
    ]
    done = subprocess.run(how, capture_output=True, text=True, check=False)
    if done.returncode != 0 and ("unshare" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"no mounts can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return [(allowed, reason) for allowed, reason in json.loads(done.stdout)]


def test_by_another_way_to_the_same_folder(ground: Ground) -> None:
    """A bind mount has another path, and the same numbers."""
    for path in ("data", "data/groups/main", "me", "above"):
        (ground / "srv/safe/way" / path).mkdir(parents=True)
    way = "srv/safe/way"
    mounts = f"mount --bind me/data {way}/data && mount --bind me {way}/me && mount --bind . {way}/above"
    paths = [
        f"{way}/{path}" for path in ("data", "data/groups", "data/groups/main", "me", "me/data", "above", "above/me")
    ]
    for allowed, reason in with_mounts(ground, mounts, *paths):
        assert not allowed
        assert "never mounted" in reason
    (ground / "srv/look/in/music").mkdir()
    assert with_mounts(ground, "mount --bind srv/safe/music srv/look/in", "srv/look/in")[0][0], "not so with others"


def test_the_program_itself(ground: Ground) -> None:
    for path in (ROOT, ROOT / "host", ROOT.parent, Path(sys.executable).parent, Path(sys.executable).resolve().parent):
        refused(ground.judge(path, ground.everything(), name="x"), "never mounted")


def test_what_the_host_runs_is_not_given_to_write(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "srv/safe/music/bin").mkdir()
    monkeypatch.setenv("PATH", f"{ground / 'srv/safe/music/bin'}:/usr/bin")
    for path in ("srv/safe", "srv/safe/music", "srv/safe/music/bin"):
        refused(ground.judge(path, rw=True), "programs that the host runs", "never given to write")
        assert ground.judge(path).allowed
    assert ground.judge("srv/look", rw=True).allowed


def test_sockets_that_the_environment_names(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, form in (("DOCKER_HOST", "unix://{}"), ("SSH_AUTH_SOCK", "{}"), ("CONTAINER_HOST", "unix://{}"),
                           ("DBUS_SESSION_BUS_ADDRESS", "unix:path={},guid=1")):  # fmt: skip
        place = ground / "srv/safe" / variable.lower()
        place.mkdir()
        (place / "socket").touch()
        monkeypatch.setenv(variable, form.format(place / "socket"))
        refused(ground.judge(place), "it holds a socket", "never mounted")
        assert ground.judge("srv/safe/music").allowed
        monkeypatch.delenv(variable)
        assert ground.judge(place).allowed


def test_nothing_in_or_around_what_an_agent_can_write(ground: Ground) -> None:
    (ground / "srv/safe/shared/inner").mkdir(parents=True)
    closed = ground.protected(str(ground / "srv/safe/shared"))
    refused(ground.judge("srv/safe/shared/inner", protected=closed), "it lies in a folder that an agent can write")
    refused(ground.judge("srv/safe", protected=closed), "it holds a folder that an agent can write")
    assert ground.judge("srv/safe/shared", protected=closed).allowed, "the same folder, to two groups"
    assert ground.judge("srv/safe/music", protected=closed).allowed


def test_what_agents_can_write(ground: Ground) -> None:
    def found(allowlist: Allowlist, *wishes: tuple[str, bool, bool]) -> list[str]:
        return writable(allowlist, [(MountWish(str(ground / path), "x", rw), is_main) for path, rw, is_main in wishes])

    allowlist = ground.allowlist(others_read_only=True)
    assert found(allowlist, ("srv/safe", True, True)) == [str(ground / "srv/safe")]
    assert found(allowlist, ("srv/safe", False, True), ("srv/look", True, True), ("secret", True, True)) == []
    assert found(allowlist, ("srv/safe", True, False)) == [], "it may only read there"
    assert found(ground.allowlist(others_read_only=False), ("srv/safe", True, False))
    assert found(Allowlist(Path("/f"), error="bad"), ("srv/safe", True, True)) == []


def test_another_file_system_in_it(ground: Ground) -> None:
    (ground / "srv/safe/music/disk").mkdir()
    whole, part = with_mounts(
        ground, "mount -t tmpfs none srv/safe/music/disk", "srv/safe/music", "srv/safe/music/disk"
    )
    assert whole == (
        False,
        f"another file system is mounted in it, at {ground / 'srv/safe/music/disk'}: mount each by itself",
    )
    assert part[0]


# --- opening it -------------------------------------------------------------------------------------------

Step = Callable[[int, str], int]


@pytest.fixture(params=[by_openat2, by_walk])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Step:
    """Both ways, each as the only one."""
    chosen: Step = request.param
    if chosen is by_openat2:
        try:
            os.close(by_openat2(os.open("/", os.O_RDONLY), "."))
        except OSError as e:
            pytest.skip(f"this kernel has no openat2: {e.strerror}")
    monkeypatch.setattr("host.allowlist.opened.step", chosen)
    return chosen


@pytest.fixture
def top(ground: Ground) -> Iterator[int]:
    fd = os.open(ground.folder, os.O_RDONLY)
    yield fd
    os.close(fd)


def opened(step: Step, top: int, path: str) -> tuple[int, int]:
    return Held(step(top, path)).identity


def test_a_step_beneath(step: Step, top: int, ground: Ground) -> None:
    for path in (".", "srv", "srv/safe/music"):
        seen = (ground / path).stat()
        assert opened(step, top, path) == (seen.st_dev, seen.st_ino)


@pytest.mark.parametrize(
    "path", ["link", "link/safe", "srv/link", "srv/link/x", "..", "srv/../..", "file", "nothing", "srv/safe/out"]
)
def test_no_step_through_a_link_or_out(step: Step, top: int, ground: Ground, path: str) -> None:
    (ground / "link").symlink_to("srv")
    (ground / "srv/link").symlink_to("safe")
    (ground / "srv/safe/out").symlink_to("/")
    (ground / "file").touch()
    with pytest.raises(OSError):
        step(top, path)


def test_the_judge_opens_either_way(step: Step, ground: Ground) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("srv/safe", "srv/safe/music", "srv/look/in"):
        with ground.judge(path) as verdict:
            assert verdict.identity == ((ground / path).stat().st_dev, (ground / path).stat().st_ino)
    ground.judge("srv/safe")  # forgotten, and so closed
    with pytest.raises(OSError):
        open_beneath(str(ground / "srv"), "safe/nothing")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_changes_between_looking_and_opening_is_refused(
    step: Step, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    music, away = ground / "srv/safe/music", ground / "srv/safe/away"

    def meanwhile(swap: Callable[[], object]) -> Verdict:
        def closed(*args: Any, **how: Any) -> None:
            swap()

        monkeypatch.setattr(judging, "closed", closed)
        return ground.judge(music)

    assert meanwhile(lambda: None).allowed
    refused(meanwhile(lambda: (music.rename(away), music.symlink_to(ground / "secret"))), "changed while")
    music.unlink()
    refused(meanwhile(lambda: None), "does not exist")
    away.rename(music)
    refused(meanwhile(lambda: music.rename(away)), "changed while")
    away.rename(music)
    safe, gone = ground / "srv/safe", ground / "srv/gone"
    refused(meanwhile(lambda: (safe.rename(gone), safe.symlink_to(ground / "secret"))), "changed while")


def test_a_path_that_is_exchanged_all_the_time_is_judged_or_refused(ground: Ground) -> None:
    """`realpath` fails where a link is none any more by the time that it is read."""
    music, over = ground / "srv/safe/music", threading.Event()

    def swap() -> None:
        (ground / "next").symlink_to(ground / "secret")
        while not over.is_set():
            music.rename(ground / "away")
            (ground / "next").rename(music)
            music.rename(ground / "next")
            (ground / "away").rename(music)

    right = (music.stat().st_dev, music.stat().st_ino)
    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        answers = set()
        for _ in range(500):
            with ground.judge(music) as verdict:
                answers.add(verdict.reason if not verdict.allowed else "")
                assert verdict.identity in (None, right)
    finally:
        over.set()
        swapper.join()
    assert answers - {""}, "it was never met in the middle of it"


def test_an_inode_that_is_held_is_given_to_nobody_else(ground: Ground) -> None:
    music = ground / "srv/safe/music"

    def comes_again(held: bool) -> bool:
        for _ in range(200):
            verdict = ground.judge(music)
            if not held:
                verdict.close()
            music.rmdir()
            music.mkdir()
            seen = music.stat()
            if verdict.identity == (seen.st_dev, seen.st_ino):
                return True
            verdict.close()
        return False

    assert not comes_again(held=True)
    if not comes_again(held=False):
        pytest.skip("this file system gives no inode number twice: nothing to hold")


# --- for any input ----------------------------------------------------------------------------------------

PART = st.sampled_from(["a", "b", "a-evil", "a.b", "..", ".", "", "A", "ä"])
PATH = st.lists(PART, max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(PATH.map(os.path.normpath), PATH.map(os.path.normpath))
def test_beneath_is_by_whole_names(path: str, folder: str) -> None:
    parts, whole = [p for p in path.split("/") if p], [p for p in folder.split("/") if p]
    expected = len(parts) > len(whole) and parts[: len(whole)] == whole
    assert is_beneath(path.replace("//", "/"), folder.replace("//", "/")) is expected


@given(st.text(max_size=30))
def test_a_name_inside_is_one_component_that_can_be_read(name: str) -> None:
    if name_fault(name) is None:
        target = "/workspace/extra/" + name
        assert os.path.normpath(target) == target
        assert str(Path(target).parent) == "/workspace/extra"
        assert name.isprintable()
        assert len(os.fsencode(name)) <= 255


@given(st.text(max_size=12), st.text(alphabet="ab/.-*?[]!", max_size=30))
def test_any_pattern_matches_or_not(pattern: str, path: str) -> None:
    assert matches(pattern, "/" + path) in (True, False)


@given(st.text(max_size=60), st.booleans(), st.booleans(), st.none() | st.text(max_size=10))
def test_any_wish_has_an_answer(path: str, rw: bool, is_main: bool, name: str | None) -> None:
    allowlist = Allowlist(Path("/f"), (Root("/nowhere-at-all", rw=True),))
    verdict = judge(allowlist, path, rw=rw, is_main=is_main, name=name, protected=Protected())
    assert not verdict.allowed
    assert verdict.reason
