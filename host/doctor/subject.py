"""Whom the doctor looks at, and what earlier looks found that later ones need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host.config import Config, Home
from host.engines.base import Engine
from host.model import Enforcement, Image


@dataclass
class Subject:
    home: Home
    version: str = ""
    """The program's own."""
    engine_flag: str | None = None
    """`--engine`, or NANOCLAW_ENGINE."""
    offline: bool = False
    """Nobody outside of this machine is asked anything; what would be is named instead."""
    progress: Callable[[str], None] = lambda text: None
    """Told what takes long."""

    # Each of these is None until its look found it well, and where it did not.
    config: Config | None = None
    image: Image | None = None
    engine: Engine | None = None
    enforcement: Enforcement | None = None
    host_runs: bool = False
    status: dict[str, Any] | None = None
    """What the host that runs says of itself, as `status` is told it; None where it does not answer too."""

    @property
    def settings(self) -> Config:
        return self.config or Config()
