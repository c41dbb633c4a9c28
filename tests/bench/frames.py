"""From the launch of a sandbox to its first frame, on each engine that this machine has, against docker."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from host import parcels
from host.engines.base import Engine
from host.engines.choice import ENGINES
from host.errors import EngineError
from host.loop import Loop
from host.model import Spec
from host.sandbox import Gone, Sandbox
from tests.bench.figures import TIMES, BenchError, Row, Samples, ratio
from tests.bench.ground import Ground, load

BASELINE: Final = "docker"
SECONDS: Final = 60.0


def frames(ground: Ground) -> list[Row]:
    """In turns, one of each engine after the other, so that the machine's noise meets them alike."""
    engines = present(ground)
    spec = ground.spec()
    times: dict[str, list[float]] = {name: [] for name in engines}
    for name in engines:  # the first of each fills caches
        first_frame(engines[name], spec)
    for _ in ground.repeat(ground.rounds // 2, SECONDS):
        for name, engine in engines.items():
            times[name].append(first_frame(engine, spec))
    found = {name: Samples.of(values, 1000) for name, values in times.items()}
    rows = []
    for name, samples in found.items():
        if BASELINE in found and name != BASELINE:
            details = (f"{name}: {samples.described()}", f"docker: {found[BASELINE].described()}; {load()}")
            value = ratio(samples.median, found[BASELINE].median)
            rows.append(Row(f"{name}: launch to first frame, over docker's", value, TIMES, None, details))
        else:
            rows.append(
                Row(f"{name}: launch to first frame", samples.median, "ms", None, (samples.described(), load()))
            )
    return rows


def present(ground: Ground) -> dict[str, Engine]:
    """Those that answer their probe and have the image."""
    found: dict[str, Engine] = {}
    for name, make in ENGINES.items():
        engine = make()
        try:
            engine.probe()
            if engine.wants_rootfs:
                parcels.unpack_rootfs(ground.image, ground.say)
            engine.load(ground.image, ground.say)
        except EngineError as e:
            ground.say(f"{name} is left out: {e}")
            continue
        found[name] = engine
    return found


def first_frame(engine: Engine, spec: Spec) -> float:
    """Seconds until hello has come and was verified; the sandbox is gone when this returns."""
    loop, gone, ready = Loop(), [], []

    def is_gone(reason: Gone) -> None:
        gone.append(reason)
        loop.stop()

    def is_ready() -> None:
        ready.append(time.monotonic())
        sandbox.stop("measured", grace=0)

    named = replace(spec, name=f"{spec.name}-{time.monotonic_ns():x}")
    sandbox = Sandbox(
        loop, engine, named, expect_build=spec.image.build, on_ready=is_ready, on_frame=lambda _: None, on_gone=is_gone
    )
    began = time.monotonic()
    sandbox.start()
    loop.run()
    if not ready:
        raise BenchError(f"{engine.name} did not start a sandbox: {gone[0].message}")
    return ready[0] - began
