"""A network namespace that has nothing but loopback, and what programs in it try to reach, read from `strace`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CALLS: Final = "connect,sendto,sendmsg,sendmmsg,getsockname,openat,clone,clone3,fork,vfork,unshare"
PROCESSES: Final = frozenset({"clone", "clone3", "fork", "vfork"})
LINE: Final = re.compile(r"(\d+) +(.*)")
UNFINISHED: Final = " <unfinished ...>"
RESUMED: Final = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?: /\* (\d+) in strace's PID NS \*/)?(.*)")
INTERNET: Final = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\)(?:, sin6_flowinfo=\w+\(\d+\))?, "
    r'(?:sin_addr=inet_addr\("([\d.]+)"\)|inet_pton\(AF_INET6, "([0-9a-f:.]+)")'
)
UNIX: Final = re.compile(r'sa_family=AF_UNIX, sun_path=@?"((?:[^"\\]|\\.)*)"')
OPENED: Final = re.compile(r'"((?:[^"\\]|\\.)*)", O_')
BY_NUMBER: Final = re.compile(r"/proc/self/fd/(\d+)")
UP: Final = """\
import fcntl, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING, IFF_LOOPBACK
print("up", flush=True)
sys.stdin.read()
"""


# --- what was tried ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reached:
    """An address that a program named to the kernel, whether anybody was there or not."""

    address: str
    """`127.0.0.1:8080`, `[::1]:53`, or the path of a Unix socket."""
    call: str


@dataclass
class Trace:
    """Calls outside of sandboxes. A sandbox has a network of its own, and nothing but loopback in it: what an agent,
    or the drill's attacker, tries in there reaches nobody, and is the drill's to judge."""

    reached: list[Reached] = field(default_factory=list)
    listening: set[str] = field(default_factory=set)
    """Addresses that these same programs were given when they asked what their socket is called."""


@dataclass(frozen=True)
class _Call:
    at: int
    """The line on which it began: a child's own calls are always after it."""
    pid: int
    name: str
    text: str
    result: int
    outer: int
    """The result as a process number of strace's own namespace."""


def read(text: str) -> Trace:
    calls = list(_calls(text.splitlines()))
    families = _Families(calls)
    found = Trace()
    opened: dict[tuple[int, str], str] = {}
    for call in calls:
        if call.name == "openat":
            if call.result >= 0 and (path := OPENED.search(call.text)):
                opened[call.pid, str(call.result)] = path[1]
            continue
        if call.name in PROCESSES or call.name == "unshare" or families.apart(call.pid, call.at):
            continue
        # strace is told to show no data (-s 0): what a program sends cannot look like an address of ours.
        for address in addresses(call.text):
            if call.name == "getsockname":
                found.listening.add(address)
            else:
                # A socket may be named by a descriptor of it or of its folder: its path can be too long for an address.
                named = BY_NUMBER.sub(lambda number: opened.get((call.pid, number[1]), number[0]), address)  # noqa: B023
                found.reached.append(Reached(named, call.name))
    return found


def addresses(text: str) -> list[str]:
    internet = [f"{four}:{port}" if four else f"[{six}]:{port}" for port, four, six in INTERNET.findall(text)]
    return [*internet, *UNIX.findall(text)]


def _calls(lines: Iterable[str]) -> Iterator[_Call]:
    """Whole calls: one that another process's line came into is put together again."""
    begun: dict[int, tuple[int, str]] = {}
    for at, line in enumerate(lines):
        if (found := LINE.match(line)) is None:
            continue
        pid, text, since = int(found[1]), found[2], at
        if text.endswith(UNFINISHED):
            begun[pid] = (at, text.removesuffix(UNFINISHED))
            continue
        if (resumed := RESUMED.match(text)) and pid in begun:
            since, head = begun.pop(pid)
            text = head + resumed[2]
        if call := CALL.match(text):
            yield _Call(since, pid, call[1], call[2], int(call[3]), int(call[4] or call[3]))


class _Families:
    """Which process was, at which line, in a network namespace of its own making or of its forebears'."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self._born: dict[int, list[tuple[int, int, bool]]] = {}
        self._left: dict[int, list[int]] = {}
        for call in calls:
            if call.result < 0:
                continue
            new = "CLONE_NEWNET" in call.text
            if call.name in PROCESSES:
                self._born.setdefault(call.outer, []).append((call.at, call.pid, new))
            elif call.name == "unshare" and new:
                self._left.setdefault(call.pid, []).append(call.at)

    def apart(self, pid: int, at: int) -> bool:
        births = sorted(self._born.get(pid, []))
        before = bisect_right(births, (at, sys.maxsize, True))
        since, parent, new = births[before - 1] if before else (0, 0, False)
        if new or any(since <= left < at for left in self._left.get(pid, [])):
            return True
        return bool(before) and self.apart(parent, since)


# --- where it is tried ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Namespace:
    """Programs are started in it by `argv`. As an ordinary user it comes with a user namespace."""

    enter: tuple[str, ...]

    def argv(self, *command: str) -> list[str]:
        return [*self.enter, "--", *command]

    def traced(self, out: Path, *command: str) -> list[str]:
        strace = ("strace", "-f", "-q", "-s", "0", "--pidns-translation", "-e", f"trace={CALLS}", "-e", "signal=none")
        return self.argv(*strace, "-o", str(out), "--", *command)


class CannotError(Exception):
    """No such namespace can be made here, or nothing can be traced in it."""


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    for program in ("unshare", "nsenter", "strace"):
        if shutil.which(program) is None:
            raise CannotError(f"{program} is not installed")
    root = os.geteuid() == 0
    make = ["unshare", "--net"] if root else ["unshare", "--map-current-user", "--keep-caps", "--net"]
    holder = subprocess.Popen(
        [*make, "--", sys.executable, "-c", UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"up\n":
            said = holder.communicate()[1].decode(errors="replace").strip().splitlines()
            raise CannotError(f"no network namespace: {said[-1] if said else 'unshare says nothing'}")
        of = ["--user", "--preserve-credentials"] if not root else []
        made = Namespace(("nsenter", "--target", str(holder.pid), *of, "--net"))
        tried = subprocess.run(made.traced(Path(os.devnull), "true"), capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            raise CannotError(f"strace does not work here: {tried.stderr.strip()}")
        yield made
    finally:
        holder.kill()
        holder.communicate()
