"""`.env`, the endpoint, and keys that came with the environment. The scrubber has a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from host.credentials import Credentials, endpoint, environment, read, take_from_environment
from host.credentials.dotenv import parse_line
from host.errors import UserError
from host.model import Endpoint

KEY = "sk-ant-api03-" + "aB3dE6gH9" * 10
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def write(env: Path, text: str | bytes) -> Path:
    env.touch(mode=0o600)
    env.write_bytes(text.encode() if isinstance(text, str) else text)
    return env


# --- reading -----------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_says_nothing(env: Path) -> None:
    assert read(env) == Credentials({}, None)


@pytest.mark.parametrize(
    ("text", "secrets", "base_url"),
    [
        (f"ANTHROPIC_API_KEY={KEY}", {"api_key": KEY}, None),
        (f"ANTHROPIC_AUTH_TOKEN={KEY}\n", {"auth_token": KEY}, None),
        (f"export ANTHROPIC_API_KEY='{KEY}'  # mine\n", {"api_key": KEY}, None),
        (f'\ufeff# a comment\r\n\r\n  ANTHROPIC_API_KEY = "{KEY}"\r\n', {"api_key": KEY}, None),
        ("ANTHROPIC_BASE_URL=http://127.0.0.1:8080/v1#x # y", {}, "http://127.0.0.1:8080/v1#x"),
        ("ANTHROPIC_API_KEY=a#b=c\\d", {"api_key": "a#b=c\\d"}, None),
        ('ANTHROPIC_API_KEY="a\\"b\\\\c"', {"api_key": 'a"b\\c'}, None),
        ("ANTHROPIC_API_KEY=first\nANTHROPIC_API_KEY=second", {"api_key": "second"}, None),
        ("ANTHROPIC_API_KEY=\nANTHROPIC_AUTH_TOKEN=ollama\nANTHROPIC_BASE_URL=''", {"auth_token": "ollama"}, None),
        ("ANTHROPIC_API_KEY= # not yet", {}, None),
        ("OTHER=x y z\nANTHROPIC_MODEL=$(something)", {}, None),
        ("", {}, None),
    ],
)
def test_what_it_says(env: Path, text: str, secrets: dict[str, str], base_url: str | None) -> None:
    assert read(write(env, text)) == Credentials(secrets, base_url)


def test_the_key_does_not_show_where_the_value_is_printed() -> None:
    assert KEY not in repr(Credentials({"api_key": KEY}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"A=1\n{KEY}\n", "line 2 is not NAME=value"),
        (f"A=1\n\nANTHROPIC_API_KEY='{KEY}", "line 3 has a quote that is not closed"),
        (f'ANTHROPIC_API_KEY="{KEY}', "line 1 has a quote that is not closed"),
        (f"ANTHROPIC_API_KEY='{KEY}' {KEY}", "line 1 has a quote that is not closed"),
        (f"ANTHROPIC_API_KEY={KEY}\0", "line 1 holds a control character"),
        (f"ANTHROPIC_API_KEY={KEY} {KEY}", "ANTHROPIC_API_KEY holds a blank"),
        (f"ANTHROPIC_API_KEY={KEY}…", "ANTHROPIC_API_KEY holds a blank, or a character that no key has"),
        (f"A=\nB=\n{KEY}=\xff".encode("latin-1"), "line 3 is not UTF-8 text"),
        (
            f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_AUTH_TOKEN={KEY}",
            "sets both ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN",
        ),
        ("#" * 70_000, "is over 64 KiB"),
    ],
)
def test_a_bad_file_is_named_by_line_and_never_quoted(env: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(write(env, text))
    told = " ".join([str(caught.value), *caught.value.hints])
    assert says in told
    assert str(env) in told
    assert "api03" not in told
    assert caught.value.__cause__ is None  # a cause would be printed with the line in it


@settings(deadline=None)
@given(st.text())
@example("A=" + " " * 60_000 + "b")
def test_any_line_is_parsed_refused_or_blank(line: str) -> None:
    pair = parse_line(line)
    if isinstance(pair, str):
        assert len(line) < 4 or line not in pair


@settings(deadline=None)
@given(st.from_regex(r"[!-~]{1,60}", fullmatch=True))
def test_any_key_survives_quotes(key: str) -> None:
    if "'" not in key:
        assert parse_line(f"K='{key}'") == ("K", key)
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_line(f'K="{escaped}"') == ("K", key)


# --- who may read it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610, 0o601])
def test_a_file_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    env = write(tmp_path / "with space.env", f"ANTHROPIC_API_KEY={KEY}")
    env.chmod(mode)
    with pytest.raises(UserError) as caught:
        read(env)
    assert caught.value.hints == (f"close it: chmod 600 '{env}'",)
    subprocess.run(caught.value.hints[0].partition(": ")[2], shell=True, check=True)
    assert read(env).secrets == {"api_key": KEY}


def test_a_link_is_followed_to_a_file_that_is_judged_itself(tmp_path: Path, env: Path) -> None:
    real = write(tmp_path / "real", f"ANTHROPIC_API_KEY={KEY}")
    env.symlink_to(real)
    assert read(env).secrets == {"api_key": KEY}
    real.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        read(env)


def test_a_file_of_another_user_is_refused(env: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    write(env, f"ANTHROPIC_API_KEY={KEY}")
    os.chown(env, 4321, 4321)
    with pytest.raises(UserError, match="belongs to another user") as caught:
        read(env)
    assert "chown 0" in caught.value.hints[0]


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path, env: Path) -> None:
    os.mkfifo(env, 0o600)
    with pytest.raises(UserError, match="not a regular file"):
        read(env)
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "loop")


# --- the endpoint --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, Endpoint("https://api.anthropic.com", "api.anthropic.com", 443, tls=True)),
        ("https://api.anthropic.com/", Endpoint("https://api.anthropic.com", "api.anthropic.com", 443, tls=True)),
        (
            "HTTPS://Proxy.Example:8443/a/b/",
            Endpoint("https://proxy.example:8443/a/b", "proxy.example", 8443, tls=True),
        ),
        ("http://127.0.0.1:11434", Endpoint("http://127.0.0.1:11434", "127.0.0.1", 11434, tls=False)),
        ("http://localhost:80", Endpoint("http://localhost", "localhost", 80, tls=False)),
        ("http://[::1]:8080/x", Endpoint("http://[::1]:8080/x", "::1", 8080, tls=False)),
        ("http://my_server.local.", Endpoint("http://my_server.local.", "my_server.local.", 80, tls=False)),
        ("  https://a.test\t", Endpoint("https://a.test", "a.test", 443, tls=True)),
    ],
)
def test_endpoints(url: str | None, expected: Endpoint) -> None:
    assert endpoint(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "api.anthropic.com", "ftp://a.test", "file:///etc/passwd", "unix:///x", "https://", "https:///v1",
        "https://a.test:0", "https://a.test:65536", "https://a.test:-1", "https://a.test:x", "https://[::1", "https://[::1%25eth0]/",
        "https://a.test?x=1", "https://a.test/#f", "https://a.test/?", "https://a b.test", "https://a.te\nst", "https://a..test",
        "https://ä.test", "https://a\\b.test/", "https://[v1.x]/", "https://[1.2.3.4]/",
    ],
)  # fmt: skip
def test_bad_endpoints_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="ANTHROPIC_BASE_URL"):
        endpoint(url)


@pytest.mark.parametrize("user", ["me:hunter22@", "hunter22@", ":hunter22@", "@"])
def test_a_password_in_the_endpoint_is_refused_and_not_repeated(user: str) -> None:
    with pytest.raises(UserError, match="user name or a password") as caught:
        endpoint(f"https://{user}a.test")
    assert "hunter22" not in " ".join([str(caught.value), *caught.value.hints])


@settings(deadline=None)
@given(st.text())
def test_any_url_is_an_endpoint_or_a_user_error(url: str) -> None:
    for candidate in (url, f"https://{url}", f"http://a.test:{url}", f"https://[{url}]"):
        try:
            found = endpoint(candidate)
        except UserError:
            continue
        assert found.base_url.isascii()
        assert found.host
        assert endpoint(found.base_url) == found


# --- the environment -----------------------------------------------------------------------------------


def test_keys_leave_the_mapping_whether_used_or_not() -> None:
    for use in (False, True):
        environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_MODEL": "m", "PATH": "/bin", "MY_ANTHROPIC_X": "y"}
        assert take_from_environment(environ, use) == ({"api_key": KEY} if use else {})
        assert environ == {"PATH": "/bin", "MY_ANTHROPIC_X": "y"}


def test_contradictions_in_the_environment_matter_only_if_it_is_used() -> None:
    both = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": KEY}
    assert take_from_environment(dict(both), use=False) == {}
    environ = dict(both)
    with pytest.raises(UserError, match="the environment sets both"):
        take_from_environment(environ, use=True)
    assert not environ


def test_a_key_is_not_used_with_another_endpoint_than_the_environment_names() -> None:
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "https://gateway.test"}
    with pytest.raises(UserError, match="ANTHROPIC_BASE_URL is taken from"):
        take_from_environment(environ, use=True)
    assert not environ
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "https://api.anthropic.com/"}
    assert take_from_environment(environ, use=True) == {"api_key": KEY}


LOOK = """
import os, sys
sys.path.insert(0, {root!r})
from host.credentials import take_from_environment
def seen():
    data = open("/proc/self/environ", "rb").read()
    data += open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/environ", "rb").read()
    return {key!r}.encode() in data or {key!r} in str(dict(os.environ))
