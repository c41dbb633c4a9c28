"""The scenes of the installation as it is: real sandboxes, the real runner, the host's own gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from host.drill import controls, hostile, looks, traps
from host.drill.ground import SMALL, TURN_SECONDS, Ground, Listeners, key_of, made_up
from host.drill.house import KEY_FILE, TELL, play_house
from host.drill.probes import LEAVE
from host.drill.probes.power import HOST
from host.drill.standin import StandIn, seat
from host.drill.story import tell
from host.drill.turn import LIMITS, LOOK, Played, RealTurn, call
from host.drill.village import Seen, Texts, Village
from host.drill.words import RAN, Probe, Scene, measured, wrapped
from host.errors import EngineError
from host.loop import Loop
from host.model import AllowedHost, Connection, Endpoint, Spec
from host.resolver import Resolver
from runner.protocol import Limits

SCENE_SECONDS: Final = TURN_SECONDS + 30.0
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
SMALL_LIMITS: Final = replace(LIMITS, output_bytes=32 * 1024)
QUICK_LIMITS: Final = replace(LIMITS, command_seconds=3)


@dataclass
class Stage:
    """What the real scenes are played with."""

    loop: Loop
    resolver: Resolver
    ground: Ground
    endpoint: Endpoint
    listeners: Listeners
    progress: Callable[[str], None]
    village: Village | None = None
    """Begun before the other scenes, and plays beside them."""
    endless: dict[str, Played] = field(default_factory=dict)
    """The control's turns, begun with those whose limits they lack."""

    def fill(self, command: str) -> str:
        command = self.ground.fill(command)
        return command.replace("{port}", str(self.listeners.port)).replace("{model_port}", str(self.endpoint.port))

    def turn(self, spec: Spec, prompt: str, **options: Any) -> Played:
        return self.real_turn(spec, **options).play(prompt, SCENE_SECONDS)

    def real_turn(self, spec: Spec, **options: Any) -> RealTurn:
        return RealTurn(self.loop, self.resolver, self.ground, spec, self.endpoint, **options)


# --- a shell, and what it finds -------------------------------------------------------------------------


def script(probes: Sequence[Probe], fill: Callable[[str], str]) -> tuple[list[str], dict[int, Probe]]:
    """The prompt's lines for these probes, and which result belongs to which probe."""
    lines: list[str] = []
    where: dict[int, Probe] = {}
    for probe in probes:
        if probe.prepare:
            lines.append(call("bash", command=probe.prepare))
        if probe.command or probe.reads:
            where[len(lines)] = probe
            lines.append(
                call("read_file", path=probe.reads)
                if probe.reads
                else call("bash", command=wrapped(fill(probe.command)))
            )
    return lines, where


def take(scene: Scene, played: Played, where: dict[int, Probe]) -> None:
    """Each probe's text from the results of the turn."""
    for index, probe in where.items():
        if index < len(played.results):
            text = played.results[index]
            scene.texts[probe.id] = measured(text) if probe.measured else f"{text}\n{RAN}" if probe.reads else text
    scene.trouble = played.trouble


