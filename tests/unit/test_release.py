"""Signatures of releases: what is signed counts, and nothing else does; keys are made here."""

from __future__ import annotations

import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from host import release
from host.errors import UserError
from host.release import Statement
from tests.fakes.onefile import pack, packed, sign_release

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
PUBLIC, OTHER_PUBLIC = (bytes(key.verify_key).hex() for key in (KEY, OTHER))
STATEMENT = Statement("0.2.0", "x86_64", "ab" * 32, 43_215_872, "cd" * 32, release.key_id(PUBLIC))
SIGNED = release.written(STATEMENT, KEY.sign(STATEMENT.text()).signature)


def test_what_a_known_key_signed_is_believed() -> None:
    assert release.verified(SIGNED, [OTHER_PUBLIC, PUBLIC]) == STATEMENT
    assert len(SIGNED) < release.MAX_SIGNATURE_FILE


def test_a_key_that_is_not_known_is_named() -> None:
    with pytest.raises(UserError, match=release.key_id(PUBLIC)):
        release.verified(SIGNED, [OTHER_PUBLIC])
    with pytest.raises(UserError, match="does not know"):
        release.verified(SIGNED, [])


def test_another_key_under_a_known_keys_name_proves_nothing() -> None:
    forged = release.written(STATEMENT, OTHER.sign(STATEMENT.text()).signature)
    with pytest.raises(UserError, match="signature is wrong"):
        release.verified(forged, [PUBLIC])


@pytest.mark.parametrize("change", [{"version": "9.9.9"}, {"arch": "aarch64"}, {"build": "0" * 64}, {"size": 1}])
def test_every_line_is_signed(change: dict[str, str]) -> None:
    other = replace(STATEMENT, **change)
    with pytest.raises(UserError, match="signature is wrong"):
        release.verified(release.written(other, KEY.sign(STATEMENT.text()).signature), [PUBLIC])


def test_a_signature_for_another_purpose_serves_none_here() -> None:
    text = STATEMENT.text().partition(b"\n")[2]  # the same lines without what they are for
    with pytest.raises(UserError, match="signature is wrong"):
        release.verified(release.written(STATEMENT, KEY.sign(text).signature), [PUBLIC])


def test_each_flipped_bit_is_noticed() -> None:
    for at in range(len(SIGNED)):
        for bit in (1, 32):
            flipped = SIGNED[:at] + bytes([SIGNED[at] ^ bit]) + SIGNED[at + 1 :]
            with pytest.raises(UserError):
                release.verified(flipped, [PUBLIC])


@pytest.mark.parametrize(
    "damaged",
    [b"", SIGNED[:-1], SIGNED + b"\n", SIGNED * 2, SIGNED.upper(), b" " + SIGNED, SIGNED.replace(b"\n", b"\r\n"),
     SIGNED.replace(b"0.2.0", b"0.2.\xd9\xa0"), SIGNED.replace(b"signature 1", b"signature 2"),
     SIGNED.replace(b"size 4", b"size 04")],
)  # fmt: skip
def test_a_file_that_is_spelled_otherwise_is_none(damaged: bytes) -> None:
    with pytest.raises(UserError, match="damaged, or of another kind"):
        release.verified(damaged, [PUBLIC])


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_in_words(untrusted: bytes) -> None:
    with pytest.raises(UserError):
        release.verified(untrusted, [PUBLIC])


def test_versions_are_compared_as_numbers() -> None:
    rising = ["0.1.0", "0.2.0rc1", "0.2.0rc2", "0.2.0", "0.9.0", "0.10.0", "1.0.0"]
    assert sorted(rising, key=release.order) == rising
    for wrong in ("", "1.0", "1.0.0-1", "1.0.0\n", "v1.0.0", "1.0.0rc"):
        with pytest.raises(ValueError, match="is not a version"):
            release.order(wrong)


# --- the one file ---------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return packed(tmp_path, tmp_path, "0.2.0", "x86_64", "")


def about(path: Path) -> release.Program | None:
    with path.open("rb") as file:
        return release.program_in(file.fileno())


def test_a_built_file_says_what_it_is(built: Path) -> None:
    assert about(built) == release.Program("0.2.0", "x86_64", "ab" * 32)
    assert release.MAGIC == pack.MAGIC
    assert release.FORMAT == pack.FORMAT


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"NANOCLAW", bytes(4096)])
def test_another_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    assert about(tmp_path / "other") is None


def test_a_damaged_end_is_refused_wherever_it_is_damaged(built: Path) -> None:
    whole = built.read_bytes()
    for at in range(8, 64):  # what the trailer says of the index
        if 12 <= at < 16:
            continue  # always zero, and not looked at
        built.write_bytes(whole[: at - 128] + bytes([whole[at - 128] ^ 1]) + whole[len(whole) + at - 127 :])
        with pytest.raises(UserError):
            about(built)


def test_a_format_of_the_future_is_named(built: Path) -> None:
    whole = built.read_bytes()
    built.write_bytes(whole[:-120] + b"\x02" + whole[-119:])
    with pytest.raises(UserError, match="format 2"):
        about(built)


# --- scripts/sign-release -------------------------------------------------------------------------------------


def test_a_key_is_made_closed_and_once_and_signs(tmp_path: Path, built: Path) -> None:
    key = tmp_path / "key"
    public = sign_release("--new-key", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sign_release("--public", key) == public
    with pytest.raises(subprocess.CalledProcessError):
        sign_release("--new-key", key)
    signature = Path(sign_release("--key", key, built))
    said = release.verified(signature.read_bytes(), [public])
    assert (said.version, said.arch, said.size) == ("0.2.0", "x86_64", built.stat().st_size)


def test_an_open_key_and_a_file_that_is_no_program_are_refused(tmp_path: Path, built: Path) -> None:
    key = tmp_path / "key"
    sign_release("--new-key", key)
    (tmp_path / "other").write_text("hello")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        sign_release("--key", key, tmp_path / "other")
    assert "not a built NanoClaw" in refused.value.stderr
    key.chmod(0o644)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        sign_release("--key", key, built)
    assert "other users" in refused.value.stderr
    assert not built.with_name(built.name + ".sig").exists()
