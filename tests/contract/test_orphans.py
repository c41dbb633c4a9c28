"""Nothing outlives its host: not when the host is killed, nor the engine's program, nor between two of its steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host.engines.base import without
from tests.contract.house import INSTALL, REAL, House

pytestmark = pytest.mark.parametrize("house", REAL, indirect=True)

RUN_ONLY = {"-i", "--rm", "--detach-keys=", "--passwd=false"}
"""What `create` has no word for, or would not leave behind."""

HOST = """
import json, signal, sys, time
from host.model import Launch
from host.sandbox import spawn
given = json.loads(sys.stdin.readline())
launch = Launch(tuple(given["argv"]), tuple(bytes.fromhex(i) for i in given["inputs"]))
process, stdin, stdout, stderr = spawn(launch)
with open(stdout, "rb") as pipe:
    print(pipe.readline().decode(), flush=True)
    time.sleep(1000)
"""


def start_in_a_host_of_its_own(house: House, behaviour: str, **flags: bool) -> subprocess.Popen[str]:
    """Another process is the host; it has heard hello when this returns."""
    spec = house.spec()
    fake = (behaviour, json.dumps(house._options(spec, {})))
    launch = house._with_runner(house.engine.launch(spec), fake)
    if flags.get("weak"):
        launch = without(launch, "--die-with-parent")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    host = subprocess.Popen(
        [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert host.stdin is not None and host.stdout is not None
    given = {"argv": launch.argv, "inputs": [data.hex() for data in launch.inputs]}
    host.stdin.write(json.dumps(given) + "\n")
    host.stdin.flush()
    assert "hello" in host.stdout.readline()
    return host


def end(host: subprocess.Popen[str]) -> None:
    host.kill()
    host.wait(10)
    for pipe in (host.stdin, host.stdout):
        if pipe is not None:
            pipe.close()


def test_a_killed_host_leaves_no_sandbox(house: House) -> None:
    """Containers: the runner leaves at the end of its stdin. bubblewrap: even one that will not, does."""
    host = start_in_a_host_of_its_own(house, "shell" if house.containers else "ignores_everything")
    assert house.processes()
    started = time.monotonic()
    end(host)
    house.until(lambda: not house.processes(), 10)
    house.until(lambda: house.engine.orphans(INSTALL) == [], 10)
    assert time.monotonic() - started < 10


def test_one_that_will_not_leave_is_found_and_reaped(house: House) -> None:
    if not house.containers:
        host = start_in_a_host_of_its_own(house, "ignores_everything", weak=True)
        end(host)
        left = house.processes()
        assert left  # so it is --die-with-parent that ends it in the test above
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return
    end(start_in_a_host_of_its_own(house, "ignores_everything"))
    time.sleep(1)
    orphans = house.engine.orphans(INSTALL)
    assert len(orphans) == 1
    assert house.engine.reap(INSTALL) == orphans
    assert house.engine.orphans(INSTALL) == []
    house.until(lambda: not house.processes(), 5)


def test_created_and_never_started_is_an_orphan_too(house: House) -> None:
    if not house.containers:
        pytest.skip("bubblewrap keeps none")
    spec = house.spec()
    argv = [item for item in house.engine.launch(spec).argv if item not in RUN_ONLY]
    argv[argv.index("run")] = "create"
    made = subprocess.run(argv, check=False, capture_output=True, timeout=30)
    assert made.returncode == 0, made.stderr
    assert house.engine.orphans(INSTALL) == [spec.name]
    assert house.engine.orphans("another") == []
    assert house.engine.reap("another") == []
    assert house.engine.reap(INSTALL) == [spec.name]


def test_the_engine_s_program_killed_ends_the_sandbox(house: House) -> None:
    w = house.start("shell")
    assert w.run("echo ready") == "ready\n"
    assert w.sandbox._process is not None
    w.sandbox._process.kill()
    gone = w.wait_gone(10)
    assert gone.kind == "exited"
    house.until(lambda: not house.processes(), 10)
    house.until(lambda: house.engine.orphans(INSTALL) == [], 10)


def test_a_stopped_sandbox_leaves_no_process_of_the_agent_s(house: House) -> None:
    w = house.start("shell")
    w.run("setsid sleep 1000 > /dev/null 2>&1 & disown; (trap '' TERM HUP; sleep 1000 > /dev/null 2>&1 &); echo")
    assert len(house.processes()) >= 3
    w.sandbox.stop("over", 2)
    w.wait_gone()
    house.until(lambda: not house.processes(), 5)
