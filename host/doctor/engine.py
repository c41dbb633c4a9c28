"""The engine: which one, and what a sandbox of it is really bounded by, read back from inside."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host import config as configuration
from host import images, parcels
from host.config import groups as of_groups
from host.doctor.home import registered
from host.doctor.outside import remote_docker
from host.doctor.program import runner_digest
from host.doctor.readback import PROGRAM, facts, judged
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning
from host.engines.base import Engine, sandbox_user
from host.engines.choice import ENGINES, choose
from host.errors import EngineError, UserError
from host.loop import Loop
from host.model import Image, Spec
from host.pool import own_folder
from host.sandbox import Gone, Sandbox
from runner.protocol import Check, Checked, Frame

SECONDS: Final = 90.0
"""From the launch to the answer; a sandbox that never comes up is given up by its actor before that."""
CHECK_SECONDS: Final = 20
DEADLINE_SECONDS: Final = 120
"""If nobody stops it, not even its end of stdin, it ends by itself."""
INSTALL_BYTES: Final = 6


def image(subject: Subject) -> Iterator[Finding]:
    """Which it is, whether it was accepted, and whether it is whole as far as it was unpacked. Every digest of it is
    checked whenever it is unpacked or taken in; an engine that keeps images of its own does so when it takes it."""
    found = images.used(subject.home)
    ours = runner_digest()
    if ours and found.build != ours:
        yield warning(
            "sandbox image", "its runner is of another version than this program", "python3 build/image/build.py"
        )
    if found.rootfs.is_dir():
        parcels.check_rootfs(found)
    subject.image = found
    if old := images.stale(subject.home, found):
        yield warning("sandbox image", old, "nanoclaw image build --again")
    whole = "unpacked and unaltered" if found.rootfs.is_dir() else "not unpacked here"
    origin = images.origin(subject.home, found)
    yield ok("sandbox image", f"{found.id[:19]}… {origin}, {whole} ({found.archive.parent})")


def engine(subject: Subject) -> Iterator[Finding]:
    name, closed = _asked_for(subject), _not_asked(subject)
    if name in closed:
        yield warning("engine", closed[name], "look again with a network, and without --offline")
        return
    subject.engine, subject.enforcement = choose(name, closed)
    yield ok("engine", f"{subject.enforcement.engine} {subject.enforcement.version}")


def others(subject: Subject) -> Iterator[Finding]:
    """What else would do. Where none was found at all, each has been told of."""
    name = _asked_for(subject)
    if subject.engine is None and name == "auto":
        return
    chosen = subject.engine.name if subject.engine else name
    closed = _not_asked(subject)
    for each, make in ENGINES.items():
        if each == chosen:
            continue
        if each in closed:
            yield ok(f"also: {each}", closed[each])
            continue
        try:
            found = make().probe()
        except EngineError as e:
            yield ok(f"also: {each}", f"not here: {e}")
        else:
            yield ok(f"also: {each}", f"{found.version} would work: --engine {each}")


def _asked_for(subject: Subject) -> str:
    return configuration.engine_name(subject.engine_flag, os.environ, subject.settings)


def _not_asked(subject: Subject) -> dict[str, str]:
    """Engine → why nobody asks whether it works."""
    where = remote_docker(os.environ) if subject.offline else ""
    return {"docker": f"not asked, as you said: its daemon is on another machine ({where})"} if where else {}


def enforced(subject: Subject) -> Iterator[Finding]:
    """A control that is missing is doubtful, and a fault where a setting of some group is nothing without it."""
    if subject.enforcement is None:
        return
    accepted, needed = subject.settings.accept_not_enforced, _needed(subject)
    for control, why in subject.enforcement.missing.items():
        name, found = f"enforces {control}", f"not enforced by this engine: {why}"
        accept = f'accept it in config.toml: accept_not_enforced = ["{control}"]'
        if control in accepted:
            yield ok(name, f"{found}; you accepted that")
        elif control in needed:
            yield failure(name, f"{found}; and {needed[control]}", f"unset that, or {accept}")
        else:
            yield warning(name, found, f"another engine may enforce it (--engine NAME); or {accept}")


def _needed(subject: Subject) -> dict[str, str]:
    """Control → the setting of a group that depends on it."""
    found: dict[str, str] = {}
    try:
        groups = registered(subject)
    except UserError:  # the database is told of where it is looked at
        return found
    for group in groups:
        for key in {*group.settings, *subject.settings.fixed(group.folder)} & of_groups.DEPENDS_ON.keys():
            found[of_groups.DEPENDS_ON[key]] = f"the group {group.folder} has set {key}"
    return found


@dataclass
class Probe:
    """A sandbox that is asked one thing."""

    answer: Checked | None = None
    gone: list[Gone] = field(default_factory=list)


def sandbox(subject: Subject) -> Iterator[Finding]:
    """Start one as turns have it, and have it tell what the kernel says of it."""
    engine, enforcement, image = subject.engine, subject.enforcement, subject.image
    if engine is None or enforcement is None or image is None:
        yield warning("sandbox", f"not looked into: no {'engine' if engine is None else 'image'} to start it with")
        return
    images.ready(engine, image, subject.progress, subject.progress)
    yield from read_back(engine, enforcement.missing, image, subject)


def read_back(engine: Engine, missing: Mapping[str, str], image: Image, subject: Subject) -> Iterator[Finding]:
    spec, probe = _asked(engine, image, subject)
    if probe.answer is None:
        yield failure("sandbox", f"no use: {probe.gone[0].message}", "nanoclaw drill shows more; or try another engine")
        return
    # All of it was demanded of its hello before it was asked anything.
    yield ok("sandbox", "starts; not root, no capabilities, no new privileges, no network interface, no debugging")
    cpus = min(spec.resources.cpus, float(os.cpu_count() or 1))
    found = facts(probe.answer.output)
    if not found:
        yield failure("read back", "the sandbox tells nothing of its bounds", "nanoclaw drill shows more")
        return
    yield from judged(found, spec.resources, cpus, missing, same_kernel=engine.verifies_mounts)


def fault(engine: Engine, image: Image, subject: Subject) -> str:
    """Why no sandbox starts from the image, with a runner of the build that it says it has; empty if one does."""
    _, probe = _asked(engine, image, subject)
    return "" if probe.answer is not None else probe.gone[0].message


def _asked(engine: Engine, image: Image, subject: Subject) -> tuple[Spec, Probe]:
    subject.home.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="doctor-", dir=subject.home.data))
    try:
        spec = _spec(image, folder, subject)
        return spec, ask(engine, spec)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ask(engine: Engine, spec: Spec) -> Probe:
    """Ends within a known time: a sandbox that is stopped is always gone in the end."""
    loop, probe = Loop(), Probe()

    def on_ready() -> None:
        probed.hand_over(Check(PROGRAM, CHECK_SECONDS, "UTC"))

    def on_frame(untrusted_frame: Frame) -> None:
        if isinstance(untrusted_frame, Checked):
            probe.answer = untrusted_frame
            probed.stop("it has told", grace=0)

    probed = Sandbox(
        loop, engine, spec, expect_build=spec.image.build, on_ready=on_ready, on_frame=on_frame,
        on_gone=probe.gone.append,
    )  # fmt: skip
    try:
        probed.start()
        late = f"no answer from it within {SECONDS:g} seconds"
        timer = loop.call_later(SECONDS, lambda: probed.stop(late, grace=0))
        while not probe.gone or loop.children:  # those are the engine's programs, which have a time limit
            loop.step()
        timer.cancel()
    finally:
        loop.close()
    return probe


def _spec(image: Image, folder: Path, subject: Subject) -> Spec:
    uid, gid = sandbox_user()
    install = f"doctor-{secrets.token_hex(INSTALL_BYTES)}"
    return Spec(
        name=f"nanoclaw-{install}",
        install=install,
        group="doctor",
        image=image,
        mounts=(own_folder(folder / "group", "/workspace/group", False, uid, gid),),
        resources=subject.settings.resources,
        uid=uid,
        gid=gid,
        deadline_seconds=DEADLINE_SECONDS,
    )


def left_behind(subject: Subject) -> Iterator[Finding]:
    if subject.engine is None:
        return
    path = subject.home.data / "install-id"
    install = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
    names = subject.engine.orphans(install) if install else []
    if not names:
        yield ok("left behind", "no sandbox")
    elif subject.host_runs:
        yield ok("left behind", f"none: the {len(names)} that there are belong to the host that runs")
    else:
        yield warning(
            "left behind", f"{len(names)} sandboxes, of a host that was killed or of an ask that is under way",
            "the next start removes those of a host that is gone",
        )  # fmt: skip
