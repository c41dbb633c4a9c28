"""What is read back from inside a sandbox, and against what. No I/O."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from host.doctor.words import Finding, failure, ok
from host.engines.base import OPEN_FILES
from host.model import Resources
from runner.protocol import MIB

# The sandbox's own Python is the one tool that is there for certain. It tells numbers, and judges nothing.
PROGRAM: Final = """python3 -I -S - <<'END'
import json, os, resource

def hard(kind):
    limit = resource.getrlimit(kind)[1]
    return None if limit == resource.RLIM_INFINITY else limit

def held(*names):
    for name in names:
        try:
            with open("/sys/fs/cgroup/" + name) as file:
                value = file.read().split()[0]
        except (OSError, IndexError):
            continue
        # No limit is "max" in version 2 of cgroups, -1 or a number near 2**63 in version 1.
        if value.isdigit() and int(value) < 1 << 60:
            return int(value)
    return None

def percent():
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except OSError:
        quota, period = held("cpu/cpu.cfs_quota_us"), held("cpu/cpu.cfs_period_us")
    return int(quota) * 100 // int(period) if str(quota).isdigit() and period else None

tmp, root = os.statvfs("/tmp"), os.statvfs("/")
def table(name):
    with open(name) as file:
        return dict(line.split(":", 1) for line in file if ":" in line)

