"""The key does not come through in any usual spelling, and nothing else is taken out."""

from __future__ import annotations

import base64
import json
import random
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.credentials import Scrubber, StreamScrubber
from host.credentials.scrub import MAX_HELD, REMOVED

KEY = "sk-ant-api03-Vq3_x7Rk-fJ2mWc9Zt5LdYhN8bGsA0eP4uKiXoQ1TvMwBnCjHr6SgFyDlUzEaIpO_RkT2qWs5x-Yb7Nm3Lc8Vd4Zh1Gj9FtAA"
OTHER = "sk-ant-api03-Zz9_y8Qj-eI1lVb8Ys4KcXgM7aFrZ9dO3tJhWnP0SuLvAmBiGq5RfExCkTyDzHoN_QjS1pVr4w-Xa6Ml2Kb7Uc3Yg0Fi8EsAA"
SCRUBBER = Scrubber({"api_key": KEY})

# Printable, as credentials.read demands; long enough for the tolerant search.
keys = st.from_regex(r"[!-~]{4,40}[A-Za-z0-9]{20,60}[!-~]{0,20}", fullmatch=True)
texts = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60)


def spellings(key: str) -> dict[str, str]:
    """Every way of writing a key that a reply might use without being clever."""
    data = key.encode()
    found = {
        "plain": key,
        "reversed": key[::-1],
        "hex": data.hex(),
        "HEX": data.hex().upper(),
        "hex with colons": data.hex(":"),
        "hex as C": "".join(f"\\x{b:02x}" for b in data),
        "hex as numbers": ", ".join(f"0x{b:02X}" for b in data),
        "percent, what must be": quote(key, safe=""),
        "percent, all": "".join(f"%{b:02X}" for b in data),
        "percent, all, lower": "".join(f"%{b:02x}" for b in data),
        "json": json.dumps(key),
        "json twice": json.dumps(json.dumps(key)),
        "json, all": "".join(f"\\u{b:04x}" for b in data),
        "html, all": "".join(f"&#x{b:x};" for b in data),
        "utf-16": key.encode("utf-16-le").decode("latin-1"),
    }
    for between in (" ", "\n", "-", "\u200b", "\u2060", "\ufeff", "\u00ad", ", ", " | ", "' '", "\r\n\t"):
        found[f"spread with {between!r}"] = between.join(key)
    for before in range(3):
        for after in range(3):
            whole = b"x" * before + data + b"y" * after
            found[f"base64 {before} {after}"] = base64.b64encode(whole).decode()
            found[f"base64url {before} {after}"] = base64.urlsafe_b64encode(whole).decode().rstrip("=")
    found["base64, wrapped"] = base64.encodebytes(data).decode()
    found["base64, spread"] = " ".join(base64.b64encode(data).decode())
    found["reversed, spread"] = " ".join(key[::-1])
    return found


def leaks(text: str, key: str) -> bool:
    """Whether a piece of twelve characters of any spelling is still there."""
    squeezed = "".join(c for c in text if c.isalnum())
    for spelled in (key, key[::-1], key.encode().hex(), *(s for n, s in spellings(key).items() if "base64" in n)):
        whole = "".join(c for c in spelled if c.isalnum())
        if any(whole[i : i + 24] in squeezed for i in range(8, len(whole) - 32)):
            return True
    return False


@pytest.mark.parametrize("name", spellings(KEY))
def test_every_usual_spelling_is_removed(name: str) -> None:
    spelled = spellings(KEY)[name]
    clean = SCRUBBER.scrub(f"here: {spelled} :there")
    assert REMOVED in clean
    assert clean.startswith("here: ")
    assert clean.endswith(" :there")
    assert not leaks(clean, KEY)
    assert len(clean) < 60


@pytest.mark.parametrize("name", spellings(KEY))
def test_another_key_is_left_alone(name: str) -> None:
    spelled = spellings(OTHER)[name]
    assert SCRUBBER.scrub(spelled) == spelled


@settings(max_examples=60, deadline=None)
@given(keys, texts, texts, st.randoms(use_true_random=False))
def test_any_key_in_any_spelling_in_any_text(key: str, before: str, after: str, choice: random.Random) -> None:
    scrubber = Scrubber({"auth_token": key})
    name, spelled = choice.choice(sorted(spellings(key).items()))
    clean = scrubber.scrub(before + spelled + after)
    assert REMOVED in clean, name
    assert key not in clean
    assert scrubber.scrub(clean) == clean


@settings(deadline=None)
@given(st.from_regex(r"[!-~]{8,15}", fullmatch=True), texts)
def test_a_short_key_is_removed_in_its_contiguous_spellings(key: str, text: str) -> None:
    scrubber = Scrubber({"api_key": key})
    data = key.encode()
    for spelled in (key, key[::-1], data.hex(), data.hex().upper(), quote(key, safe=""), json.dumps(key)):
        assert key not in scrubber.scrub(text + spelled + text)
        assert spelled not in scrubber.scrub(text + spelled + text)


@pytest.mark.parametrize("key", ["", "none", "ollama", "dummy", "1234567"])
def test_a_placeholder_is_no_secret(key: str) -> None:
    text = f"none of this ollama is a dummy {key}"
    assert Scrubber({"api_key": key}).scrub(text) == text


