"""What was measured, as numbers and as a table. Pure: no clock, no I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

TIMES: Final = "\N{MULTIPLICATION SIGN}"
"""The unit of a ratio."""


class BenchError(Exception):
    """A measurement could not be made: something did not start, did not answer, or gave a wrong answer."""


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing, in the unit that they are to be shown in."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise BenchError("there is not one sample")

    @classmethod
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Samples:
        return cls(tuple(value * scale for value in values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def p95(self) -> float:
        return percentile(self.values, 0.95)

    def __len__(self) -> int:
        return len(self.values)

    def described(self, unit: str = "ms") -> str:
        low, middle, high = (plain(value) for value in (self.least, self.median, self.p95))
        return f"least {low}, median {middle}, p95 {high} {unit} ({len(self)} samples)"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed: never a value in between."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratio(measured: float, baseline: float) -> float:
    if baseline <= 0:
        raise BenchError("the baseline took no time at all")
    return measured / baseline


@dataclass(frozen=True)
class Row:
    """One line of the table. `aim` is the most that `value` should be; None where there is no aim."""

    what: str
    value: float
    unit: str
    aim: float | None = None
    details: tuple[str, ...] = ()
    """How it came about: samples, the baseline, what else was seen."""

    @property
    def reached(self) -> bool | None:
        return None if self.aim is None else self.value <= self.aim

    @property
    def verdict(self) -> str:
        return {None: "", True: "reached", False: "MISSED"}[self.reached]

    def record(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "value": round(self.value, 4),
            "unit": self.unit,
            "aim": self.aim,
            "reached": self.reached,
            "details": list(self.details),
        }


def table(rows: Sequence[Row]) -> str:
    """Each row with its result, its aim and whether that is reached; beneath it, how it came about."""
    cells = [(row.what, shown(row.value, row.unit), _aim(row), row.verdict) for row in rows]
    cells.insert(0, ("measured", "result", "aim", ""))
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    lines = []
    for at, (what, result, aim, verdict) in enumerate(cells):
        line = f"{what.ljust(widths[0])}  {result.rjust(widths[1])}  {aim.ljust(widths[2])}  {verdict}"
        lines.append(line.rstrip())
        lines += [f"    {detail}" for detail in (rows[at - 1].details if at else ())]
    return "\n".join(lines)


def _aim(row: Row) -> str:
    return "" if row.aim is None else f"≤ {shown(row.aim, row.unit)}"


def shown(value: float, unit: str) -> str:
    return f"{value:.2f} {TIMES}" if unit == TIMES else f"{plain(value)} {unit}"


def plain(value: float) -> str:
    """Three digits that mean something, and no exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
