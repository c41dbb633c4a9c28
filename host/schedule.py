"""When a task runs next: cron, interval or once, in its group's time zone. Pure: the time is always given.

What the zone's clock does twice a year:

- **cron at fixed times** (neither the minute nor the hour begins with `*`): a time that the spring gap leaves out
  comes once, at the end of the gap; one that the autumn repeats comes once, the first time. Times that fall together
  at the end of the gap are one.
- **cron with a pace** (`*/15 * * * *`, `0 * * * *`): the pace goes on in real time. It matches what the clock shows,
  so of an hour that is left out there is nothing, and an hour that is repeated counts twice.
- **interval**: seconds that have passed. Clocks do not matter.
- **once**: as cron at a fixed time, unless the text has an offset of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from host.errors import UserError
from host.model import Task
from host.zones import zone_of

KINDS: Final = ("cron", "interval", "once")
# A sandbox, a prompt and an answer take that long; and cron's own unit is the minute.
MIN_INTERVAL: Final = 60
MAX_INTERVAL: Final = 366 * 86_400
MAX_YEARS: Final = 10
"""How far away a `once` may be."""
MAX_CRON: Final = 200
"""Longest text of a cron schedule."""

_ONCE: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(Z|[+-]\d\d:\d\d)?", re.ASCII | re.IGNORECASE)
_FIELDS: Final = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31 and a day that these months have, or L for the last",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7 (0 and 7 are Sunday), or SUN to SAT",
}
_CRON_HINT: Final = (
    "five fields: minute, hour, day of the month, month, day of the week; each is *, a number, a range 1-5, "
    "a list 1,15 or a step */10. At 8:00 from Monday to Friday: 0 8 * * 1-5"
)
_ONCE_HINT: Final = "a date and a time in the group's time zone, such as 2026-12-24T18:00"


@dataclass(frozen=True)
class Schedule:
    """A schedule that `parse` has checked, or that comes from a task that was stored."""

    kind: str
    text: str
    zone: str
    anchor: float
    """Seconds since the epoch that an interval counts from."""


def parse(kind: str, untrusted_text: str, zone: str, now: float) -> Schedule:
    """The schedule, in its normal spelling, with a run after `now`. `UserError` says to a person what is wrong."""
    if kind not in KINDS:
        raise UserError(f"{kind[:40]!r} is no kind of schedule", f"it is one of: {', '.join(KINDS)}", status=2)
    text = " ".join(untrusted_text.split())
    if kind == "interval":
        text = _checked_interval(text)
    elif kind == "once":
        _check_once(text, zone, now)
    elif len(text) > MAX_CRON:
        raise UserError(f"the cron schedule is longer than {MAX_CRON} characters", _CRON_HINT, status=2)
    schedule = Schedule(kind, text, zone, float(int(now)))
    if next_run(schedule, now) is None:
        raise UserError(f"the schedule {text!r} never comes: there is no such day", _CRON_HINT, status=2)
    return schedule


def of(task: Task) -> Schedule:
    """The schedule of a stored task."""
    return Schedule(task.kind, task.schedule, task.zone, task.anchor)


def next_run(schedule: Schedule, after: float) -> float | None:
    """Its first time later than `after`; None: it has none any more."""
    if schedule.kind == "interval":
        every = int(schedule.text)
        # Both are whole seconds, so that no rounding ever brings back a time that has been.
        return schedule.anchor + ((after - schedule.anchor) // every + 1) * every
    if schedule.kind == "once":
        at = instant(schedule)
        return at if at > after else None
    # Down to the second, since a datetime would round, and a time that comes in less than a microsecond be missed.
    return _next_cron(schedule.text, zone_of(schedule.zone), math.floor(after))


def instant(schedule: Schedule) -> float:
    """When a `once` is due, whether or not that is past."""
    found = _ONCE.fullmatch(schedule.text)
    assert found is not None, "parse let it through"
    day, clock, offset = found.groups()
    if offset:
        return datetime.fromisoformat(f"{day}T{clock}{offset.upper()}").timestamp()
    return _existing(datetime.fromisoformat(f"{day}T{clock}"), zone_of(schedule.zone)).timestamp()


def local(at: float, zone: str) -> str:
    """A time as its group's clock shows it, with the offset: `2026-12-24T18:00+01:00`."""
    return datetime.fromtimestamp(at, zone_of(zone)).isoformat(timespec="minutes")


