"""The built file, where NANOCLAW_BUILT names one: its start against a plain PyInstaller onefile of the same sources and
against a bare Python, its first reply, its size, what it holds of memory, and how long each parcel takes to unpack."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench import procfs
from tests.bench.figures import TIMES, BenchError, Row, Samples, ratio
from tests.bench.ground import Ground, load
from tests.bench.parties import end, environment

ONEFILE_AIM: Final = 0.2
PYTHON_AIM: Final = 6.0
SIZE_AIM_MB: Final = 75.0
SLIM_AIM_MB: Final = 50.0
IDLE_AIM_MB: Final = 35.0
START_SECONDS: Final = 20.0
MAKE_SECONDS: Final = 900.0
INDEX: Final = "<16xQQ"
TRAILER: Final = 128
REST_SECONDS: Final = 2.0


def built(ground: Ground) -> list[Row]:
    given = os.environ.get("NANOCLAW_BUILT", "")
    if not given:
        ground.say("no built file: NANOCLAW_BUILT=FILE measures one")
        return []
    file = Path(given).resolve()
    index = index_of(file)
    return [
        *starts(ground, file),
        *first_reply(ground, file),
        size(file, index),
        idle(ground, file),
        *unpacking(file, index),
    ]


# --- start -------------------------------------------------------------------------------------------------------


def starts(ground: Ground, file: Path) -> list[Row]:
    """In turns, so that the machine's noise meets all alike. The onefile unpacks itself at each start, as it does."""
    home = folder(ground, "built-start")
    programs = {"built": [str(file)], "onefile": [str(onefile(ground))]}
    commands = {
        (name, what): [*argv, "--home", str(home), what] for name, argv in programs.items() for what in WHAT
    } | {("python", ""): [sys.executable, "-S", "-c", "pass"]}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in commands}
    for argv in commands.values():
        wall(argv)
    for _ in ground.repeat(ground.rounds, START_SECONDS):
        for key, argv in commands.items():
            times[key].append(wall(argv))
    found = {key: Samples.of(values, 1000) for key, values in times.items()}
    rows = []
    for what in WHAT:
        mine = found["built", what]
        for against, aim in (("onefile", ONEFILE_AIM), ("python", PYTHON_AIM)):
            base = found[against, what if against == "onefile" else ""]
            called = "a plain onefile build" if against == "onefile" else "a bare Python"
            details = (f"built: {mine.described()}", f"{called}: {base.described()}; {load()}")
            rows.append(Row(f"built `{what}`, over {called}", ratio(mine.median, base.median), TIMES, aim, details))
    return rows


WHAT: Final = ("--version", "status")


