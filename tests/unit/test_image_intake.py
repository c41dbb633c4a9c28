"""An image from a file that may come from anywhere: taken in only if nothing in it could do harm."""

from __future__ import annotations

import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host import parcels
from host.errors import UserError
from host.model import Image
from host.parcels import canonical, intake
from tests.fakes import images
from tests.fakes.images import BASE, LIB, OURS, RUNNER, Archive, archive, extended
from tests.unit.test_parcels import Entry, device, file, folder, link, tar

MORE: tuple[Entry, ...] = (file("usr/bin/ffmpeg", b"program", 0o755), link("usr/bin/avconv", "ffmpeg"))


@pytest.fixture
def ours(tmp_path: Path) -> Image:
    return images.lay(tmp_path / "cache")


def take(ours: Image, data: bytes, tmp_path: Path) -> Image:
    path = tmp_path / "file.tar.xz"
    path.write_bytes(data)
    return parcels.take_in(path, tmp_path / "cache", parcels.contents_of(ours), ours, lambda text: None)


def there(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache/image").iterdir()}


def test_an_extended_image_is_taken_in_as_it_is(ours: Image, tmp_path: Path) -> None:
    good = extended(*MORE)
    data = good.compressed
    image = take(ours, data, tmp_path)
    assert (image.id, image.manifest, image.build) == (good.id, good.manifest, images.BUILD)
    assert image.archive.read_bytes() == data
    (record,) = parcels.records(tmp_path / "cache")
    assert record == parcels.Record(good.id, images.BUILD, good.manifest, OURS.id, ("ffmpeg",))
    root = parcels.unpack_rootfs(image, lambda text: None)
    assert (root / "usr/bin/avconv").resolve() == root / "usr/bin/ffmpeg"
    assert (root / "opt/nanoclaw/BUILD").read_text() == images.BUILD
    assert not [name for name in there(tmp_path) if name.startswith("taking-")]


def test_the_very_image_of_ours_is_taken_in_too(ours: Image, tmp_path: Path) -> None:
    assert take(ours, OURS.compressed, tmp_path).id == OURS.id


def changed(member: tarfile.TarInfo, **more: Any) -> tarfile.TarInfo:
    for name, value in more.items():
        setattr(member, name, value)
    return member


# What is wrong → the layer that has it.
HOSTILE: dict[str, tuple[Entry, ...]] = {
    "absolute": (file("/etc/passwd", b"x"),),
    "dots": (file("../escaped", b"x"),),
    "through a link": (link("out", "/etc"), file("out/escaped", b"x")),
    "device": (device("usr/null"),),
    "pipe": (link("usr/pipe", "", tarfile.FIFOTYPE),),
    "set-uid": (file("usr/bin/su", b"x", 0o4755),),
    "set-gid folder": (changed(folder("usr/mail"), mode=0o2755),),
    "writable by all": (file("usr/bin/x", b"x", 0o777),),
    "writable folder": (changed(folder("usr/open"), mode=0o777),),
    "of another user": (changed(folder("usr/mine"), uid=1000),),
    "hard link out": (link("usr/x", "../../etc/passwd", tarfile.LNKTYPE),),
    "the runner replaced": (folder("opt/nanoclaw"), file("opt/nanoclaw/BUILD", b"evil")),
    "the runner's folder a link": (link("opt/nanoclaw", "/tmp"),),
    "beside the runner": (folder("opt/nanoclaw"), folder("opt/nanoclaw/runner"), file("opt/nanoclaw/runner/json.py")),
    "its parent removed": (file(".wh.opt"),),
    "twice": (file("usr/a", b"1"), file("usr/a", b"2")),
    "over a folder": (file("usr/lib", b"x"),),
    "an endless name": (file("usr/" + "n" * 5000, b"x"),),
    "an extension of tar": (changed(folder("usr/x"), type=tarfile.XHDTYPE),),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_layer_that_could_do_harm_is_refused(ours: Image, tmp_path: Path, kind: str) -> None:
    before = there(tmp_path)
    with pytest.raises(UserError, match="is not taken in"):
        take(ours, extended(*HOSTILE[kind]).compressed, tmp_path)
    assert there(tmp_path) - before == {"work.lock"}
    assert not parcels.records(tmp_path / "cache")


def without_runner() -> Archive:
    return archive(tar(*BASE), tar(*MORE), tag=canonical.EXTENDED)


def another_runner() -> Archive:
    other = tar(folder("opt"), folder("opt/nanoclaw"), file("opt/nanoclaw/BUILD", b"c" * 64))
    return archive(tar(*BASE), tar(*LIB), other, labels={"nanoclaw.build": "c" * 64})


def runner_below() -> Archive:
    """Ours are there, but something lies over them."""
    return archive(tar(*BASE), tar(*LIB), tar(*RUNNER), tar(*MORE), tag=canonical.EXTENDED)


CONFIGS: dict[str, Callable[[], Archive]] = {
    "no runner": without_runner,
    "another runner": another_runner,
    "a layer over the runner": runner_below,
    "an entry point": lambda: extended(*MORE, settings={**images.SETTINGS, "Entrypoint": ["/usr/bin/evil"]}),
    "a variable": lambda: extended(*MORE, settings={**images.SETTINGS, "Env": ["LD_PRELOAD=/usr/evil.so"]}),
    "a volume": lambda: extended(*MORE, settings={**images.SETTINGS, "Volumes": {"/opt/nanoclaw": {}}}),
    "root": lambda: extended(*MORE, settings={**images.SETTINGS, "User": "0"}),
    "a key that is not known": lambda: extended(*MORE, on_build=["x"]),
    "another machine": lambda: extended(*MORE, architecture="arm64"),
    "labels that are none": lambda: extended(*MORE, labels={"nanoclaw.packages": "a\x1b[2Jb"}),
    "another name for engines": lambda: extended(
        *MORE, small={"manifest.json": b'[{"Config": 1}]'}
    ),
    "one more small file": lambda: extended(*MORE, small={"repositories": b"{}"}),
    "another index": lambda: extended(*MORE, small={"index.json": b"{}"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_image_that_engines_would_take_for_another_is_refused(ours: Image, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="is not taken in"):
        take(ours, CONFIGS[kind]().compressed, tmp_path)
    assert not parcels.records(tmp_path / "cache")


def test_one_of_another_version_is_told_so(ours: Image, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its runner is of another version than this program \(cccccccccccc\)"):
        take(ours, another_runner().compressed, tmp_path)


def renamed_tag(data: bytes) -> bytes:
    """The name that docker would file it under: another program's image would be replaced."""
    return lzma.compress(lzma.decompress(data).replace(b'"nanoclaw-sandbox:extended"', b'"postgres:latest-and-great"'))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "not compressed": lzma.decompress,
    "empty": lambda data: b"",
    "cut": lambda data: data[:-30],
    "a byte": lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    "followed by more": lambda data: data + data,
    "text": lambda data: b"hello\n" * 1000,
    "another tag": renamed_tag,
    "a changed file": lambda data: lzma.compress(lzma.decompress(data).replace(b"program", b"PROGRAM")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused(ours: Image, tmp_path: Path, kind: str) -> None:
    data = extended(*MORE).compressed
    broken = DAMAGE[kind](data)
    assert broken != data
    with pytest.raises(UserError, match="is not taken in"):
        take(ours, broken, tmp_path)
    assert not parcels.records(tmp_path / "cache")


def test_a_bomb_is_refused_before_it_fills_anything(
    ours: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(UserError, match="more than 16 GB"):
        take(ours, extended(file("usr/zeros", bytes(8 << 20))).compressed, tmp_path)


def test_more_members_than_an_image_has_are_refused(
    ours: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.parcels.tree.MOST", 100)
    with pytest.raises(UserError, match="more in it than"):
        take(ours, extended(*(file(f"usr/{n}") for n in range(200))).compressed, tmp_path)


def test_what_is_no_file_is_not_waited_for(ours: Image, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="is no file of at most"):
            parcels.take_in(path, tmp_path / "cache", parcels.contents_of(ours), ours, lambda text: None)
    with pytest.raises(UserError, match="cannot read"):
        parcels.take_in(tmp_path / "none", tmp_path / "cache", parcels.contents_of(ours), ours, lambda text: None)


# --- and out again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_saved_can_be_taken_in_elsewhere(ours: Image, tmp_path: Path, compressed: bool) -> None:
    image = take(ours, extended(*MORE).compressed, tmp_path) if compressed else ours
    raw = (image.archive.open("rb"), image.archive.stat().st_size) if compressed else None
    out = tmp_path / "saved.tar.xz"
    size = parcels.save(image, raw, out, lambda text: None)
    assert size == out.stat().st_size
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = images.lay(elsewhere / "cache")
    assert take(there, out.read_bytes(), elsewhere).id == image.id


def test_a_damaged_one_is_not_saved(ours: Image, tmp_path: Path) -> None:
    image = take(ours, extended(*MORE).compressed, tmp_path)
    data = bytearray(image.archive.read_bytes())
    data[len(data) // 2] ^= 1
    image.archive.write_bytes(data)
    with pytest.raises(UserError, match="altered or is damaged"):
        parcels.save(image, (image.archive.open("rb"), len(data)), tmp_path / "out", lambda text: None)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_where_nothing_can_be_written_it_says_so(ours: Image, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        parcels.save(ours, None, tmp_path / "none" / "out", lambda text: None)


def test_the_table_is_the_one_that_the_recipe_writes(image: Image) -> None:
    """Two programs write archives; the small files of the one that is built are those that this one would write."""
    with parcels.Plain(image.archive) as stream:
        walk = parcels.Walk(stream.read, image.id)
        parts = [canonical.Part(layer.digest, layer.size) for layer in walk]
    assert walk.small == canonical.small_files(walk.contents.config_bytes, parts, canonical.CARRIED)
    assert canonical.manifest_id(walk.contents.config_bytes, parts) == image.manifest
