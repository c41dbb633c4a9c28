"""The first set-up: what it writes and leaves alone, whom it asks, and what it refuses."""

from __future__ import annotations

import http.server
import json
import os
import socket
import stat
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.config import Config, Home, prepare
from host.credentials import endpoint, read
from host.errors import UserError
from host.rehearsal.child import Rehearsal
from host.setup import env_text, files, key, server, toml_text, was_set_up

KEY = "sk-ant-setup-0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(*(tmp_path / kind for kind in ("config", "data", "cache")))
    prepare(made)
    return made


def names(home: Home) -> list[str]:
    return sorted(path.name for path in home.config.iterdir())


# --- config.toml ---------------------------------------------------------------------------------------------

COMMENTED = """\
# My assistant.
assistant = 'Andy'   # after grandfather  "Andy"

[model]   # the big one
max_tokens = 4096
name = "claude-sonnet-5-5"\t# dear

# --- people ---
[groups.family]
trigger = "Andy"
name = "Family"
"""


def test_a_value_is_exchanged_and_nothing_else() -> None:
    once = toml_text.changed(COMMENTED, "assistant", "Mia")
    assert once == COMMENTED.replace("'Andy'", '"Mia"')
    assert toml_text.changed(COMMENTED, "model.name", "qwen3") == COMMENTED.replace("claude-sonnet-5-5", "qwen3")


def test_what_holds_already_changes_nothing() -> None:
    assert toml_text.changed(COMMENTED, "assistant", "Andy") == COMMENTED


@pytest.mark.parametrize(
    ("old", "key", "new"),
    [
        ("", "assistant", 'assistant = "x"\n'),
        ("", "model.name", '[model]\nname = "x"\n'),
        ("# only a word", "engine", '# only a word\nengine = "x"\n'),
        ("[limits]\ncpus = 1\n", "engine", 'engine = "x"\n\n[limits]\ncpus = 1\n'),
        ("a = 1\n\n# of l\n[l]\n", "engine", 'a = 1\nengine = "x"\n\n# of l\n[l]\n'),
        ("[limits]\ncpus = 1", "model.name", '[limits]\ncpus = 1\n\n[model]\nname = "x"\n'),
        ("[model]\nmax_tokens = 300", "model.name", '[model]\nname = "x"\nmax_tokens = 300'),
        ("[ model ]", "model.name", '[ model ]\nname = "x"\n'),
        ("model.max_tokens = 300\n", "model.name", 'model.max_tokens = 300\nmodel.name = "x"\n'),
        ('model.name = "y" # z\n', "model.name", 'model.name = "x" # z\n'),
        ("[limits]\r\ncpus = 1\r\n", "engine", 'engine = "x"\r\n\r\n[limits]\r\ncpus = 1\r\n'),
        ("[model]\r\nmax_tokens = 300\r\n", "model.name", '[model]\r\nname = "x"\r\nmax_tokens = 300\r\n'),
        ('s = """\nassistant = "no"\n"""\nassistant = "y"\n', "assistant",
         's = """\nassistant = "no"\n"""\nassistant = "x"\n'),
        ('s = """\n[model]\n"""\n', "model.name", 's = """\n[model]\n"""\n\n[model]\nname = "x"\n'),
        ('[a]\nname = "y"\n[model]\nname = "z"\n', "model.name", '[a]\nname = "y"\n[model]\nname = "x"\n'),
    ],
)  # fmt: skip
def test_a_line_is_put_where_a_person_would(old: str, key: str, new: str) -> None:
    assert toml_text.changed(old, key, "x") == new


@pytest.mark.parametrize(
    ("text", "key", "typed"),
    [
        ('model = { name = "y" }\n', "model.name", 'name = "x"'),
        ('[model]\nname = """\ny"""\n', "model.name", 'name = "x"'),
        ('"assistant" = "y"\n', "assistant", 'assistant = "x"'),
        ("model = 3\n", "model.name", ""),
        ("assistant = \n", "assistant", ""),
    ],
)
def test_an_unusual_file_is_left_to_its_writer_with_the_line_to_type(text: str, key: str, typed: str) -> None:
    with pytest.raises(UserError) as refused:
        toml_text.changed(text, key, "x")
    assert typed in " ".join(refused.value.hints)


keys = st.sampled_from(["assistant", "engine", "timezone", "model.name"])
values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn"]), max_size=12)
pieces = st.lists(
    st.sampled_from(
        ["", "# note", 'assistant = "Andy"', "engine='auto' # one", "[model]", 'name = "y"', "max_tokens = 300",
         "[limits]", "[groups.a]", 'x = """', '"""', 'model.name = "z"', 'model = {name = "q"}', "[[t]]", "y = [", "]"]
    ),
    max_size=9,
)  # fmt: skip


