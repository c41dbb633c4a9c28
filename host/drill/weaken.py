"""What is off in each control: launches with protections taken away, for the drill's own sandboxes alone.

Each function changes a spec or a launch as plain data. What runs in the result is the stand-in, and the key it
is given is made up.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from host.engines.base import WORKDIR, replacing, without
from host.engines.podman_here import most_processes
from host.model import Launch, Mount, Spec

Edit = Callable[[Launch], Launch]
OFF: Final = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")


def _with_options(launch: Launch, *options: str) -> Launch:
    """docker: further options, right behind `run`."""
    at = launch.argv.index("run") + 1
    return replace(launch, argv=(*launch.argv[:at], *options, *launch.argv[at:]))


def _without_matching(launch: Launch, pattern: str) -> Launch:
    return replace(launch, argv=tuple(item for item in launch.argv if not re.fullmatch(pattern, item)))


def _without_any(launch: Launch, *flags: str) -> Launch:
    """Flags with a value each, of which the launch may have some."""
    for flag in flags:
        if flag in launch.argv:
            launch = without(launch, flag, values=1)
    return launch


def _unfiltered(launch: Launch) -> Launch:
    return without(launch, "--seccomp", values=1)


# --- docker -------------------------------------------------------------------------------------------


def docker_naive(launch: Launch) -> Launch:
    launch = replacing(launch, ["--log-driver", "none"], ["--log-driver", "json-file"])
    launch = replacing(launch, ["--ulimit", "core=0"], ["--ulimit", "core=-1"])
    return _with_options(launch, "--security-opt", "seccomp=unconfined")


def docker_power(launch: Launch) -> Launch:
    launch = without(without(launch, "--cap-drop", values=1), "--user", values=1)
    launch = without(without(launch, "--security-opt", values=1), "--read-only")
    # docker's own choice of capabilities, and those for mounts and for files by number. ALL fails where docker itself
    # lacks some.
    more = ("--cap-add", "SYS_ADMIN", "--cap-add", "DAC_READ_SEARCH")
    return _with_options(launch, "--user", "0:0", *more, *[item for off in OFF for item in ("--security-opt", off)])


def docker_shared(launch: Launch) -> Launch:
    launch = without(launch, "--hostname", values=1)
    return _with_options(replacing(launch, ["--network", "none"], ["--network", "host"]), "--pid", "host")


def docker_unbounded(launch: Launch) -> Launch:
    for flag in ("--pids-limit", "--memory", "--memory-swap", "--cpus", "--ulimit", "--tmpfs"):
        launch = without(launch, flag, values=1)
    tmp = ("--tmpfs", "/tmp:rw,exec")  # noqa: S108  # in the sandbox
    return _with_options(launch, "--ulimit", "core=-1", *tmp)


# --- podman -------------------------------------------------------------------------------------------


def podman_naive(launch: Launch) -> Launch:
    launch = replacing(launch, ["--log-driver", "none"], ["--log-driver", "k8s-file"])
    launch = replacing(launch, ["--ulimit", "core=0"], ["--ulimit", "core=-1"])
    # A later one counts, and it may name a filter of its own.
    return _with_options(without(launch, "--security-opt", values=1), "--security-opt", "seccomp=unconfined")


def podman_power(launch: Launch) -> Launch:
    launch = without(without(launch, "--cap-drop", values=1), "--user", values=1)
    launch = without(without(launch, "--security-opt", values=1), "--read-only")
    more = ("--cap-add", "SYS_ADMIN", "--cap-add", "DAC_READ_SEARCH", "--cap-add", "MKNOD", "--cap-add", "NET_RAW")
    off = ("seccomp=unconfined", "unmask=ALL", "label=disable")
    return _with_options(launch, "--user", "0:0", *more, *[item for each in off for item in ("--security-opt", each)])


def podman_unbounded(launch: Launch) -> Launch:
    # podman bounds processes also where it is not asked to, and what it asks for by itself may be more than it has.
    most = {"nproc": most_processes(), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "core": -1}
    limits = [f"{name}={value}" for name, value in most.items()]
    off = ["--pids-limit", "-1"] if "--pids-limit" in launch.argv else []
    off += [item for limit in limits for item in ("--ulimit", limit)]
    launch = _without_any(launch, "--pids-limit", "--memory", "--memory-swap", "--cpus", "--ulimit", "--tmpfs")
    return _with_options(launch, *off, "--tmpfs", "/tmp:rw,exec")  # noqa: S108  # in the sandbox


# --- container: a virtual machine, so that root in it is root nowhere else ------------------------------


def container_power(launch: Launch) -> Launch:
    launch = replacing(_without_any(launch, "--uid", "--gid"), ["--cap-drop", "ALL"], ["--cap-add", "ALL"])
    launch = without(without(launch, "--read-only"), "--no-new-privs")
    return _with_options(without(launch, "/usr/bin/setpriv"), "--uid", "0", "--gid", "0")


def container_shared(launch: Launch) -> Launch:
    return without(without(launch, "--network", values=1), "--no-dns")


def container_unbounded(launch: Launch) -> Launch:
    launch = _without_any(launch, "--ulimit", "--memory", "--cpus")
    tmp = next(item for item in launch.argv if item.startswith("type=tmpfs,target=/tmp,"))
    return replacing(launch, [tmp], ["type=tmpfs,target=/tmp,mode=1777"])


# --- bubblewrap ---------------------------------------------------------------------------------------


def bubblewrap_naive(launch: Launch) -> Launch:
    return _without_matching(_unfiltered(launch), "--core=0")


def bubblewrap_power(launch: Launch) -> Launch:
    # The image's folder is the user's own: what is made writable is not it, but an empty folder over a part.
    writable = ("--tmpfs", "/usr/local", "--tmpfs", "/opt/nanoclaw")
    launch = replacing(_as_root(launch), ["--seccomp", "{fd:1}"], [*writable, "--chdir", WORKDIR])
    while "--cap-add" in launch.argv:
        launch = without(launch, "--cap-add", values=1)
    return replacing(launch, ["--cap-drop", "ALL"], ["--cap-add", "ALL"])


def _as_root(launch: Launch) -> Launch:
    if "/usr/bin/setpriv" not in launch.argv:
        return replacing(
            without(launch, "--disable-userns"), ["--as-pid-1"], ["--as-pid-1", "--uid", "0", "--gid", "0"]
        )
    start, end = launch.argv.index("/usr/bin/setpriv"), launch.argv.index(f"--chdir={WORKDIR}") + 1
    return replace(launch, argv=(*launch.argv[:start], *launch.argv[end:]))


def bubblewrap_shared(launch: Launch) -> Launch:
    for flag in ("--unshare-net", "--unshare-pid", "--as-pid-1"):
        launch = without(launch, flag)
    # Without a namespace of processes of its own nobody may mount a new /proc.
    return replacing(launch, ["--proc", "/proc"], ["--bind", "/proc", "/proc"])


def bubblewrap_unbounded(launch: Launch) -> Launch:
    launch = _without_matching(launch, "--(nproc|as|fsize|nofile|core)=.*")
    at = launch.argv.index("/tmp")  # noqa: S108  # in the sandbox
    return replace(launch, argv=(*launch.argv[: at - 3], *launch.argv[at - 1 :]))


# --- by name --------------------------------------------------------------------------------------------


def _as_it_is(launch: Launch) -> Launch:
    return launch


EDITS: Final[dict[str, dict[str, Edit]]] = {
    "docker": {
        "naive": docker_naive,
        "power": docker_power,
        "shared": docker_shared,
        "unbounded": docker_unbounded,
    },
    "podman": {
        "naive": podman_naive,
        "power": podman_power,
        "shared": docker_shared,
        "unbounded": podman_unbounded,
    },
    "container": {
        "power": container_power,
        "shared": container_shared,
        "unbounded": container_unbounded,
    },
    "bubblewrap": {
        "naive": bubblewrap_naive,
        "power": bubblewrap_power,
        "shared": bubblewrap_shared,
        "unbounded": bubblewrap_unbounded,
    },
}
"""Engine → control → what is taken away. A control that is not here needs no change of the launch."""


def edit_for(engine: str, control: str) -> Edit:
    return EDITS[engine].get(control, _as_it_is)


def granted(spec: Spec, *more: Mount) -> Spec:
    """The spec with more mounts than it should have, and none of them read-only."""
    return replace(spec, mounts=tuple(replace(mount, readonly=False) for mount in (*spec.mounts, *more)))