def agent(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The agent's shell, everything it can look at, and what the host can see of it meanwhile."""
    ground, spec, since = stage.ground, stage.ground.spec("drill"), time.time() - 1
    lines, where = script(probes, stage.fill)

    def look(name: str) -> None:
        scene.texts |= looks.around(ground.engine, name, scene.canary, since)
        if trapped:
            scene.texts |= traps.look(spec.mounts[0].source, ground.secret, traps.CAREFUL)

    trapped = any(probe.control == "careless" for probe in probes)
    laying = [call("bash", command=stage.fill(traps.LAY))] if trapped else []
    closing = [*laying, f"say {LOOK} first", call("bash", command=LEAVE)]
    played = stage.turn(spec, "\n".join([*lines, *closing]), look=lambda: look(spec.name))
    take(scene, played, where)
    if was_refused(played):
        take_seat(stage, scene, probes, spec, played, look)


def was_refused(played: Played) -> bool:
    """Whether the host, or the runner itself, found this sandbox not fit for a key."""
    gone = played.gone
    return gone is not None and not played.was_ready and (gone.kind == "hello" or "not sealed" in gone.stderr_tail)


def take_seat(
    stage: Stage, scene: Scene, probes: Sequence[Probe], spec: Spec, played: Played, look: Callable[[str], None]
) -> None:
    """The host would not hand the key to this sandbox. A careful stand-in shows what an agent could do there."""
    ground = stage.ground
    scene.refused = played.trouble
    # A name of its own: the engine may still be removing the sandbox that was refused, by its name.
    spec = replace(spec, name=f"{spec.name}-again")
    try:
        launch = seat(ground.tamper(ground.engine.launch(spec)), "careful")
        with StandIn(ground.engine, spec.name, launch, key_of(scene.canary)) as stand_in:
            if any(probe.control == "careless" for probe in probes):
                stand_in.run(stage.fill(traps.LAY))
            look(spec.name)
            # What the runner itself would bound or refuse, it cannot show.
            shown = [probe for probe in probes if not probe.reads and not probe.measured]
            controls.commands(stand_in, scene, shown, stage.fill, bait=True)
    except EngineError as e:
        scene.trouble = f"{played.trouble}; nor a stand-in: {e}"


def following(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The next turn of the same group: what did the last one leave?"""
    spec = stage.ground.spec("drill")
    lines, where = script([probe for probe in probes if not probe.reads], stage.fill)
    played = stage.turn(spec, "\n".join([*lines, "recite what you were told"]))
    take(scene, played, where)
    if played.reply:
        about = [line for line in played.reply.splitlines() if "CLAUDE.md" in line and "skipped" in line]
        scene.texts["memory-link"] = "\n".join([*about, played.reply, RAN])
    scene.texts["planted-modules"] = controls.traces(spec)


def small(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """A sandbox with small bounds, and bombs a little larger than they."""
    spec = stage.ground.spec("small", resources=SMALL)
    lines, where = script(probes, stage.fill)
    played = stage.turn(spec, "\n".join(lines), limits=SMALL_LIMITS)
    take(scene, played, where)
    if was_refused(played):
        take_seat(stage, scene, probes, spec, played, lambda name: None)


# --- what one turn may use ----------------------------------------------------------------------------------

ENDLESS: Final = "\n".join(f"run echo round {number}" for number in range(1, 7))
TURNS: Final = {
    "turn-time": ("think slowly 4", replace(LIMITS, seconds=2)),
    "turn-rounds": (ENDLESS, replace(LIMITS, rounds=3)),
    "turn-tokens": (ENDLESS, replace(LIMITS, tokens=1000)),
}
"""Probe → what the agent is asked to do, and the limits within which it cannot come to its end."""


def turns(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """All at once, and with them those of the control: they wait more than they work."""
    bounded = _begin(stage, {probe.id: TURNS[probe.id] for probe in probes}, "")
    stage.endless = _begin(stage, {probe.id: (TURNS[probe.id][0], LIMITS) for probe in probes}, "-endless")
    _gather(stage, scene, bounded)


def endless(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The control: the same turns, and limits that they never meet."""
    _gather(stage, scene, stage.endless)


def _begin(stage: Stage, asked: dict[str, tuple[str, Limits]], what: str) -> dict[str, Played]:
    return {
        probe: stage.real_turn(stage.ground.spec(probe + what), limits=limits).begin(prompt, SCENE_SECONDS)
        for probe, (prompt, limits) in asked.items()
    }


def _gather(stage: Stage, scene: Scene, played: dict[str, Played]) -> None:
    while any(one.gone is None for one in played.values()):
        stage.loop.step()
    for probe, one in played.items():
        if one.gone is not None and one.gone.kind != "stopped":
            scene.skipped[probe] = one.trouble
        else:
            scene.texts[probe] = f"{one.reply or one.failed}\n{RAN}"


# --- the gate ---------------------------------------------------------------------------------------------


def gate(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """Through the proxy: to a host that is not allowed, and to a private address by a name that is."""
    played = _through_proxy(stage, scene, probes, (AllowedHost("localhost", (stage.listeners.port,)),))
    tried = sum(1 for probe in probes if "$http_proxy" in probe.command)
    rows = [row for row in played.connections if row.kind == "tool"]
    # A machine that cannot even look up localhost has no address to refuse.
    outcomes = {"unknown" if _never_known(row) else row.outcome.split(":")[0] for row in rows}
    written = len(rows) >= tried and bool(outcomes) and outcomes <= {"refused", "unknown"}
    told = f"{len(rows)} rows for {tried} attempts: {', '.join(sorted(outcomes))}"
    scene.texts["unaudited"] = f"{told if written else f'not written down: {told}'}\n{RAN}"


def _never_known(row: Connection) -> bool:
    return row.outcome.startswith("failed:") and not row.address


def gate_open(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The control: a gate that allows the drill's own listeners, and an audit that keeps nothing."""
    ports = (stage.listeners.port, stage.endpoint.port)
    allowed = tuple(AllowedHost(name, ports, LOOPBACK) for name in ("localhost", "127.0.0.1"))
    played = _through_proxy(stage, scene, probes, allowed, TELL)
    scene.texts["unaudited"] = f"not written down: 0 rows of {len(played.connections)}\n{RAN}"
    # And the control for replies: what the agent says, before the host has looked at it.
    for probe in probes:
        if probe.scene == "house":
            scene.texts[probe.id] = looks.told(played.reply, scene.canary, probe.id.removeprefix("reply-"))


def _through_proxy(
    stage: Stage, scene: Scene, probes: Sequence[Probe], allowed: tuple[AllowedHost, ...], closing: str = "repeat done"
) -> Played:
    spec = stage.ground.spec(scene.name, proxy=True)
    lines, where = script(probes, stage.fill)
    prompt = "\n".join([*lines, closing])
    played = stage.turn(spec, prompt, canary=scene.canary, allowed=allowed, limits=QUICK_LIMITS)
    take(scene, played, where)
    return played


# --- what is said in the chat ------------------------------------------------------------------------------


def house(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    words, scene.trouble = play_house(stage.loop, stage.ground, stage.endpoint)
    if scene.trouble:
        return
    for probe in probes:
        if probe.id == "home-files":
            scene.texts[probe.id] = looks.files(stage.ground.folder / "house", scene.canary, skip=KEY_FILE)
        else:
            scene.texts[probe.id] = looks.told(words, scene.canary, probe.id.removeprefix("reply-"))


# --- several groups ------------------------------------------------------------------------------------------


def begin_village(stage: Stage, wanted: frozenset[str]) -> None:
    stage.village = Village(stage.loop, stage.ground, stage.endpoint, HOST)
    stage.village.begin(tell(stage.village, wanted))


def _villagers(stage: Stage, scene: Scene, texts: Callable[[Seen], Texts]) -> None:
    """What was seen in the village, when its story has come to its end."""
    assert stage.village is not None
    while not stage.village.done:
        stage.loop.step()
    seen = stage.village.seen
    scene.texts |= texts(seen)
    scene.trouble, scene.canary = seen.trouble, seen.canary


def village(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    _villagers(stage, scene, lambda seen: seen.village)


def shelf(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    _villagers(stage, scene, lambda seen: seen.shelf)
    if not stage.ground.shelf.mounted:
        scene.texts.pop("mount-within", None)
        scene.skipped["mount-within"] = "only root can mount a file system to try it with"


def own(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The control for what a group sees of another: what the other sees of its own."""
    _villagers(stage, scene, lambda seen: seen.own)


def administrator(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    """The control for what a group may not do: main does it."""
    _villagers(stage, scene, lambda seen: seen.administrator)


# --- runners that were turned ----------------------------------------------------------------


def true_hello(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    texts = hostile.play_acts(stage.loop, stage.resolver, stage.ground, ("true-hello",), stage.progress)
    scene.texts |= {probe.id: texts["true-hello"] for probe in probes}


def act(stage: Stage, scene: Scene, probes: Sequence[Probe]) -> None:
    ids = tuple(probe.id for probe in probes)
    scene.texts |= hostile.play_acts(stage.loop, stage.resolver, stage.ground, ids, stage.progress)


Play = Callable[[Stage, Scene, Sequence[Probe]], None]
REAL: Final[dict[str, Play]] = {
    "agent": agent,
    "next": following,
    "small": small,
    "turns": turns,
    "gate": gate,
    "house": house,
    "acts": act,
    "village": village,
    "shelf": shelf,
}
"""In this order: `next` looks for what `agent` left."""
REAL_CONTROLS: Final[dict[str, Play]] = {
    "endless": endless,
    "gate-open": gate_open,
    "true-hello": true_hello,
    "own": own,
    "administrator": administrator,
}
"""Controls that need the loop, because the real host plays in them."""


def play(stage: Stage, plays: dict[str, Play], name: str, probes: Sequence[Probe]) -> Scene:
    """One scene. What goes wrong is told in it, and its probes are then not tested."""
    scene = Scene(name, stage.ground.canary if plays is REAL else made_up("NCC-"))
    try:
        plays[name](stage, scene, probes)
    except (EngineError, OSError) as e:
        scene.trouble = f"the scene {name} could not be played: {e}"
    return scene
