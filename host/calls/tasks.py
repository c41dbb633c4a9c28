"""Tasks: to schedule, show, change and cancel them."""

from __future__ import annotations

from typing import Final

from host.calls.base import Method

METHODS: Final[dict[str, Method]] = {}
