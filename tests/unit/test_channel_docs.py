"""docs/channels.md says what `channel.wire` does: every frame and field, and its exchange is one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from channel import wire

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "channels.md").read_text()


def row(name: str) -> str:
    found = [line for line in PAGE.splitlines() if re.match(rf"\| `?{name}`? \|", line)]
    assert found, f"{name} is not on the page"
    return " ".join(found)


def test_every_frame_and_every_field_is_on_the_page() -> None:
    parts = {cls.__name__.lower(): cls for cls in wire._PARTS if cls is not wire.Quote}
    for name, cls in {**wire.TO_HOST, **wire.TO_CHANNEL, **parts}.items():
        said = row(name)
        for field in dataclasses.fields(cls):
            assert f"`{field.name}`" in said, f"{name}.{field.name}"


def test_every_word_is_on_the_page() -> None:
    for words in (wire.REASONS, wire.FAILURES, wire.ABILITIES):
        for word in words:
            assert word in PAGE


def test_the_exchange_is_one() -> None:
    lines = re.findall(r"^([<>]) (\{.*\})$", PAGE, re.MULTILINE)
    assert len(lines) > 10
    frames = [wire.decode(text.encode(), wire.TO_HOST if side == ">" else wire.TO_CHANNEL) for side, text in lines]
    asked = {f.id for f in frames if isinstance(f, wire.Send | wire.Typing | wire.Ping | wire.Stop)}
    assert asked == {f.id for f in frames if isinstance(f, wire.Done)}
