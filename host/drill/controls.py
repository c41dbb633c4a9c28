"""The controls: the same commands where what should hold is off. Each must find its leak, or proves nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from host.drill import hostile, looks, rogue, traps
from host.drill.ground import SMALL, Ground, key_of, made_up
from host.drill.probes import LEAVE, PLANT
from host.drill.probes import power as power_probes
from host.drill.probes.programs import python
from host.drill.standin import StandIn, seat
from host.drill.weaken import edit_for, granted
from host.drill.words import RAN, Probe, Scene, measured
from host.errors import EngineError
from host.model import Spec

Fill = Callable[[str], str]
"""Puts this drill's port numbers into a command."""

# What bubblewrap mounts read-only in /proc can be opened again by who has all capabilities.
OPEN_PROC: Final = python(
    'import ctypes\nctypes.CDLL(None).mount(None, b"/proc/sys", None, 0x1020, None)  # MS_REMOUNT | MS_BIND'
)
DEADLINE: Final = 2
"""Seconds that a sandbox without a turn is given, in the scene that waits for it to leave."""
LEAVE_SECONDS: Final = 6.0
BOMB_BYTES: Final = 2 << 30
"""Memory that must be free before a bomb is let off with nothing to stop it: it takes less than half of that."""


def play_aside(ground: Ground, name: str, probes: Sequence[Probe], fill: Fill) -> Scene:
    """One scene that needs no loop. What goes wrong is told in it, and its probes are then not tested."""
    scene = Scene(name, made_up("NCC-"))
    try:
        {**SCENES, **ASIDE}[name](ground, scene, probes, fill)
    except (EngineError, OSError, ValueError) as e:
        scene.trouble = f"the scene {name} could not be played: {e}"
    return scene


def _seated(ground: Ground, scene: Scene, spec: Spec, mode: str = "careful") -> StandIn:
    launch = edit_for(ground.engine.name, scene.name)(ground.engine.launch(spec))
    return StandIn(ground.engine, spec.name, seat(launch, mode, isolated=mode == "careful"), key_of(scene.canary))


def commands(stand_in: StandIn, scene: Scene, probes: Iterable[Probe], fill: Fill, *, bait: bool = False) -> None:
    """Each probe's command in turn, as the agent's shell would run it."""
    for probe in probes:
        if probe.prepare:
            stand_in.run(probe.prepare)
        if probe.reads:
            scene.texts[probe.id] = f"{stand_in.read(probe.reads)}\n{RAN}"
        elif probe.command and probe.id not in scene.skipped:
            text = stand_in.run(fill(probe.command), bait=bait)
            scene.texts[probe.id] = measured(text) if probe.measured else text


