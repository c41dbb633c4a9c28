"""The bubblewrap engine: a sandbox of the kernel's own namespaces, for machines without a container engine.

As an ordinary user, bwrap makes a user namespace in which the user has its own number, and further ones are
forbidden. As root it makes none: its one mapping would be to root, whom files in /proc/sys belong to, whatever
number the sandbox sees. So root sets the mounts up and then becomes `spec.uid` for good, through `setpriv` from
the image, before the runner starts.

What is launched is bwrap's own process, outside of the sandbox. It dies with us, the sandbox's process 1 dies
with it (as root, see `lifeline`), and the kernel kills all else that is in the sandbox: so there are no orphans.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from host import bundle
from host.engines import seccomp
from host.engines.base import (
    ENVIRONMENT,
    HOSTNAME,
    OOM_SCORE,
    OPEN_FILES,
    WORKDIR,
    find,
    readable,
    run,
    start_command,
)
from host.errors import EngineError, UserError
from host.model import Enforcement, Image, Launch, Resources, Spec

PROBE_SECONDS: Final = 10.0
PARCEL: Final = "bubblewrap"
CARRIED: Final = "carried in this program"
OLDEST: Final = (0, 8)
"""The first version with all the options used here, `--disable-userns` among them."""
SHARED_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""For POSIX shared memory, as docker has it."""

NAMESPACES: Final = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
# The last shuts the door that the first went through: most kernel exploits begin with a user namespace.
USER_NAMESPACE: Final = ("--unshare-user", "--disable-userns")
# What `setpriv` needs to become another user and to give all of it up. Kept for these few instructions only.
CHANGING_USER: Final = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")


def bwrap_argv(spec: Spec, *, root: bool, program: str = "bwrap", others: int = 0) -> tuple[str, ...]:
    """The whole command line; host paths are not in it (see `host_paths`). Each option has its reason beside it."""
    r = spec.resources
    capabilities = [item for name in CHANGING_USER for item in ("--cap-add", name)] if root else []
    return (
        *(lifeline(program) if root else ()),
        program,
        *NAMESPACES,
        *(() if root else USER_NAMESPACE),
        # The runner is process 1 itself: bwrap's own would hold the same pipes.
        "--as-pid-1",
        "--die-with-parent",
        # No controlling terminal, into which the agent could type.
        "--new-session",
        "--hostname", HOSTNAME,
        "--clearenv",
        *[item for name, value in ENVIRONMENT.items() for item in ("--setenv", name, value)],
        "--cap-drop", "ALL", *capabilities,
        # By descriptor: an argument could be read inside, from /proc/1/cmdline, until the runner starts, and
        # by other users of this machine for as long as it runs.
        "--args", "{fd:0}",
        "--proc", "/proc",
        "--dev", "/dev",
        "--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm",  # noqa: S108  # in the sandbox
        # /dev is a tmpfs without a limit, and an ordinary user owns it: memory to fill.
        "--remount-ro", "/dev",
        "--perms", "1777", "--size", str(r.tmp_bytes), "--tmpfs", "/tmp",  # noqa: S108
        # The folder that the mount points of host folders were made in.
        "--remount-ro", "/workspace",
        # Root without its capabilities may not even enter another user's folder: `become` does it then.
        *(() if root else ("--chdir", WORKDIR)),
        # Nothing filters system calls unless it is told to.
        "--seccomp", "{fd:1}",
        "--",
        "/usr/bin/choom", "-n", str(OOM_SCORE), "--",
        "/usr/bin/prlimit", *limits(r, others),
        *(become(spec.uid, spec.gid) if root else ()),
        *start_command(spec),
    )  # fmt: skip


