"""Having docker or podman build something, and taking the result out again as one tar of its whole file system.

Only what every docker since 20.10 and every podman since 4 understand is asked for, whichever of its two builders the
docker has. The network is the machine's own, and for the build alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from host.engines.base import Engine, clean_environment, kill_session, run, unnamed
from host.engines.docker import Docker
from host.engines.podman import Podman
from host.errors import EngineError, UserError
from host.model import Image

BUILD_SECONDS: Final = 3600.0
"""A hundred packages over a slow line."""
EXPORT_SECONDS: Final = 900.0
ASK_SECONDS: Final = 120.0
TELL_SECONDS: Final = 5.0
LABEL: Final = "nanoclaw.work"
"""Of all that a build makes on its way, with the name of the build."""
PREFIX: Final = "nanoclaw-build-"
_NAME: Final = re.compile(PREFIX + r"([0-9]{1,20})-([0-9]{1,10})-([0-9]{0,20})-[0-9a-f]{16}(?::work)?")
SAID: Final = 4000
"""Characters of its output that are shown when it fails."""


@dataclass(frozen=True)
class Builder:
    name: str
    command: tuple[str, ...]
    """What every question to the engine begins with."""

    def build(self, dockerfile: Path, folder: Path, tag: str, progress: Callable[[str], None]) -> None:
        progress(f"{self.name}: building …")
        with unnamed() as said:
            status = self._run(build_argv(self.command, dockerfile, folder, tag), BUILD_SECONDS, said, said, progress)
            if status != 0:
                *before, last = telling(_tail(said)) or [f"exit status {status}"]
                raise EngineError(
                    f"{self.name} could not build it: {last}",
                    *(f"before that it said: {line}" for line in before[-3:]),
                    "a build needs a network that reaches what its steps ask for",
                )

    def export(self, tag: str, out: IO[bytes], progress: Callable[[str], None]) -> None:
        """The whole file system of the image `tag`, as a tar."""
        name = new_name()
        # Never started: its file system is all that is wanted. podman names one that is there, and never fetches it.
        made = run((*self.command, "create", "--network", "none", "--name", name, tag, "/usr/bin/true"), ASK_SECONDS)
        if made.status != 0:
            raise EngineError(f"{self.name} does not give out what it built: {made.reason}")
        try:
            progress(f"{self.name}: taking out what was built …")
            with unnamed() as said:
                status = self._run((*self.command, "export", name), EXPORT_SECONDS, out, said, progress)
                if status != 0:
                    why = "".join(telling(_tail(said))[-1:]) or f"exit status {status}"
                    raise EngineError(f"{self.name} does not give out what it built: {why}")
        finally:
            run((*self.command, "rm", "--force", name), ASK_SECONDS)

    @contextmanager
    def tagged(self, image: Image) -> Iterator[str]:
        """A name for an image that the engine has, while this lasts; steps cannot be built on an id everywhere."""
        tag = new_tag()
        answer = run((*self.command, "tag", image.id, tag), ASK_SECONDS)
        if answer.status != 0:
            raise EngineError(f"{self.name} cannot name the image {image.id}: {answer.reason}")
        try:
            yield tag
        finally:
            self.forget(tag)

    def forget(self, tag: str) -> None:
        """The name, and what only it had. Steps that failed leave nameless images: those have its label."""
        run((*self.command, "rmi", tag), ASK_SECONDS)
        run((*self.command, "image", "prune", "--force", "--filter", f"label={LABEL}={tag}"), ASK_SECONDS)

    def reap(self) -> list[str]:
        """Remove what builds left that were killed; what of it is gone. Never what is of a build that still runs."""
        asked = {
            "rm": ("ps", "--all", "--filter", f"name={PREFIX}", "--format", "{{.Names}}"),
            "rmi": ("images", "--filter", f"reference={PREFIX}*", "--format", "{{.Repository}}:{{.Tag}}"),
        }
        gone = []
        for action, question in asked.items():
            untrusted_names = run((*self.command, *question), ASK_SECONDS).out.split()
            for name in (each for each in untrusted_names if abandoned(each)):
                if action == "rmi":
                    self.forget(name)
                    gone.append(name)
                elif run((*self.command, "rm", "--force", name), ASK_SECONDS).status == 0:
                    gone.append(name)
        return gone

    def _run(
        self, argv: Sequence[str], seconds: float, out: IO[bytes], err: IO[bytes], progress: Callable[[str], None]
    ) -> int | None:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=clean_environment(), start_new_session=True
        )
        began = time.monotonic()
        try:
            while (waited := time.monotonic() - began) < seconds:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(TELL_SECONDS)
                progress(f"{self.name}: still at it ({waited + TELL_SECONDS:.0f} s) {_now(err)}")
            return None
        finally:
            if process.poll() is None:
                kill_session(process)
                process.wait()


def new_tag() -> str:
    """A name that nobody else has, and that no registry does."""
    return f"{new_name()}:work"


def new_name() -> str:
    """Says whose it is, so that what a killed build leaves can be told from what another one works on."""
    return f"{PREFIX}{_namespace()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(8)}"


def abandoned(untrusted_name: str) -> bool:
    """Whether it is of a build whose process is gone. What was made where processes have other numbers (in a container
    that was given this engine) stays: of those nothing is known here."""
    match = _NAME.fullmatch(untrusted_name.removeprefix("localhost/"))
    return match is not None and match[1] == _namespace() and match[3] != _started(int(match[2]))


def _namespace() -> str:
    try:
        return "".join(each for each in str(Path("/proc/self/ns/pid").readlink()) if each.isdigit())
    except OSError:
        return "0"


def _started(pid: int) -> str:
    """When a process began, since the machine did; with its number it is that process alone. Empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def build_argv(command: Sequence[str], dockerfile: Path, folder: Path, tag: str) -> tuple[str, ...]:
    # Containers of the build that failed go too. `--network`: docker may have no network of its own for containers.
    return (
        *command, "build", "--network", "host", "--force-rm", "--tag", tag, "--file", str(dockerfile), str(folder),
    )  # fmt: skip


