"""The doctor's look at WhatsApp: silent where nobody uses it, and each fault found that it looks for."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from host.channels import whatsapp
from host.cli import status
from host.config import Home, prepare
from host.config.channels import ChannelSettings
from host.doctor import FAILURE, OK, WARNING, Finding, Subject, channels, outside


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    home = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    prepare(home)
    library(tmp_path, monkeypatch, "echo neonize 9")
    monkeypatch.setenv("SSL_CERT_FILE", __file__)
    return Subject(home)


def library(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    monkeypatch.setenv(whatsapp.PYTHON, str(path))


def linked(subject: Subject) -> Path:
    """A session as the library leaves it."""
    whatsapp.begin(subject.home)
    path = whatsapp.folder(subject.home) / whatsapp.DATABASE
    path.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE whatsmeow_device (jid TEXT)")
        db.execute("INSERT INTO whatsmeow_device VALUES ('4915100000001:7@s.whatsapp.net')")
        db.commit()
    return path


def found(subject: Subject) -> list[Finding]:
    return list(channels.whatsapp(subject))


def faults(subject: Subject) -> list[Finding]:
    return [finding for finding in found(subject) if finding.state != OK]


def test_where_nobody_uses_it_nothing_is_said(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whatsapp, "check", lambda progress: pytest.fail("it was started"))
    assert found(subject) == []
    subject.offline = True
    assert not any("WhatsApp" in finding.found for finding in outside.needs(subject))


def test_where_all_is_well_it_is_said(subject: Subject) -> None:
    linked(subject)
    assert faults(subject) == []
    assert any("neonize 9" in finding.found for finding in found(subject))
    assert whatsapp.account(subject.home) == "4915100000001:7@s.whatsapp.net"


def test_an_account_that_is_not_linked_is_doubtful(subject: Subject) -> None:
    whatsapp.begin(subject.home)
    (finding,) = faults(subject)
    assert (finding.state, finding.found) == (WARNING, "no account is linked")


def test_a_session_that_others_can_read_is_a_failure(subject: Subject) -> None:
    linked(subject).chmod(0o640)
    (finding,) = faults(subject)
    assert finding.state == FAILURE
    assert finding.next.startswith("chmod 600 ")


def test_a_library_that_does_not_load_is_a_failure(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(subject)
    library(tmp_path, monkeypatch, 'echo "nanoclaw: error: WhatsApp needs glibc 2.34 or newer" >&2; exit 1')
    (finding,) = faults(subject)
    assert (finding.state, finding.found) == (FAILURE, "WhatsApp needs glibc 2.34 or newer")


def test_a_machine_that_trusts_nobody_is_a_failure(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(subject)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nowhere"))
    (finding,) = faults(subject)
    assert finding.next == "install ca-certificates"


STATE = {"state": "connected", "why": "", "reason": "", "program": "neonize 9", "account": None, "restarts": 0}


@pytest.mark.parametrize(
    ("line", "state", "next_step"),
    [
        (STATE, OK, ""),
        ({**STATE, "state": "disconnected", "reason": "logged_out", "why": "taken off"}, FAILURE, "whatsapp link"),
        ({**STATE, "state": "disconnected", "reason": "replaced", "why": "another"}, FAILURE, "the other program"),
        ({**STATE, "state": "disconnected", "reason": "outdated", "why": "old"}, FAILURE, "nanoclaw update"),
        ({**STATE, "state": "disconnected", "reason": "banned", "why": "for 3 minutes"}, FAILURE, "your phone"),
        ({**STATE, "state": "disconnected", "reason": "offline", "why": "no way"}, WARNING, "a network"),
        ({**STATE, "state": "down", "why": "it ended"}, WARNING, "tries again"),
        (None, WARNING, "start the host again"),
    ],
)
def test_how_it_is_the_host_that_runs_says(
    subject: Subject, line: dict[str, Any] | None, state: str, next_step: str
) -> None:
    linked(subject)
    subject.status = {"event": "status", "channels": {"whatsapp": line} if line else {}}
    *_, last = found(subject)
    assert last.state == state
    assert next_step in last.next
    assert line is None or line["why"] in last.found


def test_what_it_needs_from_outside_is_named(subject: Subject) -> None:
    subject.offline = True
    whatsapp.begin(subject.home)
    told = " ".join(finding.found for finding in outside.needs(subject))
    assert "web.whatsapp.com:443" in told
    assert ChannelSettings().whatsapp_proxy == ""


def test_the_status_shows_each_channel_on_a_line() -> None:
    ann = {"id": "4915100000002@s.whatsapp.net", "alt": "", "name": "Ann"}
    assert status.channel({**STATE, "account": ann}) == "connected as +4915100000002 (Ann)"
    down = {**STATE, "state": "down", "why": "it ended with status 3", "restarts": 2}
    assert status.channel(down) == "down: it ended with status 3 (started again 2 times)"
    row = {"group": "family", "text": "hello", "file": "", "why": "the service said no"}
    assert status.unsent(row) == "to family: 'hello': the service said no"
    assert json.dumps(status.unsent({**row, "file": "a.png"})) == "\"to family: 'a.png': the service said no\""
