"""`nanoclaw image` as people use it: extend the image here, move it there, accept it, go back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.model import Image
from tests.conftest import ROOT, require_engine
from tests.unit.test_parcels import file, folder, tar

# Compressing an image, or a day of use, takes minutes on a machine that does other things too.
pytestmark = pytest.mark.timeout(900)
EXTRA = b"#!/bin/sh\necho an extra tool\n"


def run(home: Path, *argv: str, status: int = 0, path: str = "") -> str:
    """Standard output of a command that ends with `status`, or what it said of the error."""
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    environment.pop("NANOCLAW_ENGINE", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / "nanoclaw.py"), "--home", str(home), "--quiet", *argv],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=570, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def info(home: Path) -> dict[str, object]:
    used: dict[str, object] = json.loads(run(home, "image", "--json"))["used"]
    return used


def make_home(place: Path, image: Image) -> Path:
    """A home whose cache has the built image, and is its own."""
    folder = place / "cache" / "image" / image.archive.parent.name
    folder.mkdir(parents=True)
    for each in (place, place / "cache", place / "cache" / "image", folder):
        each.chmod(0o700)
    for name in ("image.tar", "build", "manifest"):
        try:
            os.link(image.archive.parent / name, folder / name)
        except OSError:
            shutil.copyfile(image.archive.parent / name, folder / name)
    (place / "cache" / "image" / "current").write_text(image.id + "\n")
    return place


@pytest.fixture
def here(image: Image, tmp_path: Path) -> Path:
    return make_home(tmp_path / "here", image)


@pytest.fixture
def clean() -> Iterator[list[str]]:
    """Ids of images that docker is to forget in the end."""
    ids: list[str] = []
    yield ids
    for each in ids:
        subprocess.run(["docker", "rmi", "--force", each], capture_output=True, check=False)


def steps(place: Path, *more: str) -> Path:
    place.mkdir(exist_ok=True)
    (place / "extra").write_bytes(EXTRA)
    path = place / "Dockerfile"
    path.write_text(
        "\n".join(["FROM nanoclaw", "COPY extra /usr/local/bin/extra", "RUN chmod 755 /usr/local/bin/extra", *more])
    )
    return path


def made(said: str) -> str:
    found = re.search(r"sha256:[0-9a-f]{64}", said)
    assert found
    return found[0]


def test_it_says_what_is_used(here: Path, image: Image) -> None:
    text = run(here, "image")
    assert image.id in text
    assert "built here from source" in text
    assert info(here)["id"] == image.id


def test_steps_of_ones_own_from_the_build_to_another_machine(
    here: Path, image: Image, tmp_path: Path, clean: list[str]
) -> None:
    require_engine("docker")
    require_engine("bubblewrap")
    path = steps(tmp_path / "own", "RUN rm /usr/bin/less && chmod u+s /usr/local/bin/extra")
    said = run(here, "--engine", "docker", "image", "build", "--from", str(path))
    extended = made(said)
    clean.append(extended)
    assert "you made it here, so it is accepted" in said
    assert info(here)["id"] == extended
    ask = "run extra; ls /usr/bin/less; stat -c '%a %u' /usr/local/bin/extra"
    for engine in ("docker", "bubblewrap"):
        answer = run(here, "--engine", engine, "ask", ask)
        assert "an extra tool" in answer
        assert "cannot access '/usr/bin/less'" in answer
        assert "755" in answer

    out = tmp_path / "mine.tar.xz"
    assert extended in run(here, "image", "save", str(out))
    there = make_home(tmp_path / "there", image)
    assert f"nanoclaw image accept {extended}" in run(there, "image", "load", str(out))
    assert info(there)["id"] == image.id  # taken in is not used
    run(there, "image", "accept", extended[:30])
    assert info(there)["id"] == extended
    assert "an extra tool" in run(there, "--engine", "bubblewrap", "ask", "run extra")
    assert "accepted by you" in run(there, "--engine", "bubblewrap", "doctor", "--offline")

    run(there, "image", "accept", "carried")
    assert info(there)["id"] == image.id
    assert "an extra tool" not in run(there, "--engine", "bubblewrap", "ask", "run extra")
    run(there, "image", "accept", "sha256:0123456789ab", status=2)
    left = subprocess.run(
        ["docker", "images", "--format", "{{.Repository}}"], capture_output=True, text=True, check=True
    )
    assert "nanoclaw-build-" not in left.stdout


STAND_IN = """#!/bin/sh
# docker, but for `build`: the Debian it would fetch is not here, so the result is a file that a package would bring.
if [ "$1" = build ]; then
    while [ $# -gt 1 ]; do
        [ "$1" = --tag ] && tag=$2
        [ "$1" = --file ] && cp "$2" "{0}/Dockerfile"
        shift
    done
    exec "{1}" import - "$tag" < "{0}/result.tar"
fi
exec "{1}" "$@"
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    require_engine("docker")
    place = tmp_path / "bin"
    place.mkdir()
    real = shutil.which("docker")
    assert real
    (place / "docker").write_text(STAND_IN.format(place, real))
    (place / "docker").chmod(0o755)
    (place / "result.tar").write_bytes(tar(folder("usr"), folder("usr/bin"), file("usr/bin/extra", EXTRA, 0o755)))
    return place


def test_packages_and_again_for_the_next_version(here: Path, image: Image, stand_in: Path, clean: list[str]) -> None:
    said = run(here, "image", "build", "--with", "extra-tool", "--with", "g++", path=str(stand_in))
    clean.append(made(said))
    assert "with extra-tool, g++" in said
    written = (stand_in / "Dockerfile").read_text()
    assert written.startswith("FROM docker.io/library/debian:bookworm-slim\nLABEL ")
    assert written.endswith("apt-get install --yes --no-install-recommends -- extra-tool g++\n")
    assert "an extra tool" in run(here, "--engine", "docker", "ask", "run extra")

    # An update: the same pin, but what is brought has another runner.
    pin = here / "config" / "image.json"
    pin.write_text(pin.read_text().replace(image.build, "e" * 64))
    said = run(here, "--engine", "docker", "ask", "hello", status=69)
    assert "made for another version of NanoClaw" in said
    assert "hint: make it again for this version: nanoclaw image build --again" in said
    assert "hint: go back to the image that NanoClaw brings: nanoclaw image accept carried" in said
    assert "another version" in run(here, "image", status=69)
    assert "with extra-tool, g++" in run(here, "image", "build", "--again", path=str(stand_in))
    assert "an extra tool" in run(here, "--engine", "docker", "ask", "run extra")


def test_steps_that_touch_the_runner_are_refused(here: Path, image: Image, tmp_path: Path) -> None:
    require_engine("docker")
    path = steps(tmp_path / "own", "RUN echo x >> /opt/nanoclaw/runner/__main__.py")
    said = run(here, "--engine", "docker", "image", "build", "--from", str(path), status=1)
    assert "your steps change opt/nanoclaw/runner/__main__.py, which belongs to NanoClaw" in said
    assert info(here)["id"] == image.id


def test_where_nothing_builds_it_says_how_else(here: Path) -> None:
    require_engine("bubblewrap")
    said = run(here, "--engine", "bubblewrap", "image", "build", "--with", "ffmpeg", status=69)
    assert "docker or podman" in said
    assert "nanoclaw image load mine.tar.xz --accept" in said


def test_a_file_that_is_none_is_refused(here: Path, image: Image, tmp_path: Path) -> None:
    (tmp_path / "x.tar.xz").write_bytes(b"no image")
    assert "is not taken in" in run(here, "image", "load", str(tmp_path / "x.tar.xz"), "--accept", status=1)
    assert info(here)["id"] == image.id


def test_an_altered_unpacked_image_is_mended_at_the_next_start(here: Path) -> None:
    require_engine("bubblewrap")
    run(here, "--engine", "bubblewrap", "ask", "hello")
    root = next((here / "cache/image").glob("*/rootfs"))
    (root / "usr/bin/evil").write_text("x")
    assert "altered" in str(info(here)["unpacked"])
    done = subprocess.run(
        [sys.executable, str(ROOT / "nanoclaw.py"), "--home", str(here), "--engine", "bubblewrap", "ask", "hello"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "the unpacked sandbox image was altered (usr/bin/evil was added): it is unpacked anew" in done.stderr
    assert not (root / "usr/bin/evil").exists()
    assert info(here)["unpacked"] == "unaltered"