def builder(engine: Engine) -> Builder:
    """`UserError` for an engine that builds nothing."""
    if isinstance(engine, Docker):
        return Builder("docker", (engine.program,))
    if isinstance(engine, Podman):
        return Builder("podman", engine.command)
    raise UserError(
        f"{engine.name} cannot extend an image: that takes docker or podman, and a network",
        "do it on a machine that has them: nanoclaw image build …; nanoclaw image save mine.tar.xz",
        "then here: nanoclaw image load mine.tar.xz --accept",
        status=69,
    )


def labelled(dockerfile: str, tag: str) -> str:
    """With the label in each of its stages, before any other step of them."""
    return _FROM.sub(rf"\g<0>\nLABEL {LABEL}={tag}", dockerfile)


_FROM: Final = re.compile(r"^[ \t]*FROM[ \t].*$", re.IGNORECASE | re.MULTILINE)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CHATTER: Final = (
    "--->", "Step ", "STEP ", "Removing intermediate container", "Sending build context", "[Warning]", "DEPRECATED: ",
    "Install the buildx component", "https://docs.docker.com/go/buildx",
)  # fmt: skip


def telling(untrusted_text: str) -> list[str]:
    """The lines of its output that are not about its own work."""
    lines = [_printable(_COLOUR.sub("", line)).strip() for line in untrusted_text.splitlines()]
    return [line[:300] for line in lines if line and not line.startswith(_CHATTER)]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - SAID))
    return said.read(SAID).decode(errors="replace")


def _now(said: IO[bytes]) -> str:
    """What it is doing, if it says so, without moving where it writes."""
    try:
        size = os.fstat(said.fileno()).st_size
        text = os.pread(said.fileno(), 300, max(0, size - 300)).decode(errors="replace")
    except OSError:
        return ""
    return "".join(telling(text)[-1:])[:80]
