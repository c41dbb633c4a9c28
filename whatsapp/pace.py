"""How fast the account may write: like somebody who types, so that WhatsApp does not take it for a machine that
floods. Pure: the clock and the dice are the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Manners:
    """The bounds, in messages and seconds."""

    # A reply in three pieces goes out at once; a flood does not.
    burst: int = 5
    # Twenty a minute in the long run, over all chats together.
    seconds_each: float = 3.0
    # The least between two messages, and how much longer it may be: no two gaps are alike.
    gap: float = 0.4
    jitter: float = 0.8


HASTY: Final = Manners(burst=1000, seconds_each=0.001, gap=0.0, jitter=0.0)
"""For tests, against a server of their own: nothing is waited for."""


class Pace:
    """A bucket of `burst` messages that fills by one each `seconds_each`."""

    def __init__(self, manners: Manners, now: float) -> None:
        self._manners = manners
        self._tokens = float(manners.burst)
        self._filled_at = now
        self._last = now - manners.gap - manners.jitter

    def wait(self, now: float, dice: float) -> float:
        """Seconds until the next message may go, which is counted as sent then. `dice`: 0 to 1, at random."""
        self._tokens = min(
            float(self._manners.burst), self._tokens + max(0.0, now - self._filled_at) / self._manners.seconds_each
        )
        self._filled_at = max(now, self._filled_at)
        lack = max(0.0, 1.0 - self._tokens) * self._manners.seconds_each
        gap = self._last + self._manners.gap + self._manners.jitter * dice - now
        pause = max(0.0, lack, gap)
        self._tokens -= 1.0
        self._last = now + pause
        return pause


def backoff(failures: int, dice: float) -> int:
    """Seconds before the next try after so many failures in a row (at least 1): 2, 4, 8 … 300, a fifth more or less."""
    base = min(300.0, 2.0 ** min(failures, 9))
    return max(1, round(base * (0.8 + 0.4 * dice)))
