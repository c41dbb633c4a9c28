"""The probes, as data: what a compromised agent tries, promise by promise.

A command never holds the canary, only a pattern that does not match itself. It is bounded, and what it does
where the control is off harms nothing.
"""

from typing import Final

from host.drill.probes.bounds import BOUNDS
from host.drill.probes.files import FILES
from host.drill.probes.groups import GROUPS
from host.drill.probes.power import POWER
from host.drill.probes.secrets import SECRETS
from host.drill.probes.walls import LEAVE, PLANT, TRACES, WALLS
from host.drill.words import Probe

PROBES: Final[tuple[Probe, ...]] = (*SECRETS, *WALLS, *FILES, *GROUPS, *POWER, *BOUNDS, *TRACES)

__all__ = ["LEAVE", "PLANT", "PROBES"]
