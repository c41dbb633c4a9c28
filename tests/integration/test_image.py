"""The built image: what is in it, that engines run it, and that building it again gives the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from host import parcels
from host.model import Image
from tests.conftest import ROOT, require_engine, required_engines, unavailable

BUILD = ROOT / "build" / "image" / "build.py"
START = ("python3", "-I", "-S", "-B", "-c")
IMPORTS = (
    "import sys; sys.path[:0] = ['/opt/nanoclaw', '/opt/nanoclaw/lib'];"
    "import anthropic, ssl, sqlite3, zoneinfo; import runner.protocol as protocol;"
    "anthropic.Anthropic(api_key='x'); zoneinfo.ZoneInfo('Europe/Berlin');"
    "print(anthropic.__cached__, protocol.__cached__)"
)
CACHED = "/opt/nanoclaw/lib/anthropic/__pycache__/__init__.cpython-3"


def run(*argv: str, seconds: float = 120) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what is in it ----------------------------------------------------------------------------------


def test_it_is_small(image: Image) -> None:
    unpacked = sum(p.lstat().st_size for p in image.rootfs.rglob("*") if p.is_file() and not p.is_symlink())
    assert unpacked <= 180_000_000


def test_it_is_whole(image: Image) -> None:
    parcels.check_rootfs(image)


def test_nothing_in_it_is_writable_by_others_or_set_uid(image: Image) -> None:
    loose = []
    for path in image.rootfs.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o6022 and path != image.rootfs / "tmp":
            loose.append(path)
        assert path.lstat().st_uid == os.geteuid()
        assert stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    assert not loose


@pytest.mark.parametrize(
    "command",
    ["bash", "ls", "find", "grep", "sed", "gawk", "awk", "curl", "git", "rg", "jq", "python3", "zip", "unzip", "less",
     "ps", "setpriv", "prlimit", "tar", "gzip", "diff", "xargs"],
)  # fmt: skip
def test_the_agents_tools_are_there(image: Image, command: str) -> None:
    path = image.rootfs / "usr/bin" / command
    assert path.is_symlink() or os.access(path, os.X_OK)


def test_it_tells_nothing_of_the_machine_that_built_it(image: Image) -> None:
    for name in ("etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/shadow", "var/lib/apt/lists"):
        assert not (image.rootfs / name).exists()
    records = image.rootfs / "opt/nanoclaw/lib"
    assert not list(records.glob("*.dist-info/RECORD"))
    assert not (records / "bin").exists()


def test_the_mount_points_and_the_build_digest_are_there(image: Image) -> None:
    for name in ("group", "global", "inbox", "project", "extra"):
        assert (image.rootfs / "workspace" / name).is_dir()
    assert (image.rootfs / "opt/nanoclaw/BUILD").read_text().strip() == image.build


def test_no_bytecode_depends_on_a_files_time(image: Image) -> None:
    compiled = [*image.rootfs.glob("usr/lib/python3.*/**/*.pyc"), *(image.rootfs / "opt").rglob("*.pyc")]
    assert len(compiled) > 1500
    for path in compiled:
        with path.open("rb") as f:
            flags = f.read(8)[4:]
        assert flags == b"\x01\x00\x00\x00", f"{path}: not an unchecked hash"


# --- engines run it ---------------------------------------------------------------------------------


def test_docker_loads_it_under_its_id_and_runs_it(image: Image) -> None:
    require_engine("docker")
    run("docker", "load", "--quiet", "--input", str(image.archive), seconds=300)
    known = run("docker", "image", "inspect", "--format", "{{.Id}}", image.id).strip()
    assert known in (image.id, image.manifest)
    hardened = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--pull=never", "--user=1000:1000")
    out = run("docker", "run", *hardened, image.id, *START, IMPORTS)
    assert out.startswith(CACHED)
    assert "nanoclaw/runner/__pycache__/protocol.cpython-3" in out


def test_bubblewrap_runs_the_folder(image: Image) -> None:
    require_engine("bubblewrap")
    bound = ("--ro-bind", str(image.rootfs), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
    assert run("bwrap", "--unshare-all", "--clearenv", *bound, *START, IMPORTS).startswith(CACHED)


# --- the same bytes again ---------------------------------------------------------------------------


def start_build(cache: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """A build that sees no other cache than this one: it would take layers from the user's own."""
    return subprocess.run(
        [sys.executable, str(BUILD), "--cache", str(cache)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(cache / "none"), "PATH": path},
    )  # fmt: skip


