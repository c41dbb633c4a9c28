#!/usr/bin/env python3
"""Use a built file as a person would, from its first start to its removal, and look at what it leaves behind.

    python3 build/selftest.py FILE [--only NAME] [--json] [--newer FILE]

Needs nothing but Python 3.11, `selftest_ground.py` beside it and the file, and a machine on which bubblewrap or docker
works. All that it makes lies in one temporary folder, which is also the HOME of what it starts. --newer: a signed later
build (FILE.sig beside it), for `update` and `rollback`. Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from selftest_ground import (
    SECONDS,
    FailedError,
    Ground,
    SkippedError,
    Terminal,
    engine_state,
    expect,
    host,
    installed,
    leavings,
    processes,
    wait_for,
)

DRILL_SECONDS: Final = 900.0
FORBIDDEN: Final = re.compile(r"^(LD_LIBRARY_PATH=|_MEI|_PYI|_NANOCLAW_)", re.MULTILINE)
FAKE_DOCKER: Final = '#!/bin/sh\nenv >> "{out}"\nexit 1\n'


@dataclass(frozen=True)
class Result:
    name: str
    outcome: str
    """`ok`, `FAILED` or `skipped`."""
    seconds: float
    why: str = ""


# --- the checks, in the order of a life with it ------------------------------------------------------------------


def version(g: Ground) -> None:
    expect(re.fullmatch(r"nanoclaw \d+\.\d+\.\d+\S*\n", g.does("version").stdout), "`version` prints something else")
    again = g.does("version")  # from the cache
    expect(not again.stderr, f"the second start says {again.stderr!r}")


def help_(g: Ground) -> None:
    text = g.does("--help").stdout
    for command in ("chat", "ask", "doctor", "drill", "setup", "image", "install", "uninstall", "update", "licenses"):
        expect(command in text, f"--help does not name {command}")


def status(g: Ground) -> None:
    g.does("status")


def licenses(g: Ground) -> None:
    expect("Python" in g.does("licenses").stdout, "`licenses` does not name Python")


def source(g: Ground) -> None:
    target = g.folder / "source"
    g.does("source", str(target))
    for name in ("nanoclaw.py", "host/cli/__init__.py", "runner/__main__.py", "SECURITY.md"):
        expect((target / name).is_file(), f"`source` writes no {name}")
    expect(not list(target.rglob(".git")), "`source` writes a repository's history")


def engines(g: Ground) -> None:
    """Not a promise of the file but of the machine: which of them the other checks can use."""
    for name in ("bubblewrap", "docker"):
        with contextlib.suppress(FailedError):
            g.does("--engine", name, "ask", "--quiet", "repeat here")
            g.engines.append(name)
    expect(g.engines, "no engine gives a reply: `doctor` tells why")


def doctor(g: Ground) -> None:
    for engine in g.engines or [g.first_engine]:
        g.does("--engine", engine, "doctor")
        g.does("--engine", engine, "doctor", "--offline")


def ask(g: Ground) -> None:
    for engine in g.engines or [g.first_engine]:
        said = g.does("--engine", engine, "ask", "run id -u; cat /proc/net/dev").stdout
        expect(re.search(r"^[1-9]\d*$", said, re.MULTILINE), f"{engine}: the agent is root, or did not run: {said}")
        expect("eth" not in said, f"{engine}: the sandbox has a network")


def chat(g: Ground) -> None:
    with Terminal([str(g.file), "--engine", g.first_engine, "chat"], g.environment(TERM="xterm")) as terminal:
        terminal.expect("> ")
        terminal.type("repeat what a fine day\r")
        terminal.expect("what a fine day.*\n.*what a fine day")
        terminal.type("\x04")
        expect(terminal.wait() == 0, "the chat does not leave in peace")


def groups(g: Ground) -> None:
    g.does("groups", "add", "family")
    g.does("groups", "set", "family", "trigger=Robin")
    said = g.does("--engine", g.first_engine, "ask", "--group", "family", "@Robin repeat hello family").stdout
    expect("hello family" in said, f"the group is not answered: {said}")
    g.does("groups", "remove", "family")


def tasks(g: Ground) -> None:
    made = g.record("tasks", "add", "--group", "main", "--cron", "0 8 * * 1-5", "repeat good morning")["task"]["id"]
    g.does("tasks", "run", made)
    with host(g):
        until = time.monotonic() + SECONDS
        while not g.record("tasks", "show", made)["task"]["runs"]:
            expect(time.monotonic() < until, "the task does not run")
            time.sleep(0.2)
    g.does("tasks", "cancel", made)


def drill(g: Ground) -> None:
    for engine in g.engines or [g.first_engine]:
        g.does("--engine", engine, "drill", seconds=DRILL_SECONDS)


def image(g: Ground) -> None:
    used = g.record("image", "info")["used"]["id"]
    saved = g.folder / "image.tar.xz"
    g.does("image", "save", str(saved))
    other = ("--home", str(g.folder / "other"))
    g.does(*other, "image", "load", str(saved), "--accept")
    expect(g.record(*other, "image", "info")["used"]["id"] == used, "the image that was loaded is another one")


def children(g: Ground) -> None:
    """What it starts has the person's environment, and none of what is between the launcher and the host."""
    seen, folder = g.folder / "environment", g.folder / "fake"
    folder.mkdir()
    (folder / "docker").write_text(FAKE_DOCKER.format(out=seen))
    (folder / "docker").chmod(0o755)
    env = g.environment(PATH=f"{folder}:{os.environ['PATH']}", LD_LIBRARY_PATH="/a/folder/of/mine")
    g.does("--engine", "docker", "doctor", env=env, status=1)
    expect(seen.is_file(), "the stand-in for docker was not started")
    # The host gives its engines a few variables by name, and this is none of them: not even the person's own.
    found = FORBIDDEN.findall(seen.read_text())
    expect(not found, f"a child sees {sorted(set(found))}")


