"""A whole drill: which scenes are needed, played in their order, and judged."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.drill import controls, scenes
from host.drill.ground import Edit, Ground, Listeners, made_up
from host.drill.probes import PROBES
from host.drill.scenes import Stage
from host.drill.shelf import unmount
from host.drill.words import Outcome, Probe, Scene, judge
from host.engines.base import Engine
from host.errors import UserError
from host.loop import Loop
from host.model import Enforcement, Image, Resources
from host.rehearsal.child import Rehearsal
from host.resolver import Resolver

AT_ONCE: Final = 2
SETTLE_SECONDS: Final = 10.0
ABANDONED_SECONDS: Final = 3600.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is drilled."""

    image: Image
    folder: Path
    """Where the drill may make a folder of its own, and remove it."""
    resources: Resources
    probes: tuple[Probe, ...] = PROBES
    tamper: Edit = lambda launch: launch
    """For tests: what is taken away from the real sandboxes' launches."""
    canary: str = ""
    """For tests: the made-up key's mark, to be put where it must not be."""


def select(only: str | None) -> tuple[Probe, ...]:
    """The probes of one promise, or one by its name; all for None."""
    if only is None:
        return PROBES
    chosen = tuple(probe for probe in PROBES if only.lower() in (probe.id, probe.promise.lower()))
    if not chosen:
        promises = sorted({probe.promise for probe in PROBES})
        raise UserError(f"there is no promise or probe named {only!r}", f"promises: {', '.join(promises)}",
                        f"probes: {', '.join(probe.id for probe in PROBES)}", status=2)  # fmt: skip
    return chosen


def run(
    engines: Iterable[tuple[Engine, Enforcement]], plan: Plan, progress: Progress = lambda text: None
) -> list[Outcome]:
    """Attack each engine; the outcomes in the order of the probes."""
    loop = Loop()
    try:
        return [
            outcome for engine, enforcement in engines for outcome in _drill(loop, engine, enforcement, plan, progress)
        ]
    finally:
        loop.settle(SETTLE_SECONDS)  # the engine's programs that sandboxes started as they went
        loop.close()


def _drill(loop: Loop, engine: Engine, enforcement: Enforcement, plan: Plan, progress: Progress) -> list[Outcome]:
    probes = [probe for probe in plan.probes if not probe.engines or engine.name in probe.engines]
    engine.load(plan.image, progress)
    ground = Ground(engine, enforcement, plan.image, plan.resources, plan.folder / made_up("drill-"), plan.tamper)
    ground.canary = plan.canary or ground.canary
    rehearsal, listeners = Rehearsal(), Listeners()
    try:
        sweep(plan.folder)
        ground.open()
        resolver = Resolver(loop)
        stage = Stage(loop, resolver, ground, rehearsal.start(), listeners, lambda text: None)
        seen = _play_all(stage, probes, lambda text: progress(f"{engine.name}: {text}"))
        resolver.close()
    finally:
        rehearsal.stop()
        listeners.close()
        ground.close()
    return [judge(engine.name, p, seen[p.scene], seen[p.control], enforcement.missing) for p in probes]


def sweep(folder: Path) -> None:
    """Remove what drills left that were killed. One that runs now is younger than that."""
    for left in folder.glob("drill-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > ABANDONED_SECONDS:
                unmount(left / "shelf")
                shutil.rmtree(left, ignore_errors=True)


def _play_all(stage: Stage, probes: Sequence[Probe], progress: Progress) -> dict[str, Scene]:
    """All scenes that these probes need. Those that need no loop go on threads of their own meanwhile."""
    real, control = _by_name(probes, "scene"), _by_name(probes, "control")
    if "next" in real:
        real.setdefault("agent", [])  # who leaves what `next` looks for
    aside = [(name, real) for name in controls.ASIDE] + [(name, control) for name in controls.SCENES]
    here = [(name, real, scenes.REAL) for name in scenes.REAL]
    here += [(name, control, scenes.REAL_CONTROLS) for name in scenes.REAL_CONTROLS]
    if {"village", "shelf"} & real.keys():
        real.setdefault("village", [])
        scenes.begin_village(stage, frozenset(probe.id for probe in probes))
    seen: dict[str, Scene] = {}
    may_bomb = threading.Event()

    def play_aside(name: str, wanted: list[Probe]) -> Scene:
        if name == "unbounded":
            # Where root starts sandboxes by bubblewrap, the kernel counts the processes of all of them together:
            # a fork bomb in this one would keep the runner of `small` from starting threads.
            may_bomb.wait()
        return controls.play_aside(stage.ground, name, wanted, stage.fill)

    pool = ThreadPoolExecutor(AT_ONCE, "drill")
    try:
        futures = {name: pool.submit(play_aside, name, wanted[name]) for name, wanted in aside if name in wanted}
        for name, wanted, table in here:
            if name in wanted:
                progress(f"scene {len(seen) + 1} of {len(real) + len(control)}: {name}")
                seen[name] = scenes.play(stage, table, name, wanted[name])
            if name == "small":
                may_bomb.set()
        for name, future in futures.items():
            progress(f"scene {len(seen) + 1} of {len(real) + len(control)}: {name}")
            seen[name] = future.result()
    finally:
        # Interrupted: what has not begun never does, and what has comes to its end, in bounded time.
        may_bomb.set()
        pool.shutdown(cancel_futures=True)
        if stage.village is not None:
            stage.village.close()
    return seen


def _by_name(probes: Sequence[Probe], what: str) -> dict[str, list[Probe]]:
    found: dict[str, list[Probe]] = {}
    for probe in probes:
        found.setdefault(getattr(probe, what), []).append(probe)
    return found
