"""The first set-up: what is chosen, and how it gets into the person's files without a change to anything else there.

A home is *set up* once something was chosen in it or said in it: config.toml or .env is there, or the database. Nothing
else is kept for it: `nanoclaw` asks again only where nothing was ever done.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.config import Home


def was_set_up(home: Home) -> bool:
    """Whether `nanoclaw` opens the chat at once. A file that is there and bad counts: its reader says what is wrong."""
    return any(
        os.path.lexists(path) for path in (home.config / "config.toml", home.config / ".env", home.data / "nanoclaw.db")
    )
