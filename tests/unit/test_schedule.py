"""When a task runs next: the three kinds, what clocks do twice a year, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host import schedule
from host.errors import UserError
from host.schedule import Schedule, local, next_run, parse
from tests.conftest import ROOT

BERLIN = "Europe/Berlin"
NOW = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def cron(text: str, zone: str = BERLIN) -> Schedule:
    return parse("cron", text, zone, NOW)


def following(found: Schedule, after: float, count: int) -> list[str]:
    """The next times as the group's clock shows them, with the offset."""
    times = []
    for _ in range(count):
        later = next_run(found, after)
        assert later is not None
        assert later > after
        times.append(local(later, found.zone))
        after = later
    return times


# --- cron -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("0 8 * * *", "2027-01-01T08:00", "2027-01-02T08:00"),
        ("30 8 * * 1-5", "2027-01-01T08:30", "2027-01-04T08:30"),
        ("30 8 * * mon-fri", "2027-01-01T08:30", "2027-01-04T08:30"),
        ("0 0 1 JAN,jul *", "2027-07-01T00:00", "2028-01-01T00:00"),
        ("*/20 * * * *", "2027-01-01T01:20", "2027-01-01T01:40"),
        ("5 4 * * 7", "2027-01-03T04:05", "2027-01-10T04:05"),
        ("5 4 * * 0", "2027-01-03T04:05", "2027-01-10T04:05"),
        ("0 12 13 * 5", "2027-01-01T12:00", "2027-01-08T12:00"),  # the 13th, and Fridays: either will do
        ("0 12 L * *", "2027-01-31T12:00", "2027-02-28T12:00"),
        ("0 0 29 2 *", "2028-02-29T00:00", "2032-02-29T00:00"),
        ("  0   8 * *\t*\n", "2027-01-01T08:00", "2027-01-02T08:00"),
    ],
)
def test_cron(text: str, first: str, second: str) -> None:
    assert [time[:16] for time in following(cron(text), NOW, 2)] == [first, second]


def test_a_run_is_later_than_the_moment_it_is_asked_for() -> None:
    daily = cron("0 8 * * *")
    eight = at("2027-01-05T08:00")
    assert next_run(daily, eight - 0.001) == eight
    for text in ("0 8 * * *", "*/15 * * * *"):
        assert next_run(cron(text), math.nextafter(eight, 0)) == eight
    assert next_run(daily, eight) == at("2027-01-06T08:00")
    assert next_run(daily, eight + 0.25) == at("2027-01-06T08:00")


def test_a_fixed_time_in_the_spring_gap_comes_once_at_its_end() -> None:
    daily = cron("30 2 * * *")
    times = following(daily, at("2027-03-27T00:00"), 3)
    assert times == ["2027-03-27T02:30+01:00", "2027-03-28T03:00+02:00", "2027-03-29T02:30+02:00"]
    assert following(cron("0,15,30 2,3 * * *"), at("2027-03-28T00:00"), 4) == [
        "2027-03-28T03:00+02:00", "2027-03-28T03:15+02:00", "2027-03-28T03:30+02:00", "2027-03-29T02:00+02:00",
    ]  # fmt: skip


def test_a_fixed_time_in_the_autumn_fold_comes_once() -> None:
    daily = cron("30 2 * * *")
    times = following(daily, at("2027-10-30T00:00"), 3)
    assert times == ["2027-10-30T02:30+02:00", "2027-10-31T02:30+02:00", "2027-11-01T02:30+01:00"]


@pytest.mark.parametrize("minutes", range(0, 120, 7))
def test_from_anywhere_in_the_fold_a_time_that_has_been_does_not_come_again(minutes: int) -> None:
    """A restart asks from any moment: also from one whose face on the clock comes before a time that has been."""
    start = at("2027-10-31T02:00")
    after = start + minutes * 60
    expected = "2027-10-31T02:45+02:00" if minutes < 45 else "2027-11-01T02:45+01:00"
    assert following(cron("45 2 * * *"), after, 1) == [expected]


