"""`nanoclaw run`: the host in the foreground."""

from __future__ import annotations

import argparse
import ctypes
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
    give_back()
    if not args.quiet:
        note("ready; `nanoclaw chat` in another terminal talks to it, Ctrl-C stops it")
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.on_signal(signum, loop.stop)
    loop.run()
    app.close(loop.stop)
    loop.run()
    return 0


def give_back() -> None:
    """What starting took and nothing needs any more goes back to the system, where its C library can: to unpack the
    image takes 5 MB that a small machine would otherwise do without for weeks."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
