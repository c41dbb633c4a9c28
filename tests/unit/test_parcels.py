"""Parcels: an image that is missing, altered or half unpacked ends in a sentence, never in a sandbox."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from host import parcels
from host.errors import UserError
from host.model import Image
from host.parcels import locks

EPOCH = 1_700_000_000
ROOT = Path(__file__).resolve().parents[2]


def folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, EPOCH
    return member


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mtime = kind, target, EPOCH
    return member


def file(name: str, content: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, EPOCH
    return member, content


Entry = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            member, content = entry if isinstance(entry, tuple) else (entry, b"")
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


USUAL: tuple[Entry, ...] = (
    folder("usr"),
    folder("usr/bin"),
    file("usr/bin/tool", b"#!/bin/sh\n", 0o755),
    link("usr/bin/twin", "usr/bin/tool", tarfile.LNKTYPE),
    link("bin", "usr/bin"),
    (folder("tmp")),
)


def put(cache: Path, *layers: bytes) -> Image:
    """A docker-archive in the cache, as the build leaves it there."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]}}).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": None, "Layers": [f"{d}/layer.tar" for d in digests]}]
    parts = [file("manifest.json", json.dumps(manifest).encode()), file(f"{name}.json", config)]
    parts += [file(f"{digest}/layer.tar", layer) for digest, layer in zip(digests, layers, strict=True)]
    place = cache / "image" / name
    place.mkdir(parents=True)
    (place / "image.tar").write_bytes(tar(*parts))
    (place / "build").write_text("b" * 64 + "\n")
    (place / "manifest").write_text(f"sha256:{'c' * 64}\n")
    (cache / "image" / "current").write_text(f"sha256:{name}\n")
    return parcels.current_image(cache)


def unpack(image: Image) -> Path:
    return parcels.unpack_rootfs(image, lambda text: None)


# --- which image ------------------------------------------------------------------------------------


def test_the_current_image_is_named_by_its_content(tmp_path: Path) -> None:
    image = put(tmp_path, tar(*USUAL))
    assert image.id == f"sha256:{image.archive.parent.name}"
    assert (image.build, image.manifest) == ("b" * 64, f"sha256:{'c' * 64}")
    assert not image.rootfs.exists()


@pytest.mark.parametrize("text", ["", "latest\n", "sha256:../../../etc\n", "sha256:" + "A" * 64, "sha256:" + "a" * 63])
def test_a_current_that_names_no_image_is_refused(tmp_path: Path, text: str) -> None:
    put(tmp_path, tar(*USUAL))
    (tmp_path / "image" / "current").write_text(text)
    with pytest.raises(UserError, match="does not name a sandbox image") as e:
        parcels.current_image(tmp_path)
    assert e.value.status == 69


@pytest.mark.parametrize("missing", ["image/current", "image/{}/image.tar", "image/{}/build"])
def test_a_missing_image_says_how_to_build_it(tmp_path: Path, missing: str) -> None:
    image = put(tmp_path, tar(*USUAL))
    (tmp_path / missing.format(image.archive.parent.name)).unlink()
    with pytest.raises(UserError) as e:
        parcels.current_image(tmp_path)
    assert e.value.status == 69
    assert "build/image/build.py" in e.value.hints[0]


# --- unpacking --------------------------------------------------------------------------------------


def test_modes_links_and_times_survive_whatever_the_umask(tmp_path: Path) -> None:
    image = put(tmp_path, tar(*USUAL), tar(folder("usr"), file("usr/later", b"two")))
    before = os.umask(0o077)
    try:
        root = unpack(image)
    finally:
        os.umask(before)
    tool = root / "usr/bin/tool"
    assert root == image.rootfs
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755
    assert (root / "bin").readlink() == Path("usr/bin")
    assert tool.samefile(root / "usr/bin/twin")
    assert (root / "usr/later").read_bytes() == b"two"
    assert {p.lstat().st_mtime for p in root.rglob("*")} == {EPOCH}
    assert {p.lstat().st_uid for p in root.rglob("*")} == {os.geteuid()}
    parcels.check_rootfs(image)


def test_set_uid_bits_are_not_unpacked(tmp_path: Path) -> None:
    root = unpack(put(tmp_path, tar(file("su", b"x", 0o6755))))
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o755


def device(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


HOSTILE: dict[str, tuple[Entry, ...]] = {
    "absolute": (file("/escaped", b"x"),),
    "dots": (file("../escaped", b"x"),),
    "dots inside": (folder("a"), file("a/../../escaped", b"x")),
    "through a link": (link("out", "OUTSIDE"), file("out/escaped", b"x")),
    "folder over a link": (link("out", "OUTSIDE"), folder("out"), file("out/escaped", b"x")),
    "hard link outside": (link("passwd", "../../../../etc/passwd", tarfile.LNKTYPE),),
    "hard link through a link": (link("etc", "/etc"), link("passwd", "etc/passwd", tarfile.LNKTYPE)),
    "device": (device("null"),),
    "pipe": (link("pipe", "", tarfile.FIFOTYPE),),
    "file over a link": (link("here", "OUTSIDE/escaped"), file("here", b"x")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for entry in HOSTILE[kind]:
        member = entry[0] if isinstance(entry, tuple) else entry
        member.linkname = member.linkname.replace("OUTSIDE", str(outside))
    image = put(tmp_path, tar(*HOSTILE[kind]))
    with pytest.raises(UserError, match=r"altered|cannot unpack"):
        unpack(image)
    assert not list(outside.iterdir())
    assert not list(tmp_path.rglob("escaped"))
    assert not image.rootfs.exists()


def flip_layer(archive: Path) -> None:
    content = archive.read_bytes()
    assert content.count(b"#!/bin/sh\n") == 1
    archive.write_bytes(content.replace(b"#!/bin/sh\n", b"#!/bin/rm\n"))


def flip_config(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b'"layers"', b'"LAYERS"'))


def drop_manifest(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"manifest.json", b"manifest.bson"))


def cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:4000])


