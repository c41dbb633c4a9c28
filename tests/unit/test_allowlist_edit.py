"""Changing the allowlist: what was asked for holds afterwards, and what else the file holds is still there."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.allowlist import Allowlist, Protected, Verdict, edit, judge
from host.errors import UserError

NOTED = {
    "_comment": "mine, do not touch",
    "allowedRoots": [{"path": "SRV", "allowReadWrite": False, "description": "all of it", "since": 2024}],
    "blockedPatterns": ["token"],
    "nonMainReadOnly": False,
}


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    for path in ("srv/music/live", "srv/code", "srv/tokens", "srv/[odd]", "config"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path.resolve() / "srv"


@pytest.fixture
def file(srv: Path) -> Path:
    return srv.parent / "config/mount-allowlist.json"


def noted(file: Path, srv: Path) -> None:
    file.write_text(json.dumps(NOTED).replace("SRV", str(srv)))
    file.chmod(0o600)


def document(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def judged(file: Path, path: Path, rw: bool = True) -> Verdict:
    return judge(Allowlist.load(file), str(path), rw=rw, is_main=True, name="x", protected=Protected())


def test_the_first_allow_makes_the_file(file: Path, srv: Path) -> None:
    change = edit.allow(file, str(srv / "music"), rw=False)
    assert document(file) == {
        "allowedRoots": [{"path": str(srv / "music"), "allowReadWrite": False}],
        "blockedPatterns": [],
        "nonMainReadOnly": True,
    }
    assert change.done == (f"{srv / 'music'}, and all that lies in it, can now be mounted read-only",)
    assert change.allowlist == Allowlist.load(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert judged(file, srv / "music/live").readonly
    assert not judged(file, srv / "code").allowed


def test_the_rest_of_the_file_stays(file: Path, srv: Path) -> None:
    noted(file, srv)
    edit.allow(file, str(srv / "code"), rw=True)
    edit.deny(file, str(srv / "music"))
    edit.allow(file, str(srv), rw=True)
    after = document(file)
    assert list(after) == list(NOTED)
    assert after["_comment"] == NOTED["_comment"]
    assert after["nonMainReadOnly"] is False
    assert after["blockedPatterns"] == ["token", str(srv / "music")]
    whole = {"path": str(srv), "allowReadWrite": True, "description": "all of it", "since": 2024}
    assert after["allowedRoots"] == [{"path": str(srv / "code"), "allowReadWrite": True}, whole]


def test_a_folder_in_an_allowed_one_gets_an_entry_in_front_of_it(file: Path, srv: Path) -> None:
    noted(file, srv)
    assert judged(file, srv / "code").readonly
    edit.allow(file, str(srv / "code"), rw=True)
    assert not judged(file, srv / "code").readonly
    assert judged(file, srv / "music").readonly
    before = file.read_text()
    assert edit.allow(file, str(srv / "music"), rw=False).done == (), "the entry for all of it permits that already"
    assert file.read_text() == before


def test_allowing_again_changes_the_access(file: Path, srv: Path) -> None:
    edit.allow(file, str(srv), rw=False)
    assert edit.allow(file, f"{srv}/", rw=True).done == (f"{srv}/ was on the list, and is now to read and to write",)
    assert edit.allow(file, str(srv), rw=True).done == ()
    edit.allow(file, str(srv), rw=False)
    assert judged(file, srv / "code").readonly
    assert len(document(file)["allowedRoots"]) == 1


def test_deny_takes_the_entry_away(file: Path, srv: Path) -> None:
    edit.allow(file, str(srv / "music"), rw=False)
    assert edit.deny(file, str(srv / "music")).done == (f"took {srv / 'music'} off allowedRoots",)
    assert document(file)["allowedRoots"] == []
    assert document(file)["blockedPatterns"] == []
    assert edit.deny(file, str(srv / "music")).done == ()
    assert edit.deny(file, "/nowhere").done == ()


def test_deny_closes_a_folder_in_one_that_stays_allowed(file: Path, srv: Path) -> None:
    edit.allow(file, str(srv), rw=False)
    edit.allow(file, str(srv / "music"), rw=True)
    edit.allow(file, str(srv / "music/live"), rw=False)
    done = edit.deny(file, str(srv / "music")).done
    assert done[0] == f"took {srv / 'music'} off allowedRoots"
    assert f"lies in {srv}, which stays allowed" in done[1]
    assert not judged(file, srv / "music").allowed
    assert not judged(file, srv / "music/live").allowed
    assert judged(file, srv / "code").allowed
    edit.allow(file, str(srv / "music"), rw=True)
    assert not judged(file, srv / "music").readonly
    assert document(file)["blockedPatterns"] == []


def test_deny_says_what_stays_allowed_within(file: Path, srv: Path) -> None:
    edit.allow(file, str(srv), rw=False)
    edit.allow(file, str(srv / "code"), rw=True)
    assert str(srv / "code") in edit.deny(file, str(srv)).done[-1]
    assert judged(file, srv / "code").allowed


def test_odd_names_are_denied_as_they_are(file: Path, srv: Path) -> None:
    edit.allow(file, str(srv), rw=False)
    edit.deny(file, str(srv / "[odd]"))
    assert not judged(file, srv / "[odd]").allowed
    (srv / "o").mkdir()
    assert judged(file, srv / "o").allowed, "it is no pattern for others"
    edit.allow(file, str(srv / "[odd]"), rw=False)
    assert judged(file, srv / "[odd]").allowed


def test_a_name_that_others_begin_with_is_denied_alone(file: Path, srv: Path) -> None:
    (srv / "music-2").mkdir()
    edit.allow(file, str(srv), rw=False)
    edit.deny(file, str(srv / "music"))
    assert not judged(file, srv / "music").allowed
    assert not judged(file, srv / "music/live").allowed
    assert judged(file, srv / "music-2").allowed
    edit.allow(file, str(srv / "music"), rw=False)
    assert judged(file, srv / "music").allowed


def test_an_entry_that_is_a_link_or_is_gone_can_be_denied(file: Path, srv: Path) -> None:
    (srv / "link").symlink_to("music")
    edit.allow(file, str(srv / "link"), rw=False)
    assert document(file)["allowedRoots"][0]["path"] == str(srv / "link")
    edit.deny(file, str(srv / "music"))
    assert document(file)["allowedRoots"] == []
    edit.allow(file, str(srv / "code"), rw=False)
    (srv / "code").rmdir()
    assert edit.deny(file, str(srv / "code")).done


def test_what_a_pattern_closes_is_not_allowed_in_vain(file: Path, srv: Path) -> None:
    noted(file, srv)
    before = file.read_text()
    with pytest.raises(UserError, match="'token'"):
        edit.allow(file, str(srv / "tokens"), rw=True)
    with pytest.raises(UserError, match="never mounted"):
        edit.allow(file, str(srv / ".ssh"), rw=True)
    assert file.read_text() == before


@pytest.mark.parametrize("text", ["", "{", '{"allowedRoots": []}', '{"allowedRoots": 1}', "[]"])
def test_a_file_that_is_not_understood_is_not_rewritten(file: Path, srv: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    for change in (lambda: edit.allow(file, str(srv), rw=False), lambda: edit.deny(file, str(srv))):
        with pytest.raises(UserError, match=str(file)) as caught:
            change()
        assert caught.value.hints
    assert file.read_text() == text


def test_a_link_in_its_place_is_not_followed(file: Path, srv: Path) -> None:
    noted(srv / "elsewhere.json", srv)
    file.symlink_to(srv / "elsewhere.json")
    with pytest.raises(UserError, match="symbolic link"):
        edit.allow(file, str(srv), rw=True)
    assert file.is_symlink()


def test_a_change_that_cannot_be_written_leaves_all_as_it_was(file: Path, srv: Path) -> None:
    noted(file, srv)
    before = file.read_text()
    with pytest.raises(UserError, match="characters"):
        edit.allow(file, "/" + "x" * 5000, rw=True)
    assert file.read_text() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_two_at_once_lose_nothing(file: Path, srv: Path) -> None:
    def many(mark: str) -> None:
        for i in range(20):
            (srv / f"{mark}{i}").mkdir()
            edit.allow(file, str(srv / f"{mark}{i}"), rw=False)

    both = [threading.Thread(target=many, args=(mark,)) for mark in "ab"]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(document(file)["allowedRoots"]) == 40


STEPS = st.lists(
    st.tuples(st.sampled_from(["allow", "allow --rw", "deny"]), st.sampled_from(["", "/a", "/a/b", "/c", "/a b"])),
    max_size=8,
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_what_was_asked_last_holds(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    place = tmp_path_factory.mktemp("edit").resolve()
    for path in ("srv/a/b", "srv/c", "srv/a b"):
        (place / path).mkdir(parents=True)
    file = place / "mount-allowlist.json"
    for what, path in steps:
        folder = Path(f"{place}/srv{path}")
        if what == "deny":
            edit.deny(file, str(folder))
            assert not judged(file, folder).allowed
            continue
        try:
            edit.allow(file, str(folder), rw=what == "allow --rw")
        except UserError as e:  # a folder that it lies in, or that is called like its beginning, was denied
            assert "blockedPatterns" in str(e)
        else:
            verdict = judged(file, folder)
            assert verdict.allowed
            assert verdict.readonly is (what == "allow")
