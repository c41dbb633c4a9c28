"""A house around each engine: see `house.py`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.loop import Loop
from tests.contract.house import House, open_house


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that another user can walk through: pytest's own are closed to them, and so is a noexec /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="nanoclaw-contract-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def house(request: pytest.FixtureRequest, loop: Loop, place: Path) -> Iterator[House]:
    """Parametrised with the engine's name."""
    house = open_house(request.param, loop, place, request)
    yield house
    house.close()
