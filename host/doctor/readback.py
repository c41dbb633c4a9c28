"""What is read back from inside a sandbox, and against what. No I/O."""

from __future__ import annotations

import os
from typing import Final

from host.drill.probes.programs import CPU, FILE_SIZE, MEMORY, OPEN_FILES, PROCESSES, TMP_SIZE
from host.model import Resources

# What each tells of itself begins with its name here.
COMMANDS: Final = {
    "memory": MEMORY,
    "processes": PROCESSES,
    "cpu": CPU,
    "file size": FILE_SIZE,
    "/tmp": TMP_SIZE,  # noqa: S108  (the name of a line)
    "open files": OPEN_FILES,
}
LIMITED: Final = {"memory": "memory limit", "processes": "process limit", "cpu": "cpu limit"}
"""The name that engines have for the control, where they may be known to lack it."""


def asked(r: Resources) -> dict[str, object]:
    """What the engine is asked for, by the names that the commands have for it."""
    return {
        "asked_memory": r.memory_bytes,
        "asked_processes": r.processes,
        "asked_percent": round(min(r.cpus, os.cpu_count() or 1) * 100),
        "asked_file": r.file_bytes,
        "asked_tmp": r.tmp_bytes,
    }
