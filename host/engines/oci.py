"""What docker and podman share: the flags of `run`, and how a mount is written.

Each flag has its reason beside it; where only one of the two has it, the reason is in that engine's module.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Final

from host.engines.base import ENVIRONMENT, HOSTNAME, LABEL, OOM_SCORE, OPEN_FILES, WORKDIR
from host.model import Mount, Resources, Spec

# Only the folder that was judged, not what is mounted beneath it: on older engines `readonly` does not reach such
# submounts, and the agent wrote to them. Docker 25 gave the field another name and complains of the old one.
NOT_RECURSIVE: Final = "bind-nonrecursive=true"

VARIABLES: Final = tuple("=".join(pair) for pair in ENVIRONMENT.items())


def run_flags(
    spec: Spec,
    *,
    own: Sequence[str],
    variables: Sequence[str] = VARIABLES,
    not_recursive: str = NOT_RECURSIVE,
    missing: Collection[str] = (),
) -> tuple[str, ...]:
    """What stands between `run` and the image. `own`: the engine's own flags; `missing`: controls (as
    `Enforcement` names them) that this machine cannot give, whose flags are left out.

    Not here: `--init` (see `start_command`), `-v` (creates missing sources as root, and splits at colons),
    `-t` (a terminal would mix stderr into the frames), and any exception from the engine's seccomp profile.
    """
    r = spec.resources
    return (
        # stdin is the pipe; and the lease: it ends when the host does.
        "-i",
        "--rm",
        # The image is the one in our cache or none: nothing is ever fetched.
        "--pull", "never",
        "--name", spec.name,
        # How the next host finds what this one left behind.
        "--label", f"{LABEL}={spec.install}",
        # Never root, also not root without capabilities: /proc/sys belongs to root.
        "--user", f"{spec.uid}:{spec.gid}",
        "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges",
        # What a turn changes outside its folders does not exist; what it could run next time is as it was.
        "--read-only",
        "--tmpfs", f"/tmp:rw,noexec,nosuid,nodev,size={r.tmp_bytes}",  # noqa: S108  # in the sandbox
        "--network", "none",
        "--ipc", "private",
        *bounds(r, missing),
        # A core dump of the runner would hold the key.
        "--ulimit", "core=0",
        "--ulimit", f"fsize={r.file_bytes}",
        "--ulimit", f"nofile={OPEN_FILES}",
        "--oom-score-adj", str(OOM_SCORE),
        # The default driver writes everything the runner says to the host's disk.
        "--log-driver", "none",
        # An engine can be configured to put an init into every container.
        "--init=false",
        "--stop-timeout", "2",
        "--hostname", HOSTNAME,
        *own,
        "--workdir", WORKDIR,
        *[item for variable in variables for item in ("-e", variable)],
        *[item for mount in spec.mounts for item in ("--mount", mount_value(mount, not_recursive))],
    )  # fmt: skip


def bounds(r: Resources, missing: Collection[str] = ()) -> tuple[str, ...]:
    """The limits that a cgroup holds, but for those that are `missing`."""
    flags = {
        "process limit": ("--pids-limit", str(r.processes)),
        # Memory and swap together: so no swap, and nothing of the sandbox on the host's disk.
        "memory limit": ("--memory", str(r.memory_bytes), "--memory-swap", str(r.memory_bytes)),
        "cpu limit": ("--cpus", f"{cpus(r.cpus):g}"),
    }
    return tuple(item for control, items in flags.items() if control not in missing for item in items)


def cpus(wanted: float) -> float:
    """Docker refuses more CPUs than there are."""
    return min(wanted, float(os.cpu_count() or 1))


def mount_value(mount: Mount, not_recursive: str = NOT_RECURSIVE) -> str:
    """The value of `--mount`: CSV, so every field that holds a path is quoted. Unquoted, a comma in a folder's
    name mounted another folder."""
    fields = [
        "type=bind",
        _quoted(f"source={mount.source}"),
        _quoted(f"target={mount.target}"),
        # Mounts that come and go on the host do not show inside.
        "bind-propagation=rprivate",
        not_recursive,
    ]
    if mount.readonly:
        fields.append("readonly")
    return ",".join(fields)


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'
