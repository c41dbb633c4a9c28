"""`nanoclaw run`: the host in the foreground."""

from __future__ import annotations

import argparse
import signal

from host.cli.out import Progress, note
from host.cli.session import home_of
from host.cli.start import start_app
from host.loop import Loop


def run(args: argparse.Namespace) -> int:
    loop = Loop()
    progress = Progress(args.quiet or args.json)
    app = start_app(loop, args, home_of(args), progress, listen=True)
    progress.clear()
    if not args.quiet:
        note("ready; `nanoclaw chat` in another terminal talks to it, Ctrl-C stops it")
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.on_signal(signum, loop.stop)
    loop.run()
    app.close(loop.stop)
    loop.run()
    return 0
