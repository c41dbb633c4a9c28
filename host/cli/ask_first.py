"""Asking before something is taken away."""

from __future__ import annotations

import argparse
import sys

from host.errors import UserError


def agreed(args: argparse.Namespace, question: str) -> bool:
    """Whether the person says yes, here or with --yes. `UserError` where there is nobody to ask."""
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask at", "say yes beforehand: --yes", status=2)
    print(f"nanoclaw: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
