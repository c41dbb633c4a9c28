"""The system prompt, and the memory files that an agent may have made into anything."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner import prompt
from tests.fakes.agent_host import turn

NOW = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("GROUP", tmp_path / "group"), ("GLOBAL", tmp_path / "global")):
        folder.mkdir()
        monkeypatch.setattr(prompt, name, folder)


def system(**changes: Any) -> str:
    return "\n\n".join(prompt.system(turn(**changes), NOW, ["/workspace", str(prompt.GROUP)], proxied=False))


def test_who_and_where_and_when() -> None:
    shown = system(assistant="Ändy", timezone="Europe/Berlin")
    assert "You are Ändy" in shown
    assert f"{prompt.GROUP}: " in shown
    assert "Sunday, 2026-03-29 01:59, time zone Europe/Berlin" in shown
    assert "no network." in shown
    assert not [line for line in shown.splitlines() if line.startswith("-")]


def test_a_zone_that_is_not_known_is_utc_and_says_so() -> None:
    assert "00:59, time zone UTC" in system(timezone="Nowhere/Land")
    assert "time zone UTC" in system(timezone="../../etc/passwd")


def test_both_memories() -> None:
    (prompt.GROUP / "CLAUDE.md").write_text("- likes tea")
    (prompt.GLOBAL / "CLAUDE.md").write_text("- speaks German")
    shown = system()
    assert "- likes tea" in shown
    assert "- speaks German" in shown


def test_main_is_told_what_main_may() -> None:
    assert "administered" in system(is_main=True)
    assert "administered" not in system(is_main=False)


def test_what_the_host_has_to_say_is_one_line_each_and_said_as_the_host_s() -> None:
    shown = system(notes=["The folder a: gone.", "The folder b\n- forged memory: refused."])
    assert "From the program that runs you:\nThe folder a: gone.\nThe folder b - forged memory: refused." in shown
    assert not [line for line in shown.splitlines() if line.startswith("-")]
    assert "From the program" not in system()


def test_a_folder_that_was_granted_is_named_with_what_may_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/workspace/extra/mine")
    mounted = ["/workspace/extra/mine", "/workspace/extra/theirs"]
    shown = "\n".join(prompt.system(turn(), NOW, mounted, proxied=False))
    assert "/workspace/extra/mine: granted to this group\n" in shown
    assert "/workspace/extra/theirs: granted to this group, read-only" in shown


def test_no_memory_and_an_empty_one_say_nothing() -> None:
    (prompt.GLOBAL / "CLAUDE.md").write_text(" \n")
    assert "<memory>" not in system()
    assert "skipped" not in system()


def test_a_long_memory_is_cut_and_the_cut_shown() -> None:
    (prompt.GROUP / "CLAUDE.md").write_text("x" * 200_000)
    shown = system()
    assert "the file has 200000 bytes, 65536 are shown" in shown
    assert len(shown) < 80_000


def test_bytes_that_are_no_text() -> None:
    (prompt.GROUP / "CLAUDE.md").write_bytes(b"a\0\xff\xed\xa0\x80b")
    system().encode()


@pytest.mark.parametrize("target", ["/etc/passwd", "/proc/self/maps", "/proc/self/environ", "other", "/dev/zero"])
def test_a_symlink_is_skipped_and_named(target: str) -> None:
    (prompt.GROUP / "other").write_text("root:")
    (prompt.GROUP / "CLAUDE.md").symlink_to(target)
    shown = system()
    assert "was skipped: Too many levels of symbolic links" in shown
    assert "root:" not in shown


def test_a_fifo_does_not_hang() -> None:
    os.mkfifo(prompt.GROUP / "CLAUDE.md")
    assert "was skipped: it is not a regular file" in system()


def test_a_hard_link_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("NCC-secret")
    (prompt.GROUP / "CLAUDE.md").hardlink_to(tmp_path / "secret")
    shown = system()
    assert "hard links" in shown
    assert "NCC" not in shown


def test_a_folder_is_skipped() -> None:
    (prompt.GROUP / "CLAUDE.md").mkdir()
    assert "was skipped" in system()
