"""The podman engine, with root and without: docker's flags, and where podman is another program, its own.

What differs between machines is not in here as a constant: `probe` asks `podman info`, starts a container of the
same kind, and reads back what holds it. `Here` is what it learned.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from host.engines import podman_here
from host.engines.base import LABEL, Answer, find, run, start_command
from host.engines.loading import load_archive
from host.engines.oci import run_flags
from host.engines.podman_here import Here
from host.errors import EngineError
from host.model import Enforcement, Image, Launch, Resources, Spec

PROBE_SECONDS: Final = 20.0
"""The first podman after the machine's start sets up its own folders, and a rootless one its user namespace."""
ASK_SECONDS: Final = 10.0
REMOVE_SECONDS: Final = 20.0
FIRST_START_SECONDS: Final = 300.0
"""Without root, the first start makes a copy of the image with other owners: 4 s here, and more on a slow card."""

# Small, and unlike any default: what is read back is what was asked for.
TRIAL: Final = Resources(memory_bytes=96 << 20, processes=77, cpus=0.5, file_bytes=16 << 20, tmp_bytes=1 << 20)

# `containers.conf`, the user's and the administrator's, can add mounts, devices, environment variables, an init and
# hooks to every container, and take the system call filter away. None of it is read.
NO_SETTINGS: Final = ("/usr/bin/env", "CONTAINERS_CONF=/dev/null")
GLOBAL: Final = (
    # Mounts for every container (on Red Hat's systems the host's subscription) come from a file of their own.
    "--default-mounts-file", "/dev/null",
    # Programs that are run, outside of the sandbox, whenever one starts. In this folder there can be none.
    "--hooks-dir", "/proc/sys",
)  # fmt: skip


def command(here: Here) -> tuple[str, ...]:
    """What every question to podman begins with."""
    return (*NO_SETTINGS, here.program, *GLOBAL, *here.options)


def run_argv(spec: Spec, here: Here, image_id: str = "") -> tuple[str, ...]:
    """The whole command line. Each flag has its reason beside it, here or in `run_flags`."""
    return (
        *command(here), "run",
        *run_flags(spec, own=own_flags(spec, here), missing=here.left_out),
        # By id, never by tag: a tag can be moved.
        image_id or spec.image.id,
        *start_command(spec),
    )  # fmt: skip


def own_flags(spec: Spec, here: Here) -> tuple[str, ...]:
    """What docker does by itself, or has no word for."""
    return (
        # `--read-only` mounts a writable tmpfs of any size on /run and /var/tmp as well: memory to fill, for those
        # whom the image lets write there.
        "--read-only-tmpfs=false",
        # Else /etc/hosts begins with the host's own. No flag for the resolver: without a network podman writes none.
        "--no-hosts",
        # Else /etc/passwd gets a line for the user; without root it tells the login, full name and home.
        "--passwd=false",
        # `container`, `TERM` and what the image says. The three variables that are meant come after it.
        "--unsetenv-all",
        # Its own environment's proxies, with their passwords; docker's are named one by one.
        "--http-proxy=false",
        # Also without a terminal, Ctrl-P and Ctrl-Q on stdin, if each comes alone, ended the session.
        "--detach-keys=",
        # podman asks for as many as it knows of, and the kernel refuses where they are more than podman may have.
        "--ulimit", f"nproc={here.processes or spec.resources.processes}",
        # podman's own filter is made for containers that build containers.
        *(("--security-opt", f"seccomp={filter_file(spec.image)}") if here.profile else ()),
        *(rootless_flags(spec, here) if here.rootless else ()),
        # Labels would have to be written onto the user's folders for the sandbox to see them. docker has it so too.
        *(("--security-opt", "label=disable") if here.selinux else ()),
    )  # fmt: skip


def filter_file(image: Image) -> Path:
    """Where the system call filter lies: beside the image, in the cache."""
    return image.archive.parent / "podman-seccomp.json"


def rootless_flags(spec: Spec, here: Here) -> tuple[str, ...]:
    # The agent is the host's user inside and outside. Without it the user is root inside, and any other number is
    # one of the user's spare ones outside, who cannot open the folders (files came out as owned by 100999).
    user = ("--userns", "keep-id")
    # Where no cgroup bounds the sandbox, at least each process is bounded, as under bubblewrap.
    each = ("--ulimit", f"data={spec.resources.memory_bytes}") if "memory limit" in here.left_out else ()
    return (*user, *each)


