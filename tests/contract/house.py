"""What the contract tests need around one engine: a loop, an image, folders, and sandboxes with fake runners."""

from __future__ import annotations

import atexit
import functools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from host.engines.base import Engine, sandbox_user
from host.engines.bubblewrap import Bubblewrap
from host.loop import Loop
from host.model import Image, Launch, Mount, Resources, Spec
from host.sandbox import Gone, Sandbox
from runner.protocol import VERSION, Frame, Input, Limits, Say, Turn
from tests.conftest import require_engine
from tests.contract import rootless
from tests.fakes.engine_subprocess import SubprocessEngine

RUNNER = Path(__file__).parent.parent / "fakes" / "runner_fake.py"
FAKES_TARGET = "/workspace/extra/fakes"
INSTALL = f"test{os.getpid()}"  # of this run alone: another may be at work on the same machine
REAL = ["docker", "podman", "podman-user", "bubblewrap", "bubblewrap-user"]
SEALED = {"uid": 0, "gid": 0, "cap_eff": 0, "cap_bnd": 0, "no_new_privs": 1, "interfaces": 0, "pid": 1}

Edit = Callable[[Launch], Launch]


class Edited:
    """An engine whose launches are changed: another runner, and, to see a leak, a control left out."""

    def __init__(self, engine: Engine, edit: Edit) -> None:
        self.inner, self._edit = engine, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def launch(self, spec: Spec) -> Launch:
        return self._edit(self.inner.launch(spec))


class Unclaimed(Edited):
    """The same, and what hello says of the engine's own controls is not compared."""

    def claims(self, spec: Spec) -> dict[str, int]:
        return {}


@dataclass
class Watched:
    """A sandbox and all that it told its owner."""

    house: House
    sandbox: Sandbox = field(init=False)
    frames: list[Frame] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    ready: int = 0

    def now_ready(self) -> None:
        self.ready += 1

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        self.house.until(condition, seconds)

    def wait_ready(self) -> None:
        self.until(lambda: self.ready or self.gone)
        assert not self.gone, self.gone

    def wait_gone(self, seconds: float = 30) -> Gone:
        self.until(lambda: self.gone, seconds)
        return self.gone[0]

    def hand_over(self, prompt: str = "hello") -> None:
        self.wait_ready()
        self.sandbox.hand_over(a_turn(prompt))

    def run(self, command: str, seconds: float = 40) -> str:
        """What a shell command of the agent's prints. Needs the runner that behaves as `shell`."""
        before = len(self.frames)
        if self.sandbox.state == "running":
            self.sandbox.send(Input(command))
        else:
            self.hand_over(command)
        self.until(lambda: len(self.frames) > before or self.gone, seconds)
        assert len(self.frames) > before, self.gone
        frame = self.frames[-1]
        assert isinstance(frame, Say)
        return frame.text


