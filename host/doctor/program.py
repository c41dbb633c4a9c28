"""The program itself: what runs here, on what, and from where."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from host import bundle, source
from host.doctor.subject import Subject
from host.doctor.words import Finding, ok

RUNNER: Final = source.ROOT / "runner"


def program(subject: Subject) -> Iterator[Finding]:
    runs = bundle.executable() if bundle.frozen() else source.ROOT
    who = "as root" if os.geteuid() == 0 else f"as user {os.geteuid()}"
    yield ok("program", f"NanoClaw {subject.version} in {runs}, {who}")
    yield ok("python", f"{platform.python_version()}, {sys.executable}")


def runner_digest(folder: Path = RUNNER) -> str:
    """Of the sources beside us, as an image has it of the runner in it; empty where there are none.

    SHA-256 over what `sha256sum` prints for the files, in order of their names.
    """
    found = (path for path in folder.rglob("*.py") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in sorted(found, key=os.fsencode)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""
