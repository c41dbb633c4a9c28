"""Who is named in a text: by people, and by the agent. A name is whatever somebody chose; an id is who they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.intake import calls
from host.model import Mention
from host.naming import MAX_MENTIONS, name_people, people_named, signed
from whatsapp.markdown import to_whatsapp

ANN, LEE, BOB = "4915@s.whatsapp.net", "4916@s.whatsapp.net", "9917@lid"
PEOPLE = {ANN: "Ann", LEE: "Ann Lee", BOB: "Bob 🎸"}


@pytest.mark.parametrize(
    ("text", "expected", "ids"),
    [
        ("@Ann, it is five", f"@{ANN}, it is five", [ANN]),
        ("ask @ann lee.", f"ask @{LEE}.", [LEE]),
        ("@Bob 🎸 plays", f"@{BOB} plays", [BOB]),
        ("@4915 and @9917@lid", f"@{ANN} and @{BOB}", [ANN, BOB]),
        (f"@{ANN}", f"@{ANN}", [ANN]),
        ("@Ann @Ann", f"@{ANN} @{ANN}", [ANN]),
        ("@Anna", "@Anna", []),
        ("@49150", "@49150", []),
        ("@4915@example.org", "@4915@example.org", []),
        ("mail to joe@Ann", "mail to joe@Ann", []),
        ("`@Ann` and\n```\n@Ann\n```\nbut @Ann", f"`@Ann` and\n```\n@Ann\n```\nbut @{ANN}", [ANN]),
        ("nobody", "nobody", []),
    ],
)
def test_the_agent_names_people_by_name_or_by_id(text: str, expected: str, ids: list[str]) -> None:
    assert name_people(text, PEOPLE) == (expected, ids)


def test_a_name_that_two_bear_names_neither_and_the_id_names_the_one() -> None:
    people = {**PEOPLE, "66@lid": "ann"}
    assert name_people("@Ann!", people) == ("@Ann!", [])
    assert name_people(f"@{ANN}!", people) == (f"@{ANN}!", [ANN])


def test_who_calls_himself_by_another_s_id_does_not_become_him() -> None:
    assert name_people(f"@{ANN}", {ANN: "Ann", "66@lid": ANN})[1] == [ANN]
    assert name_people("@4915", {ANN: "Ann", "66@lid": "4915"})[1] == []


def test_only_so_many_phones_buzz() -> None:
    people = {f"{n}@lid": f"P{n}." for n in range(100, 150)}
    text, ids = name_people(" ".join(f"@{n}" for n in range(100, 150)), people)
    assert len(ids) == MAX_MENTIONS
    assert "@149" in text
    assert "@149@lid" not in text


@given(st.text(max_size=60), st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=5))
def test_any_text_and_any_names_are_taken(text: str, people: dict[str, str]) -> None:
    named, ids = name_people(text, people)
    assert set(ids) <= set(people)
    assert all(f"@{one}" in named for one in ids)
    assert ids or named == text


def test_whom_people_name_stands_beside_the_text() -> None:
    named = [(ANN, "9915@lid", ANN), (BOB, BOB, ""), ("8@x", "8@x", "")]
    assert people_named("@9915 and @9917 hi", named, {ANN: "Ann"}) == [
        Mention(ANN, "Ann", "@9915"),
        Mention(BOB, "", "@9917"),
        Mention("8@x", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is **five**.", "*Andy:* It is *five*."),
        ("- milk\n- bread", "*Andy:*\n- milk\n- bread"),
        ("1. milk", "*Andy:*\n1. milk"),
        ("```\nx\n```", "*Andy:*\n```\nx\n```"),
        ("**No.**", "*Andy:* *No.*"),
        ("", "*Andy*"),
    ],
)
def test_what_the_assistant_writes_with_a_persons_account_bears_its_name(text: str, expected: str) -> None:
    made = to_whatsapp(signed(text, "Andy"))
    assert made == expected
    assert not calls(made, "Andy")
