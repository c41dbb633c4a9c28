"""How the WhatsApp channel is started, and that nothing of it is looked at where nobody uses it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from host import bundle
from host.channels import whatsapp
from host.channels.program import Command, Program
from host.cli.start import channels_of
from host.config import Config, Home, Machine, parse, prepare
from host.errors import UserError
from host.loop import Loop

ROOT = Path(__file__).resolve().parents[2]


def quiet(text: str) -> None:
    pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    prepare(home)
    return home


def program(path: Path, text: str) -> dict[str, str]:
    """An environment in which this is the Python that has the library."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {whatsapp.PYTHON: str(path)}


def test_where_nobody_uses_it_nothing_of_it_is_looked_at(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whatsapp, "command", lambda *_: pytest.fail("it was looked for"))
    assert channels_of(home, Config(), quiet) == {}


def test_where_it_is_in_use_the_host_has_it(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whatsapp.begin(home)
    for name, value in program(tmp_path / "python", "exit 0").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(whatsapp, "PASSED", ("SSL_CERT_FILE",))  # other machines set others
    monkeypatch.setenv("SSL_CERT_FILE", "/srv/ca.pem")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789abcdef")
    config = parse({"whatsapp": {"proxy": "socks5://127.0.0.1:9050"}}, Machine(1, 1 << 30, "UTC"))
    (command,) = channels_of(home, config, quiet).values()
    assert command.argv[0] == str(tmp_path / "python")
    assert command.argv[-3:] == (str(home.data / "whatsapp"), "--proxy", "socks5://127.0.0.1:9050")
    assert command.env == {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": "/srv/ca.pem"}
    assert command.folder.stat().st_mode & 0o777 == 0o700
    whatsapp.forget(home)
    assert not whatsapp.in_use(home)


def test_what_cannot_be_started_does_not_stop_the_host_and_says_why(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    whatsapp.begin(home)
    monkeypatch.setenv(whatsapp.PYTHON, "/nowhere/python")
    (command,) = channels_of(home, Config(), quiet).values()
    states = list[tuple[str, str]]()

    class Owner:
        def channel_frame(self, name: str, untrusted_frame: object) -> None: ...
        def channel_changed(self, name: str) -> None:
            states.append((started.state, started.why))

    loop = Loop()
    started = Program(loop, "whatsapp", command, Owner())
    started.start()
    assert states == [("down", f"{whatsapp.PYTHON} is '/nowhere/python', which is no program's full path")]
    stopped: list[bool] = []
    started.stop(lambda: stopped.append(True))
    while not stopped:
        loop.step()
    loop.close()


def test_without_the_library_it_is_said_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs a library") as refused:
        whatsapp.command(home, "", quiet, {})
    assert whatsapp.PYTHON in refused.value.hints[-1]


def test_a_build_without_it_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "frozen", lambda: True)
    monkeypatch.setattr(bundle, "carried", lambda name: None)
    with pytest.raises(UserError, match="comes without WhatsApp"):
        whatsapp.command(home, "", quiet, {whatsapp.PYTHON: "/bin/true"})


def test_out_of_the_one_file_it_is_what_was_unpacked(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "frozen", lambda: True)
    monkeypatch.setattr(bundle, "carried", lambda name: name == "whatsapp")
    monkeypatch.setattr(bundle, "cache", lambda: tmp_path / "there")
    monkeypatch.setattr(bundle, "unpack", lambda name, cache, progress: cache / name / "0123")
    command = whatsapp.command(home, "", quiet, {})
    assert command == Command(
        (str(tmp_path / "there/whatsapp/0123/whatsapp"), str(home.data / "whatsapp")), home.data / "whatsapp"
    )


@pytest.mark.parametrize(
    ("script", "error", "hint"),
    [
        ('echo "nanoclaw: error: WhatsApp needs glibc 2.34 or newer, and this system has 2.31" >&2; exit 1',
         "WhatsApp needs glibc 2.34 or newer, and this system has 2.31", ""),
        ('printf "noise\\nnanoclaw: error: no\\nnanoclaw: hint: do\\n" >&2; exit 1', "no", "do"),
        ("echo cannot open libx.so >&2; exit 127", "the WhatsApp program does not start: cannot open libx.so", ""),
        ("exit 3", "the WhatsApp program does not start: it says nothing", ""),
    ],
)  # fmt: skip
def test_asked_whether_it_loads_it_says_why_not(tmp_path: Path, script: str, error: str, hint: str) -> None:
    with pytest.raises(UserError) as refused:
        whatsapp.check(quiet, program(tmp_path / "python", script))
    assert (str(refused.value), "; ".join(refused.value.hints)) == (error, hint)


def test_asked_whether_it_loads_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whatsapp, "CHECK_SECONDS", 0.1)
    with pytest.raises(UserError, match="does not start within"):
        whatsapp.check(quiet, program(tmp_path / "python", "exec sleep 60"))


def test_it_is_given_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789abcdef")
    script = f"tr '\\0' ' ' </proc/$$/environ >{tmp_path}/env; echo neonize 1"
    assert whatsapp.check(quiet, program(tmp_path / "python", script)) == "neonize 1"
    given = {each.partition("=")[0] for each in (tmp_path / "env").read_text().split()}
    assert given <= {"PATH", "LANG", "PYTHONPATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_how_the_session_lies_there(home: Home) -> None:
    assert whatsapp.fault(home) == ("", "")
    whatsapp.begin(home)
    database = whatsapp.folder(home) / whatsapp.DATABASE
    database.touch(mode=0o600)
    assert whatsapp.fault(home) == ("", "")
    database.chmod(0o644)
    assert whatsapp.fault(home) == (f"{database} can be read by others", f"chmod 600 {database}")
    database.unlink()
    database.symlink_to("elsewhere")
    assert "is a link" in whatsapp.fault(home)[0]
    whatsapp.folder(home).chmod(0o755)
    assert whatsapp.fault(home)[1] == f"chmod 700 {whatsapp.folder(home)}"


def test_the_names_are_those_of_the_program_itself() -> None:
    """They are not shared by an import: one is the host's, the other the channel's."""
    source = (ROOT / "whatsapp/program.py").read_text()
    assert f'DATABASE: Final = "{whatsapp.DATABASE}"' in source


def test_a_start_does_not_import_it() -> None:
    """The command line's start, up to where the commands begin: nothing there knows of the channel."""
    code = "import sys, host.cli, host.cli.status; print(sorted(n for n in sys.modules if 'whatsapp' in n))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("proxy", ["127.0.0.1:1", "ftp://x", "http://", "http://a b"])
def test_a_proxy_that_is_none_is_refused(proxy: str) -> None:
    with pytest.raises(UserError, match=r"whatsapp\.proxy"):
        parse({"whatsapp": {"proxy": proxy}}, Machine(1, 1 << 30, "UTC"))
