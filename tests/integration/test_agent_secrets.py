"""The key is in the runner's memory and nowhere that the agent's processes can read. Each look has a control."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.rehearsal.child import Rehearsal
from runner.protocol import Done, Hello
from tests.fakes.agent_host import KEY, RUNNER, Host, turn

USER = 1000
# Bracketed, so that no pattern matches itself.
PATTERN = "NC[C]-key-of-the-test"

SCAN_MEMORY = f"""
import re, sys
def scan(pid):
    with open(f"/proc/{{pid}}/maps") as maps, open(f"/proc/{{pid}}/mem", "rb") as memory:
        for line in maps:
            addresses, access = line.split()[:2]
            if "r" not in access or "[v" in line:
                continue
            start, end = (int(x, 16) for x in addresses.split("-"))
            memory.seek(start)
            if re.search(rb"{PATTERN}", memory.read(end - start)):
                return "FOUND"
    return "not there"
try:
    print(scan(sys.argv[1]))
except OSError as e:
    print("denied:", e.strerror)
"""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    rehearsal = Rehearsal(expect_key=KEY)
    yield rehearsal.start().base_url
    rehearsal.stop()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that an ordinary user can reach, with the scanner in it."""
    folder = Path(tempfile.mkdtemp(prefix="agent-secrets-"))
    folder.chmod(0o755)
    group = folder / "group"
    group.mkdir()
    (group / "scan.py").write_text(SCAN_MEMORY)
    if os.getuid() == 0:
        for path in (folder, group, group / "scan.py"):
            os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(folder)


def as_a_user(*argv: str) -> list[str]:
    """Root can read everything; so the runner and its tools are an ordinary user's."""
    if os.getuid() != 0:
        return list(argv)
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
    if subprocess.run(
        [*drop, *argv[:1], "-c", "import runner.protocol"], cwd=RUNNER.parents[2], check=False
    ).returncode:
        pytest.skip("this checkout or its Python cannot be read by an ordinary user")
    return [*drop, *argv]


def ask(place: Path, base_url: str, prompt: str, *options: str) -> str:
    command = as_a_user(sys.executable, str(RUNNER), "--work", str(place), *options)
    with Host(place, command=command) as host:
        end = host.run(turn(base_url=base_url, prompt=prompt))
        assert isinstance(end, Done), (end, host.stderr)
        assert KEY not in repr(host.frames) + host.stderr.decode()
        return end.text


def test_memory(place: Path, base_url: str) -> None:
    look = "run python3 scan.py $PPID"
    control = ask(place, base_url, look)
    if control != "FOUND":
        pytest.skip(f"not tested: this kernel denies it even to a dumpable process's own user ({control})")
    assert ask(place, base_url, look, "--undumpable") == "denied: Permission denied"


def test_a_file_tool_cannot_read_it_either(place: Path, base_url: str) -> None:
    for path in ("/proc/self/mem", "/proc/self/environ", "/proc/self/maps"):
        (place / "group" / Path(path).name).symlink_to(path)
    shown = ask(place, base_url, "read mem\nread environ\nread maps", "--undumpable")
    assert KEY not in shown
    assert "anthropic" not in shown  # these are another process's maps


@pytest.mark.parametrize("what", ["environ", "fd", "maps"])
def test_the_runner_s_entries_in_proc_are_closed(place: Path, base_url: str, what: str) -> None:
    look = (
        f"run ls /proc/$PPID/fd/ >/dev/null && cat /proc/$PPID/{'status' if what == 'fd' else what} | head -c 100; true"
    )
    assert "Permission denied" not in ask(place, base_url, look)
    assert "Permission denied" in ask(place, base_url, look, "--undumpable")


def test_no_argument_and_no_environment_holds_it(place: Path, base_url: str) -> None:
    look = f"run cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '{PATTERN}'; true"
    assert ask(place, base_url, look) == "0"
    # The control: a process that has it in its environment is seen.
    leaking = as_a_user(sys.executable, "-c", "import time; time.sleep(60)")
    with subprocess.Popen(leaking, env={**os.environ, "LEAK": KEY}) as leak:
        assert ask(place, base_url, look) == "1"
        leak.kill()


def test_the_pipe_cannot_be_written_or_stolen_from(place: Path, base_url: str) -> None:
    """With both, a tool could forge frames, and take the next message."""
    look = "run for fd in 0 1 3 4 5 6; do : </proc/$PPID/fd/$fd || : >/proc/$PPID/fd/$fd; done 2>&1 | grep -c denied"
    assert ask(place, base_url, look, "--undumpable") == "12"


def test_no_file_holds_it_after_a_turn(place: Path, base_url: str) -> None:
    ask(place, base_url, "run echo x > y; ulimit -c", "--undumpable")
    found = [path for path in place.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == []


# --- as PID 1 ---


@pytest.fixture
def as_pid_1(tmp_path: Path) -> Iterator[list[str]]:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    unshare += [] if os.getuid() == 0 else ["--user", "--map-current-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine gives us no PID namespace")
    yield [*unshare, sys.executable, str(RUNNER), "--work", str(tmp_path)]


def test_orphans_are_reaped_and_no_status_is_lost(tmp_path: Path, as_pid_1: list[str], base_url: str) -> None:
    with Host(tmp_path, command=as_pid_1) as host:
        assert host.wait_for(Hello).checks["pid"] == 1
        orphans = "for i in $(seq 40); do (sleep 0.$((i % 9)) &); done"
        prompt = f"run {orphans}; sleep 0.6; exit 7\nrun sleep 2; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"
        host.send(turn(base_url=base_url, prompt=prompt))
        host.end()
        assert host.shown("output") == ["(exit status 7)", "0\n"]


def test_the_agent_cannot_end_the_runner(tmp_path: Path, as_pid_1: list[str], base_url: str) -> None:
    with Host(tmp_path, command=as_pid_1) as host:
        signals = "for s in HUP INT QUIT TERM KILL SEGV PIPE USR1 STOP; do kill -$s 1; done"
        assert host.run(turn(base_url=base_url, prompt=f"run {signals}; sleep 0.5; echo alive")) == Done("alive")