@dataclass
class House:
    """One engine under test."""

    loop: Loop
    engine: Engine
    image: Image
    folder: Path
    user: tuple[int, int] = field(default_factory=sandbox_user)
    """Who the agent is."""
    made: list[Watched] = field(default_factory=list)
    resources: Resources = field(
        default_factory=lambda: Resources(memory_bytes=512 << 20, file_bytes=64 << 20, tmp_bytes=32 << 20, cpus=1)
    )

    @property
    def real(self) -> bool:
        return self.engine.name != "subprocess"

    @property
    def containers(self) -> bool:
        """Whether it is docker or podman, whose flags are the same but for a few."""
        return self.engine.name in {"docker", "podman"}

    @functools.cached_property
    def missing(self) -> dict[str, str]:
        """What the engine itself says that it does not enforce here."""
        return self.engine.probe().missing

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Run the loop until it holds; fail instead of hanging."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} seconds"
            # What is waited for may be no event of this loop: look again after a moment.
            tick = self.loop.call_later(0.05, lambda: None)
            self.loop.step()
            tick.cancel()

    def spec(self, *mounts: Mount, **changes: Any) -> Spec:
        uid, gid = self.user
        fakes = self.mount("fakes", FAKES_TARGET, readonly=True)
        shutil.copy(RUNNER, fakes.source)
        standard = (self.mount("group"), fakes)
        spec = Spec(
            name=f"nanoclaw-{INSTALL}-{secrets.token_hex(6)}",
            install=INSTALL,
            group="main",
            image=self.image,
            mounts=(*standard, *mounts),
            resources=self.resources,
            uid=uid,
            gid=gid,
            deadline_seconds=120,
        )
        return replace(spec, **changes)

    def mount(self, name: str, target: str = "", readonly: bool = False) -> Mount:
        """A folder that the sandbox's user owns, in a place of its own."""
        source = self.folder / name
        source.mkdir(mode=0o700, exist_ok=True)
        if os.getuid() == 0:
            os.chown(source, *self.user)
        return Mount(source, target or f"/workspace/{name}", readonly, identity(source))

    def start(
        self, behaviour: str, spec: Spec | None = None, edit: Edit = lambda x: x, claims: bool = True, **options: Any
    ) -> Watched:
        """A sandbox with a fake runner. `edit` weakens the launch; `options` are the fake's."""
        spec = spec or self.spec()
        fake = (behaviour, json.dumps(self._options(spec, options)))
        kind = Edited if claims else Unclaimed
        return self.start_with(spec, kind(self.engine, lambda launch: edit(self._with_runner(launch, fake))))

    def start_with(self, spec: Spec, engine: Engine, build: str = "test-build") -> Watched:
        w = Watched(house=self)
        w.sandbox = Sandbox(
            self.loop,
            engine,
            spec,
            expect_build=build,
            on_ready=w.now_ready,
            on_frame=w.frames.append,
            on_gone=w.gone.append,
        )
        self.made.append(w)
        w.sandbox.start()
        return w

    def processes(self) -> list[int]:
        """Those that see this test's folder mounted: the sandboxes', whoever started them."""
        marker, found = str(self.folder).encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marker in (entry / "mountinfo").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked, or is not ours to see
        return found

    def close(self) -> None:
        for watched in self.made:
            watched.sandbox.stop("the test is over", 0)
        self.until(lambda: all(w.gone or w.sandbox.state == "gone" for w in self.made), 40)
        self.until(lambda: not self.loop._children, 30)  # the engine's own programs, run aside
        self.engine.reap(INSTALL)
        self.until(lambda: not self.processes(), 10)

    def _options(self, spec: Spec, options: dict[str, Any]) -> dict[str, Any]:
        if self.real:
            seen = {mount.target: mount.target for mount in spec.mounts}
            checks: dict[str, int] = {}
        else:
            seen = {mount.target: str(mount.source) for mount in spec.mounts}
            checks = {**SEALED, "uid": spec.uid, "gid": spec.gid}
        checks |= options.pop("checks", {})
        return {"build": "test-build", "version": VERSION, "stat": seen, "checks": checks, **options}

    def _with_runner(self, launch: Launch, fake: Sequence[str]) -> Launch:
        if not self.real:
            return replace(launch, argv=(*launch.argv[:-1], str(self.folder / "fakes" / "runner_fake.py"), *fake))
        at = launch.argv.index("/opt/nanoclaw/runner/__main__.py")
        return replace(launch, argv=(*launch.argv[:at], f"{FAKES_TARGET}/runner_fake.py", *fake))


def a_turn(prompt: str = "hello") -> Turn:
    limits = Limits(rounds=5, seconds=60, tokens=1000, command_seconds=10, output_bytes=10_000)
    return Turn(
        turn="t1", group="main", is_main=True, assistant="Nano", prompt=prompt, history=[], secrets={}, base_url="",
        model="m", max_tokens=10, limits=limits, tools=[], timezone="UTC",
    )  # fmt: skip


def identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


class AsUser(Edited):
    """bubblewrap as an ordinary user starts it, for tests that run as root."""

    def __init__(self, uid: int, gid: int) -> None:
        prefix = ("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
        super().__init__(Bubblewrap(root=False), lambda launch: replace(launch, argv=(*prefix, *launch.argv)))


def open_house(name: str, loop: Loop, folder: Path, request: pytest.FixtureRequest) -> House:
    """`name`: subprocess or an engine's, with `-user` as an ordinary user starts it. Skips with the reason what is
    not there."""
    if name == "subprocess":
        return House(loop, SubprocessEngine(), no_image(), folder)
    kind = name.removesuffix("-user")
    engine = require_engine(kind)
    image: Image = request.getfixturevalue("image")
    user = sandbox_user()
    if kind != name:
        if os.getuid() != 0:
            pytest.skip(f"{kind} runs as an ordinary user already")
        if kind == "podman":
            engine, image, user = rootless.podman(image)
        else:
            engine, image = AsUser(*user), replace(image, rootfs=readable_rootfs(image))
    engine.load(image, lambda _: None)
    return House(loop, engine, image, folder, user)


@functools.cache
def readable_rootfs(image: Image) -> Path:
    """The image's folder where another user can reach it: hard links, so that it costs little."""
    place = Path(tempfile.mkdtemp(prefix="nanoclaw-rootfs-", dir="/var/tmp"))
    place.chmod(0o755)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    same = image.rootfs.stat().st_dev == place.stat().st_dev
    subprocess.run(["cp", "-al" if same else "-a", str(image.rootfs), str(place / "rootfs")], check=True)
    return place / "rootfs"


def no_image() -> Image:
    return Image("sha256:" + "0" * 64, Path("/nowhere"), Path("/nowhere"), "test-build")
