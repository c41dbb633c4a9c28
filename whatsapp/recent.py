"""A bounded memory of ids. Pure."""

from __future__ import annotations


class Recent:
    """The last `limit` ids. A repeat counts as new."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}

    def __contains__(self, one: str) -> bool:
        return one in self._ids

    def add(self, one: str) -> None:
        self._ids.pop(one, None)
        self._ids[one] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]
