"""Lines of JSON: any bytes give objects or `PeerError`, in bounded memory; what is written comes back."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.lines import JsonLines, encode_line
from runner.protocol import PeerError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
RECORDS = st.dictionaries(st.text(), VALUES, max_size=5)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, start = [], 0
    for size in sizes:
        cut.append(data[start : start + size])
        start += size
    return [*cut, data[start:]]


@given(st.lists(RECORDS, max_size=4), st.lists(st.integers(0, 20), max_size=20))
def test_what_was_written_comes_back_however_it_is_cut(records: list[dict[str, Any]], sizes: list[int]) -> None:
    lines = JsonLines(10**6)
    data = b"".join(map(encode_line, records))
    assert [record for piece in pieces(data, sizes) for record in lines.feed(piece)] == records


@given(st.binary(max_size=300))
def test_any_bytes_give_objects_or_a_peer_error(untrusted: bytes) -> None:
    lines = JsonLines(100)
    try:
        for i in range(len(untrusted)):
            assert all(isinstance(record, dict) for record in lines.feed(untrusted[i : i + 1]))
    except PeerError:
        pass


def test_a_line_over_the_limit_is_refused_before_it_ends() -> None:
    lines = JsonLines(10)
    assert list(lines.feed(b'{"a":1234}')) == []
    with pytest.raises(PeerError):
        list(lines.feed(b"x"))


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":"\xff"}', b"[" * 5000])
def test_what_is_not_one_object_is_refused(line: bytes) -> None:
    with pytest.raises(PeerError):
        list(JsonLines(10_000).feed(line + b"\n"))


def test_a_path_that_is_not_utf8_comes_back_whole() -> None:
    path = os.fsdecode(b"/home/caf\xe9")
    assert list(JsonLines(100).feed(encode_line({"home": path}))) == [{"home": path}]


def test_one_record_is_one_line() -> None:
    assert encode_line({"text": "a\nb\u2028c"}) == '{"text":"a\\nb\u2028c"}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        encode_line({"x": float("nan")})
