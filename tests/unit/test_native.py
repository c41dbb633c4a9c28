"""How what the one file carries is compiled: its lock, its command lines, and the glibc that a program needs."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "native"))  # scripts, not a package
try:
    import bubblewrap
    import cpython
    import glibc
    import libraries
    import sources
    import toolchain
    from sources import BuildError, Source
finally:
    sys.path.remove(str(ROOT / "build" / "native"))

A, B = "a" * 64, "b" * 64
PLAIN = f"zlib 1.3.1 Zlib zlib trixie zlib_1.3.orig.tar.gz {A}"
PATCHED = f"{PLAIN} zlib_1.3-1.debian.tar.xz {B} CVE-.*"


class TestLock:
    def test_the_one_that_is_there_can_be_read(self) -> None:
        locked = sources.locked()
        assert set(locked) == {"bubblewrap", "libcap", "libffi", "openssl", "python", "sqlite", "xz", "zlib"}
        assert all(source.licence and source.version in source.file for source in locked.values())

    def test_names_no_mirror(self) -> None:
        text = sources.LOCK.read_text() + Path(sources.__file__).read_text()
        assert not re.search(r"https?://\w", text)

    def test_a_line_with_and_without_patches(self) -> None:
        assert sources.parse(PLAIN)["zlib"].files == [("zlib_1.3.orig.tar.gz", A)]
        patched = sources.parse(f"# why\n\n{PATCHED}\n")["zlib"]
        assert patched.files == [("zlib_1.3.orig.tar.gz", A), ("zlib_1.3-1.debian.tar.xz", B)]
        assert patched.applied == "CVE-.*"

    @pytest.mark.parametrize(
        "text",
        [
            PLAIN.replace(A, "a" * 63),
            PLAIN.replace(A, A.upper()),
            PLAIN.replace("zlib_1.3", "../zlib_1.3"),
            PLAIN.replace("zlib_1.3.orig", ".orig"),
            PATCHED.replace("zlib_1.3-1", "/zlib_1.3-1"),
            PATCHED.replace(B, "b"),
            PATCHED.removesuffix(" CVE-.*"),
            f"{PATCHED} more",
            PLAIN.removesuffix(f" {A}"),
            f"{PLAIN}\n{PATCHED}",
        ],
    )
    def test_what_is_no_line_of_it_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a line"):
            sources.parse(text)

    @pytest.mark.parametrize(("package", "folder"), [("zlib", "z/zlib"), ("libcap2", "libc/libcap2")])
    def test_where_debian_keeps_it(self, package: str, folder: str) -> None:
        assert sources.parse(PLAIN.replace(" zlib ", f" {package} "))["zlib"].folder == f"pool/main/{folder}"


class TestFetched:
    """From a folder that stands for a mirror: `urllib` reads `file:` too."""

    def source(self, mirror: Path, monkeypatch: pytest.MonkeyPatch, *, applied: str = "CVE-.*") -> Source:
        folder = mirror / "pool" / "main" / "z" / "zlib"
        folder.mkdir(parents=True)
        tree = {"zlib-1/hello.txt": "one\ntwo\n"}
        series = "# no word on why\nfit-debian.patch\nCVE-1.patch -p1\nCVE-2.patch\n"
        change = "--- a/hello.txt\n+++ b/hello.txt\n@@ -1,2 +1,2 @@\n-{}\n+{}\n {}\n"
        patches = {
            "debian/patches/series": series,
            "debian/patches/fit-debian.patch": "nonsense",
            "debian/patches/CVE-1.patch": change.format("one", "mended", "two"),
            "debian/patches/CVE-2.patch": change.format("mended", "mended twice", "two"),
        }
        made = {
            name: packed(folder / name, files) for name, files in (("z.tar.xz", tree), ("z-1.debian.tar.xz", patches))
        }
        monkeypatch.setenv("NANOCLAW_DEBIAN", f"{mirror.as_uri()}/")
        digests = {name: sources._sha256(path) for name, path in made.items()}
        return Source("zlib", "1", "Zlib", "zlib", "trixie", "z.tar.xz", digests["z.tar.xz"], "z-1.debian.tar.xz",
                      digests["z-1.debian.tar.xz"], applied)  # fmt: skip

    def test_is_unpacked_and_mended_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch)
        folder = sources.unpack(source, tmp_path / "cache", tmp_path / "work")
        assert (folder / "hello.txt").read_text() == "mended twice\ntwo\n"
        assert sorted(path.name for path in folder.iterdir()) == ["hello.txt"]
        # From now on no mirror is asked.
        monkeypatch.setenv("NANOCLAW_DEBIAN", (tmp_path / "gone").as_uri())
        sources.unpack(source, tmp_path / "cache", tmp_path / "again")

    def test_what_is_not_what_the_lock_names_is_not_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch)
        with next((tmp_path / "mirror").rglob("z.tar.xz")).open("ab") as file:
            file.write(b"\0")
        with pytest.raises(BuildError, match=r"not the file that sources\.lock names"):
            sources.fetch(source, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_what_was_altered_in_the_cache_is_fetched_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch)
        archive, _ = sources.fetch(source, tmp_path / "cache")
        archive.write_bytes(b"altered")
        assert sources._sha256(sources.fetch(source, tmp_path / "cache")[0]) == source.sha256

    def test_a_mirror_without_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch)
        monkeypatch.setenv("NANOCLAW_DEBIAN", (tmp_path / "empty").as_uri())
        with pytest.raises(BuildError, match=r"cannot fetch z\.tar\.xz") as raised:
            sources.fetch(source, tmp_path / "cache")
        assert str(tmp_path / "cache") in raised.value.hint

    def test_a_patch_that_does_not_fit_ends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch, applied="CVE-2.*")
        with pytest.raises(BuildError, match=r"CVE-2\.patch does not fit zlib"):
            sources.unpack(source, tmp_path / "cache", tmp_path / "work")

    def test_a_pattern_that_names_no_patch_ends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self.source(tmp_path / "mirror", monkeypatch, applied="CWE-.*")
        with pytest.raises(BuildError, match="has no patch that is called"):
            sources.unpack(source, tmp_path / "cache", tmp_path / "work")


def packed(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


class TestCompiler:
    @pytest.mark.parametrize(
        ("arch", "libc", "target"),
        [("x86_64", "musl", "x86_64-linux-musl"), ("aarch64", "gnu", "aarch64-linux-gnu.2.28")],
    )
    def test_for_whom(self, arch: str, libc: str, target: str) -> None:
        assert toolchain.target(arch, libc) == target

    def test_another_processor_is_refused(self) -> None:
        with pytest.raises(BuildError, match="no build for riscv64"):
            toolchain.target("riscv64", "musl")

    def test_what_the_linker_does_not_know_is_kept_from_it(self, tmp_path: Path) -> None:
        (tmp_path / "zig").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / "zig").chmod(0o755)
        (tmp_path / "cc").write_text(toolchain.WRAPPER.format(zig=tmp_path / "zig", tool="cc", more="-target t"))
        (tmp_path / "cc").chmod(0o755)
        argv = ["-O2", "-Wl,-hlibpython3.13.so.1.0", "-Wl,-z,relro", "a file.c", "-Wl,--no-as-needed", '-DX="y"']
        environment = {"PATH": os.environ["PATH"], "NANOCLAW_WORK": "/some/where"}
        done = subprocess.run([tmp_path / "cc", *argv], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.splitlines() == [
            "cc", "-target", "t", "-O2", "-Wl,-soname,libpython3.13.so.1.0", "a file.c", '-DX="y"',
            "-ffile-prefix-map=/some/where=/build",
        ]  # fmt: skip

    def test_the_own_processor_is_not_crossed_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", "x86_64")))
        assert libraries.crossing("x86_64") == []
        assert libraries.crossing("aarch64") == ["--host=aarch64-linux-gnu", "--build=x86_64-pc-linux-gnu"]


class TestCapabilities:
    HEADER = (
        "#define _LINUX_CAPABILITY_U32S_1 1\n#define CAP_CHOWN            0\n#define CAP_KILL 1 /* why */\n"
        "#define CAP_LAST_CAP CAP_KILL\n#define CAP_TO_INDEX(x)     ((x) >> 5)\n"
    )

    def test_are_named_by_number(self) -> None:
        assert bubblewrap.names(self.HEADER) == ["cap_chown", "cap_kill"]

    def test_as_libcap_wants_them(self) -> None:
        text = bubblewrap.cap_names(self.HEADER)
        assert "#define __CAP_BITS 2\n#define __CAP_NAME_SIZE 10\n" in text
        assert '"cap_kill"' in text


# --- the glibc that a program needs -----------------------------------------------------------------


def elf(*versions: str) -> bytes:
    """A 64-bit ELF file with nothing in it but the versions that it asks of one library."""
    names = [*versions, "libc.so.6"]
    strings, at = b"\0", {}
    for name in names:
        at[name] = len(strings)
        strings += name.encode() + b"\0"
    need = struct.pack("<HHIII", 1, len(versions), at["libc.so.6"], 16, 0)
    for number, name in enumerate(versions):
        last = number == len(versions) - 1
        need += struct.pack("<IHHII", 0, 0, number + 2, at[name], 0 if last else 16)
    sections_at = 64 + len(strings) + len(need)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, 3, 0
    )
    section = "<IIQQQQIIQQ"
    table = struct.pack(section, *([0] * 10))
    table += struct.pack(section, 0, 3, 0, 0, 64, len(strings), 0, 0, 1, 0)
    table += struct.pack(section, 0, glibc.VERNEED, 0, 0, 64 + len(strings), len(need), 1, 1, 4, 0)
    return head + strings + need + table


class TestGlibc:
    @pytest.mark.parametrize(
        ("versions", "needed"),
        [
            (["GLIBC_2.2.5", "GLIBC_2.17"], (2, 17)),
            (["GLIBC_2.35", "GLIBC_2.4"], (2, 35)),
            (["GLIBC_2.9", "GLIBC_2.28"], (2, 28)),
            (["GCC_3.0", "GLIBC_PRIVATE"], (0, 0)),
        ],
    )
    def test_what_a_file_asks_for(self, tmp_path: Path, versions: list[str], needed: tuple[int, int]) -> None:
        (tmp_path / "program").write_bytes(elf(*versions))
        assert glibc.needed(tmp_path / "program") == needed

    def test_what_is_no_program_asks_for_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("GLIBC_2.99")
        assert glibc.needed(tmp_path / "text") == (0, 0)

    def test_the_machines_own_python_asks_for_something(self) -> None:
        """The parser reads real files too: every Python that runs here is linked with the C library."""
        found = glibc.needed(Path(sys.executable).resolve())
        assert (2, 0) < found < (3, 0)

    def test_a_folder_is_judged_by_the_worst_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "good").write_bytes(elf("GLIBC_2.28"))
        cpython.check(tmp_path)
        (tmp_path / "lib" / "bad.so").write_bytes(elf("GLIBC_2.2.5", "GLIBC_2.29"))
        with pytest.raises(BuildError, match=r"bad\.so needs glibc 2\.29"):
            cpython.check(tmp_path)

    @pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf, to compare with")
    def test_readelf_says_the_same(self) -> None:
        program = Path(sys.executable).resolve()
        told = subprocess.run(["readelf", "-VW", program], capture_output=True, text=True, check=True).stdout
        found = {(int(a), int(b)) for a, b in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", told)}
        assert glibc.needed(program) == max(found)