os.environ["ANTHROPIC_LATER"] = "x"
before = seen()
taken = take_from_environment(os.environ, use=True) if {take} else None
child = os.popen("env").read()
print(before, seen(), {key!r} in child, "ANTHROPIC" in child, taken == {{"api_key": {key!r}}}, os.environ["KEPT"])
"""


@pytest.mark.parametrize("change", ["", "os.environ['ANTHROPIC_API_KEY'] = os.environ['ANTHROPIC_API_KEY']"])
def test_proc_environ_shows_the_key_before_and_not_after(change: str) -> None:
    """With the control: a process that does not take them shows them to the end."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc here")
    environ = {
        "A": "1",
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_MODEL": "",
        "KEPT": "as it was",
        "PATH": os.environ["PATH"],
    }
    for take, expected in (
        (True, "True False False False True as it was"),
        (False, "True True True True False as it was"),
    ):
        source = LOOK.format(root=str(ROOT), key=KEY, take=take).replace("before =", f"{change}\nbefore =")
        argv = [sys.executable, "-c", source]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout.strip() == expected, done.stderr


def test_a_key_that_cannot_be_wiped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator of another processor tells less of a process than Linux does."""
    stat = Path("/proc/self/stat").read_bytes()
    start, end = environment.initial_block(stat)
    assert 0 < start < end
    assert environment.initial_block(b" ".join(stat.split()[:44])) == (0, 0)
    assert environment.initial_block(b"7 (a ) b) S " + b" ".join([b"0"] * 49)) == (0, 0)

    monkeypatch.setattr(environment, "initial_block", lambda stat: (0, 0))
    assert take_from_environment(os.environ, use=False) == {}
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(UserError, match=r"ANTHROPIC_API_KEY is in the environment, and cannot be removed") as refused:
        take_from_environment(os.environ, use=True)
    assert KEY not in str(refused.value)
