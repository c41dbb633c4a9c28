"""What the tests share: engines that must be there, the built image, a home of their own.

A machine without an engine skips what needs it and says so. Where an engine is part of the promise,
NANOCLAW_REQUIRE_ENGINES=docker,bubblewrap turns those skips into failures.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from host import parcels
from host.engines.base import Engine
from host.engines.choice import choose
from host.errors import EngineError, UserError
from host.loop import Loop
from host.model import Image

ROOT = Path(__file__).resolve().parents[1]

# A deadline measures the machine, and a small one is slow to make examples: neither is a failure of ours.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def cache_folder() -> Path:
    """Where `scripts/test` puts the image: the same place as the product does."""
    if home := os.environ.get("NANOCLAW_HOME"):
        return Path(home) / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanoclaw"


CACHE = cache_folder()  # now, before a test moves its own home elsewhere


def required_engines() -> frozenset[str]:
    names = os.environ.get("NANOCLAW_REQUIRE_ENGINES", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where the engine `name` was promised to be there."""
    if name in required_engines():
        pytest.fail(f"{name} is required here: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where any engine was promised: what the sandbox needs comes along with them."""
    if required_engines():
        pytest.fail(f"required here: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _probe(name: str) -> Engine | str:
    try:
        return choose(name)[0]
    except (EngineError, UserError) as e:
        return str(e)


def require_engine(name: str) -> Engine:
    """The engine, probed once a session; skips the test where it is not there."""
    found = _probe(name)
    if isinstance(found, str):
        missing(name, found)
    return found


@functools.cache
def _built() -> Image | str:
    try:
        found = parcels.current_image(CACHE)
        parcels.unpack_rootfs(found, lambda text: None)
    except UserError as e:
        return str(e)
    return found


def built_image() -> Image:
    """The sandbox image, unpacked; skips the test where there is none."""
    found = _built()
    if isinstance(found, str):
        unavailable(found)
    return found


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.settle(30)  # what the engines' programs still clear away
    loop.close()


@pytest.fixture
def image() -> Image:
    return built_image()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of this test's own, with the built image in its cache where there is one."""
    place = tmp_path / "home"
    (place / "cache").mkdir(parents=True, mode=0o700)
    images = CACHE / "image"
    if images.is_dir():
        (place / "cache" / "image").symlink_to(images)
    monkeypatch.setenv("NANOCLAW_HOME", str(place))
    return place
