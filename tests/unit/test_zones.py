"""Where a day begins, also on the days when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from host import zones


def at(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("zone", "now", "begun"),
    [
        ("Europe/Berlin", "2026-06-01T23:59:59", "2026-06-01T00:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00"),  # a day of 23 hours
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00"),  # of 25
        ("Asia/Tokyo", "2026-01-01T00:00", "2026-01-01T00:00"),
    ],
)
def test_a_day_begins_at_its_own_midnight(zone: str, now: str, begun: str) -> None:
    assert zones.midnight(at(now, zone), zone) == at(begun, zone)


def test_utc_needs_no_zone_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "ZoneInfo", None)
    assert zones.zone_of("UTC") is UTC
    assert zones.midnight(90_000.0, "UTC") == 86_400.0