def build(cache: Path) -> tuple[Path, str]:
    done = start_build(cache)
    if "needs a network" in done.stderr:
        unavailable(f"the image cannot be built here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return cache / "image" / (cache / "image" / "current").read_text().strip().removeprefix("sha256:"), done.stderr


def seed(image: Image, cache: Path, *layers: str) -> None:
    """A cache with the image in it, of which only these layers count as up to date."""
    place = cache / "image" / image.archive.parent.name
    place.mkdir(parents=True)
    (place / "image.tar").symlink_to(image.archive)
    record = json.loads((image.archive.parent / "layers.json").read_text())
    (place / "layers.json").write_text(json.dumps({name: record[name] for name in layers}))


def test_the_sdk_and_the_runner_build_to_the_same_bytes(image: Image, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        seed(image, tmp_path / name, "base")
        made.append(build(tmp_path / name)[0])
    assert made[0].name == made[1].name
    assert (made[0] / "image.tar").read_bytes() == (made[1] / "image.tar").read_bytes()


def test_a_changed_runner_costs_one_layer_and_an_unchanged_one_nothing(image: Image, tmp_path: Path) -> None:
    seed(image, tmp_path, "base", "lib")
    first, said = build(tmp_path)
    assert "the runner" in said
    assert "Debian" not in said
    assert "SDK" not in said
    written = (first / "image.tar").stat().st_mtime_ns
    again, said = build(tmp_path)
    assert (again, said) == (first, "")
    assert (again / "image.tar").stat().st_mtime_ns == written


def debian_packages(archive: Path) -> bytes:
    """The list of packages and versions in an image's base layer."""
    with tarfile.open(archive) as outer:
        contents = json.loads(outer.extractfile("manifest.json").read())  # type: ignore[union-attr]
        with tarfile.open(fileobj=outer.extractfile(contents[0]["Layers"][0])) as layer:
            return layer.extractfile("var/lib/dpkg/status").read()  # type: ignore[union-attr]


@pytest.mark.timeout(1800)
def test_debian_builds_to_the_same_bytes(image: Image, tmp_path: Path) -> None:
    if not shutil.which("mmdebstrap"):
        unavailable("mmdebstrap is not installed")
    if not required_engines():
        pytest.skip("takes a minute and downloads 60 MB: set NANOCLAW_REQUIRE_ENGINES=docker,bubblewrap to run it")
    first, _ = build(tmp_path / "one")
    reference = image.archive
    if debian_packages(first / "image.tar") != debian_packages(reference):  # Debian was updated since: build another
        reference = build(tmp_path / "two")[0] / "image.tar"
    with tarfile.open(first / "image.tar") as one, tarfile.open(reference) as two:
        layers = [json.loads(x.extractfile("manifest.json").read())[0]["Layers"][:2] for x in (one, two)]  # type: ignore[union-attr]
    assert layers[0] == layers[1]


# --- when it cannot be built ------------------------------------------------------------------------


def test_without_mmdebstrap_it_says_what_to_install(tmp_path: Path) -> None:
    done = start_build(tmp_path, path=str(tmp_path))
    assert done.returncode == 1
    assert "error: cannot build the sandbox image: mmdebstrap is not installed" in done.stderr
    assert "hint: apt-get install mmdebstrap" in done.stderr


def test_a_failing_mmdebstrap_is_quoted_and_leaves_no_debris(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "mmdebstrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'E: no route to Debian' >&2\nexit 25\n")
    fake.chmod(0o755)
    done = start_build(tmp_path / "cache", path=f"{fake.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "mmdebstrap failed with status 25\nE: no route to Debian" in done.stderr
    assert [p.name for p in (tmp_path / "cache" / "image").iterdir()] == ["build.lock"]


def test_a_second_home_takes_its_layers_from_the_users_cache(image: Image, tmp_path: Path) -> None:
    seed(image, tmp_path / "xdg" / "nanoclaw", "base", "lib")
    done = subprocess.run(
        [sys.executable, str(BUILD), "--cache", str(tmp_path / "stick")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")},
    )  # fmt: skip
    assert "Debian" not in done.stderr
    assert parcels.current_image(tmp_path / "stick").archive.is_file()