def lifeline(program: str) -> tuple[str, ...]:
    """A process-number namespace around bwrap's own process, so that its death ends the sandbox.

    As an ordinary user `--die-with-parent` does that. As root it does not: the kernel drops that wish when a
    process becomes another user, and bwrap, which has given up its capabilities, may not signal it either. But
    when process 1 of such a namespace dies, the kernel kills all that is in it, and asks nobody.
    """
    return (program, "--dev-bind", "/", "/", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--")


def limits(r: Resources, others: int) -> tuple[str, ...]:
    """Bounds of each process (and of the user, for their number), because there is no cgroup to bound the whole.

    `others`: as root there is no user namespace in which the user's processes would be counted from zero.
    """
    return (
        f"--nproc={r.processes + others}",
        f"--as={r.memory_bytes}",
        f"--fsize={r.file_bytes}",
        f"--nofile={OPEN_FILES}",
        # A core dump of the runner would hold the key.
        "--core=0",
    )


def become(uid: int, gid: int) -> tuple[str, ...]:
    """Give up root and all that could lead back to it."""
    return (
        "/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--bounding-set=-all",
        "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs",
        "/usr/bin/env", f"--chdir={WORKDIR}",
    )  # fmt: skip


def host_paths(spec: Spec) -> bytes:
    """The options that name host paths, NUL-separated. Any path can be said: only a NUL could not."""
    options = ["--ro-bind", str(spec.image.rootfs), "/", "--tmpfs", "/workspace"]
    # bwrap makes mount points itself, but a parent as closed as the source's own parents are.
    options += ["--perms", "0755", "--dir", "/workspace/extra"]
    for mount in spec.mounts:
        # Unlike docker's on older engines, this read-only is recursive.
        options += ["--ro-bind" if mount.readonly else "--bind", str(mount.source), mount.target]
    return b"".join(os.fsencode(option) + b"\0" for option in options)


class Bubblewrap:
    """bwrap: the system's if it works, else the one that the built program carries. Nothing of a sandbox outlives the
    process that was launched."""

    name = "bubblewrap"
    wants_rootfs = True
    verifies_mounts = True
    own_mounts = frozenset({"/workspace"})

    def __init__(self, program: str | None = None, root: bool | None = None) -> None:
        self.program = program or find("bwrap") or "bwrap"
        self.may_be_carried = program is None
        self.root = os.geteuid() == 0 if root is None else root

    def probe(self) -> Enforcement:
        """The system's first: an AppArmor profile that lets a program make user namespaces goes by its path."""
        try:
            return self._probe("")
        except EngineError:
            carried = carried_program() if self.may_be_carried else None
            if carried is None:
                raise
        # What the machine forbids, it forbids to both; that one is missing or too old no longer matters.
        self.program = str(carried)
        return self._probe(f", {CARRIED}")

    def _probe(self, note: str) -> Enforcement:
        if find(self.program) is None:
            raise EngineError("bubblewrap is not installed", "install it: sudo apt install bubblewrap")
        version = self._version()
        seccomp.program(os.uname().machine)
        self._try()
        return Enforcement("bubblewrap", version + note, missing_controls())

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        for name in ("usr/bin/python3", "usr/bin/prlimit", "usr/bin/choom", "usr/bin/setpriv", "usr/bin/env"):
            if not os.path.lexists(image.rootfs / name):
                raise EngineError(f"the sandbox image in {image.rootfs} has no {name}",
                                  "remove that folder; it is unpacked again")  # fmt: skip

    def launch(self, spec: Spec) -> Launch:
        others = tasks_of(spec.uid) if self.root else 0
        argv = bwrap_argv(spec, root=self.root, program=self.program, others=others)
        return Launch(argv, (host_paths(spec), seccomp.program(os.uname().machine)))

    def claims(self, spec: Spec) -> dict[str, int]:
        r = spec.resources
        return {"seccomp": 2, "fsize_limit": r.file_bytes, "as_limit": r.memory_bytes}

    def kill(self, name: str) -> None:
        return None

    def remove(self, name: str) -> None:
        return None

    def orphans(self, install: str) -> list[str]:
        return []

    def reap(self, install: str) -> list[str]:
        return []

    def _version(self) -> str:
        answer = run((self.program, "--version"), PROBE_SECONDS)
        match = re.search(r"(\d+)\.(\d+)(\.\d+)?", answer.out)
        if match is None:
            raise EngineError(f"bubblewrap does not tell its version: {answer.reason}")
        if (int(match[1]), int(match[2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise EngineError(f"bubblewrap {match[0]} is too old: NanoClaw needs {needed} or newer")
        return match[0]

    def _try(self) -> None:
        """Run a sandbox of the same kind, with the host's own file system, and read back what holds it."""
        fd = readable(seccomp.program(os.uname().machine))
        try:
            answer = run(trial_argv(self.program, self.root, fd), PROBE_SECONDS, pass_fds=(fd,))
        finally:
            os.close(fd)
        if answer.status is None:
            raise EngineError(f"bubblewrap did not start a sandbox within {PROBE_SECONDS:.0f} seconds")
        if answer.status != 0:
            raise EngineError(f"bubblewrap cannot make a sandbox here: {answer.reason}", *_hints(answer.reason))
        found = dict(line.split(":\t", 1) for line in answer.out.splitlines() if ":\t" in line)
        # The bounding set is not among them: as root it is `become` that empties it, and hello that shows it.
        wanted = {"CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
        if wrong := [name for name, value in wanted.items() if found.get(name) != value]:
            raise EngineError(f"bubblewrap makes sandboxes here that do not hold: {', '.join(wrong)}")


def carried_program() -> Path | None:
    """The bwrap that the built program carries, unpacked; None if it carries none."""
    if bundle.carried(PARCEL) is None:
        return None
    try:
        return bundle.unpack(PARCEL, bundle.cache(), lambda _: None) / "bwrap"  # a moment's work
    except UserError as e:
        raise EngineError(str(e), *e.hints) from e


def trial_argv(program: str, root: bool, fd: int) -> tuple[str, ...]:
    """A sandbox with all that may not be possible here: namespaces, a /proc of its own, a tmpfs, a filter."""
    return (
        *(lifeline(program) if root else ()),
        program, *NAMESPACES, *(() if root else USER_NAMESPACE), "--as-pid-1", "--die-with-parent", "--new-session",
        "--clearenv", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev",
        "--perms", "1777", "--size", "4096", "--tmpfs", "/tmp", "--remount-ro", "/dev",  # noqa: S108  # in the sandbox
        "--seccomp", str(fd), "--", "/bin/cat", "/proc/self/status",
    )  # fmt: skip


def _hints(reason: str) -> list[str]:
    """What to do about it, by the settings that are known to forbid user namespaces."""
    settings = {
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "Ubuntu forbids user namespaces to programs without an AppArmor profile; allow them: "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or install docker",
        ),
        "/proc/sys/kernel/unprivileged_userns_clone": (
            "0",
            "user namespaces are turned off; allow them: sudo sysctl kernel.unprivileged_userns_clone=1",
        ),
        "/proc/sys/user/max_user_namespaces": (
            "0",
            "user namespaces are turned off; allow them: sudo sysctl user.max_user_namespaces=10000",
        ),
    }
    found = [hint for path, (bad, hint) in settings.items() if _read(path) == bad]
    if not found and ("proc" in reason or "userns" in reason or "namespace" in reason):
        found = ["inside another container it needs permissions that containers usually lack"]
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def missing_controls() -> dict[str, str]:
    """What namespaces and rlimits cannot do; docker can."""
    return {
        "memory limit": "only each process is bounded, not the sandbox as a whole",
        "cpu limit": "a sandbox can use all processors",
        "noexec /tmp": "bubblewrap mounts it nosuid and nodev, but programs there can be run",
    }


def tasks_of(uid: int) -> int:
    """Threads that this user runs already, which its process limit would count as the sandbox's."""
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                count += sum(1 for _ in (process / "task").iterdir()) if process.stat().st_uid == uid else 0
    return count
