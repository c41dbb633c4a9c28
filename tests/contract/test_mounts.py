"""What is mounted is what was judged, whatever it is called and whoever moves it meanwhile."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from host.engines.base import replacing
from host.engines.oci import mount_value
from host.model import Launch, Mount
from tests.contract.house import REAL, House, identity

pytestmark = pytest.mark.parametrize("house", REAL, indirect=True)

CANARY = "NCC-m0unt5"
TARGET = "/workspace/extra/one"


def test_a_folder_swapped_between_judging_and_mounting_is_given_nothing(house: House) -> None:
    judged = house.mount("judged", TARGET)
    secret = house.mount("secret", TARGET)
    (secret.source / "file").write_text(CANARY)
    (secret.source / "file").chmod(0o644)
    shutil.rmtree(judged.source)
    judged.source.symlink_to(secret.source)
    gone = house.start("shell", house.spec(judged)).wait_gone()
    assert gone.kind == "hello"
    assert TARGET in gone.message
    # Without the comparison (here: with the swapped folder's own numbers) the secret is there to be read.
    fooled = replace(judged, identity=identity(secret.source))
    assert CANARY in house.start("shell", house.spec(fooled)).run(f"cat {TARGET}/file")


def test_a_path_that_keeps_changing_its_meaning_never_shows_the_wrong_folder(house: House) -> None:
    right, wrong = house.mount("right"), house.mount("wrong")
    for parent, text in ((right, "fine"), (wrong, CANARY)):
        (parent.source / "one").mkdir(mode=0o755)
        parent.source.chmod(0o755)
        (parent.source / "one" / "file").write_text(text)
        (parent.source / "one" / "file").chmod(0o644)
    path, over = house.folder / "path", threading.Event()

    def swap() -> None:
        for parent in itertools.cycle((right, wrong)):
            (house.folder / "next").symlink_to(parent.source)
            (house.folder / "next").replace(path)
            if over.is_set():
                return

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        mount = Mount(path / "one", TARGET, True, identity(right.source / "one"))
        for _ in range(8):
            w = house.start("shell", house.spec(mount))
            house.until(lambda w=w: w.ready or w.gone)  # type: ignore[misc]
            if w.ready:
                assert w.run(f"cat {TARGET}/file") == "fine"
            else:
                assert w.gone[0].kind in {"hello", "engine"}
    finally:
        over.set()
        swapper.join()


@pytest.mark.parametrize(
    "name",
    ["a,b", 'quo"te', "co:lon", "new\nline", "equal=s", "sp ace", "-dash", "a,target=x", '",readonly,"', "ü", "{fd:0}"],
)
def test_odd_names_mean_themselves(house: House, name: str) -> None:
    mount = house.mount(name, TARGET)
    (mount.source / "file").write_text(CANARY)
    (mount.source / "file").chmod(0o644)
    assert CANARY in house.start("shell", house.spec(mount)).run(f"cat {TARGET}/file")


def test_an_unquoted_name_would_have_mounted_another_folder(house: House) -> None:
    if not house.containers:
        pytest.skip("bubblewrap's mounts are not written in fields")
    other = house.mount("other", TARGET)
    (house.folder / "x,source=").mkdir()
    mount = house.mount(f"x,source={house.folder}/other".replace("/", "_"), TARGET)
    raw = f"type=bind,source={house.folder}/x,source={other.source},target={TARGET}"

    def unquoted(launch: Launch) -> Launch:
        (value,) = [item for item in launch.argv if item.startswith("type=bind") and TARGET in item]
        return replacing(launch, (value,), (raw,))

    gone = house.start("shell", house.spec(mount), unquoted).wait_gone()
    assert gone.kind == "hello"  # another folder was mounted, and noticed
    assert mount_value(mount).count('"') == 4


def test_a_missing_source_is_refused_and_not_made(house: House) -> None:
    missing = Mount(house.folder / "missing", TARGET, False, (1, 1))
    gone = house.start("shell", house.spec(missing)).wait_gone()
    assert gone.kind == "engine"
    assert not missing.source.exists()
    if house.engine.name != "docker":
        return  # podman's -v refuses it too

    def careless(launch: Launch) -> Launch:
        at = next(i for i, item in enumerate(launch.argv) if item.startswith("type=bind") and TARGET in item)
        volume = ("-v", f"{missing.source}:{TARGET}")
        return replace(launch, argv=(*launch.argv[: at - 1], *volume, *launch.argv[at + 1 :]))

    house.start("shell", house.spec(missing), careless).wait_gone()
    assert missing.source.exists()


def test_read_only_is_read_only(house: House) -> None:
    write = f"touch {TARGET}/x && echo written"
    mount = house.mount("judged", TARGET, readonly=True)
    assert "written" not in house.start("shell", house.spec(mount)).run(write)
    assert "written" in house.start("shell", house.spec(replace(mount, readonly=False))).run(write)


@pytest.fixture
def submount(place: Path) -> Iterator[Path]:
    """A file system of its own inside a folder of the house."""
    inner = place / "judged" / "inner"
    inner.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "none", inner], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("mounting needs root")
    yield inner
    subprocess.run(["umount", "--lazy", inner], check=True)


def test_what_is_mounted_inside_a_read_only_folder_cannot_be_written(house: House, submount: Path) -> None:
    write = f"touch {TARGET}/inner/x && echo written"
    mount = house.mount("judged", TARGET, readonly=True)
    assert "written" not in house.start("shell", house.spec(mount)).run(write)
    assert not (submount / "x").exists()
    if house.engine.name != "docker" or int(house.engine.probe().version.split(".")[0]) >= 25:
        return  # read-only is recursive there: no flag to leave out

    def recursive(launch: Launch) -> Launch:
        flags = re.compile(",bind-(recursive=disabled|nonrecursive=true)")
        return replace(launch, argv=tuple(flags.sub("", item) for item in launch.argv))

    assert "written" in house.start("shell", house.spec(mount), recursive).run(write)


def test_links_in_a_folder_lead_nowhere_outside(house: House) -> None:
    group = house.mount("group").source
    (house.folder / "outside").write_text(CANARY)
    (house.folder / "outside").chmod(0o644)
    (group / "link").symlink_to(house.folder / "outside")
    (group / "up").symlink_to("../outside")
    assert CANARY not in house.start("shell").run("cat link up ../outside; ls -R /workspace")
    os.link(house.folder / "outside", group / "hard")
    assert CANARY in house.start("shell").run("cat hard")  # the same bytes, where they can be reached
