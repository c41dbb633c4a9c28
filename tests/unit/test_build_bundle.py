"""How the one file is put together: the same bytes each time, nothing in it that should not be, all of it listed."""

from __future__ import annotations

import importlib
import io
import json
import lzma
import marshal
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.fakes.onefile import pack

PLANTED = b"sk-ant-api03-" + b"A1b2" * 8
NAMES = ("steps", "freeze", "parcels", "components", "cyclonedx", "search")


@pytest.fixture(scope="module")
def bundle() -> dict[str, ModuleType]:
    """Scripts that import each other by bare names: taken out of the way again at once."""
    before = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(ROOT / "build" / "bundle"))
    try:
        return {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(ROOT / "build" / "bundle"))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


# --- the same bytes -----------------------------------------------------------------------------------------------


def test_a_parcel_hangs_on_its_content_only(bundle: dict[str, ModuleType], tmp_path: Path) -> None:
    made = []
    for name, files in (("a", ["x/y", "b"]), ("a-longer-path", ["b", "x/y"])):
        folder = tmp_path / name
        for each in files:
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            (folder / each).write_text(each)
        bundle["steps"].tar_xz(folder / "out", {each: folder / each for each in files}, frozenset({"b"}))
        made.append((folder / "out").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(made[0]))) as tar:
        members = tar.getmembers()
    assert [(m.name, m.mode, m.uid, m.mtime) for m in members] == [
        ("b", 0o755, 0, 1_700_000_000), ("x", 0o755, 0, 1_700_000_000), ("x/y", 0o644, 0, 1_700_000_000)
    ]  # fmt: skip


def test_a_step_is_done_once_for_the_same_inputs(bundle: dict[str, ModuleType], tmp_path: Path) -> None:
    calls = []

    def make(out: Path) -> None:
        calls.append(out)
        out.write_text("made")

    for inputs in ("one", "one", "two"):
        assert bundle["steps"].made(tmp_path / "out", inputs, make, "making") == tmp_path / "out"
    assert len(calls) == 2


def test_a_step_that_fails_leaves_nothing_that_looks_done(bundle: dict[str, ModuleType], tmp_path: Path) -> None:
    def breaks(out: Path) -> None:
        out.write_text("half")
        raise OSError

    bundle["steps"].made(tmp_path / "out", "one", lambda out: out.write_text("whole"), "making")
    with pytest.raises(OSError):
        bundle["steps"].made(tmp_path / "out", "two", breaks, "making")
    assert not (tmp_path / "out.inputs").exists()


def test_a_digest_knows_where_one_part_ends(bundle: dict[str, ModuleType]) -> None:
    assert bundle["steps"].digest("ab", "c") != bundle["steps"].digest("a", "bc")


def test_the_source_that_is_carried_holds_no_history_and_no_tests(bundle: dict[str, ModuleType]) -> None:
    names = {str(path.relative_to(ROOT)) for path in bundle["parcels"].own_source()}
    assert {"nanoclaw.py", "host/cli/__init__.py", "runner/__main__.py", "scripts/build", "LICENSE"} <= names
    assert not [name for name in names if name.startswith(("tests/", ".git", "dist/", ".")) or "__pycache__" in name]


# --- what is listed -----------------------------------------------------------------------------------------------


def test_what_is_under_the_gpl_is_not_linked_in(bundle: dict[str, ModuleType]) -> None:
    components = bundle["components"]
    listed = components.Listed()
    listed.add(
        "boot", "1", "GPL-2.0-or-later WITH Bootloader-exception", components.PROGRAM, "the program", "x", "words"
    )
    listed.add("bubblewrap", "1", "LGPL-2.0-or-later", components.APART, "bubblewrap", "x", "words")
    components.judge(listed)
    listed.add("readline", "8", "GPL-3.0-or-later", components.PROGRAM, "the program", "x", "words")
    with pytest.raises(Exception, match="readline 8 is under GPL"):
        components.judge(listed)


def test_a_component_without_a_licence_or_its_words_is_none(bundle: dict[str, ModuleType]) -> None:
    listed = bundle["components"].Listed()
    for licence, words in (("", ["words"]), ("MIT", [])):
        with pytest.raises(Exception, match="comes without"):
            listed.add("a", "1", licence, "k", "p", "s", *words)


