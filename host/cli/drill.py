"""`nanoclaw drill`: attack this installation, print what held."""

from __future__ import annotations

import argparse
import sys
import time

from host import config as configuration
from host import drill as drills
from host.cli.out import Progress, emit, paint, terminal_width
from host.cli.session import home_of
from host.cli.start import ready_engine
from host.drill import report


def drill(args: argparse.Namespace) -> int:
    probes = drills.select(args.only)
    home = home_of(args)
    config = configuration.load(home)
    progress = Progress(args.quiet or args.json)
    engine, enforcement, image = ready_engine(args, home, config, progress)
    begun = time.monotonic()
    plan = drills.Plan(image=image, folder=home.data, resources=config.resources, probes=probes)
    outcomes = drills.run([(engine, enforcement)], plan, progress)
    seconds = time.monotonic() - begun
    progress.clear()
    # Evidence in full where nobody's lines would wrap.
    width = terminal_width() if sys.stdout.isatty() else 200
    text = report.table(outcomes, width, lambda words, code: paint(words, code, sys.stdout))
    emit(
        args.json,
        report.record(outcomes, enforcement, seconds),
        f"{text}\n\n{report.summary(outcomes, enforcement, seconds)}",
    )
    # Where no sandbox would start nothing was seen to fail, and nothing to hold either.
    return 0 if drills.all_held(outcomes) else 1
