"""Where a home lies, and its settings: what is accepted, what is chosen for the machine, and how a mistake is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host import config as configuration
from host.config import Config, Home, Machine, engine_name, load, locate, parse, prepare, values
from host.errors import UserError
from host.model import AllowedHost, Group
from runner.protocol import MIB, Limits

GIB = 1024 * MIB
LAPTOP = Machine(memory_bytes=16 * GIB, cpus=8, timezone="Europe/Berlin")
PI = Machine(memory_bytes=GIB, cpus=1, timezone="UTC")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = locate(str(tmp_path / "home"), {})
    prepare(home)
    return home


def configure(home: Home, toml: str | bytes) -> Config:
    path = home.config / "config.toml"
    path.write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return load(home, {})


# --- where a home lies --------------------------------------------------------------------------------


def test_everything_under_one_folder(tmp_path: Path) -> None:
    expected = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    assert locate(str(tmp_path), {}) == expected
    assert locate(None, {"NANOCLAW_HOME": str(tmp_path), "HOME": "/home/ann"}) == expected
    assert locate(str(tmp_path), {"NANOCLAW_HOME": "/elsewhere"}) == expected


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("here/../there", {}).data == tmp_path / "there/data"


def test_the_xdg_folders() -> None:
    assert locate(None, {"HOME": "/home/ann"}) == Home(
        Path("/home/ann/.config/nanoclaw"),
        Path("/home/ann/.local/share/nanoclaw"),
        Path("/home/ann/.cache/nanoclaw"),
    )
    moved = {"HOME": "/home/ann", "XDG_DATA_HOME": "/big", "XDG_CACHE_HOME": "relative", "NANOCLAW_HOME": ""}
    assert locate(None, moved).data == Path("/big/nanoclaw")
    assert locate(None, moved).cache == Path("/home/ann/.cache/nanoclaw")
    three = {f"XDG_{kind}_HOME": f"/{kind}" for kind in ("CONFIG", "DATA", "CACHE")}
    assert locate(None, three).config == Path("/CONFIG/nanoclaw")


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_no_home_folder_is_told(environ: dict[str, str]) -> None:
    with pytest.raises(UserError, match="HOME") as caught:
        locate(None, environ)
    assert "--home" in caught.value.hints[0]


def test_an_empty_home_is_a_wrong_use() -> None:
    with pytest.raises(UserError) as caught:
        locate("", {"HOME": "/home/ann"})
    assert caught.value.status == 2


# --- preparing it -------------------------------------------------------------------------------------


def test_missing_folders_are_made_and_closed_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        home = locate(str(tmp_path / "a/b/c"), {})
        prepare(home)
        prepare(home)
    finally:
        os.umask(previous)
    for folder in (home.config, home.data, home.cache, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c"):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o777])
def test_a_folder_that_others_can_enter_is_refused(home: Home, mode: int) -> None:
    home.data.chmod(mode)
    with pytest.raises(UserError, match="other users") as caught:
        prepare(home)
    assert caught.value.hints == (f"close it: chmod 700 {home.data}",)


def test_a_file_in_a_folder_s_place_is_refused(home: Home) -> None:
    home.cache.rmdir()
    home.cache.touch(0o700)
    with pytest.raises(UserError, match="is not a folder"):
        prepare(home)


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot use"):
        prepare(locate(str(tmp_path / "file/home"), {}))


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError):
        prepare(locate(str(tmp_path / "home"), {}))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user: needs root")
def test_another_user_s_folder_is_refused(home: Home) -> None:
    os.chown(home.data, 12345, 12345)
    with pytest.raises(UserError, match="belongs to user 12345"):
        prepare(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
@pytest.mark.parametrize("made_before", [False, True])
def test_a_read_only_file_system_is_named(tmp_path: Path, made_before: bool) -> None:
    script = f"""
from pathlib import Path
from host.config import locate, prepare
from host.errors import UserError
try:
    prepare(locate("{tmp_path}/home", {{}}))
except UserError as e:
    print(e)
