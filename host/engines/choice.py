"""Which engine this machine has: the first that answers a real probe, or the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from host.engines.apple import Apple
from host.engines.base import Engine
from host.engines.bubblewrap import Bubblewrap
from host.engines.docker import Docker
from host.engines.podman import Podman
from host.errors import EngineError, UserError
from host.model import Enforcement

# In the order of preference: an engine that bounds memory for a whole sandbox comes before one that cannot.
ENGINES: Final[dict[str, Callable[[], Engine]]] = {
    "docker": Docker,
    "podman": Podman,
    "container": Apple,
    "bubblewrap": Bubblewrap,
}


def choose(name: str, without: Collection[str] = ()) -> tuple[Engine, Enforcement]:
    """The engine called `name`, or for `auto` the first that works here and is not among `without`, and what it
    enforces.

    `UserError` for a name there is no engine of, `EngineError` when none works: there is no falling back to
    running without a sandbox.
    """
    if name == "auto":
        return _first(without)
    if name not in ENGINES:
        raise UserError(f"there is no engine called {name!r}", f"choose one of: auto, {', '.join(ENGINES)}", status=2)
    engine = ENGINES[name]()
    return engine, _probe(engine)


def _first(without: Collection[str]) -> tuple[Engine, Enforcement]:
    reasons: list[str] = []
    hints: list[str] = []
    for name, make in ENGINES.items():
        if name in without:
            continue
        engine = make()
        try:
            return engine, _probe(engine)
        except EngineError as e:
            reasons.append(str(e))
            hints.extend(e.hints)
    raise EngineError("nothing here can run a sandbox: " + "; ".join(reasons), *hints)


def _probe(engine: Engine) -> Enforcement:
    """A machine that refuses what trying an engine takes (a folder in /tmp, a pipe) has none of it for use either."""
    try:
        return engine.probe()
    except OSError as e:
        raise EngineError(f"{engine.name} cannot be tried here: {e.strerror or e}") from e
