"""What the WhatsApp program is born with, keeps to itself, and dies of."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from channel import wire
from tests.contract.stages import WhatsAppStage
from tests.fakes import whatsapp_server
from tests.fakes.channel_harness import ROOT

# Starts what it is given with our end's other side as descriptor 3, says its number, and waits to be killed.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen(["bash", "-c", 'exec "$@" 3<&"$FD"', "bash", *sys.argv[1:]], pass_fds=[int(os.environ["FD"])],
                         umask=0o022, stdout=2)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhatsAppStage]:
    stage = WhatsAppStage(tmp_path_factory.mktemp("stage") / "s")
    yield stage
    stage.close()


@contextmanager
def orphan(argv: list[str | Path], env: dict[str, str]) -> Iterator[tuple[int, socket.socket]]:
    """A channel that said hello, whose parent is then killed while its socket stays open: its number, and our end."""
    ours, theirs = socket.socketpair()
    env = {**env, "FD": str(theirs.fileno()), "PATH": os.environ["PATH"]}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()], env=env, cwd=ROOT,
    )  # fmt: skip
    theirs.close()
    with ours:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        try:
            ours.settimeout(40)
            line = ours.makefile("rb").readline()
            assert isinstance(wire.decode(line[:-1], wire.TO_HOST), wire.Hello)
            yield number, ours
        finally:
            parent.kill()
            parent.wait()
            parent.stdout.close()
            assert parent.stdin is not None
            parent.stdin.close()


def kill_parent(number: int) -> None:
    status = Path(f"/proc/{number}/status").read_text()
    parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    os.kill(parent, signal.SIGKILL)


def until_closed(ours: socket.socket) -> None:
    """Until the other end of the socket is gone, whatever is still said before that. `TimeoutError` if it stays."""
    with contextlib.suppress(ConnectionResetError):
        while ours.recv(65536):
            pass


def whatsapp(stage: WhatsAppStage, data: Path) -> tuple[list[str | Path], dict[str, str]]:
    child = Path(whatsapp_server.__file__).with_name("whatsapp_child.py")
    env = {"NEONIZE_FROM": str(stage._library), "SSL_CERT_FILE": str(stage.server.ca), "LEAK": "no"}
    return [whatsapp_server.PYTHON, "-B", child, data, "--proxy", stage.server.proxy], env


def test_the_parents_death_kills_it_and_not_only_the_sockets_end(stage: WhatsAppStage, tmp_path: Path) -> None:
    with orphan(*whatsapp(stage, tmp_path / "data")) as (number, ours):
        kill_parent(number)
        until_closed(ours)
    # The control: the scripted channel has nothing but its socket, and lives on.
    script = tmp_path / "script"
    script.write_text('{"await": "stop"}\n')
    with orphan([sys.executable, "-B", "-m", "channel.scripted", script, tmp_path / "data2"], {}) as (number, ours):
        kill_parent(number)
        ours.sendall(wire.encode(wire.Ping(1)))
        said = b""
        while b'"done"' not in said:
            said += ours.recv(65536) or pytest.fail(f"it ended: {said!r}")


def test_what_it_has_is_its_own(stage: WhatsAppStage, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with orphan(*whatsapp(stage, data)) as (number, _):
        process = Path(f"/proc/{number}")
        status = process.joinpath("status").read_text()
        assert "Umask:\t0077" in status
        assert process.joinpath("cwd").readlink() == data
        assert process.joinpath("fd/0").readlink() == Path("/dev/null")
        limits = process.joinpath("limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
        modes = {path.name: path.stat().st_mode & 0o777 for path in data.iterdir()}
        assert modes["session.db"] == 0o600
        assert set(modes.values()) == {0o600}
        assert data.stat().st_mode & 0o777 == 0o700
        handed = {key for key in process.joinpath("environ").read_text().split("\0") if key}
        assert "LEAK=no" in handed  # the control: what is handed to it is seen here
        assert "NEONIZE_BOT_TAG=off" in handed
