"""What every engine offers, and what all of them share.

An engine turns a `Spec` into a `Launch`: a plain argv, and the bytes that the argv's `{fd:N}` arguments are to
be read from. Pure functions build it, nothing is opened or started, so every flag can be tested, shown, and (by
the drill, to prove that a probe can see) left out.

docker, one flag and its value as two items, or one item where the flag takes none::

    docker run -i --rm --pull never … --mount CSV --mount CSV … IMAGE-ID /usr/bin/python3 -I -S -B … --deadline N

bubblewrap, in the same manner; `inputs[0]` holds the NUL-separated options that name host paths (root file
system and mounts), in the place of `--args {fd:0}`; `inputs[1]` is the system call filter::

    bwrap --unshare-pid … --args {fd:0} --proc /proc … --seccomp {fd:1} --
        /usr/bin/choom … -- /usr/bin/prlimit … [/usr/bin/setpriv …] /usr/bin/python3 -I -S -B … --deadline N

So a control is taken away by removing its items: `without(launch, "--seccomp", values=1)`, and put in another's
place by `replacing(launch, ["--network", "none"], ["--network", "bridge"])`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Final, Protocol

from host.errors import EngineError
from host.model import Enforcement, Image, Launch, Spec

LABEL: Final = "nanoclaw.install"
"""Label of every container, with the id of the home it belongs to."""

# The directory names of the image. HOME lies in /tmp: what a turn leaves there is gone when it ends.
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp/home",  # noqa: S108  # inside the sandbox, where /tmp is this turn's own
}
HOSTNAME: Final = "nanoclaw"  # a fixed name, so that the machine's own is not told
WORKDIR: Final = "/workspace/group"
OPEN_FILES: Final = 4096
"""Enough for any build; without a limit some programs close a million descriptors one by one."""
OOM_SCORE: Final = 500
"""When the machine itself runs out of memory, the kernel takes a sandbox before the host or the desktop."""

# The engine's command line program gets these from our environment and nothing else: no key, and none of the
# library paths of a frozen program, which would have it load our libraries instead of its own.
PASSED_ON: Final = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
        # podman's: where the user's store is, and the session that may give it a cgroup.
        "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS",
        "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH",
    }
)  # fmt: skip


class Engine(Protocol):
    """Starts sandboxes. All that may block is bounded in time; `launch`, `kill` and `remove` do no I/O."""

    @property
    def name(self) -> str: ...

    @property
    def wants_rootfs(self) -> bool:
        """Whether it runs the unpacked folder of the image: the caller unpacks it before `load`."""

    @property
    def verifies_mounts(self) -> bool:
        """Whether its sandboxes share our kernel, so that what `hello` says of a folder can be compared with what
        we opened. Else only that there are as many, and where."""

    @property
    def own_mounts(self) -> frozenset[str]:
        """Mount points at or under /workspace that are the engine's own scaffolding: empty and read-only."""

    def probe(self) -> Enforcement:
        """Whether it works on this machine, and what it enforces here; `EngineError` with a hint if not."""

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        """Make the image available to it, and check that it is the one."""

    def launch(self, spec: Spec) -> Launch:
        """How to start this sandbox."""

    def claims(self, spec: Spec) -> dict[str, int]:
        """Checks that this sandbox's hello must report: the controls that the engine sets and that the sandbox
        can read back, beyond those that every sandbox must have."""

    def kill(self, name: str) -> tuple[str, ...] | None:
        """What to run to kill it; None where killing the process that was launched is enough."""

    def remove(self, name: str) -> tuple[str, ...] | None:
        """What to run so that nothing of it remains, whether or not it still runs; None: nothing remains."""

    def orphans(self, install: str) -> list[str]:
        """Names of this installation's sandboxes that exist, also those that never ran."""

    def reap(self, install: str) -> list[str]:
        """Kill and remove them; the names of those that are gone."""


