"""Apple's `container`: each sandbox is a virtual machine of its own, started by the `container` program of a Mac.

Two walls stand around the agent: the Linux sandbox inside of that machine, which `hello` reports as on any engine,
and the machine itself. What the program has no flag for, and what its machine makes impossible to see from
outside, `MISSING` says by name.

Only what its command reference documents since version 1.0.0 is used, and what it answers is checked. It has been
run against a stand-in that keeps to that reference, and not yet on a Mac.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from typing import Any, Final

from host.engines.base import LABEL, OPEN_FILES, WORKDIR, Answer, find, run, start_command
from host.engines.loading import load_archive
from host.engines.oci import VARIABLES
from host.errors import EngineError
from host.model import Enforcement, Image, Launch, Mount, Resources, Spec

PROBE_SECONDS: Final = 15.0
"""The program itself waits 10 seconds for its services."""
ASK_SECONDS: Final = 10.0
REMOVE_SECONDS: Final = 30.0
"""It waits up to 5 seconds for a machine that is being stopped."""
OLDEST: Final = (1, 0, 0)
"""The first version with all the flags used here."""
OLDEST_MACOS: Final = 26
"""Before that, its networks are of another kind, and `--network none` with them."""
MIB: Final = 1024 * 1024

MISSING: Final = {
    "mount comparison": "a sandbox is a virtual machine, and numbers its folders in its own way: one that is exchanged "
    "while it starts is not noticed",
    "no log on disk": "the program writes all that a runner says (the conversation) to stdio.log in its own folder, "
    "for as long as the sandbox lives; a key that goes unencrypted to a model's http:// address would be in it",
    "system call filter": "the program has no flag for one: the kernel that the agent could attack is that of its "
    "own virtual machine",
    "noexec /tmp": "the program has no flag for it",
}
"""What it does not enforce, on every Mac."""

# What would be another field of a mount, or end one. A `"` is a character like any other to it.
UNSPEAKABLE: Final = frozenset(",=")


def run_argv(spec: Spec, program: str = "container", processors: int | None = None) -> tuple[str, ...]:
    """The whole command line; `EngineError` where it cannot say what `spec` asks for. Reasons stand beside it.

    Not here: `-v` (splits at colons, and makes a volume of what has no slash), `-t` (would mix stderr into the
    frames), `--init` (see `start_command`), `--ssh`, `--publish`, and `--tmpfs` (has no size).
    """
    r = spec.resources
    return (
        program, "run",
        # stdin is the pipe; and the lease: it ends when the host does.
        "--interactive",
        # With the container goes the log that cannot be turned off.
        "--rm",
        # Else it draws its progress on stderr, where the runner's last words are looked for.
        "--progress", "none",
        "--name", spec.name,
        # How the next host finds what this one left behind.
        "--label", f"{LABEL}={spec.install}",
        # As numbers: `--user` is looked up in the image. Never root.
        "--uid", str(spec.uid), "--gid", str(spec.gid),
        "--cap-drop", "ALL",
        # What a turn changes outside its folders does not exist; what it could run next time is as it was.
        "--read-only",
        # One file system of a known size. `--tmpfs` would be as large as half of the memory.
        "--mount", f"type=tmpfs,target=/tmp,size={_mebibytes(r.tmp_bytes)},mode=1777",
        "--network", "none",
        # Else the settings of the Mac's network would be told.
        "--no-dns",
        *bounds(r, processors or os.cpu_count() or 1),
        "--workdir", WORKDIR,
        *[item for variable in VARIABLES for item in ("--env", variable)],
        *[item for mount in spec.mounts for item in ("--mount", mount_value(mount))],
        image_name(spec.image),
        # There is no flag for it. It becomes the runner, which stays process 1.
        "/usr/bin/setpriv", "--no-new-privs",
        *start_command(spec),
    )  # fmt: skip


def bounds(r: Resources, processors: int) -> tuple[str, ...]:
    """What the machine has, and what a process of it may use. Memory and processors are given in whole numbers,
    downwards: a bound that is asked for is kept."""
    if r.cpus < 1:
        raise EngineError(f"container gives a sandbox whole processors, and this group is to have {r.cpus:g} of one",
                          "set the group's cpus to 1 or more, or unset it")  # fmt: skip
    return (
        "--memory", _mebibytes(r.memory_bytes),
        "--cpus", str(min(int(r.cpus), processors)),
        # Counted for the user, who is the sandbox's alone in that machine: there is no flag for a cgroup's limit.
        "--ulimit", f"nproc={r.processes}",
        # A core dump of the runner would hold the key.
        "--ulimit", "core=0",
        "--ulimit", f"fsize={r.file_bytes}",
        "--ulimit", f"nofile={OPEN_FILES}",
    )  # fmt: skip


def _mebibytes(size: int) -> str:
    return f"{max(size // MIB, 1)}M"


def mount_value(mount: Mount) -> str:
    """The value of `--mount`. It is split at each comma, then at each `=`, and nothing can be quoted: of a source
    `/a,source=/b` it was `/b` that was mounted. Such paths are refused, by `EngineError`."""
    for path in (str(mount.source), mount.target):
        if UNSPEAKABLE & set(path) or not path.startswith("/") or not _is_text(path):
            raise EngineError(
                f"container cannot be told to mount {path!r}: its name has a comma, a '=' or a broken character in it",
                "rename the folder, or take it away from the group: nanoclaw groups unmount",
            )
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if mount.readonly:
        # The folder is given to the machine read-only, so that not even its root could write to it.
        fields.append("readonly")
    return ",".join(fields)


def _is_text(path: str) -> bool:
    try:
        return b"\0" not in path.encode()
    except UnicodeEncodeError:
        return False


def image_name(image: Image) -> str:
    """The name under which the program keeps it, after the digest of its content: another build has another name.

    The program fetches an image that it does not have, and there is no flag against that. No network has a
    registry in the domain `invalid`, so that this one can only be the one we loaded, or none.
    """
    digest = (image.manifest or image.id).removeprefix("sha256:")
    return f"nanoclaw.invalid/sandbox:{digest}"


class Apple:
    """The `container` program and its services. A sandbox outlives the program that started it."""

    name = "container"
    wants_rootfs = False
    verifies_mounts = False
    own_mounts: frozenset[str] = frozenset()

    def __init__(self, program: str | None = None, macos: str | None = None) -> None:
        self.program = program or find("container") or "container"
        self._macos = platform.mac_ver()[0] if macos is None else macos
        """Version of this machine's macOS; empty where it has another system."""

    # --- what it can ---------------------------------------------------------------------------------

    def probe(self) -> Enforcement:
        major = self._macos.partition(".")[0]
        if not major.isdecimal() or int(major) < OLDEST_MACOS:
            here = f"this is macOS {self._macos}" if self._macos else "this is no Mac"
            raise EngineError(f"Apple's container runs on macOS {OLDEST_MACOS} or newer, and {here}")
        if find(self.program) is None:
            raise EngineError("Apple's container is not installed",
                              "install it: https://github.com/apple/container/releases")  # fmt: skip
        version = service_version(self._ask("system", "status", "--format", "json", seconds=PROBE_SECONDS))
        return Enforcement("container", version, dict(MISSING))

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        """Our archive is an OCI layout as well, which is what the program takes."""
        if self._has(image):
            return
        words = load_archive("container", (self.program, "image"), image, progress, *_RESTART)
        # It prints the name that the archive gives the image, on a line of its own.
        loaded = words.splitlines()[-1].strip() if words else ""
        answer = self._ask("image", "tag", loaded, image_name(image))
        if answer.status != 0 or not self._has(image):
            raise EngineError(f"container loaded the image {image.archive}, but has no {image.manifest} now: "
                              f"it said {words[-300:]!r}, then {answer.reason!r}")  # fmt: skip

    def launch(self, spec: Spec) -> Launch:
        return Launch(run_argv(spec, self.program))

    def claims(self, spec: Spec) -> dict[str, int]:
        return {"fsize_limit": spec.resources.file_bytes, "nproc_limit": spec.resources.processes}

    # --- what outlives us ------------------------------------------------------------------------------

    def kill(self, name: str) -> tuple[str, ...]:
        return (self.program, "kill", "--signal", "KILL", name)

    def remove(self, name: str) -> tuple[str, ...]:
        return (self.program, "delete", "--force", name)

    def orphans(self, install: str) -> list[str]:
        # --all: those that were created and never started are orphans too. It has no filter.
        answer = self._ask("list", "--all", "--format", "json")
        if answer.status != 0:
            raise EngineError(f"container does not list its containers: {answer.reason}", *_RESTART)
        return names_of(answer.out, install)

    def reap(self, install: str) -> list[str]:
        names = self.orphans(install)
        if not names:
            return []
        # A forced removal alone asks first, and waits. Of those that do not run it says so: of no interest.
        self._ask("kill", "--signal", "KILL", *names, seconds=REMOVE_SECONDS)
        self._ask("delete", "--force", *names, seconds=REMOVE_SECONDS)
        left = set(self.orphans(install))
        return [name for name in names if name not in left]

    # --- helpers -----------------------------------------------------------------------------------------

    def _ask(self, *arguments: str, seconds: float = ASK_SECONDS) -> Answer:
        return run((self.program, *arguments), seconds)

    def _has(self, image: Image) -> bool:
        """Whether the image of that name is exactly this one."""
        answer = self._ask("image", "inspect", image_name(image))
        if answer.status is None:
            raise EngineError(f"container did not answer within {ASK_SECONDS:.0f} seconds", *_RESTART)
        return answer.status == 0 and image.manifest in digests(answer.out)


