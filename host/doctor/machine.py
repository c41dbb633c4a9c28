"""The kernel: what engines and the host's own walls are made of."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning

PROC: Final = Path("/proc")
SYS: Final = Path("/sys")
SYS_OPENAT2: Final = 437
"""The same on every architecture that Linux has had since."""
SYS_LANDLOCK: Final = 444
LANDLOCK_VERSION: Final = 1
ENOSYS: Final = 38
TIME_ERROR: Final = 5
"""What `adjtimex` says of a clock that nothing keeps in step."""
TIMEX_BYTES: Final = 512
"""More than `struct timex` has anywhere."""


def kernel(subject: Subject) -> Iterator[Finding]:
    if sys.platform != "linux":
        yield ok("kernel", f"{platform.system()} {platform.release()}: sandboxes are virtual machines of their own")
        return
    yield ok("kernel", f"Linux {platform.release()} on {platform.machine()}")
    if has_openat2():
        yield ok("openat2", "there: folders are opened without following any link")
    else:
        yield ok("openat2", "not there (Linux before 5.6): folders are opened component by component instead")
    if (PROC / "sys/kernel/seccomp/actions_avail").exists():
        yield ok("seccomp", "there: system calls can be filtered")
    else:
        yield failure("seccomp", "this kernel cannot filter system calls", "use a kernel with CONFIG_SECCOMP_FILTER")
    version = landlock_version()
    yield ok("landlock", f"there (version {version}); nothing needs it" if version else "not there; nothing needs it")


def has_openat2() -> bool:
    """Asked with arguments that no kernel takes: one that has the call says so."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(SYS_OPENAT2, -1, None, None, 0)
    return ctypes.get_errno() != ENOSYS


def landlock_version() -> int:
    """0 where the kernel has none, or was started without it."""
    asked = ctypes.CDLL(None).syscall(SYS_LANDLOCK, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_VERSION))
    return max(0, int(asked))


def clock_is_kept() -> bool | None:
    """Whether something keeps the clock in step with others, by the kernel's knowledge; None if it does not tell."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))  # all zero: nothing is to be changed
    return None if state < 0 else state != TIME_ERROR


def namespaces(subject: Subject) -> Iterator[Finding]:
    """bubblewrap and rootless podman need user namespaces where they are not started by root."""
    if sys.platform != "linux":
        return
    name = "user namespaces"
    most = _number(PROC / "sys/user/max_user_namespaces")
    old = _number(PROC / "sys/kernel/unprivileged_userns_clone")  # Debian's own switch, in older kernels
    restricted = _number(PROC / "sys/kernel/apparmor_restrict_unprivileged_userns")
    if os.getuid() == 0:
        yield ok(name, "not needed: you are root")
    elif most == 0 or old == 0:
        switch = "user.max_user_namespaces=10000" if most == 0 else "kernel.unprivileged_userns_clone=1"
        yield warning(name, "switched off: bubblewrap and rootless podman cannot start", f"sudo sysctl -w {switch}")
    elif restricted:
        yield warning(
            name,
            "AppArmor permits them only to programs that have a profile for it (Ubuntu 24.04 and later)",
            "if bubblewrap fails below, give bwrap such a profile, or use docker",
        )
    else:
        yield ok(name, "there")


def cgroups(subject: Subject) -> Iterator[Finding]:
    """What bounds a container's memory. A Raspberry Pi's firmware switches it off."""
    if sys.platform != "linux":
        return
    name = "memory cgroup"
    controllers = SYS / "fs/cgroup/cgroup.controllers"
    if controllers.exists():
        found, version = controllers.read_text().split(), "version 2"
    else:
        lines = (PROC / "cgroups").read_text().splitlines() if (PROC / "cgroups").exists() else []
        found, version = [line.split()[0] for line in lines if line.split()[-1] == "1"], "version 1"
    if "memory" in found:
        yield ok(name, f"there (cgroups {version})")
    else:
        yield warning(
            name,
            "switched off: docker and podman cannot bound the memory of a sandbox",
            "on a Raspberry Pi add cgroup_enable=memory cgroup_memory=1 to the line in /boot/firmware/cmdline.txt, "
            "and restart it",
        )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