def test_a_pace_goes_on_in_real_time() -> None:
    for text, seconds in (("*/15 * * * *", 900), ("0 * * * *", 3600), ("7 * * * *", 3600)):
        found = cron(text)
        for day in ("2027-03-28T00:00", "2027-10-31T00:00"):
            after = next_run(found, at(day))
            assert after is not None
            for _ in range(4 * 3600 // seconds):
                later = next_run(found, after)
                assert later == after + seconds
                after = later


def test_a_gap_at_midnight() -> None:
    santiago = "America/Santiago"  # 2027-09-05 begins at 01:00
    assert following(cron("0 0 * * *", santiago), at("2027-09-04T12:00", santiago), 2) == [
        "2027-09-05T01:00-03:00", "2027-09-06T00:00-03:00",
    ]  # fmt: skip
    assert following(cron("30 0 5 9 *", santiago), at("2027-09-04T12:00", santiago), 1) == ["2027-09-05T01:00-03:00"]


def test_once_a_day_in_zones_that_change_by_half_an_hour_by_two_hours_or_in_ramadan() -> None:
    for zone in ("Africa/Casablanca", "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns", "Antarctica/Troll"):
        found = Schedule("cron", "30 2 * * *", zone, 0.0)
        after = NOW
        for _ in range(366):
            later = next_run(found, after)
            assert later is not None
            assert 20 * 3600 <= later - after <= 28 * 3600 or after == NOW
            after = later


# --- interval, once -------------------------------------------------------------------------------------


def test_an_interval_is_anchored_and_never_drifts() -> None:
    found = parse("interval", "5400", BERLIN, NOW + 0.75)
    assert found.anchor == NOW
    assert next_run(found, NOW + 0.75) == NOW + 5400
    assert next_run(found, NOW + 5400) == NOW + 10800
    assert next_run(found, NOW + 5399.999) == NOW + 5400
    assert next_run(found, NOW + 1_000_000 * 5400 + 17.123) == NOW + 1_000_001 * 5400


@given(st.floats(0, 4e9), st.integers(schedule.MIN_INTERVAL, schedule.MAX_INTERVAL), st.floats(0, 4e9))
def test_an_interval_s_next_time_is_later_by_no_more_than_one_interval(now: float, every: int, after: float) -> None:
    found = parse("interval", str(every), "UTC", now)
    later = next_run(found, after)
    assert later is not None
    assert after < later <= after + every
    assert (later - found.anchor) % every == 0


def test_once() -> None:
    found = parse("once", "2027-07-01T08:00", BERLIN, NOW)
    assert next_run(found, NOW) == at("2027-07-01T08:00")
    assert next_run(found, at("2027-07-01T08:00")) is None
    for same in ("2027-07-01 08:00", "2027-07-01T08:00:00", "2027-07-01T06:00Z", "2027-07-01t09:00+03:00"):
        assert next_run(parse("once", same, BERLIN, NOW), NOW) == at("2027-07-01T08:00")


def test_once_at_a_time_that_the_clock_shows_twice_or_never() -> None:
    assert next_run(parse("once", "2027-10-31T02:30", BERLIN, NOW), NOW) == at("2027-10-31T02:30", fold=0)
    assert next_run(parse("once", "2027-03-28T02:30:30", BERLIN, NOW), NOW) == at("2027-03-28T03:00")


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("weekly", "monday", "'weekly' is no kind of schedule"),
        ("cron", "", "has 0 fields"),
        ("cron", "@daily", "has one field"),
        ("cron", "0 8 * *", "has 4 fields"),
        ("cron", "0 0 8 * * *", "has 6 fields"),
        ("cron", "60 8 * * *", "the minute in the cron schedule '60 8 * * *' is not right: '60'"),
        ("cron", "0 24 * * *", "the hour in"),
        ("cron", "0 8 0 * *", "the day of the month in"),
        ("cron", "0 8 * 13 *", "the month in"),
        ("cron", "0 8 * FOO *", "not right: 'FOO'"),
        ("cron", "0 8 * * 8", "the day of the week in"),
        ("cron", "0 8 * * fri-mon", "not right: 'fri-mon'"),
        ("cron", "*/0 * * * *", "not right: '*/0'"),
        ("cron", "-5 * * * *", "the minute in"),
        ("cron", "1,,2 * * * *", "the minute in"),
        ("cron", "٣ * * * *", "the minute in"),
        ("cron", "0 8 30 2 *", "the day of the month in"),
        ("cron", "0 8 31 4,6,9,11 *", "the day of the month in"),
        ("cron", "1," * 200 + "1 * * * *", "longer than 200 characters"),
        ("interval", "", "is not a number of seconds"),
        ("interval", "1h", "'1h' is not a number of seconds"),
        ("interval", "-60", "is not a number of seconds"),
        ("interval", "1e9", "is not a number of seconds"),
        ("interval", "٦٠٠", "is not a number of seconds"),
        ("interval", "0", "too short"),
        ("interval", "59", "an interval of 59 seconds is too short"),
        ("interval", "999999999999", "too long"),
        ("interval", "9" * 5000, "is not a number of seconds"),
        ("once", "tomorrow", "'tomorrow' is not a date and a time"),
        ("once", "2027-07-01", "is not a date and a time"),
        ("once", "08:00", "is not a date and a time"),
        ("once", "2027-02-30T08:00", "day is out of range for month"),
        ("once", "2027-07-01T25:00", "hour must be in 0..23"),
        ("once", "2027-07-01T08:00+25:00", "is no time"),
        ("once", "2026-12-31T08:00", "has passed: it is 2027-01-01T01:00+01:00 in Europe/Berlin"),
        ("once", "0001-01-01T00:00+12:00", "has passed"),
        ("once", "2040-01-01T08:00", "more than 10 years away"),
        ("once", "9999-12-31T23:59-12:00", "more than 10 years away"),
    ],
)
def test_what_is_refused_and_why(kind: str, text: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(kind, text, BERLIN, NOW)
    assert says in str(refused.value)
    assert refused.value.hints
    assert len(str(refused.value)) < 400


@given(
    st.sampled_from(schedule.KINDS),
    st.one_of(
        st.text(max_size=60),
        st.text("0123456789*/-,#LWMONJAN T:+Z", max_size=40),
        st.tuples(*[st.text("0123456789*/-,#LW", min_size=1, max_size=6)] * 5).map(" ".join),
        st.datetimes().map(lambda when: when.isoformat(timespec="minutes")),
    ),
)
def test_any_text_is_a_schedule_with_a_next_time_or_refused_with_a_reason(kind: str, text: str) -> None:
    try:
        found = parse(kind, text, BERLIN, NOW)
    except UserError as e:
        assert str(e)
        return
    later = next_run(found, NOW)
    assert later is not None
    assert later > NOW
    assert parse(kind, found.text, BERLIN, NOW) == found  # the normal spelling of the normal spelling


def test_what_reads_no_cron_schedule_needs_no_package_of_others() -> None:
    code = (
        "import sys; sys.modules['cronsim'] = None\n"
        "from host import schedule; from host.errors import UserError\n"
        "import host.cli, host.tasks, host.calls\n"
        "schedule.parse('interval', '60', 'UTC', 0.0); schedule.parse('once', '1971-01-01T00:00', 'UTC', 0.0)\n"
        "try: schedule.parse('cron', '* * * * *', 'UTC', 0.0)\n"
        "except UserError as e: print(e, *e.hints)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "cronsim is not installed, which reads cron schedules start NanoClaw by scripts/run\n"
