"""A folder that is exchanged between judging it and mounting it, two hundred times for each engine: what a sandbox
is given something to work with in is what was judged.

Each try judges a folder, as the host does, and starts a sandbox with it; meanwhile, whoever can write around it puts
something else in its place. A sandbox that saw the secret was given no payload, so that nobody in it could look.
The same script with a control left out escapes, which shows that it would be seen.
"""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host.allowlist import Allowlist, Protected, Root, Verdict, judge
from host.model import Mount
from tests.contract.house import REAL, House, Watched, identity

CANARY = "NCC-r4ce"
TARGET = "/workspace/extra/one"
TRIES = 200
AT_ONCE = 4
LATEST = 0.4
"""Seconds after the launch: by then a sandbox of any engine here has its mounts, or nearly."""

engines = pytest.mark.parametrize("house", REAL, indirect=True)
# Two hundred starts take a minute or so, and who starts the engine makes no difference to what it mounts.
raced = pytest.mark.parametrize("house", [name for name in REAL if not name.endswith("-user")], indirect=True)


@dataclass
class Ground:
    """`allowed/N/one` for try number N, and a secret beside it."""

    house: House

    def __post_init__(self) -> None:
        self.secret = self.folder(self.house.folder / "secret", CANARY)
        self.allowed = self.house.folder / "allowed"
        self.allowed.mkdir(mode=0o755)
        self.allowlist = Allowlist(self.house.folder / "list", (Root(str(self.allowed), rw=True),))
        self.protected = Protected.of(*(self.house.folder / name for name in ("config", "data", "cache")))

    def folder(self, path: Path, text: str) -> Path:
        """One that everyone can read."""
        path.mkdir(mode=0o755, parents=True)
        (path / "file").write_text(text)
        for each in (path.parent, path):
            each.chmod(0o755)
        (path / "file").chmod(0o644)
        return path

    def place(self, number: int) -> Path:
        return self.folder(self.allowed / str(number) / "one", "fine")

    def judge(self, path: Path) -> Verdict:
        return judge(self.allowlist, str(path), rw=False, is_main=True, name="one", protected=self.protected)


Swap = Callable[[Ground, Path], None]


def link(ground: Ground, place: Path) -> None:
    place.rename(place.with_name("away"))
    place.symlink_to(ground.secret)


def link_above(ground: Ground, place: Path) -> None:
    """Not the folder itself, but the one that it lies in."""
    other = ground.folder(place.parent.with_name(f"{place.parent.name}-other") / "one", CANARY).parent
    place.parent.rename(place.parent.with_name(f"{place.parent.name}-away"))
    place.parent.symlink_to(other)


def another(ground: Ground, place: Path) -> None:
    """A folder, and no link: moved in from elsewhere."""
    moved = ground.folder(place.with_name("moved"), CANARY)
    place.rename(place.with_name("away"))
    moved.rename(place)


def reborn(ground: Ground, place: Path) -> None:
    """Removed and made anew: a file system that is asked for a number at once often gives the same one again."""
    shutil.rmtree(place)
    ground.folder(place, CANARY)


SWAPS: tuple[Swap, ...] = (link, another, link_above, reborn)


def start(ground: Ground, place: Path, verdict: Verdict, *, compared: bool = True) -> Watched:
    assert verdict.real_path is not None
    assert verdict.identity is not None
    house = ground.house
    mount = Mount(Path(verdict.real_path), verdict.target, verdict.readonly, verdict.identity)
    spec = house.spec(mount)
    lie: dict[str, Any] = {}
    if not compared:  # a runner that says it sees what was judged, whatever it sees
        told = {m.target: "{}:{}".format(*m.identity) for m in spec.mounts}
        lie = {"hello": {"mounts": told}}
    return house.start("shell", spec, **lie)


def outcome(watched: Watched) -> str:
    """`refused`, `late`, or what an agent reads there."""
    watched.until(lambda: watched.ready or watched.gone, 90)  # the actor itself gives up after a minute
    if not watched.ready:
        # A busy disk can keep an engine from starting at all for that minute: nothing was given to anybody then either.
        assert watched.gone[0].kind in {"hello", "engine", "timeout"}, watched.gone
        return "late" if watched.gone[0].kind == "timeout" else "refused"
    seen = watched.run(f"cat {TARGET}/file")
    watched.sandbox.stop("seen", 0)
    watched.wait_gone()
    return seen