def test_the_list_is_cyclonedx_and_the_same_each_time(bundle: dict[str, ModuleType]) -> None:
    components = bundle["components"]
    listed = components.Listed()
    listed.add("cronsim", "2.8", "BSD-3-Clause", components.PROGRAM, "the program", "PyPI: cronsim 2.8", "words")
    listed.add(
        "git", "1:2", "GPL-2, zlib", components.SANDBOX, "the sandbox image", "Debian source package: git 1:2", "w"
    )
    made = [bundle["cyclonedx"].document("nanoclaw", "0.1.0", "ab" * 32, listed.all) for _ in range(2)]
    assert made[0] == made[1]
    assert (made[0]["bomFormat"], made[0]["specVersion"]) == ("CycloneDX", "1.5")
    assert [each.get("purl") for each in made[0]["components"]] == ["pkg:pypi/cronsim@2.8", "pkg:deb/debian/git@1%3A2"]
    assert [next(iter(each["licenses"][0])) for each in made[0]["components"]] == ["expression", "license"]
    assert "timestamp" not in json.dumps(made[0])


def test_debians_notices_are_read(bundle: dict[str, ModuleType]) -> None:
    words = "Format: x\n\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: a\nLicense: Expat\n\nLicense: GPL-2+\n text\n"
    assert bundle["components"]._licences(words) == "GPL-2+, Expat"
    assert bundle["components"]._licences("In words.") == "see its copyright file"


# --- the search ---------------------------------------------------------------------------------------------------


def tar(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as to:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        to.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as to:
        to.writestr("module.pyc", content)
    return out.getvalue()


def pyz(content: bytes) -> bytes:
    """As PyInstaller lays it out: magic, Python's magic, where the table is; modules; the table."""
    module = zlib.compress(marshal.dumps(compile(f"KEY = {content!r}", "module.py", "exec")))
    table = marshal.dumps([("module", (0, 17, len(module)))])
    return b"PYZ\0" + bytes(4) + struct.pack("!i", 17 + len(module)) + bytes(5) + module + table


def program(content: bytes) -> bytes:
    """An ELF with PyInstaller's archive in it."""
    entry = content if content[:4] == b"PYZ\0" else zlib.compress(content)
    flag = 0 if content[:4] == b"PYZ\0" else 1
    name = b"PYZ.pyz\0"
    table = struct.pack("!IIIIBc", 18 + len(name), 0, len(entry), len(content), flag, b"z") + name
    length = len(entry) + len(table) + 88
    cookie = struct.pack("!8sIIII64s", b"MEI\014\013\012\013\016", length, len(entry), len(table), 313, b"libpython")
    return b"\x7fELF" + bytes(60) + entry + table + cookie


def whole(tmp_path: Path, parcel: bytes, host: bytes = b"\x7fELF") -> bytes:
    folder = tmp_path / "host"
    folder.mkdir(exist_ok=True)
    (folder / "nanoclaw").write_bytes(host)
    (folder / "nanoclaw").chmod(0o755)
    for name, content in (("launcher", b"\x7fELF"), ("image", lzma.compress(parcel))):
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "nanoclaw-linux"
    pack.pack(tmp_path / "launcher", folder, {"image": tmp_path / "image"}, "0.1.0", "ab" * 32, "x86_64", out)
    return out.read_bytes()


PLACES: dict[str, Callable[[Path, bytes], bytes]] = {
    "a parcel": lambda folder, key: whole(folder, tar("file", key)),
    "a layer in the image": lambda folder, key: whole(folder, tar("blobs/sha256/1", tar("etc/file", key))),
    "a name in a layer": lambda folder, key: whole(folder, tar("blobs/1", tar(f"etc/{key.decode()}", b""))),
    "a zip in a layer": lambda folder, key: whole(folder, tar("blobs/1", tar("a.zip", zipped(key)))),
    "a module of the program": lambda folder, key: whole(folder, tar("a", b""), program(pyz(key))),
    "the program's own archive": lambda folder, key: whole(folder, tar("a", b""), program(key)),
    "the program itself": lambda folder, key: whole(folder, tar("a", b""), b"\x7fELF" + key),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_hidden_is_found(place: str, bundle: dict[str, ModuleType], tmp_path: Path) -> None:
    path = tmp_path / "file"
    wanted = [("a key", bundle["search"].KEYS), ("history", bundle["search"].GIT)]
    path.write_bytes(PLACES[place](tmp_path, PLANTED))
    found = [find.text for find in bundle["search"].search(path, wanted)]
    assert [text[: len(PLANTED)] for text in found] == [PLANTED.decode()] * len(found)
    assert found
    path.write_bytes(PLACES[place](tmp_path, b"nothing"))
    assert list(bundle["search"].search(path, wanted)) == []


def test_paths_and_history_of_this_machine_are_looked_for(bundle: dict[str, ModuleType], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(whole(tmp_path, tar("x/.git/objects/ab", f"{ROOT}/host/app.py".encode())))
    found = {find.what for find in bundle["search"].search(path, bundle["search"].patterns())}
    assert found == {"a path of the build", "history"}
