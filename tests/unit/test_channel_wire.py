"""Whatever a channel says: frames or `PeerError`, and never more memory than the limits say."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel import wire
from channel.wire import PeerError

ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
numbers = st.integers(0, 2**53 - 1)


def value_of(cls: type, name: str, hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, types.UnionType):
        return st.none() | parts_of(typing.get_args(hint)[0])
    if isinstance(hint, types.GenericAlias):
        return st.lists(value_of(cls, name, typing.get_args(hint)[0]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return parts_of(typing.cast(type, hint))
    if hint is str:
        return text_of(cls, name)
    by_type: dict[Any, st.SearchStrategy[Any]] = {int: numbers, bool: st.booleans(), bytes: st.binary(max_size=100)}
    return by_type[hint]


def text_of(cls: type, name: str) -> st.SearchStrategy[str]:
    if choices := wire._CHOICES.get((cls, name)):
        return st.sampled_from(sorted(choices))
    if (cls, name) in wire._IDS:
        return ids
    return st.just("") | ids if (cls, name) in wire._IDS_OR_EMPTY else texts


def parts_of(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{f.name: value_of(cls, f.name, hints[f.name]) for f in dataclasses.fields(cls)})


CLASSES = sorted({*wire.TO_HOST.values(), *wire.TO_CHANNEL.values()}, key=lambda cls: cls.__name__)
BOTH = {**wire.TO_HOST, **wire.TO_CHANNEL}
any_frame = st.one_of([parts_of(cls) for cls in CLASSES])
to_host = st.one_of([parts_of(cls) for cls in wire.TO_HOST.values()])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def places(record: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in it, at any depth."""
    items = list(record.items()) if isinstance(record, dict) else list(enumerate(record))
    found = [(record, key) for key, _ in items]
    for _, value in items:
        if isinstance(value, dict | list):
            found += places(value)
    return found


@st.composite
def bent_frames(draw: st.DrawFn) -> bytes:
    """A good frame with one value, however deep, put wrong or taken away, or one field added."""
    record = json.loads(wire.encode(draw(any_frame)))
    container, key = draw(st.sampled_from(places(record)))
    if isinstance(container, dict) and draw(st.booleans()):
        key = draw(st.sampled_from([key, "extra"]))
    if draw(st.booleans()) or key == "extra":
        container[key] = draw(json_values)
    else:
        del container[key]
    return json.dumps(record).encode() + b"\n"


untrusted = st.binary(max_size=300) | bent_frames() | st.builds(lambda v: json.dumps(v).encode() + b"\n", json_values)


def decoded(accepted: dict[str, type], pieces: list[bytes]) -> list[Any]:
    """Frames up to the first broken rule, which is then the last element."""
    decoder, found = wire.Decoder(accepted), []
    try:
        for piece in pieces:
            found.extend(decoder.feed(piece))
    except PeerError as e:
        return [*found, str(e)]
    return found


@given(any_frame)
def test_what_is_encoded_is_decoded(frame: Any) -> None:
    assert decoded(BOTH, [wire.encode(frame)]) == [frame]


@given(st.lists(to_host, max_size=4), st.data())
def test_the_pieces_that_bytes_come_in_do_not_matter(frames: list[Any], data: st.DataObject) -> None:
    line = b"".join(map(wire.encode, frames))
    assert decoded(wire.TO_HOST, [line[i : i + 1] for i in range(len(line))]) == frames
    cut = data.draw(st.integers(0, len(line)))
    assert decoded(wire.TO_HOST, [line[:cut], line[cut:]]) == frames


@given(st.lists(untrusted, max_size=4))
def test_anything_else_is_a_frame_or_a_peer_error(pieces: list[bytes]) -> None:
    for accepted in (wire.TO_HOST, wire.TO_CHANNEL):
        found = decoded(accepted, pieces)
        assert found == decoded(accepted, [bytes([byte]) for byte in b"".join(pieces)])
        for frame in found:
            assert isinstance(frame, str) or type(frame) in accepted.values()
            if not isinstance(frame, str):
                assert decoded(accepted, [wire.encode(frame)]) == [frame]


GOOD: dict[str, Any] = json.loads(
    wire.encode(wire.Message(1, wire.Chat("c@g.us", "", "Home", "group"), "M1", wire.Person("1@s"), False, 5, "hi"))
)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"seq": -1}, "message.seq: number out of range"),
        ({"seq": True}, "message.seq: not int"),
        ({"at": 2**53}, "message.at: number out of range"),
        ({"id": ""}, "message.id: not an id"),
        ({"id": "a b"}, "message.id: not an id"),
        ({"id": "a\n"}, "message.id: not an id"),
        ({"id": "a" * 257}, "message.id: not an id"),
        ({"text": "\ud800"}, "message.text: lone surrogate"),
        ({"text": "ä" * 32769}, "message.text: too long"),
        ({"sender": {"id": "1", "name": "n" * 2049}}, "person.name: too long"),
        ({"sender": None}, "person: wrong fields"),
        ({"quoted": {}}, "quoted: wrong fields"),
        ({"mentions": [{"id": "1"}] * 257}, "message.mentions: not a list of at most 256"),
        ({"chat": {"id": "c", "alt": "", "name": "", "kind": "world"}}, "chat.kind: none of its words"),
        ({"more": 1}, "message: wrong fields"),
        ({"frame": "send"}, "unknown frame"),
        ({"frame": None}, "unknown frame"),
    ],
)
def test_each_rule_is_kept(change: dict[str, Any], error: str) -> None:
    line = json.dumps({**GOOD, **change}).encode()
    with pytest.raises(PeerError, match="^" + error.replace(".", r"\.") + "$"):
        wire.decode(line, wire.TO_HOST)


def test_the_rules_table_names_fields_that_are_there() -> None:
    for cls, name in {*wire._IDS, *wire._IDS_OR_EMPTY, *wire._LONG, *wire._CHOICES, *wire._BELOW_ZERO}:
        assert name in {f.name for f in dataclasses.fields(cls)}


def test_a_line_without_an_end_is_not_gathered_forever() -> None:
    decoder = wire.Decoder(wire.TO_HOST)
    piece = b"x" * 65536
    with pytest.raises(PeerError, match="line over"):
        for _ in range(wire.LINE_LIMIT // len(piece) + 1):
            list(decoder.feed(piece))


def test_the_longest_text_fits_a_line_however_it_is_escaped() -> None:
    message = dataclasses.replace(wire.decode(json.dumps(GOOD).encode(), wire.TO_HOST), text="\0" * wire.MAX_TEXT)
    assert decoded(wire.TO_HOST, [wire.encode(message)]) == [message]
    assert decoded(wire.TO_HOST, [wire.encode(wire.Data(1, bytes(wire.CHUNK)))]) == [wire.Data(1, bytes(wire.CHUNK))]


def test_the_wire_does_no_io() -> None:
    import ast
    from pathlib import Path

    from tests.unit.test_imports import IO, imports

    tree = ast.parse(Path(wire.__file__).read_text())
    used = {target.split(".")[0] for target in imports("channel.wire", tree, is_package=False)}
    assert not used & IO
    assert used - {"runner", "__future__"} <= set(__import__("sys").stdlib_module_names)
