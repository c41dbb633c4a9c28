"""Apart from `failures`, which explains the model SDK's errors and imports it: a check does without."""

from __future__ import annotations


class TurnError(Exception):
    """The turn ends without a reply. `kind` is one of `protocol.FAILURES`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
