"""Bounds, each tried with a small bomb that stops by itself where the bound is missing."""

from __future__ import annotations

import pytest

from host.engines.base import replacing
from host.model import Resources
from tests.contract.house import REAL, House

pytestmark = pytest.mark.parametrize("house", REAL, indirect=True)

SMALL = Resources(memory_bytes=256 << 20, processes=48, cpus=0.5, file_bytes=8 << 20, tmp_bytes=4 << 20)
AMPLE = Resources(memory_bytes=1 << 30, processes=256, cpus=1, file_bytes=64 << 20, tmp_bytes=64 << 20)

FORK = """python3 -c '
import os, time
made = 0
try:
    for made in range(100):
        if os.fork() == 0:
            time.sleep(3); os._exit(0)
except OSError as e:
    print(made, type(e).__name__)
else:
    print("all")'"""
ALLOCATE = """python3 -c '
block = bytearray(500 << 20)
print("allocated", len(block))'"""


def within(house: House, resources: Resources, command: str) -> str:
    house.resources = resources
    return house.start("shell").run(command, 60)


def test_processes(house: House) -> None:
    seen = within(house, SMALL, FORK)
    assert "BlockingIOError" in seen
    # Under root's bubblewrap the user's other processes count as well: those that end meanwhile leave room.
    assert int(seen.split()[0]) < SMALL.processes + 40
    assert within(house, AMPLE, FORK).strip() == "all"


def test_memory(house: House) -> None:
    assert "allocated" not in within(house, SMALL, ALLOCATE)
    assert "allocated" in within(house, AMPLE, ALLOCATE)


def test_memory_of_all_processes_together_where_the_engine_says_so(house: House) -> None:
    hold = "python3 -c 'import time; b = bytearray(150 << 20); time.sleep(2); print(\"held\")'"
    seen = within(house, SMALL, f"{hold} & {hold} & {hold} & wait")
    assert (seen.splitlines().count("held") < 3) == ("memory limit" not in house.missing)


def test_file_size(house: House) -> None:
    write = "head -c 16M /dev/zero > big; stat -c %s big; rm -f big"
    assert within(house, SMALL, write).split()[-1] == str(8 << 20)
    assert within(house, AMPLE, write).split()[-1] == str(16 << 20)


def test_tmp(house: House) -> None:
    write = "for i in 1 2; do head -c 6M /dev/zero > /tmp/$i; done 2>&1; du -sb /tmp | cut -f1"
    assert int(within(house, SMALL, write).split()[-1]) <= 5 << 20
    assert int(within(house, AMPLE, write).split()[-1]) >= 12 << 20


def test_nothing_else_is_memory_to_fill(house: House) -> None:
    """Besides /tmp, and /dev/shm at its 64 MiB, no file system of the sandbox is kept in memory and writable."""
    find = "awk '$(NF-2) == \"tmpfs\" && $6 ~ /^rw/ { print $5 }' /proc/self/mountinfo"
    points = within(house, AMPLE, f"for p in $({find}); do test -d $p -a -w $p && echo $p; done").split()
    assert set(points) <= {"/tmp", "/dev/shm"}


def test_cpu_where_the_engine_says_so(house: House) -> None:
    if "cpu limit" in house.missing:
        pytest.skip(f"{house.engine.name} does not bound it, and says so")
    # Half a processor: a second of work takes two. Other work on this machine can only make it longer.
    spin = "python3 -c 'import time; a, b = time.time(), time.process_time()\nwhile time.process_time() - b < 1: pass\n"
    spin += "print(time.time() - a)'"
    assert float(within(house, SMALL, spin)) > 1.6


def test_the_kernel_takes_a_sandbox_first_when_memory_runs_out(house: House) -> None:
    assert within(house, AMPLE, "cat /proc/self/oom_score_adj").strip() == "500"


def test_a_limit_that_was_left_out_is_noticed_at_hello(house: House) -> None:
    size = house.resources.file_bytes
    flags = ("--ulimit", f"fsize={size}") if house.containers else (f"--fsize={size}",)
    gone = house.start("shell", edit=lambda launch: replacing(launch, flags, ())).wait_gone()
    assert gone.kind == "hello"
    assert "fsize_limit" in gone.message