def killed(g: Ground) -> None:
    """What a host that was killed leaves: nothing in the folders for temporary files, no process, no container."""
    before = leavings(g)
    with host(g) as process:
        g.does("--engine", g.first_engine, "ask", "repeat before the end")
        process.kill()
        process.wait()
    wait_for("its processes to end", lambda: not processes(g))
    left = sorted(leavings(g) - before)
    expect(not left, f"left behind: {left}")
    said = g.does("--engine", g.first_engine, "ask", "repeat after the end").stdout
    expect("after the end" in said, "it does not go on after a kill")


def install(g: Ground) -> None:
    g.does("install", "--to", str(g.home / ".local" / "bin"))
    expect("nanoclaw" in g.does("version", program=installed(g)).stdout, "what was installed does not start")


def update(g: Ground) -> None:
    if g.newer is None:
        raise SkippedError("no signed later build was given (--newer FILE, made by a build with `--key`)")
    old = g.does("version", program=installed(g)).stdout
    damaged = g.folder / "damaged"
    data = bytearray(g.newer.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    shutil.copy(f"{g.newer}.sig", f"{damaged}.sig")
    g.does("update", "--from", str(damaged), program=installed(g), status=1)
    expect(g.does("version", program=installed(g)).stdout == old, "a damaged update was taken")
    g.does("update", "--from", str(g.newer), program=installed(g))
    expect(g.does("version", program=installed(g)).stdout != old, "after `update` the version is the old one")
    g.does("--engine", g.first_engine, "ask", "repeat as before", program=installed(g))


def rollback(g: Ground) -> None:
    if g.newer is None:
        raise SkippedError("nothing was updated")
    new = g.does("version", program=installed(g)).stdout
    g.does("rollback", "--yes", program=installed(g))
    expect(g.does("version", program=installed(g)).stdout != new, "after `rollback` the version is the new one")


def uninstall(g: Ground) -> None:
    """Nothing is left: of the home, of the caches, of containers and of images."""
    if (g.folder / "other").exists():  # from the check of the image
        g.does("--home", str(g.folder / "other"), "uninstall", "--purge", "--yes")
    g.does("uninstall", "--purge", "--yes", program=installed(g) if installed(g).exists() else None)
    left = sorted(str(path.relative_to(g.home)) for path in g.home.rglob("*") if not path.is_dir())
    expect(not left, f"left in HOME: {left[:10]}")
    folders = [str(path.relative_to(g.home)) for path in g.home.rglob("*") if "nanoclaw" in path.name.lower()]
    expect(not folders, f"folders left in HOME: {folders}")
    expect(not (g.folder / "other").exists() or not any((g.folder / "other").iterdir()), "left in --home DIR")


CHECKS: Final[dict[str, Callable[[Ground], None]]] = {
    "version": version, "help": help_, "status": status, "licenses": licenses, "source": source, "engines": engines,
    "doctor": doctor, "ask": ask, "chat": chat, "groups": groups, "tasks": tasks, "image": image, "children": children,
    "drill": drill, "killed": killed, "install": install, "update": update, "rollback": rollback,
    "uninstall": uninstall,
}  # fmt: skip


# --- all of them -------------------------------------------------------------------------------------------------


def check(name: str, ground: Ground) -> Result:
    began = time.monotonic()
    try:
        CHECKS[name](ground)
    except FailedError as e:
        return Result(name, "FAILED", time.monotonic() - began, str(e))
    except SkippedError as e:
        return Result(name, "skipped", time.monotonic() - began, str(e))
    except Exception as e:  # noqa: BLE001  # a check that breaks is a check that failed: the others go on
        return Result(name, "FAILED", time.monotonic() - began, f"{type(e).__name__}: {e}")
    return Result(name, "ok", time.monotonic() - began)


def chosen(only: list[str]) -> list[str]:
    """What was asked for, and what that stands on."""
    if not only:
        return list(CHECKS)
    needed = {*only, "engines"} if set(only) - {"version", "help", "status", "licenses", "source"} else set(only)
    needed |= {"install"} if {"update", "rollback"} & needed else set()
    needed |= {"update"} if "rollback" in needed else set()
    return [name for name in CHECKS if name in needed]


def run(ground: Ground, names: list[str], say: Callable[[Result], None]) -> list[Result]:
    before = leavings(ground), engine_state()
    results = []
    for name in names:
        results.append(check(name, ground))
        say(results[-1])
    if "uninstall" in names:
        left = sorted(leavings(ground) - before[0]) + sorted(engine_state() - before[1])
        outcome = "FAILED" if left else "ok"
        results.append(Result("nothing left", outcome, 0.0, f"left behind: {left}" if left else ""))
        say(results[-1])
    return results


def main() -> int:
    options = argparse.ArgumentParser(prog="build/selftest.py", description="Use a built file as a person would.")
    options.add_argument("file", type=Path)
    options.add_argument("--only", metavar="NAME", action="append", default=[], choices=CHECKS, help=", ".join(CHECKS))
    options.add_argument("--newer", type=Path, help="a signed later build, for update and rollback")
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="selftest-", ignore_cleanup_errors=True) as folder:
        ground = Ground(Path(folder), args.file.resolve(), args.newer.resolve() if args.newer else None)
        for each in (ground.home, ground.temporary, ground.file.parent):
            each.mkdir(mode=0o700)
        shutil.copy(ground.original, ground.file)
        ground.file.chmod(0o755)
        results = run(ground, chosen(args.only), lambda result: None if args.json else shown(result))
    failed = sum(result.outcome == "FAILED" for result in results)
    if args.json:
        print(json.dumps({"file": str(args.file), "results": [asdict(result) for result in results]}))
    else:
        print(f"{len(results)} checks, {failed} failed")
    return 1 if failed else 0


def shown(result: Result) -> None:
    print(f"{result.outcome.ljust(8)}{result.name.ljust(14)}{result.seconds:6.1f} s  {result.why}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
