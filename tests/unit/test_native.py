"""What is compiled for the one file: which sources, and that a program that needs a newer system is noticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "native"))
try:
    import bubblewrap
    import glibc
    import sources
finally:
    sys.path.remove(str(ROOT / "build" / "native"))

LINE = "zlib 1.3.1 Zlib zlib trixie zlib.orig.tar.gz " + "0" * 64


def test_every_source_is_named_with_its_digest_and_its_place() -> None:
    found = sources.locked()
    assert {"bubblewrap", "libcap", "python", "zlib"} <= found.keys()
    assert found["libcap"].pool == f"pool/main/libc/libcap2/{found['libcap'].file}"
    assert found["python"].pool == f"pool/main/p/python3.13/{found['python'].file}"


@pytest.mark.parametrize("line", [LINE[:-1], LINE.replace(".orig", "/orig"), LINE + " more", f"{LINE}\n{LINE}"])
def test_a_lock_that_means_nothing_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        sources.parse(line)


def test_a_source_that_is_not_what_the_lock_says_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "mirrors", list)
    source = sources.parse(LINE)["zlib"]
    (tmp_path / source.file).write_bytes(b"something else")
    with pytest.raises(sources.BuildError, match="cannot fetch zlib"):
        sources.fetch(source, tmp_path)


def test_the_names_of_capabilities_are_those_of_the_header() -> None:
    header = "#define CAP_CHOWN            0\n#define CAP_KILL 1 /* x */\n#define CAP_LAST_CAP CAP_KILL\n"
    assert bubblewrap.names(header) == ["cap_chown", "cap_kill"]
    assert "__CAP_BITS 2" in bubblewrap.cap_names(header)


def test_what_a_program_needs_of_glibc_is_read(tmp_path: Path) -> None:
    """This machine's own programs need some; a text, and a program that is linked statically, none."""
    system = Path(shutil.which("ls") or "/bin/ls").resolve()
    assert (2, 2) < glibc.needed(system) < (3, 0)
    (tmp_path / "text").write_text("no program")
    assert glibc.needed(tmp_path / "text") == (0, 0)
    shutil.copy(system, tmp_path / "program")
    assert glibc.newest(tmp_path) == (glibc.needed(system), tmp_path / "program")


def test_it_agrees_with_readelf() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    system = Path(shutil.which("ls") or "/bin/ls").resolve()
    told = subprocess.run(["readelf", "--version-info", str(system)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"GLIBC_(\d+)\.(\d+)", told)
    assert glibc.needed(system) == max((int(major), int(minor)) for major, minor in found)
