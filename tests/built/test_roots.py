"""The one file on bare machines, as an ordinary user: each distribution promised, and machines that lack things.

The whole drill runs in one Debian and in one Ubuntu; in the other roots one promise of it, for the time it takes.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.built import roots
from tests.built.roots import HOME, PROGRAM, NoRootError, within
from tests.conftest import missing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a root is entered by root")

WHOLE_DRILL = {"debian-11", "ubuntu-24.04"}
DRILL_SECONDS = 600


def placed(built: Path, root: Path) -> Path:
    target = root / PROGRAM.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built, target)
    target.chmod(0o755)
    return root


@pytest.fixture
def debian(built: Path, tmp_path: Path) -> Path:
    return machine("debian-12", built, tmp_path)


def machine(name: str, built: Path, folder: Path) -> Path:
    folder.chmod(0o755)
    try:
        return placed(built, roots.unpacked(name, folder / "root"))
    except NoRootError as e:
        missing("roots", str(e))


@pytest.mark.parametrize("name", roots.SUITES)
def test_a_bare_machine(name: str, built: Path, tmp_path: Path) -> None:
    root = machine(name, built, tmp_path)
    seen = within(root, PROGRAM, "--engine", "bubblewrap", "doctor")
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert re.search(r"^engine +ok +bubblewrap .*carried", seen.stdout, re.MULTILINE), seen.stdout
    said = within(root, PROGRAM, "--engine", "bubblewrap", "ask", "run id -u; echo from $((40 + 2))")
    assert said.returncode == 0, said.stderr
    assert "from 42" in said.stdout
    assert "1000" in said.stdout
    only = [] if name in WHOLE_DRILL else ["--only", "P1"]
    drill = within(root, PROGRAM, "--engine", "bubblewrap", "drill", *only, seconds=DRILL_SECONDS)
    assert drill.returncode == 0, drill.stdout[-3000:] + drill.stderr[-1000:]
    assert "NOT HELD" not in drill.stdout


# --- machines that lack something: it works, or it ends in one clear line ------------------------------------------


def one_clear_line(done: object) -> str:
    """The error, of a run that failed as a person can understand."""
    err = str(getattr(done, "stderr", ""))
    assert getattr(done, "returncode", 0) in {1, 2, 69}, done
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("nanoclaw: error: ")]
    assert len(errors) == 1, err
    return errors[0]


def test_a_tmp_that_runs_nothing(debian: Path) -> None:
    done = within(debian, PROGRAM, "--engine", "bubblewrap", "ask", "repeat 1 2", mounts=["/tmp:noexec,mode=1777"])
    assert (done.returncode, done.stdout) == (0, "1 2\n"), done.stderr


def test_a_home_that_cannot_be_written(debian: Path) -> None:
    """It starts all the same, from another folder; what has to keep something there says that it cannot."""
    mounts = [f"{HOME}:ro,mode=0755"]
    assert within(debian, PROGRAM, "version", mounts=mounts).returncode == 0
    line = one_clear_line(within(debian, PROGRAM, "--engine", "bubblewrap", "ask", "repeat 1", mounts=mounts))
    assert HOME in line


def test_no_home_at_all(debian: Path) -> None:
    done = within(debian, PROGRAM, "version", HOME=None)
    assert done.returncode == 0, done.stderr
    asked = within(debian, PROGRAM, "--engine", "bubblewrap", "ask", "repeat 1", HOME=None)
    assert asked.returncode == 0 or one_clear_line(asked)


@pytest.mark.parametrize("size", ["1m", "40m"])
def test_a_full_disk(debian: Path, size: str) -> None:
    """Too small for the program itself, and for what it unpacks after it."""
    mounts = [f"{HOME}:size={size},mode=0777", "/tmp:size=1m,mode=1777", "/var/tmp:size=1m", "/dev/shm:size=1m"]
    line = one_clear_line(within(debian, PROGRAM, "--engine", "bubblewrap", "ask", "repeat 1", mounts=mounts))
    assert re.search(r"no room|full|space", line), line


def test_a_machine_without_the_c_library_that_it_needs(built: Path, tmp_path: Path) -> None:
    """As on a musl system: nothing is there but the file, not even a shell."""
    tmp_path.chmod(0o755)
    root = placed(built, roots.furnished(tmp_path / "root"))
    done = within(root, PROGRAM, "version")
    assert "glibc" in one_clear_line(done)


def test_nothing_is_left_behind(debian: Path) -> None:
    """Beside its own three folders in HOME. /tmp is another one in each run: a file there is looked for within it."""
    listing = f"{PROGRAM} --engine bubblewrap --quiet ask 'repeat 1' >/dev/null && ls -A /tmp /dev/shm /var/tmp"
    done = within(debian, "/bin/sh", "-c", listing)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.split() if not line.endswith(":")] == []
    home = debian / HOME.lstrip("/")
    kept = {".config/nanoclaw", ".local/share/nanoclaw", ".cache/nanoclaw"}
    strange = [
        name
        for path in home.rglob("*")
        if not path.is_dir() and not any((name := str(path.relative_to(home))).startswith(each) for each in kept)
    ]
    assert strange == []
