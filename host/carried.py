"""What this build carries. In the source tree: nothing; the build writes its own copy of this file into the program."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
BUILD: Final = ""
"""Digest of all sources that went into it."""
PARCELS: Final[dict[str, tuple[str, int, int]]] = {}
"""Name → (SHA-256, length, length unpacked)."""
IMAGE: dict[str, str] | None = None
"""`id`, `build` and `manifest` of the sandbox image."""
KEYS: Final[tuple[str, ...]] = ()
"""Ed25519 public keys, in hex, that sign releases."""
