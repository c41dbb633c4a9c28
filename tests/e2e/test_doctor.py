"""The doctor on real engines: what it reads back is what holds, and what does not hold it finds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from host.config import locate
from host.doctor import FAILURE, OK, WARNING, Finding, Subject
from host.doctor.engine import left_behind, read_back
from host.engines.base import LABEL, Engine, replacing, without
from host.engines.choice import choose
from host.model import Image, Launch, Resources
from tests.conftest import require_engine
from tests.contract.house import Unclaimed
from tests.e2e.cli import BARE, nanoclaw, running


def checks(home: Path, engine: str, *args: str, **more: Any) -> tuple[int, dict[str, Any]]:
    done = nanoclaw(home, engine, "doctor", "--json", *args, **more)
    assert "Traceback" not in done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_it_looks_into_a_real_sandbox(home: Path, engine: str) -> None:
    status, found = checks(home, engine)
    assert status == 0, [check for check in found.values() if check["state"] == FAILURE]
    assert found["engine"]["found"].startswith(engine)
    for name in ("sandbox", "sandbox: memory", "sandbox: processes", "sandbox: file size", "sandbox: root folder"):
        assert found[name]["state"] == OK
    # Each control is either read back or told to be missing, and not both.
    for name, control in (("cpu", "cpu limit"), ("programs in /tmp", "noexec /tmp")):
        assert (f"sandbox: {name}" in found) != (f"enforces {control}" in found)
    assert found["left behind"]["state"] == OK


def test_beside_a_host_that_runs(home: Path, image: Image) -> None:
    require_engine("bubblewrap")
    with running(home, "bubblewrap") as process:
        status, found = checks(home, "bubblewrap")
        assert (status, found["database"]["state"]) == (0, OK)
        assert f"(pid {process.pid})" in found["host"]["found"]
        assert process.poll() is None


def test_where_nothing_is_set_up_each_thing_is_a_line(tmp_path: Path) -> None:
    status, found = checks(tmp_path / "new", "auto", env=BARE)
    assert status == 1
    assert {found[name]["state"] for name in ("sandbox image", "engine")} == {FAILURE}
    assert all(found[name]["next"] for name in ("sandbox image", "engine"))
    assert (found["sandbox"]["state"], found["clock"]["state"]) == (WARNING, OK)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_a_home_that_cannot_be_looked_into_is_lines(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    status, found = checks(closed / "home", "auto", env=BARE)
    assert status == 1
    assert found["clock"]["state"] == OK


def seen(image: Image, home: Path, edit: Any) -> dict[str, Finding]:
    """What is read back from docker's sandboxes whose launches were changed."""
    require_engine("docker")
    engine, _ = choose("docker")
    engine.load(image, lambda text: None)
    weak = cast(Engine, Unclaimed(engine, edit))
    return {finding.name: finding for finding in read_back(weak, {}, image, Subject(locate(str(home), {})))}


def weaker(launch: Launch) -> Launch:
    """Without all that hello does not tell of."""
    tmp = f"size={Resources().tmp_bytes}"
    for flag, values in (("--pids-limit", 1), ("--cpus", 1), ("--memory", 1), ("--memory-swap", 1)):
        launch = without(launch, flag, values)
    launch = replacing(launch, ["--read-only"], ["--security-opt", "seccomp=unconfined"])
    launch = replacing(launch, ["--ulimit", f"fsize={Resources().file_bytes}"], ["--ulimit", "fsize=-1"])
    return replacing(
        launch, ["--tmpfs", f"/tmp:rw,noexec,nosuid,nodev,{tmp}"], ["--tmpfs", f"/tmp:rw,exec,nosuid,nodev,{tmp}0"]
    )


def test_an_engine_that_does_not_keep_to_what_it_was_asked_is_found_out(home: Path, image: Image) -> None:
    found = seen(image, home, lambda launch: launch)
    assert {finding.state for finding in found.values()} == {OK}
    found = seen(image, home, weaker)
    assert {name.removeprefix("sandbox: ") for name, finding in found.items() if finding.state == FAILURE} == {
        "memory", "swap", "processes", "cpu", "file size", "/tmp", "system calls", "root folder", "programs in /tmp",
    }  # fmt: skip


def test_a_sandbox_that_must_not_be_used_is_asked_nothing(home: Path, image: Image) -> None:
    found = seen(image, home, lambda launch: replacing(launch, ["--security-opt", "no-new-privileges"], []))
    assert [finding.state for finding in found.values()] == [FAILURE]
    assert "set-user-id programs can raise its privileges" in found["sandbox"].found


def test_a_sandbox_of_a_host_that_was_killed_is_told_of(home: Path, image: Image) -> None:
    require_engine("docker")
    engine, enforcement = choose("docker")
    engine.load(image, lambda text: None)
    install = f"doctor-test-{os.getpid()}"
    (home / "data").mkdir(mode=0o700)
    (home / "data" / "install-id").write_text(install)
    subject = Subject(locate(str(home), {}), engine=engine, enforcement=enforcement)
    made = [
        "docker",
        "create",
        "--name",
        install,
        "--network",
        "none",
        "--label",
        f"{LABEL}={install}",
        image.id,
        "true",
    ]
    subprocess.run(made, check=True, capture_output=True)
    try:
        assert [finding.state for finding in left_behind(subject)] == [WARNING]
    finally:
        engine.reap(install)
    assert [finding.state for finding in left_behind(subject)] == [OK]
