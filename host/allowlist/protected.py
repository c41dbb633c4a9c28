"""Places that no allowlist can open: what runs NanoClaw, what it keeps, what speaks for the machine, and every
folder that an agent can write. Each is compared by path and by identity, so that another way to the same folder
(a bind mount, another spelling where case makes no difference) is no way in."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from host import bundle

ROOT: Final = Path(__file__).resolve().parents[2]
"""Where this program's own source lies."""
Identity = tuple[int, int]

MEDIA: Final = "/run/media"
"""Some systems mount people's disks here: the one place beneath /run that is no one's socket."""


@dataclass(frozen=True)
class Place:
    path: str
    """Absolute and free of links, as far as it exists."""
    what: str
    inside: bool = True
    """Whether all that lies in it is closed too."""
    for_writing: bool = False
    """Closed only to those who would write to it."""
    chain: tuple[Identity | None, ...] = ()
    """Its identity and those of the folders that it lies in, innermost first; None for what is not there."""


@dataclass(frozen=True)
class Protected:
    """The places as they are at this moment."""

    places: tuple[Place, ...] = ()
    writable: tuple[Place, ...] = ()
    """What agents can write: such a folder may be given to several groups, but nothing in it, and nothing around
    it, is anyone's to mount. What lies in it the agent could exchange; what lies around it would show it."""

    @classmethod
    def of(cls, config: Path, data: Path, cache: Path, writable: Iterable[str] = ()) -> Protected:
        """For a home with these three folders, where agents can write to the folders `writable`."""
        environ = os.environ
        own = (
            Place(str(config), "NanoClaw's own settings"),
            Place(str(data), "NanoClaw's own data"),
            Place(str(cache), "NanoClaw's own cache"),
        )
        others = (*_system(), *_homes(environ), *_program(environ), *_sockets(environ))
        granted = (Place(path, "a folder that an agent can write") for path in dict.fromkeys(writable))
        # A place that is not there closes nothing, but for our own, which may yet be made.
        known: dict[str, Identity | None] = {}
        there = (place for each in others if (place := _placed(each, known)).chain[0] is not None)
        return cls((*(_placed(each, known) for each in own), *there), tuple(_placed(each, known) for each in granted))

    def refusal(self, path: str, *, rw: bool) -> str | None:
        """Why the folder `path`, absolute and free of links, is closed; None if it is not."""
        chain = chain_of(path)
        for place in self.places:
            if place.for_writing and not rw:
                continue
            how = relation(path, chain, place)
            if how in {"is", "holds"} or (how == "lies in" and place.inside and not _is_media(path, place)):
                where = "" if how == "is" else f" ({place.path})"
                return f"it {how} {place.what}{where}: never {'given to write' if place.for_writing else 'mounted'}"
        for place in self.writable:
            how = relation(path, chain, place)
            if how in {"holds", "lies in"}:
                return f"it {how} {place.what} ({place.path}): that one can be mounted, but nothing in it or around it"
        return None

    def closes(self, path: str) -> str | None:
        """Why neither the folder nor anything in it could ever be mounted; None if something could."""
        chain = chain_of(path)
        for place in self.places:
            if place.inside and not place.for_writing and not _is_media(path, place):
                how = relation(path, chain, place)
                if how in {"is", "lies in"}:
                    return f"it {how} {place.what}{'' if how == 'is' else f' ({place.path})'}: never mounted"
        return None


def relation(path: str, chain: tuple[Identity | None, ...], place: Place) -> str:
    """`is`, `lies in`, `holds`, or nothing."""
    here, there = chain[0], place.chain[0]
    if path == place.path or (here is not None and here == there):
        return "is"
    if is_beneath(path, place.path) or (there is not None and there in chain[1:]):
        return "lies in"
    if is_beneath(place.path, path) or (here is not None and here in place.chain[1:]):
        return "holds"
    return ""


def is_beneath(path: str, folder: str) -> bool:
    """Whether it lies in the folder, by name: `/srv/safe-evil` is not in `/srv/safe`."""
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def chain_of(path: str, known: dict[str, Identity | None] | None = None) -> tuple[Identity | None, ...]:
    """The identities of a path and of all that it lies in. `known`: what was looked up before, and now."""
    known = {} if known is None else known
    chain = []
    while path:
        if path not in known:
            known[path] = _identity(path)
        chain.append(known[path])
        path = "" if path == "/" else path.rpartition("/")[0] or "/"
    return tuple(chain)


def _identity(path: str) -> Identity | None:
    try:
        seen = os.lstat(path)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _placed(place: Place, known: dict[str, Identity | None]) -> Place:
    real = place.path
    with contextlib.suppress(OSError):  # a link that is exchanged just now; by its numbers it is still known
        real = os.path.realpath(place.path)
    return replace(place, path=real, chain=chain_of(real, known))


def _is_media(path: str, place: Place) -> bool:
    return place.path == "/run" and is_beneath(path, MEDIA)


# --- which they are -------------------------------------------------------------------------------------


def _system() -> Iterator[Place]:
    yield Place("/", "the whole machine", inside=False)
    for path in ("/proc", "/sys", "/dev"):
        yield Place(path, "the kernel's own files")
    yield Place("/run", "the sockets of this machine's services")
    for path in ("/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"):
        yield Place(path, "the container engine's own files")


def _homes(environ: Mapping[str, str]) -> Iterator[Place]:
    """By the environment, and by the user database: either may be what people mean."""
    homes = [environ.get("HOME", "")]
    with contextlib.suppress(KeyError):  # a number without a name, as in many containers
        homes.append(pwd.getpwuid(os.geteuid()).pw_dir)
    for home in dict.fromkeys(homes):
        if home.startswith("/") and home != "/":
            yield Place(home, "your home folder", inside=False)
            for name in (".colima", ".rd", ".orbstack", ".local/share/containers", ".local/share/docker"):
                yield Place(f"{home}/{name}", "the container engine's own files")


def _program(environ: Mapping[str, str]) -> Iterator[Place]:
    what = "the program that runs NanoClaw"
    files = [str(ROOT), sys.executable, os.path.realpath(sys.executable), str(getattr(sys, "_MEIPASS", ""))]
    if sys.prefix != sys.base_prefix:
        files.append(sys.prefix)
    for path in dict.fromkeys(files):
        if path.startswith("/"):
            yield Place(path, what)
    if bundle.frozen():
        yield Place(str(bundle.cache()), what)  # what was unpacked, wherever the launcher found room for it
    # To read them harms nobody. To write them is to decide what the host runs next.
    for path in dict.fromkeys([str(bundle.executable()), *sys.path, *os.get_exec_path(dict(environ))]):
        if path.startswith("/") and path != "/":
            yield Place(path, "programs that the host runs", for_writing=True)


def _sockets(environ: Mapping[str, str]) -> Iterator[Place]:
    """Whoever can reach one speaks with the person's own voice; a read-only mount does not prevent that."""
    addresses = [environ.get(name, "") for name in ("DOCKER_HOST", "CONTAINER_HOST")]
    addresses += environ.get("DBUS_SESSION_BUS_ADDRESS", "").replace("unix:path=", "unix://").split(",")[:1]
    paths = [address.removeprefix("unix://") for address in addresses if address.startswith("unix://")]
    paths += [environ.get("SSH_AUTH_SOCK", ""), environ.get("XDG_RUNTIME_DIR", ""), "/tmp/.X11-unix"]  # noqa: S108
    for path in dict.fromkeys(paths):
        if path.startswith("/") and path != "/":
            yield Place(path, "a socket of this machine's services")
