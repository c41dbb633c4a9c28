"""Linking an account at a terminal: the command as a person runs it, a host, and a program that plays the account's."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.channels import whatsapp
from host.channels.program import Command
from host.cli import qr
from host.cli import whatsapp as cli
from host.errors import UserError
from tests.fakes.home import FakeHome

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "fakes" / "channel_program.py"
ME = "me@x (Me)"


class Person:
    """At a terminal, beside a host that runs for this home."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.channels: dict[str, Command] = {}
        self._home: FakeHome | None = None

    def plays(self, *steps: str) -> None:
        """What becomes of linking."""
        script = self._folder / "python"
        script.write_text(
            "#!/bin/sh\n"
            'case "$*" in *--check*) echo neonize 0; exit ;; esac\n'
            f"exec '{sys.executable}' -I '{FAKE}' account '{','.join(steps)}'\n"
        )
        script.chmod(0o755)
        self._monkeypatch.setenv(whatsapp.PYTHON, str(script))

    @property
    def home(self) -> FakeHome:
        if self._home is None:
            self._home = FakeHome(self._folder, channels=self.channels)
            self._home.app.control.listen(self._home.home.data / "host.sock")
        return self._home

    @property
    def session(self) -> Path:
        return self.home.home.data / "whatsapp"

    def start(self, *args: str, **more: Any) -> subprocess.Popen[bytes]:
        argv = [sys.executable, str(ROOT / "nanoclaw.py"), "--home", str(self._folder), *args]
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(argv, **given)

    def ended(self, process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
        self.home.until(lambda: process.poll() is not None)
        out, err = ((stream.read() if stream else b"").decode() for stream in (process.stdout, process.stderr))
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def runs(self, *args: str) -> subprocess.CompletedProcess[str]:
        assert self.home
        return self.ended(self.start(*args))

    def reads(self, fd: int, shown: bytearray) -> None:
        """All that is written there, as it comes."""

        def more() -> None:
            try:
                data = os.read(fd, 65536)
            except OSError:  # a terminal whose other end is closed
                data = b""
            shown.extend(data)
            if not data:
                self.home.loop.unwatch(fd)

        self.home.loop.watch(fd, readable=more)

    def scans(self) -> None:
        """What is played goes on behind `seen`."""
        (self.session / "seen").write_bytes(b"")

    def close(self) -> None:
        if self._home is not None:
            self._home.close()


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    person = Person(tmp_path, monkeypatch)
    yield person
    person.close()


def test_in_a_pipe_the_codes_are_printed_and_at_last_who_is_linked(person: Person) -> None:
    person.plays("CODE-1", "CODE-2", "seen", "linked")
    process = person.start("whatsapp", "link")
    assert process.stdout is not None
    shown = bytearray()
    person.reads(process.stdout.fileno(), shown)
    person.home.until(lambda: b"CODE-2\n" in shown)
    person.scans()
    done = person.ended(process)
    assert done.returncode == 0, done.stderr
    # The first may have been over before it could be asked for.
    assert shown.decode().removeprefix("CODE-1\n") == f"CODE-2\nlinked as {ME}\n"
    assert person.session.stat().st_mode & 0o777 == 0o700
    status = json.loads(person.runs("whatsapp", "status", "--json").stdout)
    assert (status["state"], status["account"]["id"]) == ("connected", "me@x")
    assert "CODE" not in str(status)
    person.home.until(lambda: len(person.home.store.messages.chats()) == 2)
    assert "The family\tgroup\t-\twhatsapp\t1@g" in person.runs("chats").stdout


def test_a_code_for_a_phone_is_printed_to_be_typed(person: Person) -> None:
    person.plays("19N7-77KT")
    process = person.start("whatsapp", "link", "--phone", "+4915112345678", "--json")
    assert process.stdout is not None
    person.home.until(person.session.is_dir)
    reader = os.dup(process.stdout.fileno())
    person.home.loop.watch(reader, readable=person.home.loop.stop)
    person.home.loop.run()
    person.home.loop.unwatch(reader)
    os.close(reader)
    assert json.loads(process.stdout.readline())["code"] == "19N7-77KT"
    process.send_signal(signal.SIGINT)
    assert person.ended(process).returncode == 130


def test_at_a_terminal_the_code_is_drawn_and_wiped_away(person: Person) -> None:
    person.plays("CODE-2", "seen", "linked")
    ours, theirs = pty.openpty()
    process = person.start("whatsapp", "link", stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = bytearray()
    person.reads(ours, shown)
    person.home.until(lambda: b"It is good for" in shown)
    person.scans()
    done = person.ended(process)
    person.home.loop.unwatch(ours)
    os.close(ours)
    assert done.returncode == 0, shown
    text = shown.decode().replace("\r\n", "\n")
    code = "\n".join(qr.drawn(qr.matrix("CODE-2"), blocks=True))
    _, drawn, after = text.partition(code)
    lines = len(code.splitlines()) + 2  # what to do above it, how long it is good below
    wiped = f"\x1b[{lines}A\r\x1b[J"
    assert drawn, text
    assert wiped in after, "it stays where it could be photographed"
    assert f"linked as {ME}" in after.partition(wiped)[2]


def test_called_off_nothing_is_left_behind(person: Person, tmp_path: Path) -> None:
    person.plays("CODE-1")
    picture = tmp_path / "qr.png"
    process = person.start("whatsapp", "link", "--png", str(picture))
    person.home.until(picture.exists)
    assert picture.stat().st_mode & 0o777 == 0o600
    assert picture.read_bytes() == qr.png(qr.matrix("CODE-1"))
    process.send_signal(signal.SIGTERM)
    done = person.ended(process)
    assert done.returncode == 130
    assert not picture.exists()
    person.home.until(lambda: not person.session.exists())
    assert person.home.app.status()["channels"] == {}


def test_called_off_where_an_account_was_once_the_session_stays(person: Person, tmp_path: Path) -> None:
    person.plays("CODE-1")
    whatsapp.begin(person.home.home)
    process = person.start("whatsapp", "link")
    person.home.until(
        lambda: person.home.app.status()["channels"] and person.home.app._post.lines["whatsapp"].linking.code
    )
    process.send_signal(signal.SIGINT)
    assert person.ended(process).returncode == 130
    assert person.session.exists()


def test_what_does_not_come_about_is_told_and_leaves_nothing_behind(person: Person) -> None:
    person.plays("failed nobody used the code in time")
    done = person.runs("whatsapp", "link")
    assert done.returncode == 1
    assert "error: no account was linked: nobody used the code in time" in done.stderr
    person.home.until(lambda: not person.session.exists())


def test_without_the_library_it_is_said_before_anything_is_begun(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(whatsapp.PYTHON, "/nowhere/python")
    done = person.runs("whatsapp", "link")
    assert done.returncode == 69
    assert whatsapp.PYTHON in done.stderr
    assert not person.session.exists()


def test_unlinked_the_session_is_gone_and_the_host_knows_no_more_of_it(person: Person) -> None:
    person.plays("linked")
    assert person.runs("whatsapp", "link").returncode == 0
    assert person.session.is_dir()
    done = person.runs("whatsapp", "unlink")
    assert done.stdout.startswith("unlinked"), done.stderr
    assert not person.session.exists()
    assert person.home.app.status()["channels"] == {}
    assert "no account" in person.runs("whatsapp", "unlink").stdout
    # And once more from the beginning, with the same host.
    assert person.runs("whatsapp", "link").returncode == 0


def test_by_force_it_is_forgotten_whether_whatsapp_knows_or_not(person: Person) -> None:
    person.plays("linked")
    assert person.runs("whatsapp", "link").returncode == 0
    done = person.runs("whatsapp", "unlink", "--force")
    assert "on your phone" in done.stderr
    assert not person.session.exists()


def test_a_session_that_stays_is_not_called_removed(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "GONE_SECONDS", 0.2)
    cli.require_gone(person.home.home)
    whatsapp.begin(person.home.home)
    with pytest.raises(UserError, match="holds the account's keys"):
        cli.require_gone(person.home.home)


def test_main_moves_to_the_talk_with_oneself_and_back(person: Person) -> None:
    person.plays("linked")
    assert person.runs("whatsapp", "link").returncode == 0
    moved = person.runs("groups", "move", "main", "--channel", "whatsapp", "--chat", "self")
    assert moved.stdout == "main is whatsapp:me@x now\n"
    named = person.runs("groups", "add", "family", "--channel", "whatsapp", "--chat", "the FAMILY")
    assert named.returncode == 0, named.stderr
    assert person.home.store.group("family").chat == "1@g"
    missed = person.runs("groups", "add", "club", "--channel", "whatsapp", "--chat", "no such")
    assert "no chat of WhatsApp is called" in missed.stderr


def test_an_account_that_is_lost_is_told_to_main_once(person: Person) -> None:
    person.channels["fake"] = Command((sys.executable, "-I", str(FAKE), "ailing"), person._folder / "line")
    person.home.until(lambda: person.home.said("main"))
    person.home.until(lambda: person.home.app._post.lines["fake"].program.reason == "logged_out")
    assert person.home.said("main") == ["fake: the account took this device off its list"]


@pytest.mark.parametrize("blocks", [True, False])
def test_a_code_is_drawn_dark_on_light_with_a_quiet_zone(blocks: bool) -> None:
    modules = qr.matrix("https://wa.me/settings/linked_devices#" + "A" * 200)
    assert len(modules) == len(modules[0]) == 65
    assert not any(any(row) for row in [*modules[:4], *modules[-4:]])
    assert not any(any(row[:4] + row[-4:]) for row in modules)
    lines = qr.drawn(modules, blocks=blocks)
    assert len(lines) == (33 if blocks else 65)
    assert all(line.startswith(qr.DARK_ON_LIGHT if blocks else qr.LIGHT) and line.endswith(qr.PLAIN) for line in lines)
    read: list[list[bool]] = []
    for line in lines:
        read += _read_blocks(line) if blocks else [_read_colours(line)]
    assert read[: len(modules)] == modules


def _read_blocks(line: str) -> list[list[bool]]:
    cells = line.removeprefix(qr.DARK_ON_LIGHT).removesuffix(qr.PLAIN)
    pairs = {drawn: pair for pair, drawn in qr.BLOCKS.items()}
    return [[pairs[cell][row] for cell in cells] for row in (0, 1)]


def _read_colours(line: str) -> list[bool]:
    return [cell == qr.DARK for cell in line.removesuffix(qr.PLAIN).split("  ") if cell]


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("x")
    with pytest.raises(Exception, match="is there already"):
        qr.File(tmp_path / "mine.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(Exception, match="is there already"):
        qr.File(tmp_path / "link.png")
