"""What `podman info` and a trial container say of this machine, and what follows from it. Decides; starts nothing."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.engines import profile
from host.engines.base import Answer, find
from host.errors import EngineError
from host.model import Resources

OLDEST: Final = (4, 3)
"""The first version with all the options used here, `--unsetenv-all` among them."""
OTHER_RUNTIMES: Final = ("crun", "runc")
PER_NAMESPACE: Final = (5, 14)
"""Since this kernel the processes of a user are counted for each user namespace, and a rootless sandbox has its own."""
CONTROLLERS: Final = {"memory limit": "memory", "process limit": "pids", "cpu limit": "cpu"}

CGROUP: Final = "/sys/fs/cgroup"
# control → the file that tells it, with version 2 of cgroups and with version 1
LIMIT_FILES: Final = {
    "memory limit": (f"{CGROUP}/memory.max", f"{CGROUP}/memory/memory.limit_in_bytes"),
    "swap limit": (f"{CGROUP}/memory.swap.max", f"{CGROUP}/memory/memory.memsw.limit_in_bytes"),
    "process limit": (f"{CGROUP}/pids.max", f"{CGROUP}/pids/pids.max"),
    "cpu limit": (f"{CGROUP}/cpu.max", f"{CGROUP}/cpu/cpu.cfs_quota_us"),
}
STATUS: Final = "/proc/self/status"
HELD_BY: Final = {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}

Seen = dict[str, str]
"""Path, or field of /proc/self/status → what it said inside the trial container."""


@dataclass(frozen=True)
class Here:
    """How podman is to be used on this machine."""

    program: str
    options: tuple[str, ...] = ()
    """Before the verb: runtime, manager of cgroups, store."""
    rootless: bool = False
    selinux: bool = False
    left_out: frozenset[str] = frozenset()
    """Controls that podman would ignore with a warning, or refuse to start with."""
    processes: int | None = None
    """A limit of the user's processes that bounds nothing, for where a cgroup does; None: the sandbox's own limit,
    because no cgroup holds it."""
    user: tuple[int, int] = (1000, 1000)
    """Who the trial container is."""
    profile: bytes = b""
    """The system call filter; empty where podman cannot have one."""


@dataclass(frozen=True)
class Info:
    """The part of `podman info` that something is decided by."""

    version: str
    rootless: bool
    remote: bool
    kernel: str
    cgroups: str
    """`v1` or `v2`"""
    controllers: frozenset[str]
    manager: str
    runtime: str
    conmon: str
    filters_calls: bool
    profile: str
    """The file of its own system call filter."""
    selinux: bool
    user: tuple[int, int]
    ids: int
    """How many user numbers its containers can have."""
    driver: str
    graph_root: str
    run_root: str


def parse_info(answer: Answer) -> Info:
    """`EngineError` that tells the ways of not answering apart."""
    if answer.status is None:
        raise EngineError("podman is installed, but did not answer in time", "try it: podman info")
    if answer.status != 0:
        raise EngineError(f"podman is installed, but does not work: {answer.reason[:300]}", *_hints(answer.reason))
    try:
        return _info(json.loads(answer.out))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as e:
        raise EngineError(
            "podman is installed, but what it says of itself cannot be read", "try it: podman info"
        ) from e


def _info(said: dict[str, Any]) -> Info:
    host, store = said["host"], said["store"]
    security, runtime = host["security"], host["ociRuntime"]
    rootless = bool(security["rootless"])
    maps = host.get("idMappings") or {}
    uids, gids = maps.get("uidmap") or [], maps.get("gidmap") or []
    return Info(
        version=str(said["version"]["Version"]),
        rootless=rootless,
        remote=bool(host.get("serviceIsRemote")),
        kernel=str(host.get("kernel", "")),
        cgroups=str(host.get("cgroupVersion", "")),
        controllers=frozenset(map(str, host.get("cgroupControllers") or [])),
        manager=str(host.get("cgroupManager", "")),
        runtime=str(runtime.get("path") or runtime["name"]),
        conmon=str((host.get("conmon") or {}).get("path", "")),
        filters_calls=bool(security.get("seccompEnabled")),
        profile=str(security.get("seccompProfilePath") or ""),
        selinux=bool(security.get("selinuxEnabled")),
        user=(_outside(uids), _outside(gids)) if rootless else (1000, 1000),
        ids=sum(int(part["size"]) for part in uids),
        driver=str(store["graphDriverName"]),
        graph_root=str(store["graphRoot"]),
        run_root=str(store["runRoot"]),
    )


def _outside(mapping: list[dict[str, Any]]) -> int:
    """Who root in podman's own namespace is: the user who started it."""
    return next(int(part["host_id"]) for part in mapping if part["container_id"] == 0)


