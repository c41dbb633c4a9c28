"""The image's recipe: what it leaves out, what it normalises, and digests that depend on content only."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "build" / "image"))  # scripts, not a package

import archive  # noqa: E402
import base  # noqa: E402
import layers  # noqa: E402
import wheels  # noqa: E402

import build  # noqa: E402


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/git", "usr/bin/python3.11", "usr/bin/setpriv", "usr/bin/prlimit", "usr/bin/perl", "dev", "tmp",
        "etc/passwd", "usr/share/doc/git", "usr/share/doc/git/copyright", "usr/share/zoneinfo/Europe/Berlin",
        "var/lib/dpkg/status",
        "usr/lib/x86_64-linux-gnu/perl-base/strict.pm", "usr/lib/x86_64-linux-gnu/gconv/ISO8859-1.so",
        "usr/lib/git-core/git-remote-https", "usr/lib/python3.11/json/decoder.py", "etc/ssl/certs/ca-certificates.crt",
        "workspace/extra", "root",
    ],
)  # fmt: skip
def test_kept(path: str) -> None:
    assert base.keep(path)


@pytest.mark.parametrize(
    "path",
    [
        "dev/null", "etc/shadow", "etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/apt/sources.list",
        "usr/share/doc/git/README", "usr/share/man/man1/git.1.gz", "usr/share/locale/de/LC_MESSAGES/git.mo",
        "usr/lib/aarch64-linux-gnu/perl/5.36.0/Encode.pm", "usr/share/perl/5.36.0/CPAN.pm",
        "usr/lib/x86_64-linux-gnu/libperl.so.5.36", "usr/lib/x86_64-linux-gnu/gconv/BIG5.so",
        "usr/lib/python3.11/test/__init__.py", "var/lib/apt/lists/x", "var/cache/apt/pkgcache.bin", "root/.bashrc",
        "var/lib/dpkg/info/git.list", "usr/lib/git-core/git-daemon",
    ],
)  # fmt: skip
def test_dropped(path: str) -> None:
    assert not base.keep(path)


def test_debian_is_asked_for_by_suite_and_no_host_is_named() -> None:
    argv = base.mmdebstrap_argv("arm64", as_root=False, customize="true")
    assert argv[-2:] == ["bookworm", "-"]
    assert {"--mode=unshare", "--variant=essential", "--architectures=arm64"} <= set(argv)
    assert "--mode=root" in base.mmdebstrap_argv("amd64", as_root=True, customize="true")
    assert not any("://" in argument for argument in argv)


def test_a_mmdebstrap_that_pads_its_tar_slowly_is_heard_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tar` pads what it writes, and this one reads how that went."""
    with tarfile.open(tmp_path / "debian.tar", "w") as tar:
        member = tarfile.TarInfo("bin")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    program = f"""#!{sys.executable}
import os, sys
sys.stdout.buffer.write(open({str(tmp_path / "debian.tar")!r}, "rb").read())
sys.stdout.flush()
for _ in range(64):  # far more than a pipe holds
    os.write(1, bytes(65536))
print("I: done", file=sys.stderr)
"""
    (tmp_path / "mmdebstrap").write_text(program)
    (tmp_path / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (tmp_path / "layer.tar").open("w+b") as layer:
        base.build("amd64", layer, lambda text: None)
        layer.seek(0)
        with tarfile.open(fileobj=layer) as tar:
            assert tar.getnames() == ["bin"]


def test_wheels_are_chosen_for_the_image_and_never_unhashed() -> None:
    argv = wheels.pip_argv(Path("lock"), Path("lib"), "3.11", "aarch64")
    assert {"--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--abi=cp311"} <= set(argv)
    assert "--platform=manylinux_2_36_aarch64" in argv
    assert "--platform=manylinux_2_37_aarch64" not in argv  # newer than the glibc in the base layer
    assert not any("x86_64" in argument for argument in argv)


@pytest.mark.parametrize("lock", ["image.txt", "dev.txt"])
def test_locks_hold_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    requirements = [line for line in text.splitlines() if "==" in line.split(";")[0]]
    assert requirements
    assert all(line.endswith("\\") for line in requirements)  # a hash follows each
    assert text.count("--hash=sha256:") >= len(requirements)
    assert "://" not in text


@pytest.mark.parametrize(
    ("kind", "name", "mode", "expected"),
    [
        (tarfile.REGTYPE, "usr/bin/su", 0o4755, 0o755),
        (tarfile.REGTYPE, "etc/group", 0o660, 0o644),
        (tarfile.REGTYPE, "x", 0o100, 0o755),
        (tarfile.DIRTYPE, "root", 0o700, 0o755),
        (tarfile.DIRTYPE, "var/tmp", 0o1777, 0o755),
        (tarfile.DIRTYPE, "tmp", 0o1777, 0o1777),
    ],
)
def test_members_become_roots_and_only_roots_to_write(kind: bytes, name: str, mode: int, expected: int) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gname, member.mtime = kind, mode, 1000, "staff", 99
    member.pax_headers = {"SCHILY.xattr.security.capability": "x"}
    done = layers.normalised(member)
    assert (done.mode, done.uid, done.gid, done.gname, done.mtime) == (expected, 0, 0, "", layers.EPOCH)
    assert not done.pax_headers


def test_a_layer_is_the_same_whatever_the_order_and_times_of_its_files(tmp_path: Path) -> None:
    made = []
    for turn, names in enumerate((["b", "a", "ä/c"], ["ä/c", "a", "b"])):
        folder = tmp_path / str(turn)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            (folder / name).chmod(0o600 + 0o40 * turn)
        out = io.BytesIO()
        layers.write(out, layers.folder_entries(folder, "opt/x"))
        made.append(out.getvalue())
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
        assert tar.getnames() == ["opt", "opt/x", "opt/x/a", "opt/x/b", "opt/x/ä", "opt/x/ä/c"]


def test_a_layer_that_would_not_unpack_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves out"):
        layers.write(io.BytesIO(), [(tarfile.TarInfo("a/b"), io.BytesIO())])
    hard = tarfile.TarInfo("b")
    hard.type, hard.linkname = tarfile.LNKTYPE, "gone"
    with pytest.raises(ValueError, match="leaves out"):
        layers.write(io.BytesIO(), [(hard, None)])


def test_a_layer_is_found_in_an_older_image_only_while_it_is_whole(tmp_path: Path) -> None:
    layer_file = tmp_path / "layer.tar"
    layer_file.write_bytes(b"layer" * 1000)
    layer = archive.from_file(layer_file)
    image = tmp_path / "image.tar"
    with image.open("wb") as out:
        archive.write(out, archive.config("amd64", {"base": layer}), {"base": layer})
    found = archive.find(image, layer.digest)
    assert found
    with found.open() as f:
        assert f.read(found.size) == b"layer" * 1000
    image.write_bytes(image.read_bytes().replace(b"layerlayer", b"layerLAYER", 1))
    assert archive.find(image, layer.digest) is None
    assert archive.find(image, "0" * 64) is None
    assert archive.find(tmp_path / "none.tar", layer.digest) is None


def test_digests_tell_names_and_contents_apart(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        for name, text in files.items():
            (place / name).write_text(text)
        return build.manifest_digest(place, list(place.iterdir()))

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="2", b="1"), digest(a="1"), digest(a="1", c="2")}) == 4


def test_the_runners_digest_ignores_bytecode(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "a.py").write_text("1")
    before = build.runner_digest(tmp_path)
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("2")
    (tmp_path / "notes.txt").write_text("3")
    assert build.runner_digest(tmp_path) == before


def test_the_cache_lies_where_the_product_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("NANOCLAW_HOME", raising=False)
    assert build.default_cache() == Path("/h/.cache/nanoclaw")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert build.default_cache() == Path("/x/nanoclaw")
    monkeypatch.setenv("NANOCLAW_HOME", "/n")
    assert build.default_cache() == Path("/n/cache")


def test_old_images_go_and_the_one_in_use_stays(tmp_path: Path) -> None:
    for age in range(5):
        place = tmp_path / (str(age) * 64)
        place.mkdir()
        (place / "image.tar").write_text("x")
        os.utime(place / "image.tar", (1000 - age, 1000 - age))
    build.prune(tmp_path, keep=tmp_path / ("4" * 64))
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["0", "1", "4"]
