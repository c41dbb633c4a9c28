"""`nanoclaw version`."""

from __future__ import annotations

import argparse
from typing import Final

from host.cli.out import emit

VERSION: Final = "0.1.0"


def version(args: argparse.Namespace) -> int:
    return emit(args.json, {"version": VERSION}, f"nanoclaw {VERSION}")