def refuse_unusable(info: Info) -> None:
    """Podmans that would start containers in which a promise cannot be kept, or cannot be checked."""
    numbers = re.match(r"(\d+)\.(\d+)", info.version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise EngineError(f"podman {info.version} is too old: NanoClaw needs {needed} or newer")
    if info.remote or info.kernel != os.uname().release:
        # Device and inode numbers of mounts are compared with the host's: in another kernel they mean nothing.
        raise EngineError("podman runs its containers in another machine (a virtual one, or over the network), so that "
                          "what it mounts cannot be verified", "use --engine bubblewrap")  # fmt: skip
    if info.rootless and info.ids < 2:
        raise EngineError("podman has no user numbers to give to containers of yours", _SUBUIDS)


_SUBUIDS: Final = (
    "give yourself some: sudo apt install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids "
    "100000-165535 $USER && podman system migrate"
)


def _hints(reason: str) -> list[str]:
    lower = reason.lower()
    if "subuid" in lower or "newuidmap" in lower or "uid_map" in lower or "user namespace" in lower:
        return [_SUBUIDS]
    return ["see what it says itself: podman info"]


def runtimes(info: Info, find: Callable[[str], str | None] = find) -> list[str]:
    """The one that podman would take, then others that are here: crun refuses some machines on which runc works
    (cgroups of both versions at once), and the other way round."""
    others = [name for name in OTHER_RUNTIMES if name != Path(info.runtime).name]
    return [info.runtime, *[path for name in others if (path := find(name))]]


def own_storage(info: Info) -> tuple[str, ...]:
    """Options for another store than the user's, where that one copies every layer for every container (`vfs`); a
    store cannot change its ways. Empty where there is no need."""
    if info.driver != "vfs":
        return ()
    root, run_root = (Path(path).with_name("nanoclaw") for path in (info.graph_root, info.run_root))
    return ("--root", str(root), "--runroot", str(run_root), "--storage-driver", "overlay")


def settle(info: Info, program: str, storage: Sequence[str], runtime: str) -> Here:
    """How to use podman here, before it was tried."""
    left_out = frozenset(control for control, name in CONTROLLERS.items() if not _has(info, name))
    options = [*storage, "--runtime", runtime]
    if info.manager:
        options += ["--cgroup-manager", info.manager]
    if info.conmon:
        options += ["--conmon", info.conmon]
    counted = info.rootless and "process limit" in left_out and _kernel(info.kernel) >= PER_NAMESPACE
    return Here(
        program=program,
        options=tuple(options),
        rootless=info.rootless,
        selinux=info.selinux,
        left_out=left_out,
        processes=None if counted else most_processes(),
        user=info.user,
        profile=profile.strict(_own_profile(info.profile)) if info.filters_calls else b"",
    )


def _own_profile(path: str) -> dict[str, Any] | None:
    try:
        own = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return own if isinstance(own, dict) and own.get("syscalls") else None


def _has(info: Info, controller: str) -> bool:
    # Without root, version 1 gives nobody a cgroup of their own, whatever it lists.
    return controller in info.controllers and not (info.rootless and info.cgroups == "v1")


def _kernel(release: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def most_processes() -> int:
    """As many as the machine has numbers for, but no more than we ourselves may have."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    try:
        numbers = int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        numbers = 32768
    return numbers if hard == resource.RLIM_INFINITY else min(hard, numbers)


# --- the trial container -----------------------------------------------------------------------------------


def furnish(folder: Path) -> tuple[str, ...]:
    """Make `folder` a root file system for the trial out of the host's own programs; the mounts it needs."""
    folder.mkdir(mode=0o755)
    mounts = []
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "nix", "gnu"):
        here, there = Path("/", name), folder / name
        if here.is_symlink():
            there.symlink_to(here.readlink())
        elif here.is_dir():
            there.mkdir()
            mounts += ["--mount", f"type=bind,source={here},target={here},readonly"]
    for name in ("proc", "sys", "dev", "etc", "run", "tmp", "workspace/group"):
        (folder / name).mkdir(parents=True)
    return tuple(mounts)


def trial_argv(argv: Sequence[str], folder: str, mounts: Sequence[str]) -> tuple[str, ...]:
    """The launch of a sandbox whose image is called IMAGE, made to show what holds it."""
    at = argv.index("IMAGE")
    show = os.path.realpath(find("grep") or "/usr/bin/grep")
    files = [STATUS, *[path for paths in LIMIT_FILES.values() for path in paths]]
    return (*argv[:at], *mounts, "--rootfs", folder, show, "-s", "", *files)


def read_back(answer: Answer) -> Seen:
    """What the trial container told; `EngineError` if it did not start, or is not held."""
    # grep's own: 0, and 2 where a file is not there. podman's are 125 and more.
    if answer.status not in (0, 2):
        raise EngineError(f"podman cannot start a sandbox here: {answer.reason[:300]}", *_hints(answer.reason))
    seen: Seen = {}
    for line in answer.out.splitlines():
        path, _, value = line.partition(":")
        if path == STATUS:
            path, _, value = value.partition(":")
        seen[path] = value.strip()
    if wrong := [name for name, value in HELD_BY.items() if seen.get(name) != value]:
        raise EngineError(f"podman makes sandboxes here that do not hold: {', '.join(wrong)}")
    return seen


def missing_controls(info: Info, here: Here, seen: Seen, asked: Resources) -> dict[str, str]:
    """What does not hold a sandbox here, and why: of what was asked for, what could not be read back."""
    missing = {}
    for control, (new, old) in LIMIT_FILES.items():
        if control not in here.left_out and _holds(control, seen.get(new), seen.get(old), asked):
            continue
        if control == "process limit" and here.processes is None:
            continue  # the user's own limit holds it, see `PER_NAMESPACE`
        if control == "swap limit" and "memory limit" in missing:
            continue  # said with it
        missing[control] = _why(control, info)
    if not info.filters_calls or seen.get("Seccomp") != "2":
        missing["system call filter"] = "podman runs containers without a seccomp profile"
    return missing


def _holds(control: str, new: str | None, old: str | None, asked: Resources) -> bool:
    match control:
        case "memory limit":
            return str(asked.memory_bytes) in (new, old)
        case "swap limit":
            return new == "0" or old == str(asked.memory_bytes)
        case "process limit":
            return str(asked.processes) in (new, old)
        case _:
            return (new or "max").split()[0].isdecimal() or (old or "-1").isdecimal()


def _why(control: str, info: Info) -> str:
    if control == "swap limit":
        return "the kernel does not account swap, so a sandbox may use swap beyond its memory limit"
    if not info.rootless:
        return f"the kernel's {CONTROLLERS[control]} cgroup is off, or its limit could not be read back"
    reason = (
        "podman without root cannot set it with version 1 of cgroups"
        if info.cgroups == "v1"
        else f"the {CONTROLLERS[control]} cgroup is not delegated to you (systemd: Delegate= of user@.service)"
    )
    return (
        f"only each process is bounded, not the sandbox as a whole: {reason}" if control == "memory limit" else reason
    )
