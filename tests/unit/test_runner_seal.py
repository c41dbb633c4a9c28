"""What the runner reads back of its own seal."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from runner import protocol, seal

SEALED = {
    "pid": 1, "uid": 1000, "gid": 1000, "dumpable": 0, "cap_eff": 0, "cap_bnd": 0, "no_new_privs": 1, "seccomp": 2,
    "core_limit": 0, "interfaces": 0, "nproc_limit": -1, "as_limit": -1, "fsize_limit": -1,
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def test_a_sealed_process_has_no_faults() -> None:
    assert seal.faults(SEALED) == []


@pytest.mark.parametrize(
    "leak",
    [{"uid": 0}, {"dumpable": 1}, {"cap_eff": 1}, {"cap_bnd": 1 << 21}, {"no_new_privs": 0}, {"core_limit": -1}],
)
def test_each_control_that_is_off_is_a_fault(leak: dict[str, int]) -> None:
    assert len(seal.faults({**SEALED, **leak})) == 1


def test_the_checks_say_what_the_kernel_says() -> None:
    checks = seal.checks()
    assert checks.keys() == SEALED.keys()
    assert checks["pid"] == os.getpid()
    assert checks["uid"] == os.getuid()
    assert checks["dumpable"] == 1
    hello = protocol.Hello(protocol.VERSION, "x", checks, {})
    assert protocol.decode(protocol.encode(hello)[:-1], protocol.TO_HOST) == hello


def test_limits_are_read_back() -> None:
    code = "import resource, json; from runner import seal; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
    code += "c = seal.checks(); print(c['fsize_limit'], c['as_limit'])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    assert shown.split() == ["4096", str(soft)]


def test_mounts_at_and_under_the_workspace_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "WORKSPACE", str(tmp_path))
    odd = tmp_path / "a b\\c\nd"
    odd.mkdir()
    written = str(odd).replace("\\", r"\134").replace(" ", r"\040").replace("\n", r"\012")
    lines = [
        "22 1 0:20 / / rw - overlay overlay rw",
        f"23 22 8:1 /x {written} rw,relatime shared:1 - ext4 /dev/sda1 rw",
        f"24 22 8:1 /x {tmp_path} rw - ext4 /dev/sda1 rw",
        f"25 22 8:1 /x {tmp_path}-other rw - ext4 /dev/sda1 rw",
    ]
    seen, top = odd.stat(), tmp_path.stat()
    assert seal.mounts("\n".join(lines)) == {
        str(odd): f"{seen.st_dev}:{seen.st_ino}",
        str(tmp_path): f"{top.st_dev}:{top.st_ino}",
    }


def test_octal_is_undone_and_nothing_else() -> None:
    assert seal.unescape(r"/a\040b\134040") == "/a b\\040"
    assert seal.unescape("/ünï") == "/ünï"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be refused for being root")
def test_an_unsealed_runner_exits_without_a_word_on_the_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(ROOT / "runner" / "__main__.py"), "--deadline", "5"],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == b""
    assert done.returncode == 70
    assert done.stderr.startswith(b"runner: not sealed: it runs as root")
    assert b"memory" not in done.stderr  # it had made itself undumpable before it looked
    assert b"core" not in done.stderr


def test_a_runner_without_no_new_privs_exits_too() -> None:
    setpriv = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all"]
    argv = [*(setpriv if os.getuid() == 0 else []), "/usr/bin/python3", "-I", "-S", "-B"]
    done = subprocess.run(
        [*argv, str(ROOT / "runner" / "__main__.py"), "--deadline", "5"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == b""
    assert b"not sealed" in done.stderr
    assert b"privileges" in done.stderr