def naive(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    since = time.time() - 1
    spec = ground.spec(scene.name)
    with _seated(ground, scene, spec, "naive") as stand_in:
        scene.texts |= looks.around(ground.engine, spec.name, scene.canary, since)
        scene.texts["home-files"] = looks.files(spec.mounts[0].source, scene.canary)
        commands(stand_in, scene, probes, fill, bait=True)


def plain(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """Engine protections off, by the edit of the same name."""
    with _seated(ground, scene, ground.spec(scene.name)) as stand_in:
        commands(stand_in, scene, probes, fill)


def power(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    with _seated(ground, scene, ground.spec(scene.name)) as stand_in:
        stand_in.run(OPEN_PROC)
        commands(stand_in, scene, probes, fill)


def unbounded(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    if available_memory() < BOMB_BYTES:
        scene.skipped["memory-bomb"] = "this machine has too little free memory to try it unbounded"
    spec = ground.spec(scene.name, resources=replace(SMALL))
    with _seated(ground, scene, spec) as stand_in:
        commands(stand_in, scene, probes, fill)


def with_grants(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    more = (
        ground.mount("groups/other", "/workspace/extra/other"),
        ground.mount("run", "/run"),
        ground.mount("project", "/workspace/project"),
    )
    with _seated(ground, scene, granted(ground.spec(scene.name), *more)) as stand_in:
        commands(stand_in, scene, probes, fill)


def same(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """What the agent leaves is looked for in the very sandbox that it was left in."""
    with _seated(ground, scene, ground.spec(scene.name)) as stand_in:
        stand_in.run(LEAVE)
        commands(stand_in, scene, probes, fill)


def site_open(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """A Python that looks for modules in its working directory, where the agent left some."""
    spec = ground.spec(scene.name)
    with _seated(ground, scene, spec) as stand_in:
        stand_in.run(PLANT)
    again = ground.spec(scene.name)
    with contextlib.suppress(EngineError), _seated(ground, scene, again, "naive"):
        pass  # it imports what was planted, and most likely fails over it
    scene.texts["planted-modules"] = traces(spec)


def traces(spec: Spec) -> str:
    """The marks that planted modules leave when they run: names in a folder, nothing is opened."""
    marks = [name for name in os.listdir(spec.mounts[0].source) if name.startswith(".ran-")]  # noqa: PTH208
    return "\n".join([f"ran: {name}" for name in sorted(marks)] or ["none ran"]) + f"\n{RAN}"


def credulous(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    scene.texts |= hostile.credulous(ground, tuple(probe.id for probe in probes))


def careless(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """The same traps, and a host that reads as one reads any file."""
    spec = ground.spec(scene.name)
    with _seated(ground, scene, spec) as stand_in:
        stand_in.run(fill(traps.LAY))
        scene.texts |= traps.look(spec.mounts[0].source, ground.secret, traps.CARELESS)


def careless_mounts(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """A host that mounts what it is asked for."""
    with _seated(ground, scene, ground.shelf.careless(ground.spec(scene.name))) as stand_in:
        commands(stand_in, scene, probes, fill)


def obedient(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """A host that carries out whatever it is asked, as often as it is asked, and writes nothing down."""
    calls = (*power_probes.asked_by_a_group(), *power_probes.asked_by_main())
    obeyed = rogue.obey(ground, rogue.Orders(calls=calls, acts=rogue.FLOODS), power_probes.UNANSWERED)
    tasks = rogue.obey(ground, rogue.Orders(calls=rogue.tasks_asked_for(rogue.MANY_TASKS)), "")
    scene.texts |= obeyed.report.texts
    scene.texts["unaudited-requests"] = f"not written down: {obeyed.calls} requests\n{RAN}"
    scene.texts["tasks-bounded"] = f"{tasks.calls} tasks\n{RAN}"
    if obeyed.done:
        counts = {"says": f"done: {obeyed.says} texts", "entries": f"done: {obeyed.entry_bytes >> 20} MB"}
        counts["calls"] = f"carried out {obeyed.flooded}"
        scene.texts |= {f"{act}-bounded": f"{count}\n{RAN}" for act, count in counts.items()}


def stubborn(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    text = hostile.stubborn(ground)
    scene.texts |= {probe.id: text for probe in probes}


def alone(ground: Ground, scene: Scene, probes: Sequence[Probe], fill: Fill) -> None:
    """The real runner as it is, left without a turn, or without a host."""
    for probe in probes:
        is_lease = probe.id == "lease"
        seconds = LEAVE_SECONDS if is_lease else DEADLINE + LEAVE_SECONDS
        scene.texts[probe.id] = hostile.left_alone(
            ground, deadline=60 if is_lease else DEADLINE, close=is_lease, seconds=seconds
        )


SCENES: Final[dict[str, Callable[[Ground, Scene, Sequence[Probe], Fill], None]]] = {
    "naive": naive,
    "power": power,
    "shared": plain,
    "granted": with_grants,
    "same": same,
    "careless": careless,
    "careless-mounts": careless_mounts,
    "obedient": obedient,
    "site-open": site_open,
    "credulous": credulous,
    "stubborn": stubborn,
    "unbounded": unbounded,  # last: it waits for another scene, and a thread with it
}
ASIDE: Final = {"alone": alone}
"""Scenes of the installation as it is that need no loop, and so can be played beside the others."""


def available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
