"""The file tools themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import filetool


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(tool: str, **arguments: Any) -> tuple[str, bool]:
    return filetool.answer({"tool": tool, "input": arguments})


def good(tool: str, **arguments: Any) -> str:
    shown, is_error = use(tool, **arguments)
    assert not is_error, shown
    return shown


def bad(tool: str, **arguments: Any) -> str:
    shown, is_error = use(tool, **arguments)
    assert is_error, shown
    return shown


def test_read_by_parts(here: Path) -> None:
    (here / "x").write_text("\n".join(f"line {n}" for n in range(1, 11)))
    assert good("read_file", path="x", offset=3, limit=2) == (
        "     3\tline 3\n     4\tline 4\n(6 more lines; read on with offset 5)"
    )
    assert good("read_file", path="x", offset=10) == "    10\tline 10"
    assert good("read_file", path="x", offset=99) == "(the file has 10 lines)"
    (here / "x").write_text("")
    assert good("read_file", path="x") == "(the file is empty)"


def test_long_lines_and_many_lines_are_cut(here: Path) -> None:
    (here / "x").write_text("y" * 5000 + "\n" * 5000)
    shown = good("read_file", path="x")
    assert "3000 characters cut here" in shown
    assert "(3000 more lines; read on with offset 2001)" in shown


def test_what_is_not_for_reading_says_why(here: Path) -> None:
    (here / "bin").write_bytes(b"\x7fELF\0\0")
    (here / "big").touch()
    os.truncate(here / "big", 1 << 40)
    os.mkfifo(here / "pipe")
    assert "binary file of 6 bytes" in bad("read_file", path="bin")
    assert "more than" in bad("read_file", path="big")
    assert "not a regular file" in bad("read_file", path="pipe")
    assert "not a regular file" in bad("read_file", path="/dev/zero")
    assert "Is a directory" in bad("read_file", path=".")
    assert bad("read_file", path="nothing") == "nothing: No such file or directory"
    assert "null" in bad("read_file", path="a\0b")


def test_write_and_replace(here: Path) -> None:
    assert good("write_file", path="a/b/c.txt", content="ä") == "Created a/b/c.txt (2 bytes)."
    (here / "a/b/c.txt").chmod(0o755)
    assert good("write_file", path="a/b/c.txt", content="") == "Replaced a/b/c.txt (0 bytes)."
    assert (here / "a/b/c.txt").stat().st_mode & 0o777 == 0o755
    assert [p.name for p in (here / "a/b").iterdir()] == ["c.txt"]


def test_write_goes_through_a_symlink_and_keeps_it(here: Path) -> None:
    (here / "real").write_text("old")
    (here / "link").symlink_to("real")
    good("write_file", path="link", content="new")
    assert (here / "link").is_symlink()
    assert (here / "real").read_text() == "new"


def test_write_that_cannot_be(here: Path) -> None:
    (here / "file").touch()
    os.mkfifo(here / "pipe")
    assert "folder" in bad("write_file", path=".", content="x")
    assert "regular" in bad("write_file", path="pipe", content="x")
    assert bad("write_file", path="file/x", content="x")
    assert bad("write_file", path="/proc/self/nothing/x", content="x")


def test_a_full_disk_leaves_the_old_content(here: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    (here / "x").write_text("old")
    (here / "x2").symlink_to("/dev/full")
    assert "not a regular file" in bad("write_file", path="x2", content="new")
    assert (here / "x").read_text() == "old"


def test_edit(here: Path) -> None:
    (here / "x").write_bytes(b"one two two\r\ncaf\xe9\n")
    assert good("edit_file", path="x", old="one", new="1") == "Edited x (1 place)."
    assert "occurs 2 times" in bad("edit_file", path="x", old="two", new="2")
    assert good("edit_file", path="x", old="two", new="2", replace_all=True) == "Edited x (2 places)."
    assert (here / "x").read_bytes() == b"1 2 2\r\ncaf\xe9\n"  # every other byte as it was
    assert "does not occur" in bad("edit_file", path="x", old="three", new="3")
    assert "must differ" in bad("edit_file", path="x", old="1", new="1")
    assert "must not be empty" in bad("edit_file", path="x", old="", new="1")


def test_glob(here: Path) -> None:
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/d.txt", "node_modules/e.py", ".git/f.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    assert good("glob", pattern="*.py").split() == ["a.py", "src/b.py", "src/deep/c.py"]
    assert good("glob", pattern="src/*.py").split() == ["src/b.py"]
    assert good("glob", pattern="src/**/*.py").split() == ["src/b.py", "src/deep/c.py"]
    assert good("glob", pattern="?.txt", path="src").split() == ["src/d.txt"]
    assert good("glob", pattern="*.rs") == "No file matches."
    assert "not a folder" in bad("glob", pattern="*", path="a.py")


def test_glob_of_very_many(here: Path) -> None:
    for n in range(filetool.MAX_FOUND + 5):
        (here / f"{n}.txt").touch()
    assert good("glob", pattern="*").endswith("narrow the pattern)")


def test_grep(here: Path) -> None:
    (here / "a.md").write_text("Hello\nworld\n")
    (here / "sub").mkdir()
    (here / "sub/b.txt").write_text("hello again")
    (here / "bin").write_bytes(b"hello\0")
    (here / "loop").symlink_to(".")
    os.mkfifo(here / "pipe")
    assert good("grep", pattern="[Hh]ello").splitlines() == ["a.md:1:Hello", "sub/b.txt:1:hello again"]
    assert good("grep", pattern="HELLO", ignore_case=True, include="*.md") == "a.md:1:Hello"
    assert good("grep", pattern="world", path="a.md") == "a.md:2:world"
    assert good("grep", pattern="nothing") == "No line matches."
    assert "not a regular expression" in bad("grep", pattern="(")


def test_grep_of_very_much(here: Path) -> None:
    (here / "x").write_text("y\n" * 5000)
    assert good("grep", pattern="y").endswith("narrow the search)")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pattern_is_taken_or_refused(pattern: str, name: str) -> None:
    # Joined as text: a name that begins with a slash would be a path of its own, and a search finds none outside.
    filetool._matches(Path("/root/" + name.replace("\0", "")), Path("/root"), pattern)
