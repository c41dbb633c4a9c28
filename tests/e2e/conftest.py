"""What the end-to-end tests share: every engine that is here, and model servers that are strict."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.model import Image
from host.rehearsal.child import Rehearsal
from tests.conftest import CACHE, require_engine
from tests.e2e.cli import running

EVERY = ["docker", "podman", "bubblewrap"]
"""For the few tests that run on podman too, which differs from docker in how a sandbox is started and in nothing
that the rest of the house sees: `@pytest.mark.parametrize("engine", EVERY, indirect=True)`."""


@pytest.fixture(params=["docker", "bubblewrap"])
def engine(request: pytest.FixtureRequest, image: Image) -> str:
    """The name of an engine that works here, with the image built."""
    name: str = request.param
    require_engine(name)
    return name


@pytest.fixture
def strict_model() -> Iterator[str]:
    """Base URL of a model server that takes one key only, and not the one the test has."""
    server = Rehearsal(expect_key="another-key-than-the-test-has")
    yield server.start().base_url
    server.stop()


@pytest.fixture
def image_copy(home: Path) -> Path:
    """The home's image folder, as a copy of its own that the test may damage."""
    folder = home / "cache" / "image"
    folder.unlink()
    current = (CACHE / "image" / "current").read_text().strip()
    kept = current.removeprefix("sha256:")
    folder.mkdir(mode=0o700)
    (folder / "current").write_text(current + "\n")
    shutil.copytree(CACHE / "image" / kept, folder / kept, symlinks=True)
    return folder


@pytest.fixture(params=["alone", "hosted"])
def place(request: pytest.FixtureRequest, home: Path) -> Iterator[Path]:
    """A home, with a host that runs for it or without."""
    if request.param == "alone":
        yield home
        return
    request.getfixturevalue("image")
    require_engine("bubblewrap")
    with running(home, "bubblewrap"):
        yield home


@pytest.fixture
def hosted(home: Path, image: Image) -> Iterator[Path]:
    """A home whose host runs, on bubblewrap."""
    require_engine("bubblewrap")
    with running(home, "bubblewrap"):
        yield home
