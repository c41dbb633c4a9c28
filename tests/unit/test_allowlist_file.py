"""`mount-allowlist.json`: NanoClaw's own files are understood, and each damaged one is refused for one reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.allowlist import Allowlist, Protected, Root, judge
from host.allowlist.file import MAX_FILE, load_document, parse
from host.errors import UserError

# As NanoClaw's documentation shows it, and as its set-up writes it where nobody wants any.
EXAMPLE = """\
{
  "allowedRoots": [
    {
      "path": "~/projects",
      "allowReadWrite": true,
      "description": "Development projects"
    },
    {
      "path": "~/repos",
      "allowReadWrite": true,
      "description": "Git repositories"
    },
    {
      "path": "~/Documents/work",
      "allowReadWrite": false,
      "description": "Work documents (read-only)"
    }
  ],
  "blockedPatterns": [
    "password",
    "secret",
    "token"
  ],
  "nonMainReadOnly": true
}
"""
NONE = '{"allowedRoots": [], "blockedPatterns": [], "nonMainReadOnly": true}'
GOOD: dict[str, Any] = {
    "allowedRoots": [{"path": "/srv", "allowReadWrite": True}], "blockedPatterns": [], "nonMainReadOnly": True,
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mount-allowlist.json"


def write(file: Path, text: str | bytes, mode: int = 0o600) -> Allowlist:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(mode)
    return Allowlist.load(file)


def changed(**changes: Any) -> str:
    return json.dumps(GOOD | changes)


def without(key: str) -> str:
    return json.dumps({k: v for k, v in GOOD.items() if k != key})


def root(**values: Any) -> str:
    return changed(allowedRoots=[{"path": "/one"}, values])


def test_files_that_were_written_for_nanoclaw(file: Path) -> None:
    found = write(file, EXAMPLE, 0o644)  # its own set-up leaves the file readable
    assert not found.error
    assert [(r.path, r.rw, r.description) for r in found.roots] == [
        ("~/projects", True, "Development projects"),
        ("~/repos", True, "Git repositories"),
        ("~/Documents/work", False, "Work documents (read-only)"),
    ]
    assert found.blocked == ("password", "secret", "token")
    assert found.others_read_only
    empty = write(file, NONE)
    assert (empty.error, empty.roots, empty.blocked) == ("", (), ())


def test_what_people_add_to_it_is_left_alone(file: Path) -> None:
    text = changed(_comment="mine", allowedRoots=[{"path": "~", "note": [1]}])
    assert write(file, text).roots == (Root("~"),)


MALFORMED = {
    "empty": ("", "is empty"),
    "blank": (" \n\t", "is empty"),
    "not JSON": ("allowedRoots = []", "is not valid JSON"),
    "cut off": (EXAMPLE[:200], "is not valid JSON"),
    "a comment": ("// mine\n" + NONE, "is not valid JSON"),
    "a comma too many": (NONE.replace("true", "true,"), "is not valid JSON"),
    "single quotes": (NONE.replace('"', "'"), "is not valid JSON"),
    "two objects": (NONE + NONE, "is not valid JSON"),
    "a list": ("[]", "is a list, not an object"),
    "text": ('"~/projects"', "is text, not an object"),
    "null": ("null", "is null, not an object"),
    "a number": ("7", "is a number, not an object"),
    "nested without end": ("[" * 100_000, "is nested too deeply"),
    "a number without end": (changed(x=0).replace(": 0", ": " + "9" * 5000), "is not valid JSON"),
    "no roots": (without("allowedRoots"), "has no allowedRoots"),
    "no patterns": (without("blockedPatterns"), "has no blockedPatterns"),
    "no rule for others": (without("nonMainReadOnly"), "has no nonMainReadOnly"),
    "nothing in it": ("{}", "has no allowedRoots"),
    "a key in other case": (changed(NonMainReadOnly=False), "'NonMainReadOnly': it is spelt nonMainReadOnly"),
    "only in other case": (without("blockedPatterns").replace("{", '{"blockedpatterns": [],', 1), "is spelt blockedP"),
    "a key twice": (NONE.replace("{", '{"nonMainReadOnly": false, ', 1), "has 'nonMainReadOnly' twice"),
    "roots are an object": (changed(allowedRoots={}), "allowedRoots that is an object, not a list"),
    "roots are null": (changed(allowedRoots=None), "allowedRoots that is null"),
    "roots are text": (changed(allowedRoots="~/projects"), "allowedRoots that is text"),
    "patterns are text": (changed(blockedPatterns="secret"), "blockedPatterns that is text"),
    "patterns are an object": (changed(blockedPatterns={"a": 1}), "blockedPatterns that is an object"),
    "others is text": (changed(nonMainReadOnly="true"), "nonMainReadOnly that is text"),
    "others is a number": (changed(nonMainReadOnly=1), "nonMainReadOnly that is a number"),
    "others is null": (changed(nonMainReadOnly=None), "nonMainReadOnly that is null"),
    "a root is text": (changed(allowedRoots=["~/projects"]), "allowedRoots[0] that is text"),
    "a root is null": (changed(allowedRoots=[None]), "allowedRoots[0] that is null"),
    "a root without a path": (root(allowReadWrite=True), "allowedRoots[1] without a path"),
    "a path is a number": (root(path=7), "allowedRoots[1].path that is a number"),
    "a path is a list": (root(path=["/srv"]), "allowedRoots[1].path that is a list"),
    "a path is empty": (root(path=""), "is empty"),
    "a path is relative": (root(path="projects"), "is not absolute"),
    "a path is a dot": (root(path="."), "is not absolute"),
    "a path of a home that is not there": (root(path="~nobody-of-that-name/x"), "names no home folder"),
    "a path with a NUL": (root(path="/srv\0/x"), "no path can"),
    "a path with half a character": (root(path="/srv/\ud800"), "no path can"),
    "a path that is too long": (root(path="/" + "x" * 5000), "is over 4096 characters"),
    "access is text": (root(path="/srv", allowReadWrite="yes"), "allowReadWrite that is text"),
    "access is a number": (root(path="/srv", allowReadWrite=1), "allowReadWrite that is a number"),
    "access in other case": (root(path="/srv", allowReadwrite=True), "is spelt allowReadWrite"),
    "a description is a list": (root(path="/srv", description=[]), "description that is not text"),
    "a pattern is a number": (changed(blockedPatterns=["a", 7]), "blockedPatterns[1] that is a number"),
    "a pattern is null": (changed(blockedPatterns=[None]), "blockedPatterns[0] that is null"),
    "a pattern is empty": (changed(blockedPatterns=["secret", ""]), "blockedPatterns[1] that is empty"),
    "a pattern is blank": (changed(blockedPatterns=[" "]), "blockedPatterns[0] that is empty"),
    "a pattern is too long": (changed(blockedPatterns=["x" * 5000]), "blockedPatterns[0] of over"),
    "too many roots": (changed(allowedRoots=[{"path": "/srv"}] * 201), "over 200 allowedRoots"),
    "too many patterns": (changed(blockedPatterns=["x"] * 501), "over 500 blockedPatterns"),
    "a byte order mark": ("\ufeff" + NONE, "byte order mark"),
    "too large": (NONE + " " * MAX_FILE, "is over 256 KiB"),
}


@pytest.mark.parametrize("text,reason", MALFORMED.values(), ids=list(MALFORMED))
def test_each_malformed_file_has_one_clear_reason_and_allows_nothing(
    file: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "x").mkdir()
    found = write(file, text)
    refused_for(found, reason, tmp_path / "x")


def refused_for(found: Allowlist, reason: str, folder: Path) -> None:
    assert reason in found.error
    assert found.error.startswith((str(found.file), "there is no allowlist"))
    assert found.error.isprintable()
    assert len(found.error) < 400
    assert (found.roots, found.blocked) == ((), ())
    verdict = judge(found, str(folder), rw=False, is_main=True, name=None, protected=Protected())
    assert (verdict.allowed, verdict.reason, verdict.fd) == (False, found.error, -1)


def test_bytes_that_are_no_text(file: Path, tmp_path: Path) -> None:
    refused_for(write(file, b'{"allowedRoots": [{"path": "/\xff"}]}'), "is not UTF-8 text (byte 29)", tmp_path)


def test_no_file(file: Path, tmp_path: Path) -> None:
    found = Allowlist.load(file)
    assert found.missing
    refused_for(found, "does not exist", tmp_path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o662])
def test_a_file_that_others_can_write(file: Path, tmp_path: Path, mode: int) -> None:
    refused_for(write(file, json.dumps(GOOD), mode), f"can be written by others (mode {mode:04o})", tmp_path)


def test_what_is_no_plain_file_of_ours(file: Path, tmp_path: Path) -> None:
    file.mkdir()
    refused_for(Allowlist.load(file), "is not a regular file", tmp_path)
    file.rmdir()
    os.mkfifo(file, 0o600)  # nobody writes to it: a careless reader would wait for ever
    refused_for(Allowlist.load(file), "is not a regular file", tmp_path)
    file.unlink()
    elsewhere = tmp_path / "elsewhere.json"
    assert not write(elsewhere, json.dumps(GOOD)).error
    file.symlink_to(elsewhere)
    refused_for(Allowlist.load(file), "is a symbolic link", tmp_path)
    file.unlink()
    os.link(elsewhere, file)
    refused_for(Allowlist.load(file), "has 2 names", tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else(file: Path, tmp_path: Path) -> None:
    write(file, json.dumps(GOOD))
    os.chown(file, 12345, 12345)
    refused_for(Allowlist.load(file), "belongs to user 12345", tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root can read everything")
def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    write(file, json.dumps(GOOD), 0o000)
    refused_for(Allowlist.load(file), "cannot be read", tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=16), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(["allowedRoots", "blockedPatterns", "nonMainReadOnly", "path", "allowReadWrite", "x"])


@given(st.text(max_size=200) | st.dictionaries(KEYS, JSON).map(json.dumps))
def test_any_text_is_an_allowlist_or_a_reason(text: str) -> None:
    try:
        found = parse(Path("/f"), text)
    except UserError as e:
        assert 0 < len(str(e)) < 1000
    else:
        assert load_document(text).keys() >= {"allowedRoots", "blockedPatterns", "nonMainReadOnly"}
        assert all(Root(r.path).expanded.startswith("/") for r in found.roots)
