"""scripts/run from the outside: a small tree, a PATH with fakes on it, and what it says and starts.

The fakes are programs: an apt-get that "installs" by writing files, a sudo that notes its arguments, an id
that says who we are. The scripts under test are the real ones.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What the scripts use of a normal system; nothing else is on the PATH.
REAL = ("bash", "cat", "cut", "cmp", "cp", "dirname", "env", "find", "flock", "readlink", "sha256sum", "sort",
        "timeout", "touch", "uname", "xargs", "chmod", "rm", "mkdir")  # fmt: skip

NANOCLAW = "import sys, os\nprint('started', sys.argv[1:], os.path.basename(os.getcwd()), 'venv' in sys.prefix)\n"
BUILDER = """
import pathlib, subprocess, sys
print("nanoclaw: building", file=sys.stderr)
images = pathlib.Path(sys.argv[sys.argv.index("--cache") + 1]) / "image"
place = images / ("a" * 64)
place.mkdir(parents=True, exist_ok=True)
(place / "image.tar").touch()
root = pathlib.Path(__file__).parents[2]
command = f"ROOT={root}; . {root}/scripts/lib.sh; image_inputs"
(place / "inputs").write_text(subprocess.check_output(["bash", "-c", command], text=True))
(images / "current").write_text("sha256:" + "a" * 64 + "\\n")
"""
APT = """#!/bin/bash
echo "apt-get $*" >>"$LOG"
for word in "$@"; do
    case $word in
    bubblewrap) printf '#!/bin/sh\\n' >"$FAKES/bwrap"; chmod +x "$FAKES/bwrap" ;;
    mmdebstrap) printf '#!/bin/sh\\n' >"$FAKES/mmdebstrap"; chmod +x "$FAKES/mmdebstrap" ;;
    uidmap) printf '#!/bin/sh\\n' >"$FAKES/newuidmap"; chmod +x "$FAKES/newuidmap" ;;
    esac
done
"""
# The real one, but pip is a fake in the environments that it makes: the real one takes seconds, and a network.
PYTHON = f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"
shift 2
{sys.executable} -m venv --without-pip "$@" || exit
for place; do :; done
for site in "$place"/lib/python3*/site-packages; do cp "$FAKES/pip.py" "$site"; done
"""
PIP = """
import os, sys
with open(os.path.join(os.environ["FAKES"], "pip.log"), "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(os.path.exists(os.path.join(os.environ["FAKES"], "no-network")))
"""
SUDO = '#!/bin/bash\necho "sudo $*" >>"$LOG"\nexec "$@"\n'


class Tree:
    """A clone with nothing set up, on a machine whose programs are those in `fakes`."""

    def __init__(self, place: Path) -> None:
        self.root = place / "clone"
        self.fakes = place / "fakes"
        self.log = place / "log"
        self.cache = place / "cache" / "nanoclaw"
        (self.root / "build" / "image").mkdir(parents=True)
        (self.root / "requirements").mkdir()
        (self.root / "runner").mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "nanoclaw.py").write_text(NANOCLAW)
        (self.root / "build" / "image" / "build.py").write_text(BUILDER)
        (self.root / "requirements" / "image.txt").write_text("")
        (self.root / "requirements" / "host.txt").write_text("a==1\n")
        (self.root / "runner" / "main.py").write_text("")
        self.fakes.mkdir()
        self.log.touch()
        for name in REAL:
            found = shutil.which(name)
            assert found, f"{name} is needed to test the scripts"
            (self.fakes / name).symlink_to(found)
        self.program("python3", PYTHON)
        (self.fakes / "pip.py").write_text(PIP)
        self.program("apt-get", APT)
        self.be(0)

    def program(self, name: str, text: str) -> None:
        (self.fakes / name).write_text(text)
        (self.fakes / name).chmod(0o755)

    def be(self, uid: int) -> None:
        self.program("id", f"#!/bin/sh\necho {uid}\n")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": str(self.fakes), "HOME": str(self.root.parent), "LOG": str(self.log), "FAKES": str(self.fakes),
            "XDG_CACHE_HOME": str(self.cache.parent),
        }  # fmt: skip

    def run(self, *arguments: str, script: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script or self.root / "scripts" / "run"), *arguments], cwd=self.root.parent, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def answer(self, reply: str) -> tuple[int, str]:
        """Run at a terminal and answer its question."""
        mine, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(self.root / "scripts" / "run")], env=self.environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.write(mine, f"{reply}\n".encode())
        said = b""
        try:
            # Our own end stays open until all is read: when the last one closes, Linux may drop what is on its way.
            while True:
                if select.select([mine], [], [], 0.2)[0]:
                    said += os.read(mine, 4096)
                elif process.poll() is not None:
                    break
        finally:
            os.close(mine)
            os.close(theirs)
        return process.wait(timeout=120), said.decode()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_from_a_clean_clone_it_sets_up_and_starts(tree: Tree) -> None:
    done = tree.run("ask", "hello  world", "--json")
    assert done.stdout == f"started ['ask', 'hello  world', '--json'] {tree.root.parent.name} True\n"
    assert done.returncode == 0, done.stderr
    assert "nanoclaw: installing bubblewrap mmdebstrap" in done.stderr
    assert "nanoclaw: making a Python environment" in done.stderr
    assert "nanoclaw: building" in done.stderr
    assert "apt-get install --yes --no-install-recommends bubblewrap mmdebstrap" in tree.log.read_text()


