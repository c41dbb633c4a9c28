"""An engine without walls: a plain subprocess. For the sandbox actor's tests on machines without an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable

from host.model import Enforcement, Image, Launch, Spec


class SubprocessEngine:
    """`killer` and `remover` stand in for an engine's program, so that tests can make it hang or fail."""

    name = "subprocess"
    wants_rootfs = False
    verifies_mounts = True
    own_mounts: frozenset[str] = frozenset()

    def __init__(self, killer: tuple[str, ...] | None = None, remover: tuple[str, ...] | None = None) -> None:
        self.killer, self.remover = killer, remover

    def probe(self) -> Enforcement:
        return Enforcement("subprocess", "0", {"everything": "it is a plain subprocess"})

    def load(self, image: Image, progress: Callable[[str], None]) -> None:
        return None

    def launch(self, spec: Spec) -> Launch:
        return Launch((sys.executable, "-I", "-S", "-B", "RUNNER"))

    def claims(self, spec: Spec) -> dict[str, int]:
        return {}

    def kill(self, name: str) -> tuple[str, ...] | None:
        return self.killer

    def remove(self, name: str) -> tuple[str, ...] | None:
        return self.remover

    def orphans(self, install: str) -> list[str]:
        return []

    def reap(self, install: str) -> list[str]:
        return []
