"""Markdown becomes WhatsApp's marks, and long texts become pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsapp.markdown import to_whatsapp
from whatsapp.split import FENCE, split


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("plain", "plain"),
        ("**bold** and __bold__", "*bold* and *bold*"),
        ("*italic* and _italic_", "_italic_ and _italic_"),
        ("***both***", "*_both_*"),
        ("**a *b* c**", "*a _b_ c*"),
        ("~~gone~~", "~gone~"),
        ("2 * 3 * 4 and a*b*c", "2 * 3 * 4 and a*b*c"),
        ("snake_case_name and __init__", "snake_case_name and *init*"),
        ("# Title", "*Title*"),
        ("## **Title** ##", "*Title*"),
        ("* one\n* two\n  + three", "- one\n- two\n  - three"),
        ("1. one\n2. two", "1. one\n2. two"),
        ("- [ ] open\n- [x] done", "- ☐ open\n- ☑ done"),
        ("`**code**`", "`**code**`"),
        ("``a`b``", "`a`b`"),
        ("```python\nx = **y**\n```", "```\nx = **y**\n```"),
        ("~~~\ncode\n~~~\nafter **x**", "```\ncode\n```\nafter *x*"),
        ("```\nnever closed", "```\nnever closed\n```"),
        ("[site](https://example.org/a_b_c)", "site (https://example.org/a_b_c)"),
        ("[https://example.org](https://example.org)", "https://example.org"),
        ("<https://example.org/*x*>", "https://example.org/*x*"),
        ("![cat](cat.png)", "cat (cat.png)"),
        ("\\*not bold\\*", "*not bold*"),
        ("> quoted", "> quoted"),
        ("a\n\n---\n\nb", "a\n\n———\n\nb"),
        ("**two\nlines**", "*two*\n*lines*"),
        ("| a | b |\n|---|---|\n| x | 1 |\n| y | 2 |", "- *x*: b: 1\n- *y*: b: 2"),
        ("a | b", "a | b"),
        ("**unclosed", "**unclosed"),
        ("", ""),
    ],
)
def test_each_mark(markdown: str, expected: str) -> None:
    assert to_whatsapp(markdown) == expected


marks = st.text(alphabet="ab *_~`#|\n[]()<>\\-1.!:/", max_size=80)


@given(marks | st.text(max_size=200))
def test_any_text_is_taken_and_nothing_of_ours_is_left_in_it(text: str) -> None:
    out = to_whatsapp(text)
    assert "\x00" not in out
    assert "\x01" not in out
    letters = [c for c in text if c.isalnum() and c.isascii() and c not in "xX"]
    if "`" not in text and "~~~" not in text and "|" not in text:  # info strings and heads of tables go
        assert [c for c in out if c.isalnum() and c.isascii() and c not in "xX"] == letters or "(" in text


@given(st.text(alphabet=st.sampled_from("abc .\n`é👍\u200d"), max_size=600), st.integers(40, 200))
def test_pieces_keep_to_the_limit_and_lose_nothing(text: str, limit: int) -> None:
    pieces = split(text, limit)
    assert all(0 < len(piece) <= limit and piece.strip() for piece in pieces)
    if FENCE not in text:
        assert "".join("".join(pieces).split()) == "".join(text.split())


def test_paragraphs_are_where_it_is_cut() -> None:
    paragraphs = ["word " * 30 + "end." for _ in range(5)]
    pieces = split("\n\n".join(paragraphs), 400)
    assert all(piece.endswith("end.") for piece in pieces)
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)


def test_code_that_is_cut_is_closed_and_opened_again() -> None:
    text = "see:\n```\n" + "\n".join(f"line {i}" for i in range(60)) + "\n```\nthat was it"
    pieces = split(text, 200)
    assert len(pieces) > 2
    assert all(piece.count(FENCE) % 2 == 0 for piece in pieces)
    assert "line 0" in pieces[0]
    assert pieces[1].startswith(FENCE + "\n")


def test_one_word_without_an_end_is_cut_all_the_same() -> None:
    assert split("x" * 1000, 100)[0] == "x" * 96
