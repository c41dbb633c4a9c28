"""What the allowlist comes to in a sandbox: which mounts it gets, what its group is told, how long folders are held."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from host.config import Config, Home
from host.log import Log
from host.loop import Loop
from host.model import Group, Image, Launch, Spec
from host.mounts import Judged, judged
from host.pool import Folders, Pool
from host.sandbox import Gone, Sandbox
from runner.protocol import MIB, VERSION, Frame
from tests.fakes.engine_subprocess import SubprocessEngine

RUNNER = Path(__file__).parent.parent / "fakes" / "runner_fake.py"
SEALED = {"uid": 0, "gid": 0, "cap_eff": 0, "cap_bnd": 0, "no_new_privs": 1, "interfaces": 0, "pid": 1}
IMAGE = Image("sha256:" + "0" * 64, Path("/nowhere"), Path("/nowhere"), "test-build")


class Engine(SubprocessEngine):
    """No walls, and a runner that looks at the folders themselves. `before`: what happens just before it starts."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def launch(self, spec: Spec) -> Launch:
        self.before()
        seen = {mount.target: str(mount.source) for mount in spec.mounts}
        checks = {**SEALED, "uid": spec.uid, "gid": spec.gid}
        options = {"build": IMAGE.build, "version": VERSION, "stat": seen, "checks": checks}
        return Launch((sys.executable, "-I", "-S", "-B", str(RUNNER), "polite", json.dumps(options)))


@dataclass
class Owner:
    ready: int = 0
    gone: list[Gone] = field(default_factory=list)

    def sandbox_ready(self) -> None:
        self.ready += 1

    def sandbox_frame(self, untrusted_frame: Frame) -> None:
        raise AssertionError("nothing was handed over")

    def sandbox_gone(self, gone: Gone) -> None:
        self.gone.append(gone)


class House:
    """A pool, a home, and folders that groups were given."""

    def __init__(self, folder: Path) -> None:
        self.srv = folder / "srv"
        for name in ("music", "photos/2026", "other"):
            (self.srv / name).mkdir(parents=True)
        self.home = Home(folder / "config", folder / "data", folder / "cache")
        for place in (self.home.config, self.home.data, self.home.cache):
            place.mkdir()
        self.loop, self.engine, self.config = Loop(), Engine(), Config()
        self.log = Log(folder / "log", to_stderr=False, quiet=True)
        self.groups = {"main": self.group("main", is_main=True)}
        self.allow({"path": str(self.srv), "allowReadWrite": True})
        folders = Folders.of(self.home.data, self.srv / "other")
        engine = cast(Any, self.engine)
        self.pool = Pool(self.loop, engine, IMAGE, self.config, folders, "test", self.judge, self.log)
        self.taken: list[Sandbox] = []

    def group(self, folder: str, is_main: bool = False, **settings: Any) -> Group:
        return Group(folder, "console", folder, folder, is_main, settings=settings)

    def give(self, folder: str, *paths: str, rw: bool = False) -> None:
        wishes = [{"path": str(self.srv / path), "name": path.replace("/", "-"), "rw": rw} for path in paths]
        self.groups[folder] = self.group(folder, folder == "main", mounts=wishes)

    def allow(self, *roots: dict[str, Any], **changes: Any) -> None:
        file = self.home.config / "mount-allowlist.json"
        text = json.dumps({"allowedRoots": roots, "blockedPatterns": [], "nonMainReadOnly": True} | changes)
        file.write_text(text)
        file.chmod(0o600)

    def judge(self, group: Group) -> Judged:
        return judged(self.home, self.config, group, self.groups.values())

    def take(self, folder: str = "main") -> tuple[Sandbox, Owner]:
        owner = Owner()
        sandbox = self.pool.take(self.groups[folder], owner)
        self.taken.append(sandbox)
        return sandbox, owner

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            tick = self.loop.call_later(0.05, lambda: None)
            self.loop.step()
            tick.cancel()

    def held(self) -> list[str]:
        """Folders of `srv` that this process has open."""
        links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return sorted(link.removeprefix(f"{self.srv}/") for link in links if link.startswith(str(self.srv)))

    def logged(self) -> str:
        file = self.log._path
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        self.pool.close()
        self.until(lambda: not self.pool.live)
        self.loop.close()
        self.log.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path.resolve())
    yield made
    made.close()


def extra(spec: Spec) -> list[tuple[str, str, bool]]:
    begin = "/workspace/extra/"
    return [(str(m.source), m.target, m.readonly) for m in spec.mounts if m.target.startswith(begin)]


def test_a_sandbox_gets_what_is_allowed_and_its_group_is_told_the_rest(house: House) -> None:
    house.give("main", "music", "photos/2026", "nothing", rw=True)
    house.allow({"path": str(house.srv / "music"), "allowReadWrite": True}, {"path": str(house.srv / "photos")})
    sandbox, owner = house.take()
    assert extra(sandbox.spec) == [
        (str(house.srv / "music"), "/workspace/extra/music", False),
        (str(house.srv / "photos/2026"), "/workspace/extra/photos-2026", True),
    ]
    refused = house.pool.refused_mounts("main")
    assert len(refused) == 1
    assert refused[0].startswith("nothing: it lies in no folder that the allowlist permits")
    assert house.pool.refused_mounts("other") == []
    house.until(lambda: owner.ready)


def test_without_an_allowlist_there_is_no_extra_mount_and_the_group_still_works(house: House) -> None:
    house.give("main", "music")
    (house.home.config / "mount-allowlist.json").unlink()
    sandbox, owner = house.take()
    assert extra(sandbox.spec) == []
    assert "there is no allowlist" in house.pool.refused_mounts("main")[0]
    house.until(lambda: owner.ready)


