"""The built file under test. Without one all of this is skipped, which `built` in NANOCLAW_REQUIRE_ENGINES forbids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import missing


@pytest.fixture(scope="session")
def built() -> Path:
    given = os.environ.get("NANOCLAW_BUILT", "")
    if not given:
        missing("built", "NANOCLAW_BUILT names no built file (scripts/build makes one)")
    path = Path(given).resolve()
    assert path.is_file(), f"{path} is not there"
    return path
