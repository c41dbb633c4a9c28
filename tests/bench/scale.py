"""A home that is full: decisions by the second, and a host with a thousand groups and their messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from host import control, policy
from host.model import Group
from host.store import Store
from host.turns import Command, Start, Turns
from tests.bench import procfs
from tests.bench.figures import BenchError, Row, Samples, ratio
from tests.bench.ground import Ground, load
from tests.bench.parties import Host, Model

GROUPS: Final = 1000
MESSAGES: Final = 100_000
FULL_AIM_MB: Final = 60.0
START_AIM_MS: Final = 10.0
SECONDS: Final = 1.0
"""For each of the decisions."""
REST_SECONDS: Final = 2.0
TURN_SECONDS: Final = 40.0


def decisions(ground: Ground) -> list[Row]:
    """How many of each are made in a second, against as many calls of a function that decides nothing."""
    groups = [Group(f"g{n}", "console", str(n), str(n), is_main=n == 0) for n in range(200)]
    actions = list(policy.MAY)
    turns = Turns(4)
    running: list[str] = []

    def nothing(number: int) -> None:
        groups[number % 200]

    def authorize(number: int) -> None:
        policy.authorize(actions[number % len(actions)], groups[number % 200], groups[number % 7].folder)

    def take(commands: list[Command]) -> None:
        running.extend(command.folder for command in commands if isinstance(command, Start))

    def turn(number: int) -> None:
        take(turns.message_arrived(groups[number * 7 % 200].folder))
        if len(running) == 4:
            take(turns.turn_ended(running.pop(0), False))

    least = rate(nothing)
    rows = []
    for what, decide in {"decisions of `policy`": authorize, "decisions of `turns`": turn}.items():
        found = rate(decide)
        details = (
            f"a call that decides nothing: {least:.0f} a second, {ratio(least, found):.1f} times as many; {load()}",
        )
        rows.append(Row(what, found, "a second", None, details))
    return rows


def rate(decide: Callable[[int], None]) -> float:
    began, number = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < SECONDS:
        for _ in range(1000):
            decide(number)
            number += 1
    return number / taken


def full(ground: Ground) -> list[Row]:
    """Memory of a host that waits, and from a message to the start of its turn, with a store that is full."""
    with Model() as model:
        home = ground.home("full", model.url)
        ground.say(f"{GROUPS} groups, {MESSAGES} messages …")
        fill(home / "data" / "nanoclaw.db")
        with Host(home, ground.engine) as host:
            procfs.wait_for_rest(host.process.pid, REST_SECONDS)
            idle = procfs.memory(host.process.pid)
            host.watch()
            times = []
            for _ in ground.repeat(ground.rounds, TURN_SECONDS):
                host.warm_runner()
                times.append(until_started(host))
                model.asked()
                if (outcome := host.event("ended")["outcome"]) != "done":
                    raise BenchError(f"a turn ended as {outcome}")
            after = procfs.memory(host.process.pid)
    found = Samples.of(times, 1000)
    details = (f"at the start {idle}", f"after {len(found)} turns {after}")
    return [
        Row(f"host with {GROUPS} groups and {MESSAGES} messages", max(idle.rss, after.rss), "MB", FULL_AIM_MB, details),
        Row("message to turn start in it, p95", found.p95, "ms", START_AIM_MS, (found.described(), load())),
    ]


def until_started(host: Host) -> float:
    """From the message's being written to the socket, so its own commit is part of it."""
    began = time.monotonic()
    host.request(control.Send(uuid.uuid4().hex, "main", "a short answer please", ""))
    host.event("started")
    return time.monotonic() - began


def fill(path: Path) -> None:
    """Through the store, as a long life would; each message is followed by a turn that answered it."""
    store = Store(path)
    store.add_group(Group("main", "console", "main", "main", is_main=True))
    for number in range(GROUPS - 1):
        store.add_group(Group(f"group{number}", "console", f"chat{number}", f"Group {number}", needs_trigger=True))
    with store._transaction() as db:
        db.executemany(
            "INSERT INTO messages (channel, id, chat, sender, sender_name, text, sent_at, arrived_at)"
            " VALUES ('console', ?, ?, 'ann', 'Ann', ?, ?, ?)",
            (
                (f"old{n}", f"chat{n % (GROUPS - 1)}" if n % 10 else "main", "x" * 200, float(n), float(n))
                for n in range(MESSAGES)
            ),
        )
        db.execute("UPDATE groups SET (answered_upto, seen_upto) = (SELECT max(seq), max(seq) FROM messages)")
    assert store.messages.seq_of("console", f"old{MESSAGES - 1}") == MESSAGES
    store.close()
