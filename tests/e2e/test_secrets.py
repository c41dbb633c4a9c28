"""The key is nowhere: not on disk, not in an argument, an environment or a log, during and after a turn that
fails in its middle with an exception."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.model import Image
from host.rehearsal.child import Rehearsal
from tests.conftest import require_engine
from tests.e2e.cli import command, environment, wait_for
from tests.e2e.conftest import EVERY

# In two parts, so that this file does not hold what it looks for.
KEY = "sk-ant-api03-" + "Qm7zTestKeyThatMustNeverLeak0123456789"
CHUNK = 1 << 20

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="reads docker's data folder and other processes: needs root")


@pytest.fixture
def model() -> Iterator[str]:
    """A model server that answers to the key only: a turn that got through has used it."""
    server = Rehearsal(expect_key=KEY)
    yield server.start().base_url
    server.stop()


def files_with(needle: bytes, *roots: Path) -> list[str]:
    """Files under `roots` that hold the bytes, read as they are; what vanishes meanwhile is skipped."""
    found = []
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink() and holds(path, needle):
                    found.append(str(path))
    return found


def holds(path: Path, needle: bytes) -> bool:
    try:
        with path.open("rb") as file:
            tail = b""
            while data := file.read(CHUNK):
                if needle in tail + data:
                    return True
                tail = data[-len(needle) :]
    except OSError:
        pass
    return False


def processes_with(needle: bytes) -> list[str]:
    """Processes that show the bytes in their arguments or their environment."""
    here = {f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/cmdline"}
    places = [p for kind in ("cmdline", "environ") for p in Path("/proc").glob(f"[0-9]*/{kind}") if str(p) not in here]
    return [str(place) for place in places if holds(place, needle)]


def engine_folders(engine: str) -> list[Path]:
    if engine == "podman":
        argv = ["podman", "info", "--format", "{{.Store.GraphRoot}} {{.Store.RunRoot}}"]
        stores = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        return [folder for store in stores for folder in Path(store).iterdir() if folder.name != "overlay"]
    if engine != "docker":
        return []
    argv = ["docker", "info", "--format", "{{.DockerRootDir}}"]
    root = Path(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
    # Containers' records and logs, volumes, and what containers wrote; the layers of images are not theirs.
    return [folder for folder in root.iterdir() if folder.name != "overlay2"] + list(root.glob("overlay2/*/diff/tmp"))


def traces(home: Path, engine: str, needle: bytes) -> list[str]:
    places = [home / "data", home / "cache" / "source", Path("/var/log"), Path("/run/log"), *engine_folders(engine)]
    return files_with(needle, *places) + processes_with(needle)


@needs_root
@pytest.mark.parametrize("engine", EVERY, indirect=True)
def test_the_key_is_nowhere_during_and_after_a_turn_that_fails(home: Path, engine: str, model: str) -> None:
    settings = home / "config/.env"
    settings.parent.mkdir(mode=0o700, exist_ok=True)
    settings.touch(mode=0o600)
    settings.write_text(f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={model}\n")
    needle = KEY.encode()
    question = "run env; cat /proc/*/environ /proc/*/cmdline; touch busy; sleep 5\nfail break"
    with subprocess.Popen(
        command(home, engine, "ask", question), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as asking:
        wait_for(lambda: (home / "data/groups/main/busy").exists() or asking.poll() is not None)
        during = traces(home, engine, needle)
        assert asking.poll() is None
        out, err = asking.communicate(timeout=120)
    assert during == []
    assert asking.returncode == 1
    assert b"nanoclaw: error:" in err
    assert needle not in out + err
    assert traces(home, engine, needle) == []
    assert files_with(needle, home) == [str(settings)]  # and this is the control: the search finds what is there


@needs_root
def test_the_search_sees_a_key_in_a_log_and_in_an_environment(home: Path, image: Image) -> None:
    """The positive control of the test above."""
    require_engine("docker")
    needle = KEY.encode()
    name = "nanoclaw-control-secrets"
    argv = ["docker", "run", "--detach", "--network", "none", "--name", name, "--env", f"KEY={KEY}", image.id]
    subprocess.run([*argv, "/bin/sh", "-c", "echo $KEY; sleep 60"], capture_output=True, check=True)
    try:
        wait_for(lambda: any(f.endswith("-json.log") for f in traces(home, "docker", needle)))
        found = traces(home, "docker", needle)
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=True)
    assert any(f.endswith("config.v2.json") for f in found)
    assert any(re.fullmatch(r"/proc/\d+/environ", f) for f in found)


def test_a_key_in_the_host_s_environment_is_removed_from_it_at_once(home: Path, engine: str) -> None:
    """Positive control: a process that keeps its environment shows the key where the host does not."""
    needle = KEY.encode()
    env = environment(ANTHROPIC_API_KEY=KEY)
    keeps = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], env=env, stdin=-1, stdout=-1)
    assert keeps.stdout is not None
    keeps.stdout.readline()
    host = subprocess.Popen(command(home, engine, "run"), env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for((home / "data/host.sock").exists)
        assert processes_with(needle) == [f"/proc/{keeps.pid}/environ"]
    finally:
        host.terminate()
        host.wait(30)
        keeps.communicate(b"\n")
