"""Whatever comes over the pipe: frames or `PeerError`, and never more memory than the limit says."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import protocol
from runner.protocol import PeerError

BOTH = [protocol.TO_HOST, protocol.TO_RUNNER]
LIMIT = 4096

# --- values of every type that a frame may hold ---

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
integers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, json_values, max_size=4)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: text,
    int: integers,
    bool: st.booleans(),
    bytes: st.binary(max_size=200),
    protocol.Limits: st.builds(protocol.Limits, *[integers] * 5),
    list[str]: st.lists(text, max_size=4),
    list[dict[str, Any]]: st.lists(objects, max_size=3),
    dict[str, Any]: objects,
    dict[str, str]: st.dictionaries(text, text, max_size=4),
    dict[str, int]: st.dictionaries(text, integers, max_size=4),
}


def frames_of(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{f.name: VALUES[hints[f.name]] for f in dataclasses.fields(cls)})


CLASSES = sorted({*protocol.TO_HOST.values(), *protocol.TO_RUNNER.values()}, key=lambda cls: cls.__name__)
any_frame = st.one_of([frames_of(cls) for cls in CLASSES])
to_host = st.one_of([frames_of(cls) for cls in protocol.TO_HOST.values()])

# --- lines that are nearly frames: the interesting ones ---

json_lines = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@st.composite
def bent_frames(draw: st.DrawFn) -> bytes:
    """A good frame with one field put wrong, taken away, or added."""
    record = json.loads(protocol.encode(draw(any_frame)))
    field = draw(st.sampled_from([*record, "extra", "frame"]))
    if draw(st.booleans()):
        record[field] = draw(json_lines)
    else:
        record.pop(field, None)
    return json.dumps(record).encode() + b"\n"


untrusted = st.binary(max_size=300) | bent_frames() | st.builds(lambda v: json.dumps(v).encode() + b"\n", json_lines)


def decoded(accepted: dict[str, type], pieces: list[bytes], limit: int = LIMIT) -> list[Any]:
    """Frames up to the first broken rule, which is then the last element."""
    decoder = protocol.Decoder(accepted, limit)
    found: list[Any] = []
    try:
        for piece in pieces:
            found.extend(decoder.feed(piece))
    except PeerError as e:
        found.append(str(e))
    return found


@given(any_frame)
def test_every_frame_comes_back_as_it_went(frame: Any) -> None:
    line = protocol.encode(frame)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    accepted = protocol.TO_HOST if type(frame) in protocol.TO_HOST.values() else protocol.TO_RUNNER
    assert protocol.decode(line[:-1], accepted) == frame


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(untrusted, max_size=6), st.sampled_from(BOTH))
def test_any_bytes_are_frames_or_a_broken_rule(pieces: list[bytes], accepted: dict[str, type]) -> None:
    for frame in decoded(accepted, pieces):
        assert isinstance(frame, str) or type(frame) in accepted.values()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(untrusted, max_size=4), st.sampled_from(BOTH), st.integers(1, 7))
def test_how_the_bytes_are_cut_makes_no_difference(pieces: list[bytes], accepted: dict[str, type], size: int) -> None:
    whole = b"".join(pieces)
    small = [whole[i : i + size] for i in range(0, len(whole), size)]
    single = [whole[i : i + 1] for i in range(len(whole))]
    assert decoded(accepted, [whole]) == decoded(accepted, small) == decoded(accepted, single)


@given(st.lists(to_host, max_size=5))
def test_many_frames_in_one_read(frames: list[Any]) -> None:
    assert decoded(protocol.TO_HOST, [b"".join(map(protocol.encode, frames))], 1 << 20) == frames


@given(bent_frames())
def test_a_decoded_frame_can_be_sent_again(line: bytes) -> None:
    try:
        frame = protocol.decode(line[:-1], protocol.TO_HOST)
    except PeerError:
        return
    assert protocol.decode(protocol.encode(frame)[:-1], protocol.TO_HOST) == frame


@pytest.mark.parametrize("piece", [b"x" * 65536, b'{"frame":"say","text":"' + b"\\u0041" * 10000])
def test_an_endless_line_is_refused_within_the_limit(piece: bytes) -> None:
    decoder = protocol.Decoder(protocol.TO_HOST, 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(PeerError, match="line over"):
            for _ in range(1000):
                list(decoder.feed(piece))
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_a_line_of_exactly_the_limit_passes() -> None:
    line = protocol.encode(protocol.Say("x"))
    limit = len(line) - 1
    assert decoded(protocol.TO_HOST, [line], limit) == [protocol.Say("x")]
    assert decoded(protocol.TO_HOST, [line[:-1] + b" \n"], limit) == [f"line over {limit} bytes"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"frame":"say"}',
        b'{"frame":"say","text":1}',
        b'{"frame":"say","text":"x","more":1}',
        b'{"frame":"say","text":"x","text":"y"}',
        b'{"frame":"say","frame":"say","text":"x"}',
        b'{"frame":["say"],"text":"x"}',
        b'{"frame":"nonsense"}',
        b'{"frame":"turn"}',  # the other side's
        b'{"frame":"say","text":"\\ud800"}',
        b'{"frame":"say","text":"\xff"}',
        b'{"frame":"usage","input_tokens":true,"output_tokens":1}',
        b'{"frame":"usage","input_tokens":1.0,"output_tokens":1}',
        b'{"frame":"usage","input_tokens":9223372036854775808,"output_tokens":1}',
        b'{"frame":"usage","input_tokens":' + b"9" * 5000 + b',"output_tokens":1}',
        b'{"frame":"bytes","stream":1,"data":"?"}',
        b'{"frame":"bytes","stream":1,"data":"' + b"AAAA" * 16385 + b'"}',
        b'{"frame":"call","id":1,"method":"x","params":[]}',
        b'{"frame":"call","id":1,"method":"x","params":{"a":NaN}}',
        b'{"frame":"call","id":1,"method":"x","params":{"a":{"b":["\\udfff"]}}}',
        b'{"frame":"call","id":1,"method":"x","params":{"a":{"b":1,"b":2}}}',
        b'{"frame":"call","id":1,"method":"x","params":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"frame":"entries","entries":[1]}',
        b'{"frame":"hello","version":1,"build":"x","checks":{"uid":"0"},"mounts":{}}',
        b'{"frame":"check","command":"x","seconds":1,"timezone":"UTC"}',  # the other side's
        b'{"frame":"checked","status":"0","output":"x"}',
        b'{"frame":"checked","status":false,"output":"x"}',
        b'{"frame":"checked","status":0,"output":"\\ud800"}',
        b'{"frame":"checked","status":0}',
    ],
)
def test_broken_rules(line: bytes) -> None:
    with pytest.raises(PeerError):
        protocol.decode(line, protocol.TO_HOST)


def test_a_broken_rule_is_told_without_what_was_on_the_line() -> None:
    with pytest.raises(PeerError) as caught:
        protocol.decode(b'{"frame":"turn","secrets":{"api_key":"NCC-secret"', protocol.TO_RUNNER)
    assert "NCC" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_limits_are_checked_like_a_frame() -> None:
    turn = protocol.Turn("t", "g", True, "a", "p", [], {}, "u", "m", 1, protocol.Limits(1, 1, 1, 1, 1), [], "UTC")
    record = json.loads(protocol.encode(turn))
    assert protocol.decode(json.dumps(record).encode(), protocol.TO_RUNNER) == turn
    for wrong in ({}, {"rounds": 1}, {**record["limits"], "more": 1}, {**record["limits"], "rounds": "1"}, 5):
        with pytest.raises(PeerError):
            protocol.decode(json.dumps({**record, "limits": wrong}).encode(), protocol.TO_RUNNER)


def test_what_is_offered_and_noted_is_checked() -> None:
    turn = protocol.Turn("t", "g", True, "a", "p", [], {}, "u", "m", 1, protocol.Limits(1, 1, 1, 1, 1), [], "UTC")
    record = json.loads(protocol.encode(turn))
    assert turn.notes == []
    for wrong in ({"tools": ["x"]}, {"tools": {}}, {"notes": [1]}, {"notes": "x"}, {"notes": [["x"]]}):
        with pytest.raises(PeerError):
            protocol.decode(json.dumps({**record, **wrong}).encode(), protocol.TO_RUNNER)


def test_a_check_has_no_place_for_a_secret() -> None:
    assert {f.name for f in dataclasses.fields(protocol.Check)} == {"command", "seconds", "timezone"}
    line = b'{"frame":"check","command":"x","seconds":1,"timezone":"UTC","secrets":{}}'
    with pytest.raises(PeerError, match="wrong fields"):
        protocol.decode(line, protocol.TO_RUNNER)


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        protocol.encode(protocol.Say("\ud800"))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e400"])
def test_a_number_that_json_could_not_carry_on_is_refused(number: str) -> None:
    """It would be an infinity in the transcript, and the next payload could not be written."""
    line = f'{{"frame":"entries","entries":[{{"role":"user","content":[{{"x":{number}}}]}}]}}'.encode()
    with pytest.raises(PeerError, match="out of range"):
        protocol.decode(line, protocol.TO_HOST)


def nested(depth: int) -> bytes:
    return b'{"frame":"entries","entries":[{"role":"user","content":' + b"[" * depth + b"]" * depth + b"}]}"


def test_nesting_that_a_deeper_stack_could_not_encode_is_refused() -> None:
    frame = protocol.decode(nested(protocol.MAX_DEPTH - 2), protocol.TO_HOST)
    assert protocol.decode(protocol.encode(frame)[:-1], protocol.TO_HOST) == frame
    for depth in (protocol.MAX_DEPTH - 1, *range(900, 1000), 100_000):
        with pytest.raises(PeerError):
            protocol.decode(nested(depth), protocol.TO_HOST)