@given(pieces, st.sampled_from(["\n", "\r\n"]), keys, values)
def test_of_any_file_only_that_setting_changes_or_nothing_does(
    lines: list[str], end: str, key: str, value: str
) -> None:
    old = end.join(lines)
    try:
        new = toml_text.changed(old, key, value)
    except UserError:
        return
    before, after = tomllib.loads(old), tomllib.loads(new)
    *section, name = key.split(".")
    inner = after[section[0]] if section else after
    assert inner.pop(name) == value
    outer = before.get(section[0], {}) if section else before
    outer.pop(name, None)
    assert {k: v for k, v in before.items() if v != {}} == {k: v for k, v in after.items() if v != {}}
    kept = [line for line in new.split("\n") if line in old.split("\n")]
    assert len(kept) >= len(old.split("\n")) - 2, "lines of the person's are still there, in their own bytes"


def test_the_result_is_judged_before_it_takes_the_place_of_the_old(home: Home) -> None:
    path = home.config / "config.toml"
    path.write_text(COMMENTED)
    with pytest.raises(UserError, match="assistant"):
        files.set_config(home, {"assistant": "@@"})
    with pytest.raises(UserError, match="timezone"):
        files.set_config(home, {"timezone": "Europe/Nowhere"})
    assert path.read_text() == COMMENTED
    assert files.set_config(home, {"assistant": "Mia", "engine": "docker"}).assistant == "Mia"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(home) == ["config.toml"]


