"""The looks in their order, and what each is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from host.doctor import endpoint, engine, home, machine
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure
from host.errors import EngineError, UserError

__all__ = ["Subject", "examine"]

Look = Callable[[Subject], Iterator[Finding]]
LOOKS: Final[dict[str, Look]] = {
    "kernel": machine.kernel,
    "user namespaces": machine.namespaces,
    "memory cgroup": machine.cgroups,
    "folders": home.folders,
    "secrets": home.secrets,
    "settings": home.settings,
    "allowlist": home.allowlist,
    "groups": home.groups,
    "database": home.database,
    "room on disk": home.room,
    "clock": home.clock,
    "host": home.host,
    "sandbox image": engine.image,
    "engine": engine.engine,
    "model": endpoint.model,
}


def examine(subject: Subject, progress: Callable[[str], None]) -> list[Finding]:
    found: list[Finding] = []
    for name, look in LOOKS.items():
        progress(f"looking at: {name} …")
        try:
            found += list(look(subject))
        except (UserError, EngineError) as e:
            found.append(failure(name, str(e), "; ".join(e.hints)))
        except OSError as e:  # the machine refuses a look: told, and the others go on
            found.append(failure(name, f"cannot be looked at: {e.strerror or e}"))
    return found