def test_the_second_start_sets_up_nothing_and_is_quick(tree: Tree) -> None:
    tree.run()
    tree.log.write_text("")
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        done = tree.run("chat")
        seconds.append(time.monotonic() - started)
        assert (done.stderr, done.returncode) == ("", 0)
    bare = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([tree.root / ".venv/bin/python", tree.root / "nanoclaw.py"], check=True, capture_output=True)
        bare.append(time.monotonic() - started)
    assert tree.log.read_text() == ""
    assert min(seconds) - min(bare) < 0.15


def test_it_works_through_a_symlink_from_anywhere(tree: Tree) -> None:
    tree.run()
    link = tree.root.parent / "nanoclaw"
    link.symlink_to(tree.root / "scripts" / "run")
    assert tree.run("drill", script=link).stdout.startswith("started ['drill']")


def test_a_changed_runner_is_built_again(tree: Tree) -> None:
    tree.run()
    assert tree.run().stderr == ""
    (tree.root / "runner" / "more.py").write_text("x = 1")
    assert tree.run().stderr == "nanoclaw: building\n"
    assert tree.run().stderr == ""
    (tree.root / "runner" / "__pycache__").mkdir()
    (tree.root / "runner" / "__pycache__" / "more.pyc").write_text("x")
    assert tree.run().stderr == ""


def test_the_host_s_packages_are_installed_by_their_hashes_and_again_when_the_lock_changes(tree: Tree) -> None:
    tree.run()
    lock, log = tree.root / "requirements" / "host.txt", tree.fakes / "pip.log"
    (asked,) = log.read_text().splitlines()
    assert asked.startswith("install ")
    assert "--require-hashes" in asked
    assert asked.endswith(f"--requirement {lock}")
    lock.write_text("a==2\n")
    done = tree.run()
    assert done.returncode == 0
    assert "making a Python environment" not in done.stderr
    assert len(log.read_text().splitlines()) == 2
    assert tree.run().stderr == ""


def test_without_a_network_it_says_what_could_not_be_installed(tree: Tree) -> None:
    (tree.fakes / "no-network").touch()
    done = tree.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the packages of requirements/host.txt could not be installed" in done.stderr
    (tree.fakes / "no-network").unlink()
    assert tree.run().returncode == 0


@pytest.mark.parametrize("arguments", [("--home", "HOME"), ("--home=HOME",)])
def test_a_home_of_its_own_has_an_image_of_its_own(tree: Tree, arguments: tuple[str, ...]) -> None:
    home = tree.root.parent / "stick"
    done = tree.run("ask", *(a.replace("HOME", str(home)) for a in arguments), "x")
    assert done.returncode == 0, done.stderr
    assert (home / "cache" / "image" / "current").exists()
    assert not tree.cache.exists()


@pytest.mark.parametrize("arguments", [("--help",), ("version",), ("ask", "-h"), ("--quiet", "version"), ("status",)])
def test_what_needs_no_sandbox_needs_no_set_up(tree: Tree, arguments: tuple[str, ...]) -> None:
    done = tree.run(*arguments)
    assert done.stdout.startswith("started")
    assert done.stderr == ""
    assert not (tree.root / ".venv").exists()


