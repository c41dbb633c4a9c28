"""Files that came with messages: what they are by what is in them, and one file for one that came."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from host.inbox import Inbox, type_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
NOON = 1_772_366_400.0  # 2026-03-01


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox", (os.geteuid(), os.getegid()), 1000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the group's files lie."""
    return tmp_path / "inbox" / "family"


@pytest.mark.parametrize(
    ("data", "claimed", "found"),
    [
        (PNG, "page.html", ("image/png", "png")),
        (b"\xff\xd8\xff\xe0rest", "", ("image/jpeg", "jpg")),
        (b"RIFF....WEBPVP8 ", "x", ("image/webp", "webp")),
        (b"....ftypisom", "film.mov", ("video/mp4", "mp4")),
        (b"PK\x03\x04....", "sums.xlsx", ("application/zip", "xlsx")),
        (b"PK\x03\x04....", "run.exe", ("application/zip", "zip")),
        (b"a,b\n1,2\n", "sums.CSV", ("text/plain", "csv")),
        (b"#!/bin/sh\n", "run.sh", ("text/plain", "txt")),
        ("grüße".encode() * 1000, "x", ("text/plain", "txt")),
        (b"text\0and more", "x.txt", ("application/octet-stream", "bin")),
        (b"\xc3\x28", "x.txt", ("application/octet-stream", "bin")),
    ],
)
def test_what_a_file_is_its_content_says(data: bytes, claimed: str, found: tuple[str, str]) -> None:
    assert type_of(data, claimed) == found


def test_one_that_comes_again_after_a_crash_is_not_there_twice(inbox: Inbox, place: Path) -> None:
    first = inbox.keep("family", "cat.png", NOON, PNG, "m1 0")
    assert inbox.keep("family", "cat.png", NOON, PNG, "m1 0") == first
    assert [path.name for path in place.iterdir()] == [first.name]
    # The control: the same picture, sent once more, is another file, and so is another of the same message.
    others = {inbox.keep("family", "cat.png", NOON, PNG, about).name for about in ("m2 0", "m1 1")}
    assert len({first.name, *others}) == len(list(place.iterdir())) == 3


def test_what_a_killed_host_was_writing_is_gone_with_the_next_file(inbox: Inbox, place: Path) -> None:
    first = inbox.keep("family", "cat.png", NOON, PNG, "m1 0")
    (place / first.name).rename(place / ".part")  # as it is before it is whole
    (place / ".part").write_bytes(PNG[:10])
    assert inbox.room("family") == 1000
    assert inbox.keep("family", "cat.png", NOON, PNG, "m1 0") == first
    assert [path.name for path in place.iterdir()] == [first.name]
    assert (place / first.name).stat().st_mode & 0o777 == 0o600
    assert inbox.room("family") == 1000 - len(PNG)


def test_what_else_has_its_name_stays(inbox: Inbox, place: Path, tmp_path: Path) -> None:
    names = [inbox.keep("family", "cat.png", NOON, PNG, f"m{n} 0").name for n in range(4)]
    for name in names:
        (place / name).unlink()
    other, link, pipe, folder = (place / name for name in names)
    other.write_bytes(PNG[:-1] + b"x")
    (tmp_path / "elsewhere").write_bytes(PNG)
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(pipe)
    folder.mkdir()
    for n in range(4):
        kept = inbox.keep("family", "cat.png", NOON, PNG, f"m{n} 0")
        assert kept.name not in names
        assert (place / kept.name).read_bytes() == PNG
    assert other.read_bytes() == PNG[:-1] + b"x"
    assert link.is_symlink()
    assert len(list(place.iterdir())) == 8
