"""How the model is reached: the key and the endpoint, read anew for each turn and never kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host import credentials
from host.config import Config, Home
from host.errors import UserError
from host.model import Endpoint, Enforcement
from host.rehearsal.child import Rehearsal

NO_LOG: Final = "no log on disk"
"""The control without which an engine writes all that runners say to a file."""


@dataclass(frozen=True)
class Access:
    """Held only until the payload is written."""

    secrets: dict[str, str] = field(repr=False)
    endpoint: Endpoint
    ca_pem: str = ""


class ModelAccess:
    """The endpoint that `.env` names; where it names neither one nor a key, a rehearsal of our own."""

    def __init__(
        self, home: Home, config: Config, enforcement: Enforcement, environment_secrets: dict[str, str]
    ) -> None:
        """`environment_secrets`: keys taken from the environment because the person said so."""
        self._env, self._config, self._enforcement = home.config / ".env", config, enforcement
        self._environment_secrets = environment_secrets
        self._rehearsal: Rehearsal | None = None
        self._rehearsal_endpoint: Endpoint | None = None

    @property
    def rehearsing(self) -> bool:
        """Whether no model is configured, so that the stand-in answers. `UserError` if `.env` is bad."""
        found = credentials.read(self._env)
        return not (found.secrets or self._environment_secrets or found.base_url)

    def access(self) -> Access:
        """Read at the moment of the handoff and forgotten with it."""
        found = credentials.read(self._env)
        secrets = found.secrets or self._environment_secrets
        if not secrets and found.base_url is None:
            return Access({}, self._rehearse())
        endpoint = credentials.endpoint(found.base_url)
        if secrets and not endpoint.tls:
            self._refuse_key_in_a_log()
        return Access(secrets, endpoint, read_authorities(self._config.ca_file))

    def stop(self) -> None:
        if self._rehearsal is not None:
            self._rehearsal.stop()

    def _refuse_key_in_a_log(self) -> None:
        """What a runner sends to an http:// endpoint passes its stdout as it is, with the key in it."""
        why = self._enforcement.missing.get(NO_LOG)
        if why is not None and NO_LOG not in self._config.accept_not_enforced:
            raise UserError(
                f"the key would be written to this machine's disk: the model's address begins with http:// ({why})",
                f'use https://, or accept to be without it in config.toml: accept_not_enforced = ["{NO_LOG}"]',
            )

    def _rehearse(self) -> Endpoint:
        if self._rehearsal is None or self._rehearsal_endpoint is None or not self._rehearsal.alive:
            self._rehearsal = Rehearsal()
            self._rehearsal_endpoint = self._rehearsal.start()
        return self._rehearsal_endpoint


def read_authorities(ca_file: Path | None) -> str:
    """The further certificate authorities of the config, as they are now; it was a PEM file at the start."""
    try:
        return ca_file.read_text(encoding="ascii") if ca_file else ""
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"model.ca_file cannot be read any more: {e}") from e