@pytest.mark.parametrize("arguments", [("ask", "version"), ("--home", "status", "chat"), ("ask", "--", "--help")])
def test_a_message_that_looks_like_a_command_is_a_message(tree: Tree, arguments: tuple[str, ...]) -> None:
    assert "nanoclaw: building" in tree.run(*arguments).stderr


def test_without_root_and_terminal_it_prints_the_command(tree: Tree) -> None:
    tree.be(1000)
    tree.program("sudo", SUDO)
    done = tree.run("chat")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "nanoclaw: error: NanoClaw needs system packages that are not installed: bubblewrap mmdebstrap uidmap",
        "nanoclaw: hint: run: sudo apt-get install --yes --no-install-recommends bubblewrap mmdebstrap uidmap",
    ]
    assert tree.log.read_text() == ""
    assert not (tree.root / ".venv").exists()


def test_without_sudo_nobody_is_asked(tree: Tree) -> None:
    tree.be(1000)
    status, said = tree.answer("y")
    assert status == 1
    assert "[y/N]" not in said
    assert "hint: run: sudo apt-get" in said


def test_with_a_word_of_consent_it_uses_sudo(tree: Tree) -> None:
    tree.be(1000)
    tree.program("sudo", SUDO)
    status, said = tree.answer("y")
    assert status == 0, said
    assert "[y/N]" in said
    assert "started []" in said
    assert "sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes" in tree.log.read_text()


@pytest.mark.parametrize("reply", ["n", "", "what?"])
def test_without_consent_nothing_is_installed(tree: Tree, reply: str) -> None:
    tree.be(1000)
    tree.program("sudo", SUDO)
    status, said = tree.answer(reply)
    assert status == 1
    assert "hint: run: sudo apt-get install" in said
    assert tree.log.read_text() == ""


def test_on_a_system_without_apt_it_names_the_packages(tree: Tree) -> None:
    (tree.fakes / "apt-get").unlink()
    done = tree.run()
    assert done.returncode == 1
    assert "hint: install these with your system's package manager: bubblewrap mmdebstrap" in done.stderr


def test_a_docker_that_answers_is_an_engine(tree: Tree) -> None:
    tree.program("docker", "#!/bin/sh\nexit 0\n")
    tree.program("mmdebstrap", "#!/bin/sh\n")
    assert tree.run().returncode == 0
    assert tree.log.read_text() == ""


def test_a_docker_that_does_not_answer_is_none(tree: Tree) -> None:
    tree.program("docker", "#!/bin/sh\nexit 1\n")
    tree.program("mmdebstrap", "#!/bin/sh\n")
    assert tree.run().returncode == 0
    assert "install --yes --no-install-recommends bubblewrap\n" in tree.log.read_text().replace(" -qq", "")


def test_an_old_python_is_refused(tree: Tree) -> None:
    tree.program("python3", '#!/bin/sh\ncase "$*" in *version_info*) exit 1 ;; esac\necho Python 3.9.2\n')
    done = tree.run("version")
    assert done.returncode == 1
    assert "error: NanoClaw needs Python 3.11 or newer, and this is Python 3.9.2" in done.stderr


def test_two_starts_at_once_set_up_once(tree: Tree) -> None:
    tree.program("mmdebstrap", "#!/bin/sh\n")
    tree.program("bwrap", "#!/bin/sh\n")
    both = [
        subprocess.Popen(
            [tree.root / "scripts" / "run"], env=tree.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=120) for process in both]
    assert all(out.startswith("started") for out, _ in ends), ends
    assert "".join(err for _, err in ends).count("making a Python environment") == 1
    assert "".join(err for _, err in ends).count("nanoclaw: building") == 1


def test_the_image_is_recognised_without_starting_python() -> None:
    """The digest in the shell and the one in the build are the same; else every start would build."""
    command = f"ROOT={ROOT}; . {ROOT}/scripts/lib.sh; image_inputs"
    shell = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    code = "import build, platform; print(build.inputs_digest(platform.machine()))"
    python = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "build" / "image", capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shell == python