def test_a_refusal_is_logged_once_and_again_when_it_changes(house: House) -> None:
    house.give("main", "nothing")
    for _ in range(3):
        house.take()
    assert house.logged().count("left out a mount") == 1
    house.allow()
    house.take()
    assert house.logged().count("left out a mount") == 2
    house.allow({"path": str(house.srv)})
    (house.srv / "nothing").mkdir()
    house.take()
    assert house.pool.refused_mounts("main") == []
    assert house.logged().count("left out a mount") == 2


def test_folders_are_held_until_hello_was_verified(house: House) -> None:
    house.give("main", "music", "photos/2026")
    _, owner = house.take()
    assert house.held() == ["music", "photos/2026"]
    house.until(lambda: owner.ready)
    assert house.held() == []


def test_folders_are_let_go_of_when_there_is_no_hello(house: House) -> None:
    house.give("main", "music")
    sandbox, owner = house.take()
    assert house.held() == ["music"]
    sandbox.stop("no more", 0)
    house.until(lambda: owner.gone)
    assert house.held() == []


def test_a_folder_that_is_exchanged_before_the_sandbox_starts_is_never_used(house: House) -> None:
    """The real sandboxes are tried so in tests/contract; here, that the pool hands on what was judged."""
    music = house.srv / "music"
    swaps: list[Callable[[], object]] = [
        lambda: music.symlink_to(house.srv / "other"),
        lambda: (house.srv / "photos").rename(music),
        music.mkdir,
    ]
    for swap in swaps:
        house.give("main", "music")

        def before(swap: Callable[[], object] = swap) -> None:
            music.rmdir()
            swap()

        house.engine.before = before  # type: ignore[method-assign]
        _, owner = house.take()
        house.engine.before = lambda: None  # type: ignore[method-assign]
        house.until(lambda owner=owner: owner.gone)  # type: ignore[misc]
        assert (owner.ready, owner.gone[0].kind) == (0, "hello")
        assert "/workspace/extra/music" in owner.gone[0].message
        if music.is_symlink():
            music.unlink()
        elif (music / "2026").exists():
            music.rename(house.srv / "photos")
        music.mkdir(exist_ok=True)
    _, owner = house.take()
    house.until(lambda: owner.ready)


@pytest.mark.parametrize("change", ["none", "disallowed", "read-only", "replaced", "more"])
def test_a_warm_sandbox_whose_mounts_no_longer_match_is_thrown_away(house: House, change: str) -> None:
    house.give("main", "music", rw=True)
    house.pool.keep_warm(house.groups["main"])
    place = house.pool._warm["main"]
    assert place.sandbox is not None
    house.until(lambda: place.sandbox and place.sandbox.state == "ready")
    assert house.held() == []
    if change == "disallowed":
        house.allow()
    elif change == "read-only":
        house.allow({"path": str(house.srv)})
    elif change == "replaced":
        (house.srv / "music").rename(house.srv / "gone")
        (house.srv / "music").mkdir()
    elif change == "more":
        house.give("main", "music", "other", rw=True)
    sandbox, owner = house.take()
    assert (sandbox is place.sandbox) is (change == "none")
    house.until(lambda: sandbox.state == "ready")
    assert house.held() == []
    assert owner.ready == (0 if change == "none" else 1)


def test_nothing_in_what_another_groups_agent_can_write(house: House) -> None:
    house.give("main", "photos", rw=True)
    house.give("family", "photos/2026", "photos", "music")
    sandbox, _ = house.take("family")
    assert [target for _, target, _ in extra(sandbox.spec)] == ["/workspace/extra/photos", "/workspace/extra/music"]
    assert "a folder that an agent can write" in house.pool.refused_mounts("family")[0]
    assert len(extra(house.take()[0].spec)) == 1, "the one that writes there keeps it"
    house.give("main", "photos")
    assert len(extra(house.take("family")[0].spec)) == 3, "who only reads there can exchange nothing"


def test_other_groups_write_only_where_the_file_lets_them(house: House) -> None:
    house.give("family", "photos", rw=True)
    house.give("main", "photos/2026", rw=True)
    assert [ro for _, _, ro in extra(house.take("family")[0].spec)] == []
    assert "holds a folder that an agent can write" in house.pool.refused_mounts("family")[0]
    assert [ro for _, _, ro in extra(house.take("main")[0].spec)] == [False], (
        "nonMainReadOnly: the family writes nowhere"
    )
    house.allow({"path": str(house.srv), "allowReadWrite": True}, nonMainReadOnly=False)
    assert extra(house.take("family")[0].spec) == []
    assert extra(house.take("main")[0].spec) == [], "each could exchange what the other sees"


def test_one_name_is_given_once(house: House) -> None:
    wishes = [{"path": str(house.srv / path), "name": name, "rw": False}
              for path, name in (("music", "one"), ("other", "One"), ("photos", "two"))]  # fmt: skip
    house.groups["main"] = house.group("main", is_main=True, mounts=wishes)
    sandbox, _ = house.take()
    assert [target for _, target, _ in extra(sandbox.spec)] == ["/workspace/extra/one", "/workspace/extra/two"]
    assert "One: the group has another mount" in house.pool.refused_mounts("main")[0]


def test_a_groups_own_limits_are_its_sandboxes(house: House) -> None:
    house.groups["small"] = house.group("small", memory="300 MB", cpus=0.5, processes=40)
    spec = house.pool.spec_for(house.groups["small"])
    r = spec.resources
    assert (r.memory_bytes, r.cpus, r.processes) == (300 * MIB, 0.5, 40)
    assert house.pool.spec_for(house.groups["main"]).resources == house.config.resources
    assert replace(spec, name="", group="").mounts != house.pool.spec_for(house.groups["main"]).mounts
