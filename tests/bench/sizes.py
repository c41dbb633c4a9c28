"""What it takes of a machine that does nothing with it: memory, disk, and the time that its commands need to start."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from host import parcels
from tests.bench import procfs
from tests.bench.figures import TIMES, BenchError, Row, Samples, ratio
from tests.bench.ground import Ground, load
from tests.bench.parties import ROOT, WAIT_SECONDS, Host, Lines, end, environment

HOST_AIM_MB: Final = 35.0
IMAGE_AIM_MB: Final = 180.0
PROMPT_AIM_SECONDS: Final = 2.0
REST_SECONDS: Final = 2.0
START_SECONDS: Final = 10.0
PROMPT_SECONDS: Final = 10.0
BLOCK: Final = 512
PROMPT: Final = b"\x1b[K> "
SLEEP: Final = "import sys; print('ready', flush=True); sys.stdin.read()"


# --- memory ----------------------------------------------------------------------------------------------------


def memory(ground: Ground) -> list[Row]:
    """A host that waits, a bare Python that waits, and a warm runner."""
    home = ground.home("memory")
    with bare_python() as least, Host(home, ground.engine) as host:
        procfs.wait_for_rest(host.process.pid, REST_SECONDS)
        idle = procfs.memory(host.process.pid)
        host.watch()
        runner = procfs.memory(host.warm_runner())
        around = [procfs.memory(pid) for pid in procfs.descendants(host.process.pid) if not is_runner(pid)]
    others = f"the engine's own programs beside it ({len(around)}): RSS {sum(m.rss for m in around):.1f} MB"
    return [
        Row("idle host", idle.rss, "MB", HOST_AIM_MB, (str(idle), f"a bare Python that waits: {least}")),
        Row("warm runner", runner.rss, "MB", None, (str(runner), others)),
    ]


def is_runner(pid: int) -> bool:
    return procfs.command(pid)[:1] == ["/usr/bin/python3"]


@contextlib.contextmanager
def bare_python() -> Iterator[procfs.Memory]:
    process = subprocess.Popen([sys.executable, "-c", SLEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        Lines(process.stdout.fileno(), "a bare Python").next()
        yield procfs.memory(process.pid)
    finally:
        end(process)


# --- disk ------------------------------------------------------------------------------------------------------


def image(ground: Ground) -> list[Row]:
    """The sandbox image as it lies in the cache."""
    rootfs = parcels.unpack_rootfs(ground.image, ground.say)
    seen: dict[tuple[int, int], os.stat_result] = {}
    for folder, _, names in os.walk(rootfs):
        for name in names:
            found = os.lstat(f"{folder}/{name}")
            seen[found.st_dev, found.st_ino] = found  # a file of two names is one
    size = sum(found.st_size for found in seen.values()) / procfs.MEGA
    disk = sum(found.st_blocks * BLOCK for found in seen.values()) / procfs.MEGA
    archive = ground.image.archive.stat().st_size / procfs.MEGA
    details = (f"{len(seen)} files; {disk:.1f} MB of disk; the archive beside it: {archive:.1f} MB",)
    return [Row("sandbox image, unpacked", size, "MB", IMAGE_AIM_MB, details)]


# --- start -----------------------------------------------------------------------------------------------------


def start(ground: Ground) -> list[Row]:
    """How long a person waits: for a word from the command line, and for the prompt of a chat."""
    home = ground.home("start")
    python = [sys.executable, "-S", "-c", "pass"]
    product = [sys.executable, str(ROOT / "nanoclaw.py"), "--home", str(home)]
    commands = {"python": python, "version": [*product, "version"], "status": [*product, "status"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for argv in commands.values():
        wall(argv)
    for _ in ground.repeat(ground.rounds, START_SECONDS):
        for name, argv in commands.items():
            times[name].append(wall(argv))
    found = {name: Samples.of(values, 1000) for name, values in times.items()}
    least = f"python3 -S -c pass: {found['python'].described()}; {load()}"
    rows = [
        Row(
            f"`{name}`, over a bare Python",
            ratio(found[name].median, found["python"].median),
            TIMES,
            None,
            (f"{name}: {found[name].described()}", least),
        )
        for name in ("version", "status")
    ]
    return [*rows, prompt(ground, home)]


def wall(argv: Sequence[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(argv, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{argv[-1]}: {done.stderr.decode(errors='replace')[-300:]}")
    return time.monotonic() - began


def prompt(ground: Ground, home: Path) -> Row:
    argv = [str(ROOT / "scripts" / "run"), "--home", str(home), "--engine", ground.engine.name, "chat"]
    first = until_prompt(argv)
    times = [until_prompt(argv) for _ in ground.repeat(ground.rounds // 4, PROMPT_SECONDS)]
    found = Samples.of(times)
    details = (f"scripts/run chat: {found.described('s')}; the first start of this home {first:.2f} s; {load()}",)
    return Row("second start, to the prompt", found.median, "s", PROMPT_AIM_SECONDS, details)


def until_prompt(argv: Sequence[str]) -> float:
    """Seconds until a chat at a terminal takes the first key; then leave it."""
    ours, theirs = pty.openpty()
    began = time.monotonic()
    process = subprocess.Popen(
        argv, env={**environment(), "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        shown = read_until(ours, PROMPT, began + WAIT_SECONDS)
        seconds = time.monotonic() - began
        os.write(ours, b"\x04")
        read_until(ours, None, time.monotonic() + WAIT_SECONDS)
        if process.wait(WAIT_SECONDS) != 0:
            raise BenchError(f"the chat ended badly: {shown[-300:].decode(errors='replace')}")
        return seconds
    finally:
        os.close(ours)
        end(process)


def read_until(fd: int, wanted: bytes | None, until: float) -> bytes:
    """What the terminal shows up to `wanted`; to its end if nothing is."""
    shown = b""
    while wanted is None or wanted not in shown:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise BenchError(f"no prompt: {shown[-300:].decode(errors='replace')}")
        try:
            data = os.read(fd, 64 * 1024)
        except OSError:  # on Linux the end of a terminal is an error
            data = b""
        if not data and wanted is not None:
            raise BenchError(f"no prompt: {shown[-300:].decode(errors='replace')}")
        if not data:
            break
        shown += data
    return shown
