"""Whom the doctor looks at."""

from __future__ import annotations

from dataclasses import dataclass

from host.config import Config, Home


@dataclass
class Subject:
    home: Home
    engine_flag: str | None = None
    """`--engine`, or NANOCLAW_ENGINE."""
    offline: bool = False
    """Nothing is asked of the model's endpoint."""
    config: Config | None = None
    """Known after the look at the settings; None where they cannot be read."""

    @property
    def settings(self) -> Config:
        return self.config or Config()