class Podman:
    """podman on this machine. It has no daemon; but containers outlive the program that started them."""

    name = "podman"
    wants_rootfs = False
    verifies_mounts = True
    own_mounts: frozenset[str] = frozenset()

    def __init__(self, program: str | None = None) -> None:
        self._here = Here(program or find("podman") or "podman")
        """Known after `probe`."""
        self._filters_calls = True

    @property
    def command(self) -> tuple[str, ...]:
        """What every question to it begins with. Known after `probe`."""
        return command(self._here)

    # --- what it can ---------------------------------------------------------------------------------

    def probe(self) -> Enforcement:
        program = self._here.program
        if find(program) is None:
            raise EngineError("podman is not installed", "install it: sudo apt install podman uidmap")
        # With its settings: where they name another runtime or manager of cgroups, it is for a reason.
        info = podman_here.parse_info(run((program, "info", "--format", "json"), PROBE_SECONDS))
        podman_here.refuse_unusable(info)
        storage = self._storage(program, info)
        first: EngineError | None = None
        for runtime in podman_here.runtimes(info, find):
            here = podman_here.settle(info, program, storage, runtime)
            try:
                seen = self._try(here)
            except EngineError as e:
                first = first or e
                continue
            missing = podman_here.missing_controls(info, here, seen, TRIAL)
            self._here, self._filters_calls = here, "system call filter" not in missing
            return Enforcement("podman", info.version, missing)
        raise first or EngineError("podman names no runtime that is here", "install one: sudo apt install crun")

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        _write_filter(self._here, image)
        if self._find(image):
            return
        words = load_archive("podman", command(self._here), image, progress)
        if not self._find(image):
            raise EngineError(f"podman loaded the image {image.archive}, but has no {image.id} now: it said {words!r}")
        if self._here.rootless:
            progress("podman: preparing the image for this user (once) …")
            self._first_start(image)

    def launch(self, spec: Spec) -> Launch:
        return Launch(run_argv(spec, self._here))

    def claims(self, spec: Spec) -> dict[str, int]:
        return {"fsize_limit": spec.resources.file_bytes} | ({"seccomp": 2} if self._filters_calls else {})

    # --- what outlives us ------------------------------------------------------------------------------

    def kill(self, name: str) -> tuple[str, ...]:
        return (*command(self._here), "kill", "--signal", "KILL", name)

    def remove(self, name: str) -> tuple[str, ...]:
        # `--time 0`: kill at once. Else it asks politely, and waits for seconds per container.
        return (*command(self._here), *_REMOVE, name)

    def orphans(self, install: str) -> list[str]:
        # -a: those that were created and never started are orphans too.
        answer = self._ask("ps", "--all", "--filter", f"label={LABEL}={install}", "--format", "{{.Names}}")
        if answer.status != 0:
            raise EngineError(f"podman does not list its containers: {answer.reason}")
        return answer.out.split()

    def reap(self, install: str) -> list[str]:
        names = self.orphans(install)
        if not names:
            return []
        self._ask(*_REMOVE, *names, seconds=REMOVE_SECONDS)
        left = set(self.orphans(install))
        return [name for name in names if name not in left]

    # --- helpers -----------------------------------------------------------------------------------------

    def _ask(self, *arguments: str, seconds: float = ASK_SECONDS) -> Answer:
        return run((*command(self._here), *arguments), seconds)

    def _find(self, image: Image) -> bool:
        """Whether it has exactly this image: the id is the digest of the image's config, and so of its content."""
        answer = self._ask("image", "inspect", "--format", "{{.Id}}", image.id)
        if answer.status is None:
            raise EngineError(f"podman did not answer within {ASK_SECONDS:.0f} seconds")
        return answer.status == 0 and answer.out.strip().removeprefix("sha256:") == image.id.removeprefix("sha256:")

    def _storage(self, program: str, info: podman_here.Info) -> tuple[str, ...]:
        """Options for a store of our own where podman would copy the whole image for each start (20 s here)."""
        own = podman_here.own_storage(info)
        if not own:
            return ()
        answer = run((*NO_SETTINGS, program, *own, "info", "--format", "json"), PROBE_SECONDS)
        return own if answer.status == 0 else ()

    def _try(self, here: Here) -> podman_here.Seen:
        """Start a container of the same kind, of the host's own programs, and read back what holds it."""
        with tempfile.TemporaryDirectory(prefix="nanoclaw-podman-") as folder:
            image = Image("IMAGE", Path(folder, "image.tar"), Path(folder, "root"), "")
            Path(folder).chmod(0o755)
            _write_filter(here, image)
            mounts = podman_here.furnish(image.rootfs)
            spec = _trial_spec(here, image, name := f"nanoclaw-probe-{secrets.token_hex(6)}")
            argv = podman_here.trial_argv(run_argv(spec, here), str(image.rootfs), mounts)
            answer = run(argv, PROBE_SECONDS)
            if answer.status is None:
                run((*command(here), *_REMOVE, name), REMOVE_SECONDS)
                raise EngineError(f"podman did not start a sandbox within {PROBE_SECONDS:.0f} seconds")
        return podman_here.read_back(answer)

    def _first_start(self, image: Image) -> None:
        spec = _trial_spec(self._here, image, name := f"nanoclaw-probe-{secrets.token_hex(6)}")
        argv = run_argv(spec, self._here)
        answer = run((*argv[: argv.index(image.id) + 1], "/usr/bin/true"), FIRST_START_SECONDS)
        if answer.status != 0:
            run(self.remove(name), REMOVE_SECONDS)
            raise EngineError(f"podman cannot start the sandbox image: {answer.reason}")


_REMOVE: Final = ("rm", "--force", "--time", "0", "--volumes", "--ignore")


def _write_filter(here: Here, image: Image) -> None:
    """In one step: a sandbox that is started meanwhile finds the old one or the new one."""
    path = filter_file(image)
    if not here.profile or (path.is_file() and path.read_bytes() == here.profile):
        return
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        new.write_bytes(here.profile)
        new.replace(path)
    except OSError as e:
        raise EngineError(f"cannot write the system call filter {path}: {e.strerror}") from e


def _trial_spec(here: Here, image: Image, name: str) -> Spec:
    uid, gid = here.user
    return Spec(name, "probe", "probe", image, (), TRIAL, uid, gid, deadline_seconds=60)