def empty(archive: Path) -> None:
    archive.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_layer, flip_config, drop_manifest, cut, empty])
def test_an_altered_archive_is_never_unpacked(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    image = put(tmp_path, tar(*USUAL))
    damage(image.archive)
    with pytest.raises(UserError, match="altered or is damaged") as e:
        unpack(image)
    assert not image.rootfs.exists()
    assert any("rm -r" in hint for hint in e.value.hints)


def test_debris_of_a_killed_unpacking_is_cleared(tmp_path: Path) -> None:
    image = put(tmp_path, tar(*USUAL))
    debris = image.rootfs.with_suffix(".part")
    (debris / "usr/bin").mkdir(parents=True)
    (debris / "usr/bin/half").write_text("hal")
    assert not (unpack(image) / "usr/bin/half").exists()
    assert not debris.exists()
    parcels.check_rootfs(image)


UNPACK = """
import sys
from pathlib import Path
from host import parcels
print("go", flush=True)
sys.stdin.readline()
image = parcels.current_image(Path(sys.argv[1]))
parcels.unpack_rootfs(image, lambda text: None)
parcels.check_rootfs(image)
print("whole", flush=True)
"""


def unpacker(cache: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", UNPACK, str(cache)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "go\n"
    return process


def many_files() -> bytes:
    return tar(folder("d"), *(file(f"d/{n}", os.urandom(200)) for n in range(3000)))


def test_two_processes_that_unpack_at_once_do_not_collide(tmp_path: Path) -> None:
    put(tmp_path, many_files())
    both = [unpacker(tmp_path) for _ in range(3)]
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [p.communicate(timeout=60) for p in both] == [("whole\n", "")] * 3


def test_killed_at_any_moment_it_leaves_all_or_nothing(tmp_path: Path) -> None:
    image = put(tmp_path, many_files())
    for milliseconds in (0, 20, 60, 120, 200, 300, 450, 700):
        process = unpacker(tmp_path)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate(timeout=10)
        if image.rootfs.exists():
            parcels.check_rootfs(image)
    unpack(image)
    parcels.check_rootfs(image)
    assert len(list((image.rootfs / "d").iterdir())) == 3000


def test_it_waits_for_another_with_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put(tmp_path, tar(*USUAL))
    monkeypatch.setattr(locks, "WAIT", 0.3)
    said: list[str] = []
    with locks.unpacking(image, said.append), pytest.raises(UserError, match="five minutes"):
        parcels.unpack_rootfs(image, said.append)
    assert any("waiting for another" in text for text in said)


# --- checking ---------------------------------------------------------------------------------------


def write(root: Path) -> None:
    (root / "usr/bin/tool").write_bytes(b"#!/bin/sh\n")  # the same bytes: a new time is enough


def grow(root: Path) -> None:
    with (root / "usr/bin/tool").open("ab") as f:
        f.write(b"x")
    os.utime(root / "usr/bin/tool", (EPOCH, EPOCH))


def add(root: Path) -> None:
    (root / "usr/bin/evil").write_text("x")
    os.utime(root / "usr/bin", (EPOCH, EPOCH))


def remove(root: Path) -> None:
    (root / "usr/bin/twin").unlink()


def permit(root: Path) -> None:
    (root / "usr/bin/tool").chmod(0o777)


def redirect(root: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").symlink_to("/tmp")
    os.utime(root / "bin", (EPOCH, EPOCH), follow_symlinks=False)


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (write, "usr/bin/tool was changed"),
        (grow, "usr/bin/tool was changed"),
        (add, "usr/bin/evil was added"),
        (remove, "usr/bin/twin is gone"),
        (permit, "usr/bin/tool was changed"),
        (redirect, "bin was changed"),
    ],
)
def test_an_altered_rootfs_is_refused_by_name(tmp_path: Path, alter: Callable[[Path], None], named: str) -> None:
    image = put(tmp_path, tar(*USUAL))
    alter(unpack(image))
    with pytest.raises(UserError, match="altered") as e:
        parcels.check_rootfs(image)
    assert str(e.value).endswith(named)
    assert f"rm -r {image.rootfs}" in e.value.hints[0]


def test_what_the_hint_says_repairs_it(tmp_path: Path) -> None:
    image = put(tmp_path, tar(*USUAL))
    add(unpack(image))
    subprocess.run(["rm", "-r", str(image.rootfs)], check=True)
    unpack(image)
    parcels.check_rootfs(image)


@pytest.mark.parametrize("records", [b"", b"[]", b"{}", b"\xff"])
def test_damaged_records_are_refused(tmp_path: Path, records: bytes) -> None:
    image = put(tmp_path, tar(*USUAL))
    unpack(image)
    image.rootfs.with_suffix(".json").write_bytes(records)
    with pytest.raises(UserError):
        parcels.check_rootfs(image)


def test_a_rootfs_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not unpacked"):
        parcels.check_rootfs(put(tmp_path, tar(*USUAL)))
