"""The line editor of `chat`, key by key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.cli.editor import MAX_LINE, Action, Editor, Interrupt, Leave, Line
from host.text import columns

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (f"\x1b[{k}" for k in ("D", "C", "A", "B", "H", "F", "3~"))


def typed(*keys: str) -> tuple[Editor, list[Action]]:
    editor = Editor()
    return editor, [action for key in keys for action in editor.feed(key.encode())]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["hello"], "hello"),
        (["helo", LEFT, "l"], "hello"),
        (["xhello", HOME, DELETE], "hello"),
        (["hellox", "\x7f"], "hello"),
        (["bcd", HOME, "a", END, "e"], "abcde"),
        (["one two", "\x17"], "one "),
        (["one two ", "\x17"], "one "),
        (["gone", "\x15", "kept"], "kept"),
        (["abc", "\x01", "\x0b"], ""),
        (["a", LEFT, LEFT, LEFT, "b", RIGHT, RIGHT, RIGHT, "c"], "bac"),
        (["a\tb"], "a b"),
        (["\x1b[200~two\nlines\x1b[201~!"], "two\nlines!"),
        (["\x1b[99z", "x"], "x"),
        (["\x1bq", "x"], "x"),
        (["abc", "\x03", "d"], "d"),
        (["ab", LEFT, "\x04"], "a"),
    ],
)
def test_editing(keys: list[str], text: str) -> None:
    assert typed(*keys)[0].text == text


def test_enter_gives_the_line_and_starts_a_new_one() -> None:
    editor, actions = typed("first\rsec", "ond\n")
    assert actions == [Line("first"), Line("second")]
    assert editor.text == ""


def test_up_and_down_walk_the_history_and_keep_the_draft() -> None:
    editor, _ = typed("one\r", "two\r", "draft", UP, UP)
    assert editor.text == "one"
    editor.feed(UP.encode())
    assert editor.text == "one"
    editor.feed((DOWN + DOWN + DOWN).encode())
    assert editor.text == "draft"


def test_control_c_interrupts_and_says_whether_it_cleared_the_line() -> None:
    editor, actions = typed("x", "\x03", "\x03")
    assert actions == [Interrupt(cleared=True), Interrupt(cleared=False)]
    assert editor.text == ""


def test_control_d_leaves_on_an_empty_line_only() -> None:
    assert typed("\x04")[1] == [Leave()]
    assert typed("x", "\x04")[1] == []


def test_sequences_and_characters_may_come_in_pieces() -> None:
    editor = Editor()
    for byte in ("é" + LEFT + "x日").encode():
        editor.feed(bytes([byte]))
    assert editor.text == "x日é"


def test_the_view_follows_the_cursor_and_never_overflows() -> None:
    editor, _ = typed("0123456789日本語")
    view, cursor = editor.view(8)
    assert view.endswith("語")
    assert cursor == columns(view) < 8
    editor.feed(HOME.encode())
    assert editor.view(8) == ("0123456", 0)


@given(st.binary(max_size=300), st.integers(2, 40))
def test_no_input_breaks_it(data: bytes, width: int) -> None:
    editor = Editor()
    editor.feed(data)
    assert 0 <= editor.cursor <= len(editor.text) <= MAX_LINE
    view, cursor = editor.view(width)
    assert columns(view) < max(width, 2)
    assert 0 <= cursor < max(width, 2)
    assert all(c.isprintable() for c in view)
