"""What every measurement stands on: an engine, the image, folders of its own, and how much it may do."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.engines.base import Engine, sandbox_user
from host.model import Enforcement, Image, Resources, Spec
from host.pool import own_folder

KEY: Final = "sk-ant-bench-of-no-value"
ROUNDS: Final = 20
FEWEST: Final = 3
"""Rounds that are made however slow the machine is."""


@dataclass(frozen=True)
class Ground:
    engine: Engine
    enforcement: Enforcement
    image: Image
    images: Path
    """The folder in the user's cache that holds the image."""
    folder: Path
    """Made for this run, removed after it."""
    rounds: int
    say: Callable[[str], None]
    long: bool = False
    """Whether what takes minutes is measured to its end."""

    def home(self, name: str, model_url: str = "", settings: str = "") -> Path:
        """A home with the image in its cache, and this endpoint; without one, the rehearsal answers."""
        home = self.folder / name
        for part in ("config", "data", "cache"):
            (home / part).mkdir(mode=0o700, parents=True)
        home.chmod(0o700)
        (home / "cache" / "image").symlink_to(self.images)
        (home / "config" / "config.toml").write_text(settings)
        if model_url:
            secret = home / "config" / ".env"
            secret.touch(mode=0o600)
            secret.write_text(f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={model_url}\n")
        return home

    def spec(self, install: str = "bench") -> Spec:
        """A sandbox like a turn's, for what is not a turn."""
        uid, gid = sandbox_user()
        return Spec(
            name=f"nanoclaw-{install}-{secrets.token_hex(6)}",
            install=install,
            group="bench",
            image=self.image,
            mounts=(own_folder(self.folder / "group", "/workspace/group", False, uid, gid),),
            resources=Resources(),
            uid=uid,
            gid=gid,
            deadline_seconds=120,
        )

    def repeat(self, times: int, seconds: float) -> Iterator[int]:
        """That many rounds, or as many as begin within the seconds: a slow machine makes fewer, not a longer run.
        Who asks for more rounds than usual gives the time for them."""
        seconds *= max(1.0, self.rounds / ROUNDS)
        until = time.monotonic() + seconds
        for at in range(max(FEWEST, times)):
            if at >= FEWEST and time.monotonic() > until:
                self.say(f"{at} of {times} rounds in {seconds:.0f} seconds: the rest is left out")
                return
            yield at


def load() -> str:
    """How busy the machine is: a number of another minute means little without it."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
