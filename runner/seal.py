"""Is this process sealed? Read back from the kernel, before anything is asked for.

The host compares what `hello` reports with what it set up; `faults` are the ones that the runner itself
refuses to live with, because a secret handed to it would not be safe.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import socket
import struct
from typing import Final

from runner import protocol

PR_GET_DUMPABLE: Final = 3
SIOCGIFFLAGS: Final = 0x8913
IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
WORKSPACE: Final = "/workspace"
BUILD_FILE: Final = "/opt/nanoclaw/BUILD"


def hello() -> protocol.Hello:
    return protocol.Hello(protocol.VERSION, build(), checks(), mounts(_read("/proc/self/mountinfo")))


def build() -> str:
    """Digest of the runner's sources as the image was built from; `source` outside an image."""
    try:
        return _read(BUILD_FILE).strip()[:128]
    except FileNotFoundError:
        return "source"


def checks() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in _read("/proc/self/status").splitlines() if ":" in line)
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "cap_eff": int(status["CapEff"], 16),
        "cap_bnd": int(status["CapBnd"], 16),
        "no_new_privs": int(status["NoNewPrivs"]),
        # Absent where the kernel was built without it: reported as off.
        "seccomp": int(status.get("Seccomp", "0")),
        "core_limit": _limit(resource.RLIMIT_CORE),
        "interfaces": interfaces(),
        "nproc_limit": _limit(resource.RLIMIT_NPROC),
        "as_limit": _limit(resource.RLIMIT_AS),
        "fsize_limit": _limit(resource.RLIMIT_FSIZE),
    }


def faults(checks: dict[str, int]) -> list[str]:
    """What is wrong with these checks, as sentences; empty when the process may be given a secret."""
    wrong = {
        "it runs as root": checks["uid"] == 0,
        "other processes of its user can read its memory": checks["dumpable"] != 0,
        "it has capabilities": checks["cap_eff"] != 0,
        "capabilities can be gained": checks["cap_bnd"] != 0,
        "set-user-id programs can raise its privileges": checks["no_new_privs"] != 1,
        "it can leave a core file": checks["core_limit"] != 0,
    }
    return [sentence for sentence, is_wrong in wrong.items() if is_wrong]


def interfaces() -> int:
    """Network interfaces that are up and not loopback.

    Kernels with tunnel modules put `tunl0`, `sit0` and the like, down, into every new network namespace;
    only CAP_NET_ADMIN could bring one up, so they are no way out.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return sum(_is_way_out(sock, name) for _, name in socket.if_nameindex())


def _is_way_out(sock: socket.socket, name: str) -> bool:
    try:
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    except OSError:
        return True  # not known to be harmless
    flags: int = struct.unpack("16sH14x", answer)[1]
    return bool(flags & IFF_UP) and not flags & IFF_LOOPBACK


def mounts(mountinfo: str) -> dict[str, str]:
    """Every mount point at and under /workspace, and what is mounted there."""
    points = (unescape(line.split(" ")[4]) for line in mountinfo.splitlines())
    found = {}
    for point in points:
        if point == WORKSPACE or point.startswith(WORKSPACE + "/"):
            seen = os.lstat(point)
            found[point] = f"{seen.st_dev}:{seen.st_ino}"
    return found


def unescape(field: str) -> str:
    r"""A path of mountinfo, where space, tab, newline and backslash are written `\040` and so on."""
    raw = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 0xFF]), field.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "backslashreplace")  # a path that is no UTF-8 matches nothing that the host mounted


def _limit(kind: int) -> int:
    soft = resource.getrlimit(kind)[0]
    return -1 if soft == resource.RLIM_INFINITY else soft


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as f:  # noqa: PTH123 (start-up time)
        return f.read()
