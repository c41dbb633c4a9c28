"""The key that pays: read from `.env` when it is needed, never kept, and scrubbed from whatever is shown."""

from __future__ import annotations

from host.credentials.dotenv import Credentials, read
from host.credentials.endpoint import DEFAULT_URL, endpoint, is_here
from host.credentials.environment import take_from_environment
from host.credentials.scrub import Scrubber, StreamScrubber

__all__ = [
    "DEFAULT_URL",
    "Credentials",
    "Scrubber",
    "StreamScrubber",
    "endpoint",
    "is_here",
    "read",
    "take_from_environment",
]