@settings(deadline=None)
@given(st.text())
def test_text_without_the_key_is_the_very_same(text: str) -> None:
    assert SCRUBBER.scrub(text) is text


@settings(deadline=None)
@given(st.binary())
def test_bytes_without_the_key_are_the_very_same(data: bytes) -> None:
    assert SCRUBBER.scrub_bytes(data) is data
    assert KEY.encode() not in SCRUBBER.scrub_bytes(data + KEY.encode() + data)


def test_prose_code_and_its_own_marker_are_left_alone() -> None:
    text = (
        f"The key begins with sk-ant-api03- and {REMOVED} was here. import base64; print(secret[:13])\n"
        "s k - a n t\nsk-ant-api03-XXXXXXXXXXXXXXXXXXXXXXXX 736b2d616e742d6170693033 c2stYW50LWFwaTAzLQ==\n"
    )
    assert SCRUBBER.scrub(text) == text


def test_a_key_within_a_key_leaves_nothing() -> None:
    inner = KEY[:30] + KEY + KEY[30:]
    assert KEY not in SCRUBBER.scrub(inner)
    assert SCRUBBER.scrub(KEY + KEY) == REMOVED + REMOVED
    both = Scrubber({"api_key": KEY, "auth_token": KEY[20:]})
    assert both.scrub(f"a {KEY} b {KEY[20:]} c") == f"a {REMOVED} b {REMOVED} c"


def test_no_secret_no_change() -> None:
    assert Scrubber({}).scrub(KEY) is KEY


# --- JSON --------------------------------------------------------------------------------------------


def test_strings_and_keys_of_a_json_value_are_scrubbed_in_a_copy() -> None:
    value = {"a": [KEY, 1, None, True, 2.5, {"b": f"x {KEY}"}], KEY: "k"}
    before = json.dumps(value)
    clean = SCRUBBER.scrub_json(value)
    assert clean == {"a": [REMOVED, 1, None, True, 2.5, {"b": f"x {REMOVED}"}], REMOVED: "k"}
    assert json.dumps(value) == before


def test_a_value_nested_deeper_than_the_stack_is_scrubbed() -> None:
    value: Any = KEY
    for _ in range(100_000):
        value = [value]
    clean = SCRUBBER.scrub_json(value)
    while isinstance(clean, list):
        (clean,) = clean
    assert clean == REMOVED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(json_values)
def test_a_json_value_without_the_key_is_equal(value: Any) -> None:
    assert SCRUBBER.scrub_json(value) == value


# --- pieces ------------------------------------------------------------------------------------------


def streamed(pieces: list[str], scrubber: Scrubber = SCRUBBER) -> list[str]:
    stream = StreamScrubber(scrubber)
    return [*map(stream.feed, pieces), stream.flush()]


@pytest.mark.parametrize("size", [1, 2, 7, 50])
@pytest.mark.parametrize("name", ["plain", "reversed", "hex", "base64 1 1", "spread with ' '", "hex as C"])
def test_a_key_in_pieces_does_not_come_through(name: str, size: int) -> None:
    text = f"before {spellings(KEY)[name]} after"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert "".join(streamed(pieces)) == SCRUBBER.scrub(text)


@settings(max_examples=60, deadline=None)
@given(keys, texts, texts, st.lists(st.integers(1, 40), min_size=1), st.randoms(use_true_random=False))
def test_pieces_are_scrubbed_as_the_whole_is(
    key: str, before: str, after: str, sizes: list[int], choice: random.Random
) -> None:
    scrubber = Scrubber({"api_key": key})
    text = before + choice.choice(sorted(spellings(key).values())) + after
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    out = streamed(pieces, scrubber)
    assert REMOVED in "".join(out)
    assert key not in "".join(out)


@settings(deadline=None)
@given(st.lists(st.text()))
def test_nothing_is_lost_or_held_for_long(pieces: list[str]) -> None:
    assert "".join(streamed(pieces)) == "".join(pieces)


def test_ordinary_words_come_at_once() -> None:
    stream = StreamScrubber(SCRUBBER)
    assert stream.feed("The quick brown fox, ") == "The quick brown fox, "
    assert stream.feed("is it you? sk-") == "is it you? "
    assert stream.feed("learn!") == "sk-learn!"


def test_what_is_held_back_has_an_end() -> None:
    stream = StreamScrubber(SCRUBBER)
    assert stream.feed("x s") == "x "
    came = "".join(stream.feed(" " * 1000) for _ in range(100))
    assert len(came) > 100_000 - 2 * MAX_HELD


# --- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "word and words " * 280_000,
        KEY[:-1] * 38_000,
        "s" * 4_000_000,
        KEY.encode().hex()[:-1] * 19_000,
        "s k - " * 660_000,
    ],
    ids=["prose", "almost the key", "its first letter", "almost its hex", "spread"],
)
def test_four_megabytes_take_little(text: str) -> None:
    started = time.process_time()
    assert SCRUBBER.scrub(text) == text
    SCRUBBER.begins_at(text)
    assert time.process_time() - started < 1.0


def test_making_one_takes_little() -> None:
    started = time.process_time()
    for _ in range(20):
        Scrubber({"api_key": KEY})
    assert time.process_time() - started < 0.5