@contextmanager
def flicker(places: list[Path], secret: Path) -> Iterator[None]:
    """A process of its own that exchanges folder and link without end; not as fast as it can, because a file
    system's journal that is full of renames keeps the engine's own writes waiting for minutes."""
    code = """if True:
        import os, sys, time
        secret, *places = sys.argv[1:]
        for place in places:
            os.symlink(secret, place + ".link")
        print(flush=True)
        while os.getppid() != 1:
            for place in places:
                os.rename(place, place + ".away")
                os.rename(place + ".link", place)
                os.rename(place, place + ".link")
                os.rename(place + ".away", place)
                time.sleep(0.005)"""
    argv = [sys.executable, "-I", "-c", code, str(secret), *map(str, places)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def in_batches(numbers: range) -> Iterator[list[int]]:
    every = iter(numbers)
    while batch := list(itertools.islice(every, AT_ONCE)):
        yield batch


@raced
def test_two_hundred_tries_and_no_escape(house: House) -> None:
    ground, chance = Ground(house), random.Random(200)
    seen: list[str] = []
    for batch in in_batches(range(TRIES * 3 // 4)):
        tries = []
        for number in batch:
            place, swap = ground.place(number), SWAPS[number % len(SWAPS)]
            verdict = ground.judge(place)
            assert verdict.allowed, verdict.reason
            late = number % 3 == 2
            if not late:
                swap(ground, place)
            watched = start(ground, place, verdict)
            if late:
                house.loop.call_later(chance.random() * LATEST, lambda s=swap, p=place: s(ground, p))
            tries.append((watched, verdict))
        for watched, verdict in tries:  # the folders are held until then, as the pool holds them
            seen.append(outcome(watched))
            verdict.close()
    for batch in in_batches(range(TRIES * 3 // 4, TRIES)):
        places = [ground.place(number) for number in batch]
        with flicker(places, ground.secret):
            tries = []
            for place in places:
                verdict = ground.judge(place)
                if verdict.allowed:
                    tries.append((start(ground, place, verdict), verdict))
                else:
                    seen.append("refused")
            for watched, verdict in tries:
                seen.append(outcome(watched))
                verdict.close()
    assert len(seen) == TRIES
    assert not [each for each in seen if CANARY in each]
    # A sandbox that has its folder keeps it; what was removed from it by then is gone.
    assert {each for each in seen if not each.endswith("No such file or directory\n")} <= {"refused", "fine", "late"}
    assert seen.count("late") <= AT_ONCE
    # Whatever was exchanged before the launch was refused; of the rest, the slower exchanges came too late to matter.
    assert seen.count("refused") >= TRIES // 2


@engines
def test_without_the_comparison_the_same_script_escapes(house: House) -> None:
    ground = Ground(house)
    for number, swap in enumerate(SWAPS):
        place = ground.place(number)
        with ground.judge(place) as verdict:
            swap(ground, place)
            assert outcome(start(ground, place, verdict, compared=False)) == CANARY, swap.__name__


@engines
def test_without_the_open_folder_the_comparison_can_be_passed(house: House) -> None:
    """A folder that nobody holds leaves its number to the next one."""
    ground = Ground(house)
    for number in range(20):
        place = ground.place(number)
        verdict = ground.judge(place)
        verdict.close()
        reborn(ground, place)
        if identity(place) == verdict.identity:
            assert outcome(start(ground, place, verdict)) == CANARY
            return
    pytest.skip("this file system gives no number twice: the open folder has nothing to prevent")


@engines
@pytest.mark.parametrize(
    "name", ["a,b", 'quo"te', "co:lon", "equal=s", "sp ace", "a,readonly=false", "ü", "back\\slash"]
)
def test_a_folder_is_called_inside_as_it_was_asked_for(house: House, name: str) -> None:
    """The source's name and the target's hold the same odd characters."""
    ground = Ground(house)
    place = ground.folder(ground.allowed / "1" / name, "fine")
    verdict = judge(ground.allowlist, str(place), rw=False, is_main=True, name=None, protected=ground.protected)
    with verdict:
        assert verdict.target == f"/workspace/extra/{name}"
        watched = start(ground, place, verdict)
        watched.wait_ready()
    listing = watched.run('cd /workspace/extra && for each in *; do echo "$each:"; ls "$each"; done; cat */file')
    assert f"{name}:\nfile\n" in listing
    assert "fine" in listing
    assert "denied" in watched.run(f"cd /workspace/extra/* 2>&1; touch '/workspace/extra/{name}/x' 2>&1 || echo denied")


@engines
def test_a_folder_that_is_gone_is_not_made(house: House) -> None:
    ground = Ground(house)
    place = ground.place(1)
    with ground.judge(place) as verdict:
        shutil.rmtree(place)
        watched = start(ground, place, verdict)
        gone = watched.wait_gone()
    assert gone.kind == "engine"
    assert not place.exists()
