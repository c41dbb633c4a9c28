"""`nanoclaw doctor`: look for what is wrong, and say what to do."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from shutil import get_terminal_size

from host import config as configuration
from host import doctor as doctors
from host.cli.out import Progress, emit, paint
from host.doctor.words import CODES, FAILURE, OK, WARNING, Finding

NAME: int = 26
STATE: int = 8


def doctor(args: argparse.Namespace) -> int:
    subject = doctors.Subject(configuration.locate(args.home, os.environ), args.engine, offline=args.offline)
    progress = Progress(args.quiet or args.json)
    findings = doctors.examine(subject, progress)
    progress.clear()
    emit(args.json, doctors.record(findings), as_text(findings))
    return 1 if any(finding.state == FAILURE for finding in findings) else 0


def as_text(findings: list[Finding]) -> str:
    """A line each; beneath what is not well, the next step."""
    width = get_terminal_size().columns if sys.stdout.isatty() else 1000
    lines = []
    for finding in findings:
        state = paint(finding.state.ljust(STATE), CODES[finding.state], sys.stdout)
        indent = " " * (NAME + STATE + 2)
        room = max(30, width - len(indent))
        first, *rest = textwrap.wrap(finding.found, room) or [""]
        lines.append(f"{finding.name.ljust(NAME)} {state} {first}")
        lines += [indent + more for more in rest]
        lines += [indent + more for more in textwrap.wrap(f"→ {finding.next}", room) if finding.next]
    counts = {state: sum(f.state == state for f in findings) for state in (OK, WARNING, FAILURE)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return "\n".join([*lines, "", told])
