"""The drill's words: a probe, what was seen when it was played, and the verdict. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

RAN: Final = "drill: ran"
"""Printed after each command: without it the command did not come to its end, and proves nothing."""
HELD, NOT_HELD, NOT_TESTED, NOT_ENFORCED = "held", "NOT HELD", "not tested", "not enforced"
EVIDENCE: Final = 120
"""Most characters of evidence."""


@dataclass(frozen=True)
class Probe:
    """One attack, as data.

    It is played twice: in `scene`, the installation as it is, and in `control`, where what should hold is
    off. A probe that does not see the leak there could not see it anywhere, and proves nothing.
    """

    id: str
    promise: str
    tries: str
    """What it tries, in a sentence for the person who reads the table."""
    leak: str
    """Regular expression that finds the leak in what came back; `{canary}` is the scene's made-up key."""
    scene: str
    control: str
    command: str = ""
    """For the agent's shell. Empty where the scene itself knows what to try."""
    reads: str = ""
    """Or: a path for the tool `read_file`."""
    prepare: str = ""
    """A command that goes before, whose output does not count."""
    depends: tuple[str, ...] = ()
    """Names in `Enforcement.missing` of the controls that an engine may be known to lack."""
    engines: tuple[str, ...] = ()
    """Engines that it makes sense on; empty: all."""
    proof: str = RAN
    """What the text must hold for the probe to have come to its end."""
    measured: bool = False
    """Whether what counts is how much came back, and not what."""


@dataclass
class Scene:
    """What was seen when a scene was played: each probe's text, or why there is none."""

    name: str
    canary: str
    texts: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Probes that were left out, and why."""
    trouble: str = ""
    """Why the scene could not be played, or not to its end."""
    refused: str = ""
    """Why the host would not hand the key to this sandbox; a stand-in then took the agent's seat."""


@dataclass(frozen=True)
class Outcome:
    engine: str
    probe: str
    promise: str
    tries: str
    status: str
    evidence: str


def all_held(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing was seen to fail, and something to hold."""
    statuses = {outcome.status for outcome in outcomes}
    return NOT_HELD not in statuses and bool(statuses & {HELD, NOT_ENFORCED})


def judge(engine: str, probe: Probe, real: Scene, control: Scene, missing: Mapping[str, str]) -> Outcome:
    """The verdict on one probe from what both scenes saw."""
    status, evidence = _verdict(probe, real, control, missing)
    return Outcome(engine, probe.id, probe.promise, probe.tries, status, one_line(evidence))


def _verdict(probe: Probe, real: Scene, control: Scene, missing: Mapping[str, str]) -> tuple[str, str]:
    # A leak that was seen needs no control to be believed.
    if leak := find_leak(probe, real):
        if known := [missing[name] for name in probe.depends if name in missing]:
            return NOT_ENFORCED, known[0]
        return NOT_HELD, f"{leak} ({real.refused})" if real.refused else leak
    if doubt := _doubt(probe, real, control):
        return NOT_TESTED, doubt
    return HELD, _gist(real.texts[probe.id]) or "nothing found"


def _doubt(probe: Probe, real: Scene, control: Scene) -> str:
    """Why it means nothing that no leak was seen; empty if it does mean something."""
    text, control_text = real.texts.get(probe.id), control.texts.get(probe.id)
    if text is None:
        return _why_not(probe, real)
    if control_text is None:
        return f"no control: {_why_not(probe, control)}"
    if not find_leak(probe, control):
        return f"with the control off it saw nothing either: {_gist(control_text)}"
    return "" if probe.proof in text else f"it did not come to its end: {_gist(text)}"


def _why_not(probe: Probe, scene: Scene) -> str:
    return scene.skipped.get(probe.id) or scene.trouble or "the scene ended before it"


def find_leak(probe: Probe, scene: Scene) -> str:
    """The first piece of what the probe saw that is a leak; empty if there is none."""
    pattern = probe.leak.replace("{canary}", re.escape(scene.canary))
    match = re.search(pattern, scene.texts.get(probe.id, ""), re.MULTILINE)
    return match[0] if match else ""


def _gist(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if line and RAN not in line), "")


def one_line(text: str, most: int = EVIDENCE) -> str:
    """Evidence comes from a sandbox: one line, printable, short."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def measured(text: str) -> str:
    return f"came back: {len(text.encode())} bytes\n{RAN}"


def wrapped(command: str) -> str:
    """A probe's command as every shell gets it, here and in the control."""
    return f"( {command}\n) 2>&1; echo '{RAN}'"
