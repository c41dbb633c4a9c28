"""The exceptions of the host, named for who can act. Anything else that is raised is a bug, and crashes.

The third, `PeerError` ("the other end of a pipe broke the rules: kill it"), lives in `runner.protocol`.
"""

from __future__ import annotations


class UserError(Exception):
    """The person at the terminal can fix it: printed as `nanoclaw: error: …` with its hints.

    `status` is the exit status: 1 for a failure, 2 for a wrong use, 69 for something that is not there
    (EX_UNAVAILABLE: no engine, no image).
    """

    def __init__(self, error: str, *hints: str, status: int = 1) -> None:
        super().__init__(error)
        self.hints = hints
        self.status = status


class EngineError(Exception):
    """The container engine failed or does not answer: back off, retry, or tell the person, with its hints."""

    def __init__(self, error: str, *hints: str) -> None:
        super().__init__(error)
        self.hints = hints