def sandbox_user() -> tuple[int, int]:
    """Who the agent is: the user who runs the host, and never root."""
    uid, gid = os.getuid(), os.getgid()
    return (1000, 1000) if uid == 0 else (uid, gid)


def start_command(spec: Spec) -> tuple[str, ...]:
    """The runner, as process 1 of the sandbox.

    No shell and no init before it: as process 1 they held the same pipes, and the agent read the next message
    from their /proc/1/fd/0. `-I`: without it an agent's own json.py ran in the runner of its next turn. `-S`: no
    site folder, which is another such door. `-B`: its folder is read-only.
    """
    proxy = ("--proxy",) if spec.proxy else ()
    runner = "/opt/nanoclaw/runner/__main__.py"
    return ("/usr/bin/python3", "-I", "-S", "-B", runner, "--deadline", str(spec.deadline_seconds), *proxy)


def clean_environment() -> dict[str, str]:
    """What the engine's own program may know."""
    return {name: value for name, value in os.environ.items() if name in PASSED_ON}


# --- editing a launch: for tests and the drill --------------------------------------------------------


def without(launch: Launch, flag: str, values: int = 0) -> Launch:
    """The launch with each `flag` and the `values` items after it left out; `ValueError` if it has none."""
    argv, kept, at = launch.argv, [], 0
    while at < len(argv):
        if argv[at] == flag:
            at += 1 + values
        else:
            kept.append(argv[at])
            at += 1
    if len(kept) == len(argv):
        raise ValueError(f"{flag} is not in the launch")
    return replace(launch, argv=tuple(kept))


def replacing(launch: Launch, old: Sequence[str], new: Sequence[str]) -> Launch:
    """The launch with the run of items `old` exchanged for `new`, once; `ValueError` if it is not there."""
    argv, size = list(launch.argv), len(old)
    for at in range(len(argv) - size + 1):
        if argv[at : at + size] == list(old):
            return replace(launch, argv=(*argv[:at], *new, *argv[at + size :]))
    raise ValueError(f"{' '.join(old)} is not in the launch")


# --- running the engine's program, bounded ------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """How a program ended. `status` is None if it did not within its time and was killed."""

    status: int | None
    out: str
    err: str

    @property
    def reason(self) -> str:
        """What it said of it, for a person."""
        return last_words(self.err)[:500] or f"exit status {self.status}"


def last_words(untrusted_text: str) -> str:
    """The last line that tells something: docker and podman end their errors with a pointer to their manuals."""
    lines = [line.strip() for line in untrusted_text.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("See 'docker", "Run 'docker", "See 'podman"))]
    return telling[-1] if telling else ""


def find(program: str) -> str | None:
    """The program's full path, so that what is started later cannot depend on a changed PATH."""
    return shutil.which(program)


def run(argv: Sequence[str], seconds: float, pass_fds: Sequence[int] = ()) -> Answer:
    """Run to the end, at most `seconds`, never longer: its whole session is killed then."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError as e:
        raise EngineError(f"cannot run {argv[0]}: {e.strerror}") from e
    try:
        out, err = process.communicate(timeout=seconds)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        kill_session(process)
        status, (out, err) = None, _rest(process)
    return Answer(status, out.decode(errors="replace"), err.decode(errors="replace"))


def unnamed() -> IO[bytes]:
    """A file without a name, to write and to read again. In memory, since a /tmp may be full, or not be written."""
    if not hasattr(os, "memfd_create"):  # another system than Linux
        return tempfile.TemporaryFile()
    return open(os.memfd_create("nanoclaw", os.MFD_CLOEXEC), "w+b")  # noqa: PTH123 (it is a descriptor)


def readable(data: bytes) -> int:
    """A descriptor from which `data` can be read, for a program that is told its number. The caller closes it."""
    with unnamed() as file:
        file.write(data)
        file.flush()
        fd = os.dup(file.fileno())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started with `start_new_session`, and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _rest(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    # A process that left the session may still hold the pipes: not waited for either.
    try:
        out, err = process.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        return b"", b""
    return out, err
