"""`key=value` on a command line: what each way of writing means, and that nothing else ever comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.cli.settings import assignments, toml_value
from host.cli.tasks import seconds, spelled
from host.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("1.5", 1.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('["a", "b"]', ["a", "b"]),
        ('"7"', "7"),
        ("'x y'", "x y"),
        ('{host = "a.example", ports = [443]}', {"host": "a.example", "ports": [443]}),
        ("512 MB", "512 MB"),
        ("Andy", "Andy"),
        ("Andy #1", "Andy #1"),
        ("7 # seven", "7 # seven"),
        ("7\nother = 8", "7\nother = 8"),
        ("1, 2", "1, 2"),
        ("2026-12-24", "2026-12-24"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("]", "]"),
        ("[" * 5000, "[" * 5000),
        ("a=b", "a=b"),
    ],
)
def test_a_value_is_what_it_is_in_toml_or_the_text_itself(text: str, value: Any) -> None:
    assert toml_value(text) == value
    assert type(toml_value(text)) is type(value)


@given(st.text())
def test_any_text_is_a_json_value(text: str) -> None:
    json.dumps(toml_value(text), allow_nan=False)


def test_texts_are_never_numbers_and_lists_may_be_written_with_commas() -> None:
    given = ["name=2024", 'trigger="7"', "senders=mia, tom", 'allow_hosts=["a.example"]', "cpus=2", "model=", "x=7"]
    assert assignments(given, texts={"name", "trigger"}, lists={"senders", "allow_hosts"}) == {
        "name": "2024", "trigger": "7", "senders": ["mia", "tom"], "allow_hosts": ["a.example"], "cpus": 2,
        "model": None, "x": 7,
    }  # fmt: skip
    assert assignments(['senders="mia, tom"'], lists={"senders"}) == {"senders": ["mia, tom"]}
    assert assignments(["senders=49170"], lists={"senders"}) == {"senders": ["49170"]}


@pytest.mark.parametrize("given", [["x"], ["=x"], [""], ["x=1", "x=2"]])
def test_what_is_no_assignment_is_refused(given: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        assignments(given)
    assert caught.value.status == 2


@pytest.mark.parametrize(("text", "length"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400)])
def test_lengths_of_time(text: str, length: int) -> None:
    assert seconds(text) == length


@given(st.integers(1, 400 * 86_400))
def test_a_length_of_time_is_spelled_as_it_is_taken(length: int) -> None:
    assert seconds(spelled(length)) == length


@pytest.mark.parametrize("text", ["", "15", "m", "-1m", "1.5h", "1w", " 1m", "1m ", "1 m", "٣m", "1M"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        seconds(text)
