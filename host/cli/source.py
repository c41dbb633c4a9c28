"""`nanoclaw source DIR`: NanoClaw's own source, as it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from host import source as own
from host.cli.out import emit
from host.errors import UserError


def source(args: argparse.Namespace) -> int:
    target = Path(args.dir).absolute()
    try:
        count = own.write_out(target)
    except OSError as e:
        raise UserError(f"cannot write to {target}: {e.strerror}", "name another folder") from e
    return emit(args.json, {"folder": str(target), "files": count}, f"{count} files in {target}")
