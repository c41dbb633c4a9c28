"""The docker engine: one container per sandbox, started by the docker command line program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

from host.engines.base import LABEL, Answer, find, run, start_command
from host.engines.loading import load_archive
from host.engines.oci import NOT_RECURSIVE, VARIABLES, run_flags
from host.errors import EngineError
from host.model import Enforcement, Image, Launch, Spec

PROBE_SECONDS: Final = 10.0
ASK_SECONDS: Final = 10.0
"""For the small questions: does this image exist, which containers are there."""
REMOVE_SECONDS: Final = 20.0

# The command line program copies proxy settings from ~/.docker/config.json into every container, and they may
# hold a password. Named without a value, and not in the program's own environment, they are left out.
PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")

# Else docker copies the host's resolver settings in, which name the network that it is in. This address is one for
# documentation, and without an interface nothing is sent to it.
NO_RESOLVER: Final = ("--dns", "192.0.2.1", "--dns-search", ".")

NOT_RECURSIVE_25: Final = "bind-recursive=disabled"
"""What docker 25 calls it."""


def run_argv(
    spec: Spec, program: str = "docker", not_recursive: str = NOT_RECURSIVE, image_id: str = ""
) -> tuple[str, ...]:
    """The whole command line. Each flag has its reason beside it, here or in `run_flags`."""
    hidden = [item for name in PROXY_VARIABLES for item in (name, name.lower())]
    return (
        program, "run",
        *run_flags(spec, own=NO_RESOLVER, variables=(*VARIABLES, *hidden), not_recursive=not_recursive),
        # By id, never by tag: a tag can be moved.
        image_id or spec.image.id,
        *start_command(spec),
    )  # fmt: skip


class Docker:
    """The docker daemon of this machine. Containers outlive the program that started them."""

    name = "docker"
    wants_rootfs = False
    verifies_mounts = True
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
        words = load_archive("docker", (self.program,), image, progress, *_RESTART)
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