def _existing(naive: datetime, zone: tzinfo) -> datetime:
    """This local time; the first of two, and the end of the gap for none."""
    while True:
        aware = naive.replace(tzinfo=zone)
        # A wall clock never shows what does not survive the way to UTC and back.
        if aware.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == naive:
            return aware
        naive = naive.replace(second=0) + timedelta(minutes=1)


def _checked_interval(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        hint = f"a whole number of seconds, {MIN_INTERVAL} or more; every two hours: 7200"
        raise UserError(f"the interval {text[:40]!r} is not a number of seconds", hint, status=2)
    seconds = int(text)
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        hint = f"choose {MIN_INTERVAL} to {MAX_INTERVAL} (a year)"
        raise UserError(f"an interval of {seconds} seconds is too {'short' if seconds < MIN_INTERVAL else 'long'}",
                        hint, status=2)  # fmt: skip
    return str(seconds)


def _check_once(text: str, zone: str, now: float) -> None:
    if not _ONCE.fullmatch(text):
        raise UserError(f"{text[:40]!r} is not a date and a time", _ONCE_HINT, status=2)
    try:
        at = instant(Schedule("once", text, zone, 0.0))
    except (ValueError, OverflowError) as e:
        raise UserError(f"{text!r} is no time: {e}", _ONCE_HINT, status=2) from None
    if at <= now:
        raise UserError(f"{text!r} has passed: it is {local(now, zone)} in {zone}", "choose a later time", status=2)
    if at > now + MAX_YEARS * 366 * 86_400:
        raise UserError(f"{text!r} is more than {MAX_YEARS} years away", "choose an earlier time", status=2)


def _next_cron(text: str, zone: tzinfo, after: float) -> float | None:
    if (count := len(text.split())) != len(_FIELDS):
        fields = "one field" if count == 1 else f"{count} fields"
        raise UserError(f"the cron schedule {text[:60]!r} has {fields}", _CRON_HINT, status=2)
    minute, hour, *_ = text.split()
    if minute.startswith("*") or hour.startswith("*"):
        return _next_of_pace(text, zone, after)
    shown = datetime.fromtimestamp(after, zone).replace(tzinfo=None)
    times = (_existing(face, zone).timestamp() for face in _faces(text, shown))
    # In the hour that is repeated the clock shows a time that has been as if it were to come.
    return next((at for at in times if at > after), None)


def _next_of_pace(text: str, zone: tzinfo, after: float) -> float | None:
    """From one change of the clock to the next it runs evenly: what it is to show tells when that will be."""
    at = datetime.fromtimestamp(after, UTC)
    shown = at.astimezone(zone).replace(tzinfo=None)
    while (face := next(_faces(text, shown), None)) is not None:
        found = face.replace(tzinfo=UTC) - _offset(at, zone)
        change = _first_change(at, found, zone)
        if change is None:
            return found.timestamp()
        at = change
        shown = at.astimezone(zone).replace(tzinfo=None) - timedelta(seconds=1)  # what it then shows counts too
    return None


def _first_change(at: datetime, until: datetime, zone: tzinfo) -> datetime | None:
    """The first second up to `until` in which the clock goes otherwise than at `at`."""
    offset, low = _offset(at, zone), at.replace(microsecond=0)
    while low < until:
        high = min(low + timedelta(days=1), until)  # no clock changes twice in a day
        if _offset(high, zone) == offset:
            low = high
            continue
        while steps := (high - low) // timedelta(seconds=2):
            middle = low + timedelta(seconds=steps)
            low, high = (middle, high) if _offset(middle, zone) == offset else (low, middle)
        return high
    return None


def _offset(at: datetime, zone: tzinfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)


def _faces(text: str, after: datetime) -> Iterator[datetime]:
    """What a clock that never changes shows at the times of this schedule. Time zones are not its business: the
    package's own way with them misses times where clocks change by half an hour."""
    # Here and not above: the commands that need no schedule run without the packages of the host.
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise UserError(
            "cronsim is not installed, which reads cron schedules", "start NanoClaw by scripts/run"
        ) from None
    try:
        return CronSim(text, after)
    except CronSimError as e:
        raise UserError(*_cron_reason(text, str(e)), status=2) from None


def _cron_reason(text: str, said: str) -> tuple[str, str]:
    field = said.removeprefix("Bad ").lower()
    if field not in _FIELDS:
        return f"the cron schedule {text!r} is not right", _CRON_HINT
    name = field.replace("-of-", " of the ")
    written = text.split()[list(_FIELDS).index(field)]
    return f"the {name} in the cron schedule {text!r} is not right: {written!r}", f"{name}: {_FIELDS[field]}"
