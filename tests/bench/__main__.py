"""`scripts/bench`: measure, print. The exit status says whether all could be measured, not how fast it was."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from host import config, parcels
from host.engines.choice import choose
from host.errors import EngineError, UserError
from tests.bench import built, frames, scale, sizes, streams, turns, whatsapp
from tests.bench.figures import BenchError, Row, table
from tests.bench.ground import ROUNDS, Ground, load

MEASUREMENTS: Final[dict[str, Callable[[Ground], list[Row]]]] = {
    "cold": turns.cold,
    "warm": turns.warm,
    "stream": streams.stream,
    "memory": sizes.memory,
    "image": sizes.image,
    "start": sizes.start,
    "frames": frames.frames,
    "decisions": scale.decisions,
    "full": scale.full,
    "built": built.built,
    "whatsapp": whatsapp.whatsapp,
}


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended too
    folder = Path(tempfile.mkdtemp(prefix="nanoclaw-bench-"))
    try:
        ground = prepare(args, folder)
        rows, failures = measure(ground, [args.only] if args.only else list(MEASUREMENTS))
    except (UserError, EngineError) as e:
        print(f"bench: {e}", *e.hints, sep="\n       ", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    conditions = conditions_of(ground)
    if args.json:
        record = {"conditions": conditions, "rows": [row.record() for row in rows], "failures": failures}
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(", ".join(f"{name} {value}" for name, value in conditions.items()), table(rows), sep="\n\n")
    for name, why in failures.items():
        print(f"bench: {name} could not be measured: {why}", file=sys.stderr)
    return 1 if failures else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/bench", description="Speed and memory, against a baseline of the same minute."
    )
    made.add_argument("--engine", default="auto", help="docker, bubblewrap, or auto: the first that works (default)")
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often what is quick is repeated ({ROUNDS})")
    made.add_argument("--only", choices=MEASUREMENTS, help="one measurement")
    made.add_argument(
        "--long",
        action="store_true",
        help=f"whatsapp: all {whatsapp.MESSAGES} messages, however long they take; more starts",
    )
    made.add_argument("--json", action="store_true", help="print JSON, for programs")
    return made


def prepare(args: argparse.Namespace, folder: Path) -> Ground:
    engine, enforcement = choose(args.engine)
    cache = config.locate(None, os.environ).cache
    found = parcels.current_image(cache)
    if engine.wants_rootfs:
        parcels.unpack_rootfs(found, progress)
    engine.load(found, progress)
    return Ground(engine, enforcement, found, cache / "image", folder, max(1, args.rounds), progress, args.long)


def measure(ground: Ground, names: list[str]) -> tuple[list[Row], dict[str, str]]:
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name in names:
        progress(f"{name} …")
        began = time.monotonic()
        try:
            rows += MEASUREMENTS[name](ground)
        except (BenchError, UserError, EngineError, OSError) as e:  # the others can be measured all the same
            failures[name] = str(e)
        progress(f"{name}: {time.monotonic() - began:.0f} seconds")
    return rows, failures


def conditions_of(ground: Ground) -> dict[str, Any]:
    return {
        "engine": f"{ground.enforcement.engine} {ground.enforcement.version}",
        "image": ground.image.id[7:19],
        "Python": platform.python_version(),
        "kernel": platform.release(),
        "on": time.strftime("%Y-%m-%d %H:%M"),
        "with": load(),
    }


def progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