def test_a_file_that_is_a_link_stays_one(home: Home, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("# mine\n")
    (home.config / "config.toml").symlink_to(kept)
    files.set_config(home, {"assistant": "Mia"})
    assert (home.config / "config.toml").is_symlink()
    assert kept.read_text() == '# mine\nassistant = "Mia"\n'


def test_what_cannot_be_written_is_as_it_was_and_told_with_the_line_to_type(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    (home.config / "config.toml").write_text(COMMENTED)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; it is as it was") as refused:
        files.set_config(home, {"model.name": "qwen3"})
    assert 'name = "qwen3"' in refused.value.hints[0]
    assert (home.config / "config.toml").read_text() == COMMENTED
    assert names(home) == ["config.toml"]


# --- .env -------------------------------------------------------------------------------------------------------

ENV = "# mine\nexport ANTHROPIC_API_KEY = 'old-old-old'   # work\nOTHER=1\n\nANTHROPIC_BASE_URL=http://a\n"


def test_our_lines_of_env_change_and_no_other() -> None:
    new = env_text.changed(ENV, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": ""})
    assert new == f"# mine\nexport ANTHROPIC_API_KEY = {KEY}   # work\nOTHER=1\n\n"
    assert env_text.changed("A=1", {"ANTHROPIC_API_KEY": KEY}) == f"A=1\nANTHROPIC_API_KEY={KEY}\n"
    assert env_text.changed("", {"ANTHROPIC_API_KEY": KEY}) == f"ANTHROPIC_API_KEY={KEY}\n"
    assert env_text.changed("A=1\r\n", {"ANTHROPIC_API_KEY": KEY}) == f"A=1\r\nANTHROPIC_API_KEY={KEY}\r\n"


def test_an_earlier_line_that_no_longer_counts_goes_too() -> None:
    twice = "ANTHROPIC_API_KEY=first-key\nB=2\nANTHROPIC_API_KEY=second-key\n"
    assert env_text.changed(twice, {"ANTHROPIC_API_KEY": KEY}) == f"B=2\nANTHROPIC_API_KEY={KEY}\n"
    assert env_text.changed(twice, {"ANTHROPIC_API_KEY": ""}) == "B=2\n"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=30), st.booleans())
def test_any_key_is_read_back_as_it_was_given(secret: str, there: bool) -> None:
    old = 'export ANTHROPIC_API_KEY = "o\\"ld"  # "x"\n' if there else ""
    new = env_text.changed(old, {"ANTHROPIC_API_KEY": secret})
    assert env_text._values(new) == {"ANTHROPIC_API_KEY": secret}
    assert new.endswith('# "x"\n') or not there


def test_both_settings_are_written_together_or_not_at_all(home: Home) -> None:
    files.set_env(home, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"})
    path = home.config / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read(path)
    assert (found.secrets, found.base_url) == ({"api_key": KEY}, "http://127.0.0.1:1")
    path.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        files.set_env(home, {"ANTHROPIC_API_KEY": ""})
    assert KEY in path.read_text()


# --- the key ----------------------------------------------------------------------------------------------------


def test_a_key_is_read_from_a_file_as_people_have_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for text in (KEY, f"{KEY}\n", f"  {KEY}\r\n", f"ANTHROPIC_API_KEY={KEY}", f"export ANTHROPIC_API_KEY='{KEY}'\n"):
        path.write_text(text)
        assert key.from_file(str(path)) == ("ANTHROPIC_API_KEY", KEY)
    path.write_text(f"ANTHROPIC_AUTH_TOKEN={KEY}")
    assert key.from_file(str(path)) == ("ANTHROPIC_AUTH_TOKEN", KEY)


@pytest.mark.parametrize(
    "text", ["", "\n", "two words-and-more", f"{KEY}\n{KEY}", "schlüssel-lang", "short", "x" * 5000]
)
def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        key.from_file(str(path))
    said = " ".join([str(refused.value), *refused.value.hints])
    assert refused.value.status == 2
    assert not text.strip() or text.strip() not in said
    with pytest.raises(UserError):
        key.from_file(str(tmp_path))


def test_a_key_of_another_form_is_doubted_for_anthropics_endpoint_only() -> None:
    assert key.doubt(KEY, anthropics=True) == ""
    assert "sk-ant-" in key.doubt("sk-proj-0123456789", anthropics=True)
    assert key.doubt("sk-proj-0123456789", anthropics=False) == ""


# --- a server of one's own ----------------------------------------------------------------------------------------


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers POST and GET as the test says; notes what it was sent."""

    post: tuple[int, bytes] = (400, b'{"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}')
    get: tuple[int, bytes] = (404, b"")
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def _answer(self, answer: tuple[int, bytes]) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(answer[0])
        self.send_header("content-length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def do_POST(self) -> None:
        self._answer(self.post)

    def do_GET(self) -> None:
        self._answer(self.get)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def scripted() -> Iterator[tuple[type[Scripted], str]]:
    handler = type("Each", (Scripted,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield handler, f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_a_server_that_speaks_the_api_is_known_by_its_error_and_asked_without_a_key(
    scripted: tuple[type[Scripted], str],
) -> None:
    handler, url = scripted
    handler.get = (200, json.dumps({"data": [{"id": "qwen3"}, {"id": "qwen3"}, {"id": 3}, {"id": "a\nb"}, 7]}).encode())
    assert server.ask(endpoint(url + "/prefix"), None) == server.Answer(models=("qwen3",))
    assert [(verb, path, body) for verb, path, _, body in handler.seen] == [
        ("POST", "/prefix/v1/messages", b"{}"),
        ("GET", "/prefix/v1/models", b""),
    ]
    assert not any({"x-api-key", "authorization"} & headers.keys() for _, _, headers, _ in handler.seen)


@pytest.mark.parametrize(
    ("status", "body", "speaks", "wants_key"),
    [
        (404, b'{"type": "error", "error": {"type": "not_found_error", "message": "model"}}', True, False),
        (401, b"who are you?", True, True),
        (422, b'{"detail": []}', True, False),
        (404, b"404 page not found", False, False),
        (405, b"", False, False),
        (200, b"<html>a printer</html>", False, False),
        (500, b"[" * 100_000, False, False),
    ],
)
def test_what_answers_in_another_way_is_no_such_server(
    scripted: tuple[type[Scripted], str], status: int, body: bytes, speaks: bool, wants_key: bool
) -> None:
    handler, url = scripted
    handler.post = (status, body)
    found = server.ask(endpoint(url), None)
    assert (found.fault == "", found.wants_key) == (speaks, wants_key)
    assert speaks or f"HTTP {status}" in found.fault


def test_the_rehearsal_is_such_a_server() -> None:
    rehearsal = Rehearsal()
    try:
        assert server.ask(rehearsal.start(), None) == server.Answer()
    finally:
        rehearsal.stop()


def test_nobody_there_no_name_and_no_end_are_each_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(server, "SECONDS", 0.2)
        assert "did not answer in time" in server.ask(endpoint(f"http://127.0.0.1:{port}"), None).fault
    assert "nobody answers" in server.ask(endpoint(f"http://127.0.0.1:{port}"), None).fault

    def unknown(*args: Any, **more: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "cannot be looked up" in server.ask(endpoint("http://where.invalid"), None).fault


# --- what was set up ----------------------------------------------------------------------------------------------


def test_a_home_is_set_up_once_anything_was_chosen_or_said_in_it(home: Home) -> None:
    assert not was_set_up(home)
    for path in (home.config / "config.toml", home.config / ".env", home.data / "nanoclaw.db"):
        path.symlink_to("nowhere")
        assert was_set_up(home)
        path.unlink()


def test_defaults_are_not_written(home: Home) -> None:
    assert Config().assistant == "Andy"
    files.set_config(home, {})
    assert names(home) == []