"""
    (tmp_path / "run.py").write_text(script)
    make = f"mkdir -m 700 {tmp_path}/home/config {tmp_path}/home/data {tmp_path}/home/cache" if made_before else "true"
    steps = f"mkdir -p {tmp_path}/home && mount -t tmpfs none {tmp_path}/home && {make}"
    steps += f" && mount -o remount,ro {tmp_path}/home && PYTHONPATH=. {sys.executable} {tmp_path}/run.py"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", steps], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert "read-only file system" in done.stdout
    assert f"{tmp_path}/home" in done.stdout


def group(folder: str, **settings: Any) -> Group:
    return Group(folder, "console", folder, folder, is_main=folder.lower() == "main", settings=settings)


# --- settings -----------------------------------------------------------------------------------------


def test_without_a_file_there_are_defaults(home: Home) -> None:
    config = load(home, {})
    assert config.assistant == "Andy"
    assert config.engine == "auto"
    assert config.model == "claude-sonnet-5-5"
    assert not config.key_from_environment
    assert config.group(group("main")).allow_hosts == ()


def test_every_setting_has_its_place(home: Home, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("-----BEGIN CERTIFICATE-----\n")
    config = configure(
        home,
        f"""
        assistant = "José"
        engine = "bubblewrap"
        key_from_environment = true
        timezone = "Europe/Madrid"

        [model]
        name = "local-7b"
        max_tokens = 1024
        ca_file = "{ca_file}"

        [limits]
        rounds = 3
        seconds = 120
        tokens = 5000
        command_seconds = 60
        output_bytes = "32 KB"
        memory = "512 MB"
        processes = 64
        cpus = 0.5
        tmp = 67108864
        file_size = "1.5 GB"
        max_sandboxes = 2
        warm_sandboxes = 0
        warm_minutes = 2.5

        [groups.main]
        timezone = "UTC"
        allow_hosts = [
            "A.example.", "*.example.org:8443",
            {{host = "nas.lan", networks = ["192.168.1.0/24", "fd00::/8"], ports = [443, 8443]}},
        ]
        [groups.Family]
        """,
    )
    assert (config.assistant, config.engine, config.key_from_environment) == ("José", "bubblewrap", True)
    assert (config.model, config.max_tokens, config.ca_file) == ("local-7b", 1024, ca_file)
    assert config.turn == Limits(rounds=3, seconds=120, tokens=5000, command_seconds=60, output_bytes=32 * 1024)
    sandbox = config.resources
    assert (sandbox.memory_bytes, sandbox.tmp_bytes, sandbox.file_bytes) == (512 * MIB, 64 * MIB, 1536 * MIB)
    assert (sandbox.processes, sandbox.cpus) == (64, 0.5)
    assert (config.max_sandboxes, config.warm_sandboxes, config.warm_seconds) == (2, 0, 150.0)
    assert config.group(group("MAIN")).timezone == "UTC"
    assert config.group(group("main")).allow_hosts == (
        AllowedHost("a.example"),
        AllowedHost("*.example.org", (8443,)),
        AllowedHost("nas.lan", (443, 8443), ("192.168.1.0/24", "fd00::/8")),
    )
    assert config.group(group("family")).timezone == "Europe/Madrid"
    assert config.group(group("nobody")).timezone == "Europe/Madrid"


def test_the_defaults_fit_the_machine() -> None:
    small, large = parse({}, PI), parse({}, LAPTOP)
    assert (small.resources.memory_bytes, small.resources.cpus, small.max_sandboxes) == (512 * MIB, 1.0, 2)
    assert (large.resources.memory_bytes, large.resources.cpus, large.max_sandboxes) == (GIB, 2.0, 5)
    assert (small.timezone, large.timezone) == ("UTC", "Europe/Berlin")
    parse({}, Machine(memory_bytes=200 * MIB, cpus=1, timezone="UTC"))
    # More than there are cannot be promised by any engine: the same file works on both machines.
    assert parse({"limits": {"cpus": 4}}, PI).resources.cpus == 1.0


def test_a_default_gives_way_to_what_was_written() -> None:
    assert parse({"limits": {"seconds": 30}}, LAPTOP).turn.command_seconds == 30
    assert parse({"limits": {"tokens": 2000}}, LAPTOP).max_tokens == 2000
    assert parse({"limits": {"memory": "256 MB"}}, LAPTOP).resources.tmp_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('asistant = "Andy"', ["asistant", "did you mean assistant?"]),
        ("seconds = 5", ["seconds", "did you mean limits.seconds?"]),
        ('[model]\nname = "x"\nassistant = "Andy"', ["model.assistant", "did you mean assistant?"]),
        ('[modle]\nname = "x"', ["modle", "is not a setting"]),
        ("[limits]\nsecond = 5", ["limits.second", "did you mean limits.seconds?"]),
        ("zzz = 1", ["zzz", "the settings here are"]),
        ("limits = 5", ["limits", "section"]),
        ("[[limits]]", ["limits", "section"]),
        ("assistant = 5", ["assistant", "text in quotes"]),
        ('assistant = ""', ["assistant", "choose a name"]),
        ('assistant = "@Andy"', ["assistant", "choose a name"]),
        ('assistant = "A\\nB"', ["assistant", "choose a name"]),
        ('engine = "dokcer"', ["engine", "docker"]),
        ('key_from_environment = "yes"', ["key_from_environment", "true or false"]),
        ('timezone = "Mars/Base"', ["timezone", "Europe/Berlin"]),
        ('timezone = "../../etc/passwd"', ["timezone"]),
        ('timezone = "Europe"', ["timezone"]),
        ('[model]\nname = " "', ["model.name", "empty"]),
        ("[model]\nmax_tokens = 1", ["model.max_tokens", "256 to 128000"]),
        ("[model]\nmax_tokens = 5000\n[limits]\ntokens = 2000", ["model.max_tokens", "limits.tokens"]),
        ('[model]\nca_file = "relative.pem"', ["model.ca_file", "absolute"]),
        ('[model]\nca_file = "/nonexistent.pem"', ["model.ca_file", "/nonexistent.pem", "No such file"]),
        ("[limits]\nrounds = -1", ["limits.rounds", "-1", "choose 1 to 1000"]),
        ("[limits]\nrounds = 1.5", ["limits.rounds", "whole number"]),
        ("[limits]\nrounds = true", ["limits.rounds", "whole number"]),
        ("[limits]\ncpus = nan", ["limits.cpus", "number"]),
        ("[limits]\ncpus = true", ["limits.cpus", "number"]),
        ('[limits]\nseconds = "soon"', ["limits.seconds", "'soon'"]),
        ('[limits]\nmemory = "lots"', ["limits.memory", "512 MB"]),
        ('[limits]\nmemory = "-5 MB"', ["limits.memory", "512 MB"]),
        ("[limits]\nmemory = 1000", ["limits.memory", "choose"]),
        ('[limits]\nmemory = "512 MB"\ntmp = "512 MB"', ["limits.tmp", "limits.memory"]),
        ("[limits]\ncommand_seconds = 600\nseconds = 60", ["limits.command_seconds", "limits.seconds"]),
        ("[groups]\nmain = 5", ["groups.main", "[groups.FOLDER]"]),
        ('[groups."../up"]', ["groups.../up"]),
        ("[groups.main]\n[groups.MAIN]", ["groups.MAIN", "twice"]),
        ("[groups.main]\nallow_host = []", ["groups.main.allow_host", "allow_hosts?"]),
        ("[groups.main]\nallow_hosts = 'a.example'", ["groups.main.allow_hosts", "list"]),
        ("[limits\n", ["not valid TOML", "line 1"]),
        ("a = 1\na = 2", ["not valid TOML", "overwrite"]),
        (b'assistant = "\xff"', ["UTF-8", "byte 13"]),
        (b"a=" + b"[" * 100_000, ["not valid TOML"]),
        (b"#" * (2 * 1024 * 1024), ["over 1024 KiB"]),
    ],
)
def test_a_mistake_names_the_file_the_setting_and_what_is_allowed(
    home: Home, toml: str | bytes, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        configure(home, toml)
    said = " ".join([str(caught.value), *caught.value.hints])
    assert str(caught.value).startswith(str(home.config / "config.toml"))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    "item",
    [
        "", "*", "*.", ".", "a..b", "https://a.example", "a.example/simple", "a.example:", "a.example:0",
        "a.example:65536", "a.example:https", "a.example:443:443", "-a.org", "a b.org", "bücher.example",
        "x" * 64 + ".org", "a*.org",
        "*.*.org", "[::1]:80", "user@host", "a.example\n", 5, {}, {"host": 5}, {"host": "a", "port": 1},
        {"host": "a", "ports": 443}, {"host": "a", "ports": ["443x"]}, {"host": "a", "ports": [True]},
        {"host": "a", "networks": ["192.168.1.1/24"]}, {"host": "a", "networks": ["0.0.0.0/0"]},
        {"host": "a", "networks": ["::/0"]}, {"host": "a", "networks": "10.0.0.0/8"}, {"host": "a", "networks": [5]},
    ],
)  # fmt: skip
def test_a_host_that_is_written_wrongly_is_refused(item: Any) -> None:
    with pytest.raises(UserError) as caught:
        parse({"groups": {"main": {"allow_hosts": ["a.example", item]}}}, LAPTOP)
    assert "groups.main.allow_hosts[1]" in str(caught.value)
    assert caught.value.hints


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*configuration._SETTINGS, "groups", "model", "limits", "x"]).map(lambda key: key.split(".")[-1])


@given(
    st.dictionaries(
        KEYS,
        JSONISH | st.dictionaries(KEYS | st.just("main"), JSONISH | st.dictionaries(KEYS, JSONISH, max_size=2)),
        max_size=4,
    )
)
def test_any_document_gives_a_config_or_a_sentence(document: dict[str, Any]) -> None:
    try:
        parse(document, LAPTOP)
    except UserError as e:
        assert str(e)


@given(JSONISH)
def test_any_host_gives_a_pattern_or_a_sentence(item: Any) -> None:
    try:
        (host,) = values.hosts("x", [item])
        assert host.pattern == host.pattern.lower()
        assert set(host.pattern) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-*")
    except UserError as e:
        assert str(e)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        ("512MB", 512 * MIB),
        ("512 MiB", 512 * MIB),
        ("1.5 g", 1536 * MIB),
        ("64 kb", 65536),
        (7, 7),
        ("8B", 8),
    ],
)
def test_sizes(written: Any, size: int) -> None:
    assert values.size("x", written) == size


def test_the_engine_of_one_run() -> None:
    config = Config(engine="bubblewrap")
    assert engine_name(None, {}, config) == "bubblewrap"
    assert engine_name(None, {"NANOCLAW_ENGINE": ""}, config) == "bubblewrap"
    assert engine_name(None, {"NANOCLAW_ENGINE": "docker"}, config) == "docker"
    assert engine_name("auto", {"NANOCLAW_ENGINE": "docker"}, config) == "auto"


def test_the_machine_s_time_zone() -> None:
    assert values.local_zone({"TZ": "Asia/Tokyo"}) == "Asia/Tokyo"
    assert values.local_zone({"TZ": ":Asia/Tokyo"}) == "Asia/Tokyo"
    assert values.is_zone(values.local_zone({"TZ": "CET-1CEST,M3.5.0"}))
    assert values.is_zone(values.local_zone({}))


def test_a_config_that_cannot_be_read_is_told(home: Home) -> None:
    (home.config / "config.toml").mkdir()
    with pytest.raises(UserError, match=r"config\.toml: cannot be read: Is a directory"):
        load(home, {})


def test_a_config_that_is_a_fifo_is_not_waited_for(home: Home) -> None:
    os.mkfifo(home.config / "config.toml")
    with pytest.raises(UserError, match="not a regular file"):
        load(home, {})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff", "not UTF-8"), (b"hello", "holds no certificate"), (b"x" * 2 * MIB, "over 1024 KiB")],
)
def test_a_ca_file_is_looked_at_before_the_first_turn(home: Home, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        configure(home, f'[model]\nca_file = "{tmp_path}/ca.pem"')
    assert "model.ca_file" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Andy", "A", "José", "Jose\u0301", "कृष्ण", "アンディ", "Dr Bob", "O'Neil", "R2-D2", "x" * 40]
)
def test_names_that_people_have(name: str) -> None:
    assert Config(assistant=name).assistant == name


@pytest.mark.parametrize("name", ["", " ", "@Andy", "Andy ", " Andy", "-", "<b>", "a\0", "a\nb", "a\u202eb", "x" * 41])
def test_names_that_nobody_has(name: str) -> None:
    with pytest.raises(UserError, match="assistant"):
        Config(assistant=name)


# --- channels -----------------------------------------------------------------------------------------


def test_channels_are_commands_and_messages_have_an_age() -> None:
    messages = {"max_age_hours": 2, "attachment": "5 MB"}
    found = parse({"messages": messages, "channels": {"irc": {"command": ["/bin/irc"]}}}, LAPTOP)
    assert found.channels.commands == (("irc", ("/bin/irc",)),)
    assert found.channels.max_age_seconds == 7200
    assert found.channels.attachment_bytes == 5 * 1024**2


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"channels": {"whatsapp": {"command": ["/x"]}}}, "name"),
        ({"channels": {"Irc": {"command": ["/x"]}}}, "name"),
        ({"channels": {"irc": {}}}, "command"),
        ({"channels": {"irc": {"command": ["/x"], "key": 1}}}, "nothing else"),
        ({"channels": {"irc": {"command": []}}}, "full path"),
        ({"channels": {"irc": {"command": ["irc"]}}}, "full path"),
        ({"channels": 3}, "section"),
        ({"messages": {"max_age_hours": -1}}, "max_age_hours"),
        ({"messages": {"attachment": "1 TB"}}, "attachment"),
    ],
)
def test_what_is_no_channel_is_refused(document: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(document, LAPTOP)
    assert word in " ".join([str(caught.value), *caught.value.hints])
