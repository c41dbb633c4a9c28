"""WhatsApp's program: from a message's way out of the server to the turn's start, what it holds in memory, and what its
being there costs the host's start. The server and the library are those of the tests."""

from __future__ import annotations

import math
import shutil
import time
from typing import Final

from tests.bench.figures import TIMES, BenchError, Row, Samples, ratio
from tests.bench.ground import Ground, load
from tests.bench.procfs import memory
from tests.e2e.cli import rows
from tests.fakes import whatsapp_server
from tests.fakes.whatsapp_town import Town

ARRIVAL_AIM_MS: Final = 20.0
GROWTH_AIM_MB: Final = 10.0
START_AIM: Final = 1.05
MESSAGES: Final = 10_000
PART: Final = 1_000
SECONDS: Final = 20.0
STARTED: Final = "SELECT t.started_at FROM turns t JOIN messages m ON m.seq = t.from_seq WHERE m.id LIKE ?"


def whatsapp(ground: Ground) -> list[Row]:
    if reason := whatsapp_server.missing():
        raise BenchError(reason)
    folder = ground.folder / "whatsapp"
    folder.mkdir()
    place = Town(folder, ground.engine.name)
    try:
        place.start()
        place.link()
        place.register("family", needs_trigger=False)
        place.register("club", "120363000000000002@g.us")
        latency = arrivals(ground, place)
        growth = grown(ground, place)
        place.stop()
        started = starts(ground, place)
    finally:
        place.close()
    return [latency, growth, started]


def starts(ground: Ground, place: Town) -> Row:
    """The same home with the account's folder and without it, each as often the first."""
    linked, plain = list[float](), list[float]()
    for at in ground.repeat(ground.rounds, SECONDS * (3 if ground.long else 1)):
        if at % 2:
            plain.append(start_without(place))
        linked.append(start(place))
        if not at % 2:
            plain.append(start_without(place))
    one, other = Samples.of(linked, 1000), Samples.of(plain, 1000)
    details = (f"with: {one.described()}", f"without: {other.described()}; {load()}")
    return Row("host's start with WhatsApp, over without", ratio(one.median, other.median), TIMES, START_AIM, details)


def start_without(place: Town) -> float:
    session = place.home / "data" / "whatsapp"
    away = session.with_name("away")
    session.rename(away)
    seconds = start(place)
    # A program that was ended while it began may have made its folder anew.
    shutil.rmtree(session, ignore_errors=True)
    away.rename(session)
    return seconds


def start(place: Town) -> float:
    """Seconds until it answers at its socket."""
    began = time.monotonic()
    place.start()
    seconds = time.monotonic() - began
    place.stop()
    return seconds


def arrivals(ground: Ground, place: Town) -> Row:
    """From the server's hand, through TLS and the library, to the turn that is on record."""
    found = []
    for at in ground.repeat(ground.rounds + 1, SECONDS):
        message = place.writes("say nothing")
        sent = time.time()
        place.until_stored(message)
        place.until_idle()
        ((started,),) = rows(place.home, STARTED.replace("?", f"'% {message}'"))
        if at:  # the first of them makes keys
            found.append(started - sent)
    samples = Samples.of(found, 1000)
    aim = "from the server's sending it, which is before the program has it"
    return Row("message to turn's start, p95", samples.p95, "ms", ARRIVAL_AIM_MS, (samples.described(), aim, load()))


def grown(ground: Ground, place: Town) -> Row:
    """One by one, as fast as the server can seal them. What it holds on the way tells a leak from a beginning."""
    child = place.child
    before = memory(child)
    until = math.inf if ground.long else time.monotonic() + SECONDS
    held, count = [], 0
    while count < MESSAGES and time.monotonic() < until:
        last = place.writes(f"message {count}", "120363000000000002@g.us")
        count += 1
        if count % PART == 0:
            place.until_stored(last)
            held.append(f"{memory(child).rss:.1f} after {count}")
            ground.say(f"{count} of {MESSAGES} messages")
    place.until_stored(last)
    after = memory(child)
    details = (f"before: {before}", *filter(None, [", ".join(held)]), f"after {count} messages: {after}", load())
    return Row(f"WhatsApp program's growth over {count} messages", after.rss - before.rss, "MB", GROWTH_AIM_MB, details)
