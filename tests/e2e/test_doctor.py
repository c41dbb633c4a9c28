"""The doctor on real engines: what it reads back is what holds, and what does not hold it finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from host.config import Home, locate
from host.doctor import FAILURE, OK, Finding, Subject
from host.doctor.engine import read_back
from host.engines.base import Engine, without
from host.engines.choice import choose
from host.model import Image
from tests.conftest import require_engine
from tests.contract.house import Unclaimed
from tests.e2e.cli import nanoclaw


def checks(home: Path, engine: str, *args: str) -> tuple[int, dict[str, Any]]:
    done = nanoclaw(home, engine, "doctor", "--json", *args)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_it_looks_into_a_real_sandbox(home: Path, engine: str) -> None:
    status, found = checks(home, engine)
    assert status == 0, [check for check in found.values() if check["state"] == FAILURE]
    assert found["engine"]["found"].startswith(engine)
    assert found["sandbox"]["state"] == OK
    assert found["file size in a sandbox"]["state"] == OK
    assert found["memory in a sandbox"]["found"].endswith("as asked")
    assert found["left behind"]["state"] == OK


def test_where_nothing_is_set_up_each_thing_is_a_line(tmp_path: Path) -> None:
    status, found = checks(tmp_path / "new", "bubblewrap")
    assert status == 1
    assert found["sandbox image"]["state"] == FAILURE
    assert found["engine"]["state"] == FAILURE
    assert found["clock"]["state"] == OK


def seen(name: str, image: Image, home: Path, flag: str, values: int) -> dict[str, Finding]:
    """What is read back from sandboxes whose launches lack a flag."""
    require_engine(name)
    engine, enforcement = choose(name)
    engine.load(image, lambda text: None)
    weak = cast(Engine, Unclaimed(engine, lambda launch: without(launch, flag, values) if flag else launch))
    subject = Subject(locate(str(home), {}))
    assert isinstance(subject.home, Home)
    return {finding.name: finding for finding in read_back(weak, replace(enforcement, missing={}), image, subject)}


@pytest.mark.parametrize(
    ("flag", "what"),
    [("", ""), ("--pids-limit", "processes in a sandbox"), ("--cpus", "cpu in a sandbox")],
)
def test_an_engine_that_does_not_keep_to_what_it_was_asked_is_found_out(
    home: Path, image: Image, flag: str, what: str
) -> None:
    found = seen("docker", image, home, flag, 1)
    bad = [name for name, finding in found.items() if finding.state == FAILURE]
    assert bad == ([what] if what else [])