status, machine = table("/proc/self/status"), table("/proc/meminfo")
each = [limit for limit in map(hard, (resource.RLIMIT_AS, resource.RLIMIT_DATA)) if limit is not None]
print(json.dumps({
    "memory": held("memory.max", "memory/memory.limit_in_bytes"),
    "memory_of_each": min(each, default=None),
    "memory_of_machine": int(machine["MemTotal"].split()[0]) * 1024,
    "swap_of_machine": int(machine["SwapTotal"].split()[0]) * 1024,
    "swap": held("memory.swap.max"),
    "memory_and_swap": held("memory/memory.memsw.limit_in_bytes"),
    "processes": held("pids.max", "pids/pids.max"),
    "processes_of_user": hard(resource.RLIMIT_NPROC),
    "cpu": percent(),
    "cpu_of_machine": os.cpu_count() * 100,
    "file": hard(resource.RLIMIT_FSIZE),
    "open_files": hard(resource.RLIMIT_NOFILE),
    "core": hard(resource.RLIMIT_CORE),
    "tmp": tmp.f_frsize * tmp.f_blocks or None,
    "tmp_flags": tmp.f_flag,
    "root_flags": root.f_flag,
    "seccomp": int(status.get("Seccomp", "0")),
}))
END"""
READ_ONLY: Final = 1
NO_EXECUTION: Final = 8
"""Flags of a mount, in statvfs."""
FILTERED: Final = 2
OTHERS: Final = 4096
"""Where processes are counted by user and not by sandbox, those that the user runs elsewhere are added."""

MACHINE: Final = ("memory", "swap", "cpu")

Facts = Mapping[str, int]


@dataclass(frozen=True)
class Bound:
    """One control, as it was asked for and as it was found."""

    name: str
    control: str
    """The name that engines have for it, where they may lack it."""
    holds: bool
    found: str
    asked: str


def facts(untrusted_output: str) -> dict[str, int]:
    """The numbers that a sandbox told; what has none is not bounded, or was not told."""
    try:
        told = json.loads(untrusted_output)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {name: value for name, value in told.items() if type(value) is int}


def judged(
    found: Facts, asked: Resources, cpus: float, missing: Collection[str], *, same_kernel: bool
) -> Iterator[Finding]:
    """A line for each control. What the engine is known to lack (`missing`) has been told already, and is told
    here only as far as it is bounded all the same. `cpus`: as many as could be asked for."""
    if not same_kernel:  # a virtual machine: what it has is what the sandbox may use
        found = {**{name: found[f"{name}_of_machine"] for name in MACHINE if f"{name}_of_machine" in found}, **found}
    for bound in bounds(found, asked, cpus, missing):
        name = f"sandbox: {bound.name}"
        if bound.holds:
            yield ok(name, f"{bound.found}, as asked")
        elif bound.control not in missing:
            yield failure(
                name,
                f"{bound.found}; asked for: {bound.asked}",
                "the engine does not keep to what it was asked: use another, and see nanoclaw drill --only P6",
            )


def bounds(found: Facts, asked: Resources, cpus: float, missing: Collection[str]) -> Iterator[Bound]:
    yield _memory(found, asked, missing)
    yield _swap(found)
    yield _processes(found, asked)
    percent, wanted = found.get("cpu"), round(cpus * 100)
    yield Bound("cpu", "cpu limit", percent is not None and percent <= wanted, _cpus(percent), _cpus(wanted))
    yield _most("file size", "", found.get("file"), asked.file_bytes)
    yield _most("/tmp", "", found.get("tmp"), asked.tmp_bytes)  # noqa: S108 (the name of a line)
    files = found.get("open_files")
    kept = files is not None and files <= OPEN_FILES
    yield Bound("open files", "", kept, _count(files), _count(OPEN_FILES))
    yield Bound("core files", "", found.get("core") == 0, "none" if found.get("core") == 0 else "some", "none")
    yield _is("system calls", "system call filter", found.get("seccomp") == FILTERED, "filtered", "not filtered")
    yield _is("root folder", "", bool(found.get("root_flags", 0) & READ_ONLY), "read-only", "can be written")
    no_execution = bool(found.get("tmp_flags", 0) & NO_EXECUTION)
    yield _is("programs in /tmp", "noexec /tmp", no_execution, "cannot be run", "can be run")


def _memory(found: Facts, asked: Resources, missing: Collection[str]) -> Bound:
    """A bound of each process is a substitute, where the engine has said that it has no other."""
    whole, each = found.get("memory"), found.get("memory_of_each")
    if whole is None and each is not None and each <= asked.memory_bytes:
        words = f"{_bytes(each)} for each process"
        return Bound("memory", "memory limit", "memory limit" in missing, words, f"{_bytes(asked.memory_bytes)} in all")
    return _most("memory", "memory limit", whole, asked.memory_bytes)


def _swap(found: Facts) -> Bound:
    """Version 1 of cgroups counts memory and swap together, version 2 swap alone. Where each process is bounded
    by what it may address, its swap is in that."""
    swap = found.get("swap")
    if swap is None and {"memory", "memory_and_swap"} <= found.keys():
        swap = found["memory_and_swap"] - found["memory"]
    if swap is None and "memory" not in found and "memory_of_each" in found:
        return Bound("swap", "swap limit", True, "counted as memory", "none")
    if swap is None:
        return Bound("swap", "swap limit", False, "unbounded", "none")
    return Bound("swap", "swap limit", swap <= 0, f"at most {swap / MIB:g} MiB" if swap > 0 else "none", "none")


def _processes(found: Facts, asked: Resources) -> Bound:
    own, of_user = found.get("processes"), found.get("processes_of_user")
    holds = own <= asked.processes if own is not None else of_user is not None and of_user <= asked.processes + OTHERS
    shown = _count(own if own is not None else of_user)
    if own is None and of_user is not None:
        shown += " of its user"
    return Bound("processes", "process limit", holds, shown, _count(asked.processes))


def _most(name: str, control: str, found: int | None, asked: int) -> Bound:
    return Bound(name, control, found is not None and found <= asked, _bytes(found), _bytes(asked))


def _is(name: str, control: str, so: bool, yes: str, no: str) -> Bound:
    return Bound(name, control, so, yes if so else no, yes)


def _bytes(value: int | None) -> str:
    return "unbounded" if value is None else f"at most {value / MIB:g} MiB"


def _count(value: int | None) -> str:
    return "unbounded" if value is None else f"at most {value}"


def _cpus(percent: int | None) -> str:
    return "unbounded" if percent is None else f"at most {percent / 100:g} processors"
