"""What a look at one thing found. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

OK, WARNING, FAILURE = "ok", "warning", "failure"
CODES: Final = {OK: "32", WARNING: "33", FAILURE: "1;31"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    name: str
    state: str
    found: str
    """What is there, for a person."""
    next: str = ""
    """What to do about it; empty where there is nothing to do."""


def ok(name: str, found: str) -> Finding:
    return Finding(name, OK, found)


def warning(name: str, found: str, next_step: str = "") -> Finding:
    return Finding(name, WARNING, found, next_step)


def failure(name: str, found: str, next_step: str = "") -> Finding:
    return Finding(name, FAILURE, found, next_step)


def record(findings: list[Finding]) -> dict[str, Any]:
    """The same as JSON values."""
    return {"ok": not any(f.state == FAILURE for f in findings), "checks": [asdict(f) for f in findings]}
