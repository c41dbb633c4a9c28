"""Folders of groups: what may be one, and what would be taken for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.names import refusal, skeleton


@pytest.mark.parametrize("folder", ["main", "family-chat", "Team_42", "a", "9lives", "x" * 64])
def test_these_may_be_folders(folder: str) -> None:
    assert refusal(folder, ["other"]) is None


@pytest.mark.parametrize(
    "folder",
    ["", "../../etc", "/tmp", "a/b", ".hidden", "-dash", "_x", "a b", "a.b", "x" * 65, "fämily", "a\n", "a\0",
     "f\N{CYRILLIC SMALL LETTER A}mily"],
)  # fmt: skip
def test_these_may_not(folder: str) -> None:
    assert "cannot be a group's folder" in str(refusal(folder, []))


@pytest.mark.parametrize("folder", ["global", "GLOBAL", "inbox", "Project", "extra", "trash"])
def test_reserved_names_are_refused_in_any_case(folder: str) -> None:
    assert "uses itself" in str(refusal(folder, []))


def test_upper_and_lower_case_make_no_difference() -> None:
    assert "already" in str(refusal("FAMILY", ["family"]))


@pytest.mark.parametrize(
    ("one", "other"),
    [("fami1y", "family"), ("ho0k", "hook"), ("0ffice", "Office"), ("my-team", "my_team"), ("Iris", "lris"),
     ("rnain", "main"), ("vvork", "work"), ("clad", "dad"), ("FAM1LY", "family")],
)  # fmt: skip
def test_look_alikes_are_refused(one: str, other: str) -> None:
    assert "looks like" in str(refusal(one, ["x", other]))
    assert "looks like" in str(refusal(other, [one]))


def test_names_that_differ_plainly_are_not_alike() -> None:
    assert refusal("family2", ["family", "familia", "work"]) is None


@given(st.text("abclmnrovwi10-_", min_size=1, max_size=12))
def test_what_a_name_looks_like_does_not_depend_on_case(name: str) -> None:
    assert skeleton(name) == skeleton(name.upper())
