"""What is made of bytes and of a model's values, before they meet the pipe."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import protocol, text

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(), max_size=5), anything, max_size=4))
def test_whatever_a_model_says_fits_the_pipe(value: dict[str, Any]) -> None:
    frame = protocol.Entries([text.clean(value)])
    assert protocol.decode(protocol.encode(frame)[:-1], protocol.TO_HOST) == frame


def test_what_is_clean_stays_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "ünï🙂\n"], "b": {"c": 2**63 - 1}}
    assert text.clean(value) == value


def test_a_number_of_a_million_digits_is_not_written_out() -> None:
    assert text.clean(10**100_000) == "a very large number"


@given(st.binary(max_size=500))
def test_any_output_becomes_text(data: bytes) -> None:
    shown = text.printable(data)
    shown.encode()
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in shown)


@given(st.text(max_size=400), st.integers(0, 300))
def test_a_clip_keeps_to_its_limit(words: str, limit: int) -> None:
    assert len(text.clip(words, limit).encode()) <= max(limit, 0)


def test_a_clip_shows_the_cut_and_keeps_both_ends() -> None:
    shown = text.clip("begin" + "x" * 1000 + "end", 200)
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert "bytes cut here" in shown
    assert text.clip("short", 200) == "short"


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(2, 60))
def test_a_capture_keeps_the_two_ends_and_counts_the_rest(pieces: list[bytes], limit: int) -> None:
    pieces = [piece.replace(b"\xff", b"x") for piece in pieces]
    capture = text.Capture(limit)
    for piece in pieces:
        capture.feed(piece)
    whole = b"".join(pieces)
    half = limit // 2
    if len(whole) <= 2 * half:
        assert capture.text() in (text.printable(whole), text.printable(whole[:half]) + text.printable(whole[half:]))
    else:
        note = text.cut_note(len(whole) - 2 * half)
        assert capture.text() == text.printable(whole[:half]) + note + text.printable(whole[-half:])


def test_a_capture_of_a_gigabyte_is_small() -> None:
    capture = text.Capture(10_000)
    piece = b"y\n" * 32768
    for _ in range(2000):
        capture.feed(piece)
    assert len(capture.text()) < 11_000


@pytest.mark.parametrize(("words", "short"), [("a  b\n c", "a b c"), ("x" * 20, "x" * 9 + "…"), ("", "")])
def test_shorten(words: str, short: str) -> None:
    assert text.shorten(words, 10) == short
