"""Time zones by name, and where a day begins in one. The time is always given: no clock is read here."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo


def zone_of(name: str) -> tzinfo:
    """A zone that `config` has checked; UTC also where no time zones are installed."""
    return UTC if name == "UTC" else ZoneInfo(name)


def midnight(now: float, name: str) -> float:
    """When the day began that it is at `now`; both in seconds since the epoch."""
    day = datetime.fromtimestamp(now, zone_of(name))
    return day.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()