_RESTART: Final = ("restart its services: container system stop; container system start",)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


def service_version(answer: Answer) -> str:
    """The version of the services that answered; `EngineError` that tells the ways of not answering apart."""
    if answer.status is None:
        raise EngineError(f"container is installed, but its services did not answer within {PROBE_SECONDS:.0f} seconds",
                          *_RESTART)  # fmt: skip
    said = _parsed(answer.out)
    state = said.get("status") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(state, str):
        raise EngineError(f"container does not tell its status as NanoClaw knows it: {answer.reason}",
                          f"NanoClaw needs version {'.'.join(map(str, OLDEST))} or newer")  # fmt: skip
    if answer.status != 0 or state != "running":
        raise EngineError(f"container is installed, but its services are {state[:60]}",
                          "start them: container system start")  # fmt: skip
    match = re.search(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", str(said.get("apiServerVersion", "")))
    if match is None:
        raise EngineError("container's services do not tell their version")
    if tuple(map(int, match.groups())) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise EngineError(f"container {match[0]} is too old: NanoClaw needs {needed} or newer")
    return match[0]


def names_of(untrusted_list: str, install: str) -> list[str]:
    """The names of this installation's containers, of all those in a `list --format json`.

    Each is `{"configuration": {"id": …, "labels": {…}, …}, …}`. `EngineError` for a list of another shape: taken
    for an empty one, what was left behind would run on unseen.
    """
    entries = _parsed(untrusted_list)
    if not isinstance(entries, list):
        raise _strange_list()
    found = []
    for entry in entries:
        about = entry.get("configuration") if isinstance(entry, dict) else None
        name, labels = (about.get("id"), about.get("labels", {})) if isinstance(about, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(labels, dict):
            raise _strange_list()
        # Its name becomes an argument.
        if labels.get(LABEL) == install and _NAME.match(name):
            found.append(name)
    return found


def _strange_list() -> EngineError:
    return EngineError("container lists its containers in a way that NanoClaw does not know",
                       "look yourself: container list --all")  # fmt: skip


def digests(untrusted_image: str) -> set[str]:
    """The digests of the manifests in an `image inspect`, in `variants`, one for each kind of processor."""
    entries = _parsed(untrusted_image)
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        return set()
    variants = entries[0].get("variants")
    if not isinstance(variants, list):
        return set()
    return {str(each["digest"]) for each in variants if isinstance(each, dict) and "digest" in each}


def _parsed(untrusted: str) -> Any:
    try:
        return json.loads(untrusted)
    except (ValueError, RecursionError):
        return None
