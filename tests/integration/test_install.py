"""Installing the one file, and removing it: what is put where, what is refused, and that nothing else is touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host import store
from host.engines.base import LABEL
from host.install import trees
from tests.conftest import require_engine
from tests.e2e.cli import Terminal
from tests.fakes import onefile

SECONDS = 60


@dataclass
class Person:
    """Someone with a download, a home folder, and a HOME in which everything of theirs lies."""

    folder: Path
    download: Path

    @property
    def program(self) -> Path:
        return self.folder / "opt" / "bin" / "nanoclaw"

    @property
    def share(self) -> Path:
        return self.folder / "opt" / "share"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environ(self) -> dict[str, str]:
        path = os.environ["PATH"]
        return {"PATH": path, "NANOCLAW_HOME": str(self.home), "HOME": str(self.folder), "SHELL": "/bin/bash"}

    def run(self, *args: str, program: Path | None = None, **environ: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [str(program or self.program), *args], env={**self.environ, **environ}, cwd=self.folder,
            capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def install(self, *args: str, **environ: str) -> tuple[int, str, str]:
        return self.run("install", "--to", str(self.program.parent), *args, program=self.download, **environ)

    def everything(self) -> dict[str, bytes | str]:
        """Every file and link below the folder, as it is."""
        return {
            str(path.relative_to(self.folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_symlink() or path.is_file()
        }


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onefile.build(tmp_path_factory.mktemp("release"), "0.1.0", [])


@pytest.fixture
def person(tmp_path: Path, release: Path) -> Person:
    folder = tmp_path / "person"
    folder.mkdir()
    download = folder / release.name
    shutil.copy(release, download)
    return Person(folder, download)


# --- install --------------------------------------------------------------------------------------------------


def test_the_program_completions_and_the_man_page_are_put_in_place(person: Person) -> None:
    status, out, err = person.install()
    assert status == 0, err
    assert person.program.read_bytes() == person.download.read_bytes()
    assert person.program.stat().st_mode & 0o777 == 0o755
    written = {str(path.relative_to(person.share)) for path in person.share.rglob("*") if path.is_file()}
    assert written == {
        "bash-completion/completions/nanoclaw", "zsh/site-functions/_nanoclaw",
        "fish/vendor_completions.d/nanoclaw.fish", "man/man1/nanoclaw.1",
    }  # fmt: skip
    assert "not on your PATH" in out
    (line,) = [line.strip() for line in out.splitlines() if line.startswith("  echo")]
    assert line.endswith(">> ~/.profile")
    status, out, _ = person.run("version", "--json")
    assert (status, json.loads(out)["version"]) == (0, "0.1.0")


def test_the_line_that_mends_path_mends_it(person: Person) -> None:
    _, out, _ = person.install()
    (line,) = [line.strip() for line in out.splitlines() if line.startswith("  echo")]
    script = f"{line}; . ~/.profile; nanoclaw version"
    done = subprocess.run(["/bin/sh", "-c", script], env=person.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "nanoclaw 0.1.0\n"
    _, out, _ = person.install(PATH=f"{person.program.parent}:{os.environ['PATH']}")
    assert "PATH" not in out


def test_twice_is_once(person: Person) -> None:
    assert person.install()[0] == 0
    before = person.everything()
    status, out, _ = person.install()
    assert (status, "already there" in out) == (0, True)
    assert person.everything() == before
    assert person.run("install", "--to", str(person.program.parent))[0] == 0, "also from where it is"
    assert person.everything() == before


def test_the_usual_folder(person: Person) -> None:
    if os.geteuid() == 0:
        pytest.skip("as root that is /usr/local/bin, which is this machine's")
    status, _, err = person.run("install", program=person.download)
    assert status == 0, err
    assert (person.folder / ".local" / "bin" / "nanoclaw").exists()
    assert (person.folder / ".local" / "share" / "man" / "man1" / "nanoclaw.1").exists()


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_what_is_not_nanoclaw_is_not_overwritten(person: Person, what: str) -> None:
    person.program.parent.mkdir(parents=True)
    theirs = person.folder / "theirs"
    theirs.write_text("mine")
    if what == "file":
        shutil.copy(theirs, person.program)
    elif what == "link":
        person.program.symlink_to(theirs)
    else:
        person.program.mkdir()
    before = person.everything()
    status, _, err = person.install()
    assert status == 1
    assert str(person.program) in err
    assert person.everything() == before


def test_someone_elses_completion_stays(person: Person) -> None:
    theirs = person.share / "bash-completion" / "completions" / "nanoclaw"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("# mine")
    page = person.share / "man" / "man1" / "nanoclaw.1"
    page.parent.mkdir(parents=True)
    page.symlink_to(theirs)
    status, _, err = person.install()
    assert status == 0
    assert err.count("left as it is") == 2
    assert theirs.read_text() == "# mine"
    assert person.run("uninstall", "--yes")[0] == 0
    assert theirs.read_text() == "# mine"
    assert page.is_symlink()


def test_another_version_takes_the_place_and_the_one_before_is_kept(person: Person) -> None:
    assert person.install()[0] == 0
    newer = onefile.build(person.folder / "newer", "0.2.0", [])
    assert person.run("install", "--to", str(person.program.parent), program=newer)[0] == 0
    assert person.run("version")[1] == "nanoclaw 0.2.0\n"
    assert person.run("rollback")[0] == 0
    assert person.run("version")[1] == "nanoclaw 0.1.0\n"


def test_from_source_one_is_told_to_build(tmp_path: Path) -> None:
    argv = ["python3", str(onefile.ROOT / "nanoclaw.py"), "--home", str(tmp_path), "install"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "scripts/build" in done.stderr


# --- uninstall ------------------------------------------------------------------------------------------------


@pytest.fixture
def used(person: Person) -> Person:
    """Installed, with a home in which there is something of each kind, and things that are not ours."""
    (person.folder / "theirs").write_text("theirs")
    assert person.install()[0] == 0
    for name in ("data/groups/main/deep", "data/log", "cache/image/x", "cache/source/y", "config"):
        (person.home / name).mkdir(parents=True, mode=0o700, exist_ok=True)
    (person.home / "config" / ".env").write_text("ANTHROPIC_API_KEY=x\n")
    (person.home / "config" / ".env").chmod(0o600)
    (person.home / "data" / "groups" / "main" / "deep" / "note").write_text("a note")
    (person.home / "data" / "groups" / "main" / "out").symlink_to(person.folder / "theirs")
    (person.home / "data" / "groups" / "main" / "out-folder").symlink_to(person.folder)
    (person.home / "cache" / "source" / "y" / "file").write_text("x")
    with contextlib.closing(store.Store(person.home / "data" / "nanoclaw.db")):
        pass
    return person


def test_it_says_what_it_would_remove_and_removes_nothing_unasked(used: Person) -> None:
    before = used.everything()
    status, out, err = used.run("uninstall", "--purge")
    assert status == 2
    assert "--yes" in err
    for path in (used.program, used.home / "data" / "groups", used.home / "config" / ".env", used.home / "cache/image"):
        assert str(path) in out
    assert "gone for good" in out
    assert used.everything() == before


def test_settings_and_data_stay_unless_they_are_purged(used: Person) -> None:
    before = used.everything()
    status, out, err = used.run("uninstall", "--yes")
    assert status == 0, err
    assert "still in" in out
    gone = set(before) - set(used.everything())
    assert all(name.startswith(("opt/", "home/cache/")) or name == "home/data/installed.json" for name in gone), gone
    assert not (used.folder / "opt").exists(), "also no empty folder that install made"
    assert not (used.home / "cache").exists()


def test_purged_nothing_of_it_is_left_and_nothing_else_is_gone(used: Person) -> None:
    (used.home / "data" / "holiday.jpg").write_text("theirs")
    status, out, err = used.run("uninstall", "--purge", "--yes", "--json")
    assert status == 0, err
    assert any("holiday.jpg" in why for why in json.loads(out)["left"])
    left = used.everything()
    assert left == {
        "home/data/holiday.jpg": b"theirs",
        "theirs": b"theirs",
        used.download.name: used.download.read_bytes(),
    }


def test_what_was_changed_since_stays(used: Person) -> None:
    page = used.share / "man" / "man1" / "nanoclaw.1"
    page.write_text(page.read_text() + "my note\n")
    status, out, _ = used.run("uninstall", "--yes")
    assert status == 0
    assert f"stays: {page}: changed since" in out
    assert page.exists()


def test_a_program_that_became_something_else_stays(used: Person) -> None:
    used.program.write_text("theirs now")
    status, out, _ = used.run("uninstall", "--yes", program=used.download)
    assert status == 0
    assert f"stays: {used.program}" in out
    assert used.program.read_text() == "theirs now"
    assert used.download.exists(), "a download was not put there by install"


def test_a_home_whose_folders_are_links_is_not_followed(used: Person) -> None:
    elsewhere = used.folder / "elsewhere"
    shutil.move(used.home / "cache", elsewhere)
    (used.home / "cache").symlink_to(elsewhere)
    before = {name for name in used.everything() if name.startswith("elsewhere/")}
    assert before
    status, out, _ = used.run("uninstall", "--yes")
    assert status == 0
    assert "is not followed" in out
    assert {name for name in used.everything() if name.startswith("elsewhere/")} == before


def test_not_under_a_running_host(used: Person) -> None:
    before = used.everything()
    with contextlib.closing(store.lock(used.home / "data")):
        status, _, err = used.run("uninstall", "--yes")
    assert status == 1
    assert f"a host (pid {os.getpid()}) runs for this home" in err
    assert {name: data for name, data in used.everything().items() if "host.lock" not in name} == before


def test_a_person_at_a_terminal_is_asked(used: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in used.environ.items():
        monkeypatch.setenv(name, value)
    for answer, there in (("n", True), ("y", False)):
        terminal = Terminal("/usr/bin/env", f"NANOCLAW_HOME={used.home}", str(used.program), "uninstall")
        terminal.expect(r"remove all of this\?")
        terminal.type(f"{answer}\r")
        assert terminal.wait() == (1 if there else 0)
        assert used.program.exists() == there


def test_engines_that_are_not_there_are_passed_over_with_a_word(used: Person, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "readlink"):
        (tools / name).symlink_to(shutil.which(name) or name)
    status, out, err = used.run("uninstall", "--yes", PATH=str(tools))
    assert status == 0, err
    assert "not looked at: docker: not installed" in out
    assert "not looked at: podman: not installed" in out


def test_containers_of_this_installation_go_and_of_no_other(used: Person, image: Any) -> None:
    engine = require_engine("docker")
    engine.load(image, lambda text: None)
    mine, other = "0123456789ab", "ba9876543210"
    (used.home / "data" / "install-id").write_text(f"{mine}\n")
    names = {install: f"nanoclaw-test-{install}-{os.getpid()}" for install in (mine, other)}
    docker = shutil.which("docker") or "docker"
    try:
        for install, name in names.items():
            label = ["--label", f"{LABEL}={install}"]
            argv = [docker, "create", "--network", "none", *label, "--name", name, image.id, "/bin/true"]
            subprocess.run(argv, check=True, capture_output=True, timeout=SECONDS)
        status, out, err = used.run("uninstall", "--yes", "--json")
        assert status == 0, err
        containers = [name for each in json.loads(out)["engines"] for name in each["containers"]]
        assert containers == [names[mine]]
        assert engine.orphans(mine) == []
        assert engine.orphans(other) == [names[other]]
    finally:
        subprocess.run([docker, "rm", "--force", *names.values()], check=False, capture_output=True, timeout=SECONDS)


def test_where_it_unpacked_itself_for_want_of_a_home_is_emptied_too(used: Person, tmp_path: Path) -> None:
    """As the launcher does where HOME is read-only; not what is somebody's, and not under a program that runs."""
    runtime = tmp_path / "runtime"
    fallback = runtime / f"nanoclaw-{os.geteuid()}"
    (fallback / "host" / "ab").mkdir(parents=True)
    fallback.chmod(0o700)
    program = fallback / "host" / "ab" / "nanoclaw"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([str(program), "600"]) as process:
        status, out, err = used.run("uninstall", "--yes", XDG_RUNTIME_DIR=str(runtime))
        assert status == 0, err
        assert f"stays: {fallback}: a NanoClaw (pid {process.pid}) runs from it" in out
        assert program.exists()
        process.kill()
    (fallback / "theirs").write_text("x")
    assert used.run("uninstall", "--yes", program=used.download, XDG_RUNTIME_DIR=str(runtime))[0] == 0
    assert [path.name for path in fallback.iterdir()] == ["theirs"]
    (fallback / "host").mkdir()
    (fallback / "theirs").unlink()
    assert used.run("uninstall", "--yes", program=used.download, XDG_RUNTIME_DIR=str(runtime))[0] == 0
    assert not fallback.exists()


# --- removing a folder -----------------------------------------------------------------------------------------


def test_a_tree_of_any_depth_and_mode_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):  # far deeper than a path may be long
        os.mkdir("d" * 20, dir_fd=here)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.symlink(outside, "link", dir_fd=inner)
        os.close(here)
        here = inner
    os.close(here)
    closed = tree / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    closed.chmod(0)
    os.mkfifo(tree / "fifo")
    assert trees.remove(tree) == []
    assert not tree.exists()
    assert (outside / "file").read_text() == "x"


def test_a_link_in_the_place_of_a_tree_goes_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    (tmp_path / "tree").symlink_to(tmp_path / "outside")
    assert trees.remove(tmp_path / "tree") == []
    assert (tmp_path / "outside" / "file").exists()
    assert trees.remove(tmp_path / "tree") == [], "what is gone is gone"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_is_mounted_in_it_stays_and_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "a" / "mounted"
    inner.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(inner)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        (inner / "file").write_text("x")
        problems = trees.remove(tmp_path / "tree")
        assert any("another file system" in why for why in problems)
        assert (inner / "file").read_text() == "x"
    finally:
        subprocess.run(["umount", "-l", str(inner)], check=False)
