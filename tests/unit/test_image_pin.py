"""Which image is used: what NanoClaw brings, or what the person accepted; never another that happens to be there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from host import bundle, carried, parcels
from host import images as used_images
from host.config import Home, prepare
from host.engines.base import Engine
from host.errors import UserError
from host.model import Image
from host.parcels import Record
from tests.fakes import images
from tests.fakes.engine_subprocess import SubprocessEngine
from tests.fakes.images import OURS, extended
from tests.unit.test_parcels import ROOT, file

sys.path.insert(0, str(ROOT / "build"))
import pack


def quiet(text: str) -> None:
    pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    prepare(home)
    images.lay(home.cache)
    return home


@pytest.fixture
def other(home: Home, tmp_path: Path) -> Record:
    """An extended image that was taken in, and not accepted."""
    return take(home, tmp_path, b"program")


def take(home: Home, tmp_path: Path, content: bytes) -> Record:
    path = tmp_path / "file"
    path.write_bytes(extended(file("usr/bin/ffmpeg", content, 0o755)).compressed)
    ours = used_images.brought(home.cache)
    taken = parcels.take_in(path, home.cache, used_images.read(ours), ours, quiet)
    return next(record for record in parcels.records(home.cache) if record.id == taken.id)


def test_without_a_pin_it_is_what_nanoclaw_brings(home: Home, other: Record) -> None:
    assert used_images.used(home).id == OURS.id
    assert used_images.origin(home, used_images.used(home)) == "built here from source"


def test_an_accepted_one_is_used_until_it_is_taken_back(home: Home, other: Record) -> None:
    used_images.accept(home, other)
    image = used_images.used(home)
    assert (image.id, image.build, image.manifest) == (other.id, images.BUILD, other.manifest)
    assert used_images.origin(home, image) == "accepted by you"
    used_images.accept(home, None)
    used_images.accept(home, None)
    assert used_images.used(home).id == OURS.id


def test_the_pin_is_closed_to_others_whatever_the_umask(home: Home, other: Record) -> None:
    before = os.umask(0)
    try:
        used_images.accept(home, other)
    finally:
        os.umask(before)
    assert stat.S_IMODE((home.config / used_images.PIN).stat().st_mode) == 0o600
    assert [path.name for path in home.config.iterdir()] == [used_images.PIN]


def readable(pin: Path) -> None:
    pin.chmod(0o644)


def garbage(pin: Path) -> None:
    pin.write_text("sha256:")


def nothing(pin: Path) -> None:
    pin.write_text("")


def unknown(pin: Path) -> None:
    pin.write_text(json.dumps({**json.loads(pin.read_text()), "run": "x"}))


def no_id(pin: Path) -> None:
    pin.write_text(json.dumps({**json.loads(pin.read_text()), "id": "sha256:../../x"}))


def a_link(pin: Path) -> None:
    pin.rename(pin.with_name("elsewhere"))
    pin.symlink_to(pin.with_name("elsewhere"))


def a_folder(pin: Path) -> None:
    pin.unlink()
    pin.mkdir()


def a_pipe(pin: Path) -> None:
    pin.unlink()
    os.mkfifo(pin, 0o600)


@pytest.mark.parametrize("spoil", [readable, garbage, nothing, unknown, no_id, a_link, a_folder, a_pipe])
def test_a_pin_that_cannot_be_trusted_is_refused_with_the_way_back(
    home: Home, other: Record, spoil: Callable[[Path], None]
) -> None:
    used_images.accept(home, other)
    spoil(home.config / used_images.PIN)
    with pytest.raises(UserError) as e:
        used_images.used(home)
    assert "nanoclaw image accept carried" in e.value.hints[-1]


def test_the_way_back_works(home: Home, other: Record) -> None:
    used_images.accept(home, other)
    garbage(home.config / used_images.PIN)
    used_images.accept(home, None)
    assert used_images.used(home).id == OURS.id


# --- gone, altered, of another version ------------------------------------------------------------------


def archive_of(home: Home, record: Record) -> Path:
    return home.cache / "image" / record.id.removeprefix("sha256:") / "image.tar.xz"


def test_one_that_is_gone_is_refused_and_not_replaced(home: Home, other: Record) -> None:
    used_images.accept(home, other)
    archive_of(home, other).unlink()
    with pytest.raises(UserError, match=r"is not in .* any more") as e:
        used_images.used(home)
    assert e.value.status == 69
    assert "nanoclaw image load FILE --accept" in e.value.hints[0]
    assert "nanoclaw image accept carried" in e.value.hints[1]


class Rootfs(SubprocessEngine):
    """An engine that runs the folder."""

    wants_rootfs = True


def ready(image: Image, said: Callable[[str], None] = quiet) -> None:
    used_images.ready(cast(Engine, Rootfs()), image, quiet, said)


def test_one_whose_archive_was_altered_is_refused_and_not_replaced(home: Home, other: Record, tmp_path: Path) -> None:
    used_images.accept(home, other)
    another = take(home, tmp_path, b"PROGRAM")
    assert another.id != other.id
    archive_of(home, other).write_bytes(archive_of(home, another).read_bytes())
    image = used_images.used(home)
    with pytest.raises(UserError, match="does not match its id") as e:
        ready(image)
    assert "nanoclaw image accept carried" in e.value.hints[1]
    assert not image.rootfs.exists()
    with pytest.raises(UserError, match="altered"):
        used_images.verify(image, quiet)


def test_a_record_in_the_cache_decides_nothing(home: Home, other: Record) -> None:
    """Who could write into the cache cannot have another image taken for the accepted one."""
    used_images.accept(home, other)
    record = archive_of(home, other).with_name("image.json")
    record.write_text(
        json.dumps({**json.loads(record.read_text()), "manifest": f"sha256:{'e' * 64}", "build": "e" * 64})
    )
    image = used_images.used(home)
    assert (image.manifest, image.build) == (other.manifest, images.BUILD)
    record.unlink()
    assert used_images.used(home).id == other.id


def test_its_unpacked_copy_is_mended_from_its_archive(home: Home, other: Record) -> None:
    used_images.accept(home, other)
    image = used_images.used(home)
    ready(image)
    (image.rootfs / "usr/bin/ffmpeg").write_bytes(b"evil")
    said: list[str] = []
    ready(image, said.append)
    assert "usr/bin/ffmpeg was changed" in said[0]
    assert (image.rootfs / "usr/bin/ffmpeg").read_bytes() == b"program"


@pytest.mark.parametrize("packages", [("ffmpeg",), ()])
def test_after_an_update_it_says_what_to_do(home: Home, other: Record, packages: tuple[str, ...]) -> None:
    used_images.accept(home, Record(other.id, "d" * 64, other.manifest, packages=packages))
    with pytest.raises(UserError, match="made for another version of NanoClaw") as e:
        used_images.used(home)
    assert ("nanoclaw image build --again" in e.value.hints[0]) == bool(packages)
    assert "nanoclaw image accept carried" in e.value.hints[1]


def test_one_made_from_an_earlier_image_is_used_and_told(home: Home, other: Record) -> None:
    used_images.accept(home, other)
    assert used_images.stale(home, used_images.used(home)) == ""
    used_images.accept(home, replace(other, extends=f"sha256:{'f' * 64}"))
    assert "earlier image" in used_images.stale(home, used_images.used(home))
    used_images.accept(home, None)
    assert used_images.stale(home, used_images.used(home)) == ""


# --- carried in the program -----------------------------------------------------------------------------


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that carries our image, in this file; nothing of it is in the cache."""
    program = tmp_path / "program"
    program.write_bytes(OURS.compressed)
    monkeypatch.setattr(carried, "IMAGE", {"id": OURS.id, "build": images.BUILD, "manifest": OURS.manifest})
    monkeypatch.setattr(used_images, "_open_carried", lambda: (program.open("rb"), program.stat().st_size))
    return program