def onefile(ground: Ground) -> Path:
    """What PyInstaller makes of these sources without being told anything: made once in the cache, for each source."""
    from host import source

    sources = source.snapshot(ground.images.parent)
    made = ground.images.parent / "bench-onefile" / sources.name
    if (made / "nanoclaw").is_file():
        return made / "nanoclaw"
    shutil.rmtree(made.parent, ignore_errors=True)
    ground.say("making a onefile build to compare with, once (a minute or two) …")
    tools = made.parent / "venv"
    run([sys.executable, "-m", "venv", str(tools)])
    packages = ["pyinstaller", "cronsim", "segno", "pynacl"]
    run([str(tools / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    modules = [
        ".".join(path.relative_to(sources).with_suffix("").parts)
        for path in sorted(sources.glob("host/**/*.py"))
        if path.name != "__init__.py"
    ]
    hidden = [item for name in (*modules, "cronsim") for item in ("--hidden-import", name)]
    work = made.parent / "work"
    options = ["--onefile", "--name", "nanoclaw", "--log-level", "ERROR", "--paths", str(sources)]
    places = ["--distpath", str(work / "dist"), "--workpath", str(work), "--specpath", str(work)]
    run([str(tools / "bin" / "pyinstaller"), *options, *places, *hidden, str(sources / "nanoclaw.py")])
    made.mkdir(parents=True)
    shutil.move(work / "dist" / "nanoclaw", made / "nanoclaw")
    shutil.rmtree(work)
    shutil.rmtree(tools)
    return made / "nanoclaw"


def run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{argv[0]} was not done within {MAKE_SECONDS:.0f} seconds") from None
    if done.returncode != 0:
        raise BenchError(f"{argv[0]}: {done.stderr.strip()[-300:]}")


def wall(argv: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(argv, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace')[-300:]}")
    return time.monotonic() - began


# --- the first reply ---------------------------------------------------------------------------------------------


def first_reply(ground: Ground, file: Path) -> list[Row]:
    """From nothing at all to a reply, on a home that has never been; then once more."""
    home = folder(ground, "built-first")
    argv = [str(file), "--home", str(home), "--engine", ground.engine.name, "ask", "repeat hello"]
    cold, again = wall(argv), wall(argv)
    details = (f"the engine is {ground.engine.name}; docker may have had the image before; {load()}",)
    return [
        Row("built: first reply on a fresh home", cold, "s", None, details),
        Row("built: the next one", again, "s", None),
    ]


# --- size and memory ---------------------------------------------------------------------------------------------


def size(file: Path, index: dict[str, Any]) -> Row:
    megabytes = file.stat().st_size / procfs.MEGA
    aim = SIZE_AIM_MB if "whatsapp" in index else SLIM_AIM_MB
    parts = ", ".join(f"{name} {parcel['length'] / procfs.MEGA:.1f}" for name, parcel in index.items())
    what = "with everything inside" if "whatsapp" in index else "without WhatsApp"
    return Row(f"built file, {what}", megabytes, "MB", aim, (f"MB of each parcel: {parts}",))


def idle(ground: Ground, file: Path) -> Row:
    """All processes of a host that waits for its first message."""
    home = folder(ground, "built-idle")
    (home / "config").mkdir(mode=0o700)
    with waiting([str(file), "--home", str(home), "--engine", ground.engine.name, "run"]) as pid:
        procfs.wait_for_rest(pid, REST_SECONDS)
        each = {one: procfs.memory(one) for one in (pid, *procfs.descendants(pid))}
    details = tuple(f"process {one}: {held}" for one, held in each.items())
    return Row(
        "built: idle host, all its processes", sum(held.rss for held in each.values()), "MB", IDLE_AIM_MB, details
    )


@contextmanager
def waiting(argv: list[str]) -> Iterator[int]:
    process = subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith(b"nanoclaw: ready"):
            if not line:
                raise BenchError("the built file's host did not start")
        yield process.pid
    finally:
        end(process)


# --- parcels -----------------------------------------------------------------------------------------------------


def index_of(file: Path) -> dict[str, Any]:
    with file.open("rb") as f:
        f.seek(-TRAILER, os.SEEK_END)
        where, length = struct.unpack_from(INDEX, f.read())
        f.seek(where)
        parcels: dict[str, Any] = json.loads(f.read(length))["parcels"]
    return parcels


def unpacking(file: Path, index: dict[str, Any]) -> Iterator[Row]:
    """To memory, and beside it the same bytes as they lie: what of it is the disk's, and what the compression's."""
    import zlib

    for name, parcel in index.items():
        with file.open("rb") as f:
            f.seek(parcel["offset"])
            began = time.monotonic()
            data = f.read(parcel["length"])
            read = time.monotonic() - began
        unpacked = len(zlib.decompress(data, 47) if name == "host" else lzma.decompress(data))
        seconds = time.monotonic() - began
        details = (f"{unpacked / procfs.MEGA:.1f} MB unpacked; reading it took {read * 1000:.0f} ms; {load()}",)
        yield Row(f"parcel {name}, to unpack", seconds * 1000, "ms", None, details)


def folder(ground: Ground, name: str) -> Path:
    """A home with nothing in it: the built file brings its own image."""
    made = ground.folder / name
    made.mkdir(mode=0o700)
    return made
