"""What the steps of `nanoclaw setup` share: what is known so far, and the two files that it goes into."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass, field

from host import credentials
from host.cli.out import Progress
from host.config import Config, Home
from host.credentials import Credentials
from host.errors import UserError
from host.model import Endpoint
from host.setup import files
from host.setup.server import Answer


@dataclass
class Walk:
    """What is answered is written at once: whoever leaves in the middle keeps what was chosen so far."""

    args: argparse.Namespace
    home: Home
    asks: bool
    """Whether a person answers what was not given on the command line."""
    progress: Progress
    config: Config
    changed: list[str] = field(default_factory=list)
    """Names of the settings that are no longer what they were."""
    server: Answer | None = None
    """What the person's own model server told, if it was asked."""
    reply: str | None = None
    """The first reply; None if none was asked for, or none came."""

    def credentials(self) -> Credentials:
        return credentials.read(self.home.config / ".env")

    def endpoint(self) -> Endpoint | None:
        """Where the model answers; None: nowhere (a rehearsal script stands in), or what is written there is none."""
        found = self.credentials()
        with contextlib.suppress(UserError):
            return credentials.endpoint(found.base_url) if found.secrets or found.base_url else None
        return None

    def set(self, key: str, value: str, now: str) -> None:
        """A setting of config.toml that is `now`. Left out of the file where it is what it was."""
        if value != now:
            self.config = files.set_config(self.home, {key: value})
            self.changed.append(key)

    def set_env(self, **values: str) -> None:
        before = self.credentials()
        files.set_env(self.home, values)
        after = self.credentials()
        if before.secrets != after.secrets:
            self.changed.append("key")
        if before.base_url != after.base_url:
            self.changed.append("url")
