"""From a message on disk to the model's request: without a warm sandbox, and with one."""

from __future__ import annotations

from typing import Final

from tests.bench.figures import TIMES, Row, Samples, ratio
from tests.bench.ground import Ground, load
from tests.bench.parties import ECHO, IMPORT, Host, Model, bare

COLD_AIM: Final = 1.15
WARM_AIM_MS: Final = 25.0
COLD_SECONDS: Final = 40.0
WARM_SECONDS: Final = 50.0


def cold(ground: Ground) -> list[Row]:
    """A turn whose sandbox is yet to be started, against the least that could import the SDK in the same image."""
    turns: list[float] = []
    bares: list[float] = []
    spec = ground.spec()
    with (
        Model() as model,
        Host(ground.home("cold", model.url, "[limits]\nwarm_sandboxes = 0\n"), ground.engine) as host,
    ):
        host.watch()

        def turn() -> None:
            turns.append(host.turn(model))
            host.wait_until_alone()

        def compare() -> None:
            with bare(ground.engine, spec, IMPORT) as (seconds, _):
                bares.append(seconds)

        turn()  # the first of each fills caches
        compare()
        turns.clear()
        bares.clear()
        for at in ground.repeat(ground.rounds // 2, COLD_SECONDS):
            for measure in (turn, compare) if at % 2 else (compare, turn):
                measure()
    mine, theirs = Samples.of(turns, 1000), Samples.of(bares, 1000)
    pairs = Samples.of([ratio(a, b) for a, b in zip(turns, bares, strict=True)])
    details = (
        f"turn: {mine.described()}",
        f"bare sandbox and import anthropic: {theirs.described()}",
        f"the least over the least: {ratio(mine.least, theirs.least):.2f} {TIMES}; "
        f"the median of pairs: {pairs.median:.2f} {TIMES}; {load()}",
    )
    return [Row("cold turn to request, over bare import", ratio(mine.median, theirs.median), TIMES, COLD_AIM, details)]


def warm(ground: Ground) -> list[Row]:
    """A turn whose sandbox waits, with the round trip of a line to a bare one for the noise of the machine."""
    turns: list[float] = []
    echoes: list[float] = []
    spec = ground.spec()
    with (
        Model() as model,
        Host(ground.home("warm", model.url), ground.engine) as host,
        bare(ground.engine, spec, ECHO) as (_, echo),
    ):
        host.watch()
        for _ in ground.repeat(ground.rounds, WARM_SECONDS):
            host.warm_runner()
            echo.round_trip()  # its pages may have grown cold while the runner imported
            echoes.append(echo.round_trip())
            turns.append(host.turn(model))
    mine, noise = Samples.of(turns, 1000), Samples.of(echoes, 1000)
    details = (f"turn: {mine.described()}", f"one line to a bare sandbox and back: {noise.described()}; {load()}")
    return [Row("warm turn to request, p95", mine.p95, "ms", WARM_AIM_MS, details)]
