"""`nanoclaw version`."""

from __future__ import annotations

import argparse

from host.carried import VERSION
from host.cli.out import emit


def version(args: argparse.Namespace) -> int:
    return emit(args.json, {"version": VERSION}, f"nanoclaw {VERSION}")
