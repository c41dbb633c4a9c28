"""A year of scheduled tasks on a simulated clock: both changes of the clocks, three time zones, twenty schedules each.

What should have happened is worked out apart from the program: every minute of the year is turned into local time, and
each schedule is asked whether that minute is one of its own. The program's schedules, its store (a real file), its
scheduler and its queue of turns then live through the same year, with crashes, stops and long turns in it.
"""

from __future__ import annotations

import bisect
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from host import schedule, tasks
from host.log import Log
from host.model import Group, Task, TaskRun
from host.store import Store
from host.turns import Command, Start, Turns
from tests.fakes.clock import Clock

BEGIN = datetime(2028, 1, 1, tzinfo=UTC).timestamp()
END = datetime(2029, 1, 1, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60, 3600, 86_400

# Hours, half an hour, and summer at the other end of the year. With a time that is in the gap of each.
ZONES = {
    "Europe/Berlin": "2028-03-26T02:30",
    "America/New_York": "2028-03-12T02:10",
    "Australia/Lord_Howe": "2028-10-01T02:15",
}
FIXED = (
    "0 8 * * *", "30 2 * * *", "0 2 * * *", "15,45 1-3 * * *", "50 1 * * *", "0 3 * * 0", "0 0 1 * *", "0 12 * * 1-5",
    "59 23 31 12 *", "0 9 1,15 * 1", "0 6 29 2 *", "10 2 * 3,4,10,11 *",
)  # fmt: skip
PACES = ("*/15 * * 3,4,10,11 0", "0 * * * 0,1", "0 */6 * * *", "*/30 2 * * *", "20 */2 * * 6")
INTERVALS = ("25200", "86400")
ONCE = 1
assert len(FIXED) + len(PACES) + len(INTERVALS) + ONCE == 20


# --- what should happen ---------------------------------------------------------------------------------

Face = tuple[int, int]
"""What a clock shows: hour and minute."""


def year_of(zone: str) -> dict[date, list[tuple[float, Face]]]:
    """Every minute of the year as it really passes, by local date: whole days, and one more at each end."""
    days: dict[date, list[tuple[float, Face]]] = defaultdict(list)
    place, instant = ZoneInfo(zone), datetime.fromtimestamp(BEGIN - 2 * DAY, UTC)
    for _ in range(int(END - BEGIN + 4 * DAY) // MINUTE):
        local = instant.astimezone(place)
        days[local.date()].append((instant.timestamp(), (local.hour, local.minute)))
        instant += timedelta(minutes=1)
    del days[min(days)], days[max(days)]
    return days


def numbers(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        start, end = (low, high) if span == "*" else (int(first), int(last or first))
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def is_day(text: str, day: date) -> bool:
    _, _, dom, month, dow = text.split()
    matches = (day.day in numbers(dom, 1, 31), day.isoweekday() % 7 in {n % 7 for n in numbers(dow, 0, 7)})
    either = not dom.startswith("*") and not dow.startswith("*")
    return day.month in numbers(month, 1, 12) and (any(matches) if either else all(matches))


def times_of_cron(text: str, days: dict[date, list[tuple[float, Face]]]) -> list[float]:
    minute, hour, *_ = text.split()
    faces = sorted((h, m) for h in numbers(hour, 0, 23) for m in numbers(minute, 0, 59))
    shows = frozenset(faces)
    found: set[float] = set()
    for day, minutes in days.items():
        if not is_day(text, day):
            continue
        if minute.startswith("*") or hour.startswith("*"):
            found |= {at for at, face in minutes if face in shows}
            continue
        for face in faces:
            shown = [at for at, seen in minutes if seen == face]
            # The first time that the clock shows it; where it never does, the first minute after the gap.
            found.add(shown[0] if shown else next(at for at, seen in minutes if seen > face))
    return sorted(at for at in found if BEGIN < at <= END)


def expected(zone: str, days: dict[date, list[tuple[float, Face]]]) -> dict[tuple[str, str], list[float]]:
    """(kind, text) → the times of the year."""
    found = {("cron", text): times_of_cron(text, days) for text in (*FIXED, *PACES)}
    for text in INTERVALS:
        found["interval", text] = [float(at) for at in range(int(BEGIN) + int(text), int(END) + 1, int(text))]
    day = date.fromisoformat(ZONES[zone][:10])
    face = (int(ZONES[zone][11:13]), int(ZONES[zone][14:16]))
    found["once", ZONES[zone]] = [next(at for at, seen in days[day] if seen > face)]
    return found


@pytest.fixture(scope="module")
def oracle() -> dict[str, dict[tuple[str, str], list[float]]]:
    return {zone: expected(zone, year_of(zone)) for zone in ZONES}


def test_the_year_has_what_it_is_for(oracle: dict[str, dict[tuple[str, str], list[float]]]) -> None:
    """The positive control: in each zone the clocks change twice, and the schedules meet it."""
    for zone, times in oracle.items():
        assert len(times["cron", "30 2 * * *"]) == 366
        steps = {later - earlier for earlier, later in pairwise(times["cron", "0 8 * * *"])}
        change = 1800 if zone == "Australia/Lord_Howe" else 3600
        assert steps == {DAY - change, DAY, DAY + change}
        assert times["cron", "0 6 29 2 *"]
        in_gap = times["once", ZONES[zone]][0]
        assert in_gap in times["cron", "30 2 * * *"] or zone != "Europe/Berlin"
    assert len(oracle["Europe/Berlin"]["cron", "*/30 2 * * *"]) == 2 * 366  # a gap, and twice that hour


# --- what the program says, asked directly --------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_each_schedule_s_times_are_those_of_the_clocks(
    zone: str, oracle: dict[str, dict[tuple[str, str], list[float]]]
) -> None:
    for (kind, text), times in oracle[zone].items():
        found, after = schedule.parse(kind, text, zone, BEGIN), BEGIN
        for at in times:
            later = schedule.next_run(found, after)
            assert later == at, (text, schedule.local(after, zone))
            after = at
        last = schedule.next_run(found, after)
        assert last is None if kind == "once" else (last or 0) > END


@pytest.mark.parametrize("zone", ZONES)
def test_from_any_moment_the_next_time_is_the_same(
    zone: str, oracle: dict[str, dict[tuple[str, str], list[float]]]
) -> None:
    """A host may start at any moment, also in the hour that the clock shows twice."""
    rng = random.Random(zone)
    odd_days = [pair for pair in pairwise(oracle[zone]["cron", "0 8 * * *"]) if pair[1] - pair[0] != DAY]
    assert len(odd_days) == 2
    for (kind, text), times in oracle[zone].items():
        found = schedule.parse(kind, text, zone, BEGIN)
        moments = [rng.uniform(BEGIN, END) for _ in range(100)]
        moments += [rng.uniform(*day) for day in odd_days for _ in range(200)]
        for moment in moments:
            place = bisect.bisect_right(times, moment)
            if place < len(times):
                assert schedule.next_run(found, moment) == times[place], (text, schedule.local(moment, zone))


# --- the program living through it ----------------------------------------------------------------------


class CrashError(Exception):
    """The host is gone at this very instruction."""


@dataclass
class House:
    """What the host is around its scheduler: a store, turns, and runs that take a while."""

    path: Path
    clock: Clock
    log: Log
    rng: random.Random
    crash_at: str = ""
    crashes: int = 0

    def open(self) -> None:
        self.store = Store(self.path, clock=self.clock.time)
        self.turns = Turns(4)
        self.runs: dict[str, TaskRun] = {}
        self.scheduler = tasks.Scheduler(
            self.clock,
            self.store,
            ZONE_OF.__getitem__,
            self.due,
            self.log,
            self.clock.time,  # type: ignore[arg-type]
        )
        self.store.recover()
        self.scheduler.start()

    def may_crash(self, where: str) -> None:
        if self.crash_at == where:
            self.crash_at = ""
            self.crashes += 1
            raise CrashError(where)

    def due(self, run: TaskRun) -> None:
        self.may_crash("claimed")
        self.runs[run.task.id] = run
        self.carry_out(self.turns.task_due(run.task.group, run.task.id))

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            assert isinstance(command, Start)
            assert command.task is not None
            self.begin(self.runs.pop(command.task))

    def begin(self, run: TaskRun) -> None:
        self.may_crash("started")
        turn = f"{run.task.id}@{self.clock.wall}"
        self.store.begin_turn(run.task.group, turn, run)
        self.may_crash("begun")
        slow = run.task.prompt == "slow"
        self.clock.call_later(5 * HOUR if slow else self.rng.uniform(1, 20), lambda: self.end(run, turn))

    def end(self, run: TaskRun, turn: str) -> None:
        self.may_crash("ending")
        self.store.finish_turn(run.task.group, turn, 0, "", [], (1, 1), run)
        self.may_crash("ended")
        self.scheduler.changed()
        self.carry_out(self.turns.turn_ended(run.task.group, False))

    def live(self, until: float) -> None:
        """Up to that time, and through the crashes on the way."""
        while self.clock.wall < until:
            try:
                self.clock.run(until - self.clock.wall)
            except CrashError:
                self.restart(self.rng.choice([0, 1, 30, 600, 3 * HOUR]))

    def restart(self, down: float) -> None:
        while True:
            self.clock.forget()
            self.store.close()
            self.clock.run(down)
            try:
                self.open()
            except CrashError:
                continue
            return


ZONE_OF = {zone.rpartition("/")[2]: zone for zone in ZONES}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For a real file, in memory where that is to be had: a year of syncs takes a disk minutes, and a kill, unlike a
    power cut, needs none of them."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@pytest.fixture
def house(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    # The look at the clock each minute is for clocks that jump; this one does not, and a year has many minutes.
    monkeypatch.setattr(tasks, "LOOK_SECONDS", 40 * DAY)
    made = House(folder / "nanoclaw.db", Clock(BEGIN), Log(tmp_path / "log"), random.Random(2028))
    made.open()
    for group in ZONE_OF:
        made.store.add_group(Group(group, "console", group, group))
    yield made
    made.store.close()
    made.log.close()


def add(house: House, group: str, kind: str, text: str, prompt: str = "quick") -> str:
    when = schedule.parse(kind, text, ZONE_OF[group], BEGIN)
    task_id = f"{group} {kind} {text}"
    house.store.tasks.add(
        Task(task_id, group, prompt, kind, when.text, "isolated", "", "active", "", BEGIN,
             schedule.next_run(when, BEGIN), zone=when.zone, anchor=when.anchor)
    )  # fmt: skip
    return task_id


def runs_of(house: House, task_id: str, *, may_fail: bool = False) -> list[tuple[float, float, float]]:
    """(due, started, ended) of all its runs, in their order. `may_fail`: some were interrupted too often."""
    runs = house.store.tasks.runs(task_id, 100_000)[::-1]
    outcomes = {run["outcome"] for run in runs}
    assert outcomes <= ({"nothing to do", "failed:interrupted"} if may_fail else {"nothing to do"})
    return [(run["due"], run["started_at"], run["started_at"] + run["seconds"]) for run in runs]


def check(times: list[float], runs: list[tuple[float, float, float]], what: str) -> None:
    """Each time of the schedule was answered by one run: its own, or one that began late and after it."""
    answered = 0
    for at, started, ended in runs:
        assert answered < len(times), f"{what}: a run too many"
        assert at == times[answered], f"{what}: missed, doubled or drifted"
        assert at <= started <= ended
        answered = bisect.bisect_right(times, started)
    assert answered == len(times) or times[answered] > END - DAY, f"{what}: missed"
    for (_, _, ended), (_, started, _) in pairwise(runs):
        assert ended <= started, f"{what}: overlaps itself"


def test_a_year_without_trouble(house: House, oracle: dict[str, dict[tuple[str, str], list[float]]]) -> None:
    ids = {}
    for group, zone in ZONE_OF.items():
        for kind, text in oracle[zone]:
            ids[add(house, group, kind, text)] = oracle[zone][kind, text]
    house.scheduler.changed()
    house.live(END + HOUR)
    count = 0
    for task_id, times in ids.items():
        runs = runs_of(house, task_id)
        assert [due for due, *_ in runs if due <= END] == times, task_id
        # Late by no more than the other tasks of its group that were due at the same time.
        assert all(started - due <= 20 * 21 for due, started, _ in runs)
        count += len(runs)
    assert count > 20_000


def test_a_year_of_crashes_and_long_turns(house: House, oracle: dict[str, dict[tuple[str, str], list[float]]]) -> None:
    chosen = [("cron", text) for text in (*FIXED, "0 * * * 0,1", "*/30 2 * * *")] + [("interval", "25200")]
    ids = {}
    for group, zone in ZONE_OF.items():
        for kind, text in [*chosen, ("once", ZONES[zone])]:
            ids[add(house, group, kind, text)] = oracle[zone][kind, text]
        # Every two hours on Saturdays, and it takes five.
        slow = add(house, group, "cron", "20 */2 * * 6", prompt="slow")
        ids[slow] = oracle[zone]["cron", "20 */2 * * 6"]
    house.scheduler.changed()
    stops = 0
    while house.clock.wall < END:
        house.live(house.clock.wall + house.rng.uniform(0, 2 * DAY))
        if house.rng.random() < 0.8:
            house.crash_at = house.rng.choice(["claimed", "started", "begun", "ending", "ended"])
        else:
            stops += 1
            house.scheduler.stop()
            house.restart(house.rng.uniform(0, 12 * HOUR))
    house.live(END + 8 * HOUR)
    assert house.crashes > 100
    assert stops > 20
    late = 0
    for task_id, times in ids.items():
        runs = runs_of(house, task_id, may_fail="*/2" in task_id)
        check(times, [run for run in runs if run[0] <= END], task_id)
        late += sum(started - due > HOUR for due, started, _ in runs)
    assert late > 100, "the trouble was felt"
