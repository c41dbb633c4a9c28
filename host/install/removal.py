"""What there is of this installation on this machine, and taking it away, the program itself last.

Only names that NanoClaw gives are ours: a home may be a folder in which a person also keeps other things.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from host import bundle, carried
from host.config import Home
from host.engines.base import Engine, find, run
from host.engines.choice import ENGINES
from host.errors import EngineError, UserError
from host.install import extras, place, trees

CACHE: Final = ("image", "source", "host", "bubblewrap", "whatsapp")
DATA: Final = (
    "nanoclaw.db", "nanoclaw.db-*", "nanoclaw.db.schema-*", "host.lock", "host.sock", "install-id", "install-id.new",
    "log", "groups", "global", "inbox", "trash", "backup", "channels", "whatsapp", extras.RECORD,
)  # fmt: skip
CONFIG: Final = ("config.toml", ".env", "mount-allowlist.json", "image.json")
KEEPERS: Final = ("docker", "podman")
"""Engines that keep something between two turns, on the systems that the one file is for."""
INSTALL_ID: Final = re.compile(r"[0-9a-f]{12}")
ENGINE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Kept:
    """What an engine keeps of this installation."""

    engine: Engine
    containers: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    purge: bool
    kept: tuple[Kept, ...]
    skipped: tuple[str, ...]
    """Engines that were not looked at, and why."""
    files: tuple[Path, ...]
    """What `install` wrote, and nobody changed since."""
    state: tuple[Path, ...]
    """Settings and data; empty unless all is to go."""
    cache: tuple[Path, ...]
    own: tuple[Path, ...]
    """What this very process runs from; removed at the end, but for the programs."""
    programs: tuple[Path, ...]
    """In the order of removal."""
    folders: tuple[Path, ...]
    """That `install` made: removed if nothing is in them, the inner before the outer."""
    left: tuple[str, ...]
    """What stays although one might think that it goes, and why."""


def planned(home: Home, environ: Mapping[str, str], *, purge: bool) -> Plan:
    """Looks only."""
    install = (extras.read(home.data / "install-id") or b"").decode("ascii", "replace").strip()
    kept, skipped = _engines(install, image_ids(home.cache))
    record = extras.recorded(home.data)
    files, left = _files(record)
    programs, more = _programs(record, environ)
    left += more
    state = [*_ours(home.config, CONFIG, left), *_ours(home.data, DATA, left)] if purge else []
    if not purge and (home.data / extras.RECORD).exists():
        state = [home.data / extras.RECORD]
    running = Path(sys.executable).parent if bundle.frozen() else None
    caches = [home.cache]
    for each in fallback_caches(environ):
        if pid := runs_from(each):
            left.append(f"{each}: a NanoClaw (pid {pid}) runs from it")
        else:
            caches.append(each)
    found = [path for folder in caches for path in _ours(folder, CACHE, left)]
    own = [path for path in found if running and running.is_relative_to(path)]
    cache = tuple(path for path in found if path not in own)
    return Plan(
        purge=purge,
        kept=tuple(kept),
        skipped=tuple(skipped),
        files=files,
        state=tuple(state),
        cache=cache,
        own=tuple(own),
        programs=programs,
        folders=record.folders[::-1],
        left=tuple(left),
    )


def _ours(folder: Path, names: tuple[str, ...], left: list[str]) -> list[Path]:
    """What lies in the folder under our names. Not if it is a link: what that leads to may be anything."""
    if folder.is_symlink():
        left.append(f"{folder}: a link, which is not followed")
        return []
    if not folder.is_dir():
        return []
    found = sorted(folder.iterdir())
    ours = [path for path in found if any(fnmatchcase(path.name, name) for name in names)]
    others = [path.name for path in found if path not in ours]
    if others:
        left.append(f"{folder}: {', '.join(map(repr, others[:5]))}{' …' if len(others) > 5 else ''}: not NanoClaw's")
    return ours


def fallback_caches(environ: Mapping[str, str]) -> list[Path]:
    """Where the launcher unpacks where the usual cache cannot be used."""
    uid = os.geteuid()
    # /run/user: also where this session was not told of it (su, cron), and another was.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    bases = (runtime, f"/run/user/{uid}", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # judged below
    found = []
    for base in dict.fromkeys(base for base in bases if base.startswith("/")):
        path = Path(base) / f"nanoclaw-{uid}"
        try:
            status = path.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077:
            found.append(path)
    return found


def runs_from(folder: Path) -> int:
    """A process, other than this one, whose program lies in the folder: it may be a host of another home. 0 if none."""
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "exe").readlink().is_relative_to(folder):
                    return int(entry.name)
            except OSError:
                continue  # it ended, or is somebody else's
    return 0


# --- engines --------------------------------------------------------------------------------------------------


def image_ids(cache: Path) -> tuple[str, ...]:
    """Images that this home can have given to an engine: those in its cache, and the one that is carried."""
    folders = cache / "image"
    ids = [f"sha256:{path.name}" for path in sorted(folders.glob("?" * 64))] if folders.is_dir() else []
    ours = [carried.IMAGE["id"], carried.IMAGE["manifest"]] if carried.IMAGE else []
    return tuple(dict.fromkeys(each for each in [*ids, *ours] if re.fullmatch("sha256:[0-9a-f]{64}", each)))


def _engines(install: str, images: tuple[str, ...]) -> tuple[list[Kept], list[str]]:
    kept, skipped = [], []
    for name in KEEPERS:
        if find(name) is None:
            skipped.append(f"{name}: not installed")
            continue
        engine = ENGINES[name]()
        try:
            engine.probe()  # podman learns by it where its store is
            containers = engine.orphans(install) if INSTALL_ID.fullmatch(install) else []
            there = [each for each in images if _image(engine, "inspect", each)]
        except EngineError as e:
            skipped.append(f"{name}: {e}")
            continue
        if containers or there:
            kept.append(Kept(engine, tuple(containers), tuple(there)))
    return kept, skipped


def _image(engine: Engine, action: str, image: str) -> bool:
    """Ask the engine about an image, or to remove it; whether it did. One that a container uses stays: no force."""
    removing = engine.remove("") or ()  # begins as every command to it does
    return run((*removing[: removing.index("rm")], "image", action, image), ENGINE_SECONDS).status == 0


def forget(kept: Kept, install: str) -> list[str]:
    """Remove containers and images; what stays, in words."""
    name = kept.engine.name
    try:
        gone = kept.engine.reap(install) if kept.containers else []
        still = [image for image in kept.images if not _image(kept.engine, "rm", image)]
    except EngineError as e:
        return [f"{name}: {e}"]
    problems = [f"{name}: the container {each} could not be removed" for each in kept.containers if each not in gone]
    return problems + [f"{name}: the image {each[:19]} stays: something else uses it" for each in still]


# --- what install wrote ---------------------------------------------------------------------------------------


def _files(record: extras.Installed) -> tuple[tuple[Path, ...], list[str]]:
    ours, left = [], []
    for path, digest in record.files.items():
        data = extras.read(path)
        if data is not None and extras.digest(data) == digest:
            ours.append(path)
        elif os.path.lexists(path):
            left.append(f"{path}: changed since it was installed")
    return tuple(ours), left


def _programs(record: extras.Installed, environ: Mapping[str, str]) -> tuple[tuple[Path, ...], list[str]]:
    """Files to remove, the running one last; and those that stay."""
    heads = list(record.programs)
    left: list[str] = []
    if bundle.frozen():
        own = bundle.executable()
        head = own.with_name(own.name.removesuffix(place.PREVIOUS))
        if head not in heads and _is_usual(head, environ):
            heads.append(head)
        if head not in heads:
            left.append(f"{own}: `nanoclaw install` did not put it there; remove it yourself")
    found: list[Path] = []
    for head in heads:
        folder = head.parent
        if not head.parent.is_dir():
            continue
        if not os.access(folder, os.W_OK | os.X_OK):
            left.append(f"{head}: only root can remove it: sudo rm {head}")
            continue
        found += _of(head, left)
    mine = bundle.executable() if bundle.frozen() else None
    return tuple(sorted(found, key=lambda path: path == mine)), left


def _is_usual(program: Path, environ: Mapping[str, str]) -> bool:
    try:
        return program.parent in {extras.usual_folder(environ), Path("/usr/local/bin")}
    except UserError:
        return False


def _of(head: Path, left: list[str]) -> Iterator[Path]:
    """The program and what an update left beside it, as far as they are NanoClaw."""
    fd = os.open(head.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = place.Place(head.parent, head.name, fd)
        for name in here.names():
            path = head.parent / name
            try:
                ours = name in (here.new, here.part) or place.is_ours(here, name)
            except UserError as e:
                left.append(str(e))
                continue
            if os.path.lexists(path):
                if ours:
                    yield path
                else:
                    left.append(f"{path}: not NanoClaw any more")
    finally:
        os.close(fd)


# --- doing it -------------------------------------------------------------------------------------------------


def carry_out(plan: Plan, home: Home, progress: Callable[[str], None]) -> list[str]:
    """Remove what is planned; what could not be, in words. Killed in the middle, it can be run again: the program is
    there until the end, and the record until just before."""
    problems: list[str] = []
    install = (extras.read(home.data / "install-id") or b"").decode("ascii", "replace").strip()
    for kept in plan.kept:
        progress(f"{kept.engine.name}: removing containers and images …")
        problems += forget(kept, install)
    record = home.data / extras.RECORD
    progress("removing files …")
    for path in (*plan.files, *plan.cache, *(path for path in plan.state if path != record)):
        problems += trees.remove(path)
    if not problems and os.path.lexists(record):  # else it is still needed, to try again
        problems += trees.remove(record)
    lock = home.data / "host.lock"
    if os.path.lexists(lock) and (plan.purge or list(home.data.iterdir()) == [lock]):
        problems += trees.remove(lock)  # ours, since nobody else runs here
    for path in plan.own:
        problems += trees.remove(path)
    for folder in (
        home.cache,
        *{path.parent for path in (*plan.own, *plan.cache)},
        home.data,
        *([home.config] if plan.purge else []),
    ):
        _remove_empty(folder)
    for path in plan.programs:
        problems += trees.remove(path)
    for folder in plan.folders:
        _remove_empty(folder)
    return problems


def _remove_empty(folder: Path) -> None:
    try:
        if not folder.is_symlink():
            folder.rmdir()
    except OSError:
        return  # something is in it: it was said what
