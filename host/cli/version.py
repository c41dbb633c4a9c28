"""`nanoclaw version`."""

from __future__ import annotations

import argparse
from typing import Any

from host.carried import VERSION
from host.cli.out import emit


def version(args: argparse.Namespace) -> int:
    record: dict[str, Any] = {"version": VERSION}
    if args.json:
        # For `update` and `rollback`, which ask the other program which databases it can read.
        from host.migrations import STEPS

        record["schema"] = len(STEPS)
    return emit(args.json, record, f"nanoclaw {VERSION}")
