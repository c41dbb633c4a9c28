"""`nanoclaw doctor`: look for what is wrong, and say what to do."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from functools import partial

from host import config as configuration
from host import doctor as doctors
from host.carried import VERSION
from host.cli.out import Progress, emit, paint, terminal_width
from host.cli.tables import one_line
from host.doctor.words import CODES, FAILURE, OK, WARNING, Finding

NAME: int = 26
STATE: int = 8


def doctor(args: argparse.Namespace) -> int:
    home = configuration.locate(args.home, os.environ)
    subject = doctors.Subject(home, VERSION, args.engine, offline=args.offline)
    progress = Progress(args.quiet or args.json)
    findings = doctors.examine(subject, progress)
    progress.clear()
    emit(args.json, doctors.record(findings), as_text(findings))
    return 1 if any(finding.state == FAILURE for finding in findings) else 0


def as_text(findings: list[Finding]) -> str:
    """A line each; beneath what is not well, the next step."""
    width = terminal_width() if sys.stdout.isatty() else 1000
    indent = " " * (NAME + STATE + 2)
    # Whole words alone: what is to be typed must come out as it is.
    wrap = partial(textwrap.wrap, width=max(30, width - len(indent)), break_long_words=False, break_on_hyphens=False)
    lines = []
    for finding in findings:
        state = paint(finding.state.ljust(STATE), CODES[finding.state], sys.stdout)
        first, *rest = wrap(one_line(finding.found)) or [""]
        lines.append(f"{one_line(finding.name).ljust(NAME)} {state} {first}")
        lines += [indent + more for more in rest]
        lines += [indent + more for more in wrap(f"→ {one_line(finding.next)}") if finding.next]
    counts = {state: sum(f.state == state for f in findings) for state in (OK, WARNING, FAILURE)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return "\n".join([*lines, "", told])
