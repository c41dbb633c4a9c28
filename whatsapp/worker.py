"""Threads that carry out requests one after the other, and never leave one without an answer."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from whatsapp.speech import leave

WAITING: Final = 256
"""Most requests that one worker keeps waiting."""
HUNG: Final = 240.0
"""Seconds after which a call into the library will not end any more: its own limit for an answer is 75."""


class Worker:
    """One thread. What hangs in it ends the process: the host starts a new one and asks again."""

    def __init__(self, name: str) -> None:
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(WAITING)
        self._since: float | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def add(self, job: Callable[[], None]) -> bool:
        """False if too many wait."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return False
        return True

    def hangs(self, now: float) -> bool:
        since = self._since
        return since is not None and now - since > HUNG

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            self._since = time.monotonic()
            try:
                job()
            finally:
                self._since = None


def watch(*workers: Worker) -> None:
    """End the process when one of them hangs."""

    def look() -> None:
        never = threading.Event()
        while not never.wait(10):
            if any(worker.hangs(time.monotonic()) for worker in workers):
                leave(75)

    threading.Thread(target=look, name="watch", daemon=True).start()