def test_the_carried_one_needs_nothing_in_the_cache(tmp_path: Path, frozen: Path) -> None:
    home = Home(tmp_path / "c", tmp_path / "d", tmp_path / "new" / "cache")
    prepare(home)
    image = used_images.used(home)
    assert used_images.origin(home, image) == "carried in this program"
    ready(image)
    parcels.check_rootfs(image)
    assert used_images.read(image).id == OURS.id
    assert sorted(p.name for p in (home.cache / "image").iterdir()) == [OURS.id.removeprefix("sha256:")]


def test_a_carried_one_that_is_damaged_is_the_programs_fault(home: Home, frozen: Path) -> None:
    frozen.write_bytes(frozen.read_bytes()[:-40])
    with pytest.raises(UserError, match="within the program was altered or is damaged"):
        ready(used_images.used(home))


@pytest.fixture
def one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A built program, as far as it is a file with the image as one of its parcels, that is running."""
    tree, launcher, parcel = tmp_path / "tree", tmp_path / "launcher", tmp_path / "image.tar.xz"
    tree.mkdir()
    (tree / pack.EXECUTABLE).write_text("#!/bin/sh\n")
    (tree / pack.EXECUTABLE).chmod(0o755)
    launcher.write_bytes(b"launcher")
    parcel.write_bytes(OURS.compressed)
    program = tmp_path / "nanoclaw"
    pack.pack(launcher, tree, {"image": parcel}, "0.1.0", "a" * 64, "x86_64", program)
    expected = {"image": (hashlib.sha256(OURS.compressed).hexdigest(), len(OURS.compressed), len(OURS.data))}
    monkeypatch.setattr(carried, "PARCELS", expected)
    monkeypatch.setattr(carried, "IMAGE", {"id": OURS.id, "build": images.BUILD, "manifest": OURS.manifest})
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    fd = os.open(program, os.O_RDONLY)
    monkeypatch.setattr(bundle, "_program", bundle.Program(fd, program, expected))
    yield program
    os.close(fd)


def test_the_one_file_is_all_it_takes(one_file: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "c", tmp_path / "d", tmp_path / "new" / "cache")
    prepare(home)
    image = used_images.used(home)
    ready(image)
    parcels.check_rootfs(image)
    size = parcels.save(image, used_images.raw(image), tmp_path / "saved", quiet)
    assert (tmp_path / "saved").read_bytes() == OURS.compressed
    assert size == len(OURS.compressed)


def test_one_changed_byte_of_the_one_file_is_noticed(one_file: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "c", tmp_path / "d", tmp_path / "new" / "cache")
    prepare(home)
    image = used_images.used(home)
    parcel = bundle.carried("image")
    assert parcel is not None
    for at in (0, parcel.length // 2, parcel.length - 1):
        with one_file.open("r+b") as f:
            f.seek(parcel.offset + at)
            was = f.read(1)
            f.seek(parcel.offset + at)
            f.write(bytes([was[0] ^ 1]))
        with pytest.raises(UserError, match="damaged"):
            ready(image)
        assert not image.rootfs.exists()
        assert not image.rootfs.with_suffix(".part").exists()
        with pytest.raises(UserError, match="damaged"):
            parcels.save(image, used_images.raw(image), tmp_path / "saved", quiet)
        assert not (tmp_path / "saved").exists()
        with one_file.open("r+b") as f:
            f.seek(parcel.offset + at)
            f.write(was)
    ready(image)


def test_old_ones_go_when_a_new_one_is_used(home: Home, frozen: Path, other: Record) -> None:
    old = []
    for number in range(1, 5):
        folder = home.cache / "image" / f"{number:064x}" / "rootfs"
        folder.mkdir(parents=True)
        os.utime(folder.parent, (1_000_000 + number, 1_000_000 + number))
        old.append(folder.parent)
    used_images.accept(home, other)
    image = used_images.used(home)
    ready(image)
    used_images.tidy(home, image)
    assert [folder.exists() for folder in old] == [False, False, False, True]
    assert archive_of(home, other).is_file()


def test_while_the_pin_cannot_be_read_nothing_is_removed(home: Home, frozen: Path, other: Record) -> None:
    for number in range(1, 5):
        (home.cache / "image" / f"{number:064x}").mkdir()
    image = used_images.used(home)
    (home.config / used_images.PIN).write_text("x")
    used_images.tidy(home, image)
    assert archive_of(home, other).is_file()
    assert all((home.cache / "image" / f"{number:064x}").is_dir() for number in range(1, 5))
