"""What a drill found, for a person and for a program. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from host.drill.words import HELD, NOT_ENFORCED, NOT_HELD, NOT_TESTED, Outcome, one_line
from host.model import Enforcement

Paint = Callable[[str, str], str]
"""Text and an SGR code → text, coloured where colours are shown."""
CODES: Final = {HELD: "32", NOT_HELD: "1;31", NOT_TESTED: "33", NOT_ENFORCED: "33"}
WIDTHS: Final = (7, 23, 12)
LEAST: Final = 30
"""Columns of evidence on the narrowest terminal: it wraps then, and nothing is lost."""


def table(outcomes: Sequence[Outcome], width: int, paint: Paint) -> str:
    """A line a probe; below those that did not hold, what they tried."""
    lines = [paint(_row("promise", "probe", "result", "evidence"), "1")]
    for outcome in outcomes:
        room = max(LEAST, width - sum(WIDTHS) - len(WIDTHS))
        status = paint(outcome.status.ljust(WIDTHS[2]), CODES[outcome.status])
        lines.append(_row(outcome.promise, outcome.probe, status, one_line(outcome.evidence, room)))
        if outcome.status != HELD:
            lines.append(_row("", "", "", f"it tried to {outcome.tries}"))
    return "\n".join(lines)


def _row(promise: str, probe: str, status: str, evidence: str) -> str:
    cells = (cell.ljust(width) for cell, width in zip((promise, probe, status), WIDTHS, strict=True))
    return " ".join([*cells, evidence]).rstrip()


def summary(outcomes: Sequence[Outcome], enforcement: Enforcement, seconds: float) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    parts = [f"{counts[status]} {status}" for status in (HELD, NOT_HELD, NOT_ENFORCED, NOT_TESTED) if counts[status]]
    engine = f"{enforcement.engine} {enforcement.version}"
    return f"{engine}: {len(outcomes)} probes in {seconds:.0f} s: {', '.join(parts)}"


def record(outcomes: Sequence[Outcome], enforcement: Enforcement, seconds: float) -> dict[str, Any]:
    """The same as JSON values."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "engine": enforcement.engine,
        "version": enforcement.version,
        "seconds": round(seconds, 1),
        "counts": {status: counts[status] for status in (HELD, NOT_HELD, NOT_ENFORCED, NOT_TESTED)},
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
