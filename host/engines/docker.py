"""The docker engine: one container per sandbox, started by the docker command line program."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any, Final

from host.engines.base import (
    ENVIRONMENT,
    HOSTNAME,
    LABEL,
    OOM_SCORE,
    OPEN_FILES,
    WORKDIR,
    Answer,
    clean_environment,
    find,
    kill_session,
    run,
    start_command,
)
from host.errors import EngineError
from host.model import Enforcement, Image, Launch, Mount, Spec

PROBE_SECONDS: Final = 10.0
ASK_SECONDS: Final = 10.0
"""For the small questions: does this image exist, which containers are there."""
REMOVE_SECONDS: Final = 20.0
LOAD_SECONDS: Final = 900.0
"""A Raspberry Pi with a slow card unpacks 180 MB in a few minutes."""

# The command line program copies proxy settings from ~/.docker/config.json into every container, and they may
# hold a password. Named without a value, and not in the program's own environment, they are left out.
PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


# Only the folder that was judged, not what is mounted beneath it: on older engines `readonly` does not reach such
# submounts, and the agent wrote to them. Docker 25 gave the field another name and complains of the old one.
NOT_RECURSIVE: Final = "bind-nonrecursive=true"
NOT_RECURSIVE_25: Final = "bind-recursive=disabled"


def run_argv(
    spec: Spec, program: str = "docker", not_recursive: str = NOT_RECURSIVE, image_id: str = ""
) -> tuple[str, ...]:
    """The whole command line. Each flag has its reason beside it.

    Not here: `--init` (see `start_command`), `-v` (creates missing sources as root, and splits at colons),
    `-t` (a terminal would mix stderr into the frames), and any exception from docker's seccomp profile.
    """
    r = spec.resources
    return (
        program, "run",
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
        "--pids-limit", str(r.processes),
        "--memory", str(r.memory_bytes),
        # Memory and swap together: so no swap, and nothing of the sandbox on the host's disk.
        "--memory-swap", str(r.memory_bytes),
        "--cpus", f"{cpus(r.cpus):g}",
        # A core dump of the runner would hold the key.
        "--ulimit", "core=0",
        "--ulimit", f"fsize={r.file_bytes}",
        "--ulimit", f"nofile={OPEN_FILES}",
        "--oom-score-adj", str(OOM_SCORE),
        # The default driver writes everything the runner says to the host's disk.
        "--log-driver", "none",
        # A daemon can be configured to put an init into every container.
        "--init=false",
        "--stop-timeout", "2",
        "--hostname", HOSTNAME,
        # Else docker copies the host's resolver settings in, which name the network that it is in. This address
        # is one for documentation, and without an interface nothing is sent to it.
        "--dns", "192.0.2.1", "--dns-search", ".",
        "--workdir", WORKDIR,
        *[item for pair in ENVIRONMENT.items() for item in ("-e", "=".join(pair))],
        *[item for name in PROXY_VARIABLES for item in ("-e", name, "-e", name.lower())],
        *[item for mount in spec.mounts for item in ("--mount", mount_value(mount, not_recursive))],
        # By id, never by tag: a tag can be moved.
        image_id or spec.image.id,
        *start_command(spec),
    )  # fmt: skip


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


class Docker:
    """The docker daemon of this machine. Containers outlive the program that started them."""

    name = "docker"
    wants_rootfs = False
    own_mounts: frozenset[str] = frozenset()

    def __init__(self, program: str | None = None) -> None:
        self.program = program or find("docker") or "docker"
        self._filters_calls = True
        """Whether its containers run under a seccomp profile. Known after `probe`, as the next."""
        self._not_recursive = NOT_RECURSIVE
        self._ids: dict[str, str] = {}
        """What this daemon calls an image, by our id of it. Known after `load`."""

    # --- what it can ---------------------------------------------------------------------------------

    def probe(self) -> Enforcement:
        if find(self.program) is None:
            raise EngineError("docker is not installed", "install it: https://docs.docker.com/engine/install/")
        answer = self._ask("info", "--format", "{{json .}}", seconds=PROBE_SECONDS)
        info = _info(answer)
        _refuse_unusable(info)
        missing = missing_controls(info)
        self._filters_calls = "system call filter" not in missing
        self._not_recursive = NOT_RECURSIVE_25 if _client_major(info) >= 25 else NOT_RECURSIVE
        return Enforcement("docker", str(info["ServerVersion"]), missing)

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        if self._find(image):
            return
        progress("docker: loading the sandbox image (once) …")
        with tempfile.TemporaryFile() as said:
            self._load(image, progress, said)
            said.seek(0)
            words = said.read(4096).decode(errors="replace").strip()
        if not self._find(image):
            raise EngineError(f"docker loaded the image {image.archive}, but has no {image.id} now: it said {words!r}")

    def launch(self, spec: Spec) -> Launch:
        known_as = self._ids.get(spec.image.id, spec.image.id)
        return Launch(run_argv(spec, self.program, self._not_recursive, known_as))

    def claims(self, spec: Spec) -> dict[str, int]:
        return {"fsize_limit": spec.resources.file_bytes} | ({"seccomp": 2} if self._filters_calls else {})

    # --- what outlives us ------------------------------------------------------------------------------

    def kill(self, name: str) -> tuple[str, ...]:
        return (self.program, "kill", "--signal", "KILL", name)

    def remove(self, name: str) -> tuple[str, ...]:
        return (self.program, "rm", "--force", "--volumes", name)

    def orphans(self, install: str) -> list[str]:
        # -a: those that were created and never started are orphans too.
        answer = self._ask("ps", "--all", "--filter", f"label={LABEL}={install}", "--format", "{{.Names}}")
        if answer.status != 0:
            raise EngineError(f"docker does not list its containers: {answer.reason}")
        return answer.out.split()

    def reap(self, install: str) -> list[str]:
        names = self.orphans(install)
        if not names:
            return []
        self._ask("rm", "--force", "--volumes", *names, seconds=REMOVE_SECONDS)
        left = set(self.orphans(install))
        return [name for name in names if name not in left]

    # --- helpers -----------------------------------------------------------------------------------------

    def _ask(self, *arguments: str, seconds: float = ASK_SECONDS) -> Answer:
        return run((self.program, *arguments), seconds)

    def _find(self, image: Image) -> bool:
        """Whether the daemon has exactly this image. One that keeps images in containerd knows it by the digest of
        its manifest, others by that of its config; both are digests of all that is in it."""
        for name in filter(None, (image.id, image.manifest)):
            answer = self._ask("image", "inspect", "--format", "{{.Id}}", name)
            if answer.status is None:
                raise EngineError(f"docker did not answer within {ASK_SECONDS:.0f} seconds", *_RESTART)
            if answer.status == 0 and answer.out.strip() == name:
                self._ids[image.id] = name
                return True
        return False

    def _load(self, image: Image, progress: Callable[[str], None], said: IO[bytes]) -> None:
        process = subprocess.Popen(
            (self.program, "load", "--input", str(image.archive)),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=clean_environment(),
            start_new_session=True,
        )
        started = time.monotonic()
        while (waited := time.monotonic() - started) < LOAD_SECONDS:
            try:
                status = process.wait(5)
            except subprocess.TimeoutExpired:
                progress(f"docker: still loading the sandbox image ({waited + 5:.0f} s) …")
                continue
            if status != 0:
                said.seek(0)
                words = said.read(4096).decode(errors="replace").strip()
                raise EngineError(f"docker could not load {image.archive}: {words[-500:]}")
            return
        kill_session(process)
        raise EngineError(f"docker did not load {image.archive} within {LOAD_SECONDS:.0f} seconds", *_RESTART)


_RESTART: Final = ("restart it: sudo systemctl restart docker",)


def _info(answer: Answer) -> dict[str, Any]:
    """What the daemon said of itself; `EngineError` that tells the ways of not answering apart."""
    if answer.status is None:
        raise EngineError(f"docker is installed, but its daemon did not answer within {PROBE_SECONDS:.0f} seconds",
                          *_RESTART)  # fmt: skip
    try:
        info = json.loads(answer.out)
    except ValueError:
        info = {}
    errors = " ".join(info.get("ServerErrors") or []) if isinstance(info, dict) else ""
    if answer.status == 0 and not errors and isinstance(info, dict) and info.get("ServerVersion"):
        return info
    why = errors or answer.reason
    if "permission denied" in why.lower():
        raise EngineError(
            "docker is installed, but you may not use its socket",
            "join its group and log in again: sudo usermod -aG docker $USER (that group is as powerful as root)",
        )
    raise EngineError(f"docker is installed, but its daemon does not answer: {why[:300]}",
                      "start it: sudo systemctl start docker")  # fmt: skip


def _client_major(info: dict[str, Any]) -> int:
    """Major version of the command line program; 0 for those that are too old to tell."""
    version = str((info.get("ClientInfo") or {}).get("Version", ""))
    major = version.partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _refuse_unusable(info: dict[str, Any]) -> None:
    """Daemons that would start containers in which a promise cannot be kept, or cannot be checked."""
    options = _options(info)
    if "rootless" in options or "userns" in options:
        # The sandbox's user would be another one on the host, who cannot open the group's folder.
        kind = "rootless" if "rootless" in options else "set to remap users (userns-remap)"
        raise EngineError(f"docker is {kind}, which NanoClaw does not support", "use --engine bubblewrap")
    if info.get("KernelVersion") != os.uname().release:
        # Device and inode numbers of mounts are compared with the host's: in another kernel they mean nothing.
        raise EngineError("docker's daemon runs in another machine (a virtual one, or over the network), so that what "
                          "it mounts cannot be verified", "use --engine bubblewrap")  # fmt: skip


def missing_controls(info: dict[str, Any]) -> dict[str, str]:
    """What this daemon does not enforce, by its own account: it ignores such a flag with a mere warning."""
    missing: dict[str, str] = {}
    if not info.get("MemoryLimit"):
        missing["memory limit"] = (
            "the kernel's memory cgroup is off; on a Raspberry Pi add cgroup_enable=memory cgroup_memory=1 "
            "to the line in /boot/firmware/cmdline.txt and restart it"
        )
    elif not info.get("SwapLimit"):
        missing["swap limit"] = "the kernel does not account swap, so a sandbox may use swap beyond its memory limit"
    if not info.get("PidsLimit"):
        missing["process limit"] = "the kernel's pids cgroup is off"
    if not info.get("CpuCfsQuota"):
        missing["cpu limit"] = "the kernel has no CPU quota for cgroups"
    profile = _options(info).get("seccomp")
    if profile is None or profile == "unconfined":
        missing["system call filter"] = "the daemon runs containers without a seccomp profile"
    return missing


def _options(info: dict[str, Any]) -> dict[str, str]:
    """`["name=seccomp,profile=default", …]` as name → profile (empty where it has none)."""
    found = {}
    for option in info.get("SecurityOptions") or []:
        pairs = dict(part.partition("=")[::2] for part in str(option).split(","))
        found[pairs.get("name", "")] = pairs.get("profile", "")
    return found
