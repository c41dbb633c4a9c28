"""The drill: attacks on the user's own installation, and a table of what held.

Real sandboxes get a made-up key, a script plays the agent that was taken over, and everything it tries is tried
again where the control is off, so that a probe which cannot see a leak is not believed.

`words` (a probe, a verdict) and `probes/` (all of them, as data) are read first; `scenes` are the installation
as it is, `controls` and `weaken` what it would be without; `conduct` puts them together; `report` prints.
"""

from host.drill.conduct import Plan, run, select
from host.drill.words import Outcome, Probe, all_held

__all__ = ["Outcome", "Plan", "Probe", "all_held", "run", "select"]
