"""What /proc tells of processes: who descends from whom, whether one is at rest, how much memory it holds."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import BenchError

KIB = 1024
MEGA = 1e6
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Memory:
    """In megabytes (10^6 bytes). `pss` counts shared pages by share; None where the kernel does not tell us."""

    rss: float
    pss: float | None

    def __str__(self) -> str:
        pss = "PSS not shown to this user" if self.pss is None else f"PSS {self.pss:.1f} MB"
        return f"RSS {self.rss:.1f} MB, {pss}"


def memory(pid: int) -> Memory:
    try:
        rss = _kilobytes(Path(f"/proc/{pid}/status").read_text(), "VmRSS")
    except OSError as e:
        raise BenchError(f"process {pid} has ended") from e
    if rss is None:
        raise BenchError(f"process {pid} has ended")
    try:
        pss = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    except OSError:  # of one that is not dumpable, as the runner is, only root may know
        pss = None
    return Memory(rss * KIB / MEGA, None if pss is None else pss * KIB / MEGA)


def _kilobytes(text: str, name: str) -> int | None:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":")), None)


def command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended
        return []


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found


def wait_for_rest(pid: int, seconds: float, limit: float = 60.0) -> None:
    """Until its main thread has slept, without using the processor, for that long. No event tells of it."""
    until = time.monotonic() + limit
    last, since = -1, time.monotonic()
    while time.monotonic() < until:
        fields = _stat(pid)
        if not fields:
            raise BenchError(f"process {pid} has ended")
        used = int(fields[11]) + int(fields[12])
        if fields[0] != "S" or used != last:
            last, since = used, time.monotonic()
        elif time.monotonic() - since >= seconds:
            return
        time.sleep(LOOK_SECONDS)
    raise BenchError(f"process {pid} did not come to rest within {limit:.0f} seconds")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
