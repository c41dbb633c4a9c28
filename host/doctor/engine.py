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
from host import parcels
from host.config import groups as of_groups
from host.doctor.home import registered
from host.doctor.readback import COMMANDS, LIMITED, asked
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning
from host.engines.base import Engine, sandbox_user
from host.engines.choice import ENGINES, choose
from host.errors import EngineError
from host.loop import Loop
from host.model import Enforcement, Image, Spec
from host.pool import own_folder
from host.sandbox import Gone, Sandbox
from runner.protocol import Check, Checked, Frame

START_SECONDS: Final = 60.0
CHECK_SECONDS: Final = 20
INSTALL_BYTES: Final = 6


def image(subject: Subject) -> Iterator[Finding]:
    found = parcels.current_image(subject.home.cache)
    yield ok("sandbox image", f"{found.id[:19]}… in {found.archive.parent}")
    if found.rootfs.is_dir():
        parcels.check_rootfs(found)
        yield ok("unpacked image", "as it was made")


def engine(subject: Subject) -> Iterator[Finding]:
    name = configuration.engine_name(subject.engine_flag, os.environ, subject.settings)
    chosen, enforcement = choose(name)
    yield ok("engine", f"{enforcement.engine} {enforcement.version}")
    yield from _others(chosen.name)
    yield from _missing(subject, enforcement)
    found = parcels.current_image(subject.home.cache)
    if chosen.wants_rootfs:
        parcels.unpack_rootfs(found, lambda text: None)
    chosen.load(found, lambda text: None)
    yield from read_back(chosen, enforcement, found, subject)
    yield from _orphans(subject, chosen)


def _others(chosen: str) -> Iterator[Finding]:
    for name, make in ENGINES.items():
        if name == chosen:
            continue
        try:
            found = make().probe()
        except EngineError as e:
            yield ok(f"also: {name}", f"not here: {e}")
        else:
            yield ok(f"also: {name}", f"{found.version} would work: --engine {name}")


def _missing(subject: Subject, enforcement: Enforcement) -> Iterator[Finding]:
    """A control that is missing is doubtful, and a fault where a setting of some group is nothing without it."""
    accepted = subject.settings.accept_not_enforced
    needed = _needed(subject)
    for control, why in enforcement.missing.items():
        name = f"enforces {control}"
        if control in accepted:
            yield ok(name, f"no, and you accepted that: {why}")
        elif control in needed:
            yield failure(name, f"no: {why}; and {needed[control]}",
                          f'unset that, or accept it in config.toml: accept_not_enforced = ["{control}"]')  # fmt: skip
        else:
            yield warning(name, f"not enforced by this engine: {why}")


def _needed(subject: Subject) -> dict[str, str]:
    """Control → the setting of a group that depends on it."""
    found: dict[str, str] = {}
    for group in registered(subject):
        for key in {*group.settings, *subject.settings.fixed(group.folder)} & of_groups.DEPENDS_ON.keys():
            found[of_groups.DEPENDS_ON[key]] = f"the group {group.folder} has set {key}"
    return found


@dataclass
class Probe:
    """A sandbox that is asked one thing."""

    ready: bool = False
    answer: Checked | None = None
    gone: list[Gone] = field(default_factory=list)


def read_back(engine: Engine, enforcement: Enforcement, image: Image, subject: Subject) -> Iterator[Finding]:
    """Start one as turns have it, and have it tell what the kernel says of it."""
    folder = Path(tempfile.mkdtemp(prefix="doctor-", dir=_place(subject)))
    try:
        spec = _spec(image, folder, subject)
        probe = ask(engine, spec, "\n".join(COMMANDS.values()), asked(spec.resources))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if probe.answer is None:
        why = probe.gone[0].message if probe.gone else f"no answer within {START_SECONDS:.0f} seconds"
        yield failure(
            "sandbox", f"it does not start: {why}", "nanoclaw drill shows more; is another version's image loaded?"
        )
        return
    yield ok("sandbox", "starts; not root, no capabilities, no new privileges, no network, not dumpable, no cores")
    yield from judged(probe.answer.output, enforcement.missing)


def judged(untrusted_output: str, missing: Mapping[str, str]) -> Iterator[Finding]:
    """What the sandbox told of its bounds, a line each."""
    told = {what: rest for what, _, rest in (line.partition(": ") for line in untrusted_output.splitlines())}
    for what in COMMANDS:
        found, name = told.get(what, ""), f"{what} in a sandbox"
        if found.endswith("as asked"):
            yield ok(name, found)
        elif LIMITED.get(what) in missing:
            yield warning(name, f"{found or 'not told'}: {missing[LIMITED[what]]}")
        else:
            yield failure(name, found or "not told", "the engine does not keep to what it was asked: nanoclaw drill")


def ask(engine: Engine, spec: Spec, command: str, values: Mapping[str, object]) -> Probe:
    loop, probe, late = Loop(), Probe(), []
    for name, value in values.items():
        command = command.replace("{" + name + "}", str(value))

    def on_ready() -> None:
        sandbox.hand_over(Check(command, CHECK_SECONDS, "UTC"))

    def on_frame(untrusted_frame: Frame) -> None:
        if isinstance(untrusted_frame, Checked):
            probe.answer = untrusted_frame
            sandbox.stop("it has told", grace=0)

    sandbox = Sandbox(
        loop, engine, spec, expect_build=spec.image.build, on_ready=on_ready, on_frame=on_frame,
        on_gone=probe.gone.append,
    )  # fmt: skip
    sandbox.start()
    timer = loop.call_later(START_SECONDS + CHECK_SECONDS, lambda: late.append(True))
    while not probe.gone and not late:
        loop.step()
    timer.cancel()
    while loop.children and not late:
        loop.step()
    loop.close()
    return probe


def _place(subject: Subject) -> Path:
    subject.home.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    return subject.home.data


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
        deadline_seconds=120,
    )


def _orphans(subject: Subject, engine: Engine) -> Iterator[Finding]:
    path = subject.home.data / "install-id"
    names = engine.orphans(path.read_text(encoding="ascii", errors="replace").strip()) if path.exists() else []
    if names:
        yield warning("left behind", f"{len(names)} sandboxes, if no host runs", "the next start removes them")
    else:
        yield ok("left behind", "no sandbox")
