"""What starts sandboxes: one interface, and an engine for each program that can do it."""

from host.engines.base import Engine, sandbox_user
from host.engines.choice import choose

__all__ = ["Engine", "choose", "sandbox_user"]
