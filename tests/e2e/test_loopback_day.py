"""A day of use where there is no network: nothing is named to the kernel but the model's address and our own sockets.

Works on the built file too, where NANOCLAW_BUILT names one.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.model import Image
from tests.conftest import missing, require_engine
from tests.e2e import loopback
from tests.e2e.cli import ROOT, environment, rows, wait_for
from tests.e2e.loopback import CannotError, Namespace, Reached, Trace

# Compressing an image, or a day of use, takes minutes on a machine that does other things too.
pytestmark = pytest.mark.timeout(900)
BUILT = os.environ.get("NANOCLAW_BUILT", "")
DRILL_SECONDS = 400
ENGINES = re.compile(r"/var/run/docker\.sock|/.+/overlay-containers/[0-9a-f]{64}/userdata/attach")
"""The doctor looks at all engines that are here: docker's socket, and podman's own for a container it started."""
USERS = "/var/run/nscd/socket"
"""Where the C library asks for the name of a user first, in a sandbox too. It asks there for hosts as well, and goes on
to port 53 then: that is not allowed."""
MODEL = """\
import socket
from host.rehearsal.server import Server
with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
    print(listening.getsockname()[1], flush=True)
    Server(listening).serve_forever(poll_interval=3600)
"""
ELSEWHERE = """\
import contextlib, socket
for family, address in (socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 9)):
    with socket.socket(family) as s, contextlib.suppress(OSError):
        s.connect(address)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
    s.sendto(b"x", ("192.0.2.1", 123))
with contextlib.suppress(OSError):
    socket.getaddrinfo("where.nanoclaw.invalid", 443)
"""


def program() -> list[str]:
    return [BUILT] if BUILT else [sys.executable, str(ROOT / "nanoclaw.py")]


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(loopback.namespace())
        except CannotError as e:
            missing("strace", str(e))
        yield made


@pytest.fixture
def model(space: Namespace) -> Iterator[str]:
    """`host:port` of an Anthropic-compatible server that is a program of its own, on the namespace's loopback."""
    argv = space.argv(sys.executable, "-c", MODEL)
    server = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    yield f"127.0.0.1:{int(server.stdout.readline())}"
    server.kill()
    server.communicate()


class Day:
    """One home, and every command of the day under a strace of its own."""

    def __init__(self, home: Path, space: Namespace, folder: Path) -> None:
        self.home, self._space, self._folder = home, space, folder
        self.traces: dict[str, Path] = {}

    def traced(self, name: str, *args: str) -> list[str]:
        out = self._folder / f"{len(self.traces)}-{name}.strace"
        self.traces[out.stem] = out
        return self._space.traced(out, *program(), "--home", str(self.home), "--engine", "bubblewrap", *args)

    def does(self, *args: str, seconds: int = 120, said: str = "") -> str:
        done = subprocess.run(
            self.traced(args[0], *args), env=environment(), input=said, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{args}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        return done.stdout

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        process = subprocess.Popen(
            self.traced("run", "run"), env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: process.poll() is not None or (self.home / "data" / "host.sock").exists())
            assert process.poll() is None, "the host did not start"
            yield
        finally:
            # strace holds signals back from itself and from what it follows: the host is its child.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGTERM)
            process.wait(60)


def test_a_day_of_use_names_no_address_but_the_models(
    home: Path, image: Image, tmp_path: Path, space: Namespace, model: str
) -> None:
    require_engine("bubblewrap")
    day = Day(home, space, tmp_path)
    set_up(day, model)
    assert "1 2 3" in day.does("ask", "repeat 1 2 3")
    for group in ("family", "work"):
        day.does("groups", "add", group)
    with day.host():
        assert "from a chat" in day.does("chat", said="repeat from a chat\n")
        for group in ("main", "family", "work"):
            day.does("ask", "--group", group, f"@Robin remember that this is {group}\nrun ls -a; cat /proc/net/dev")
            day.does("tasks", "add", "--group", group, "--cron", "0 8 * * *", "say good morning")
            day.does("tasks", "add", "--group", group, "--every", "3h", "--check", "true", "repeat still here")
    a_day_goes_by(home)
    with day.host():
        day.does("status")
        wait_for(lambda: rows(home, "SELECT count(*) FROM task_runs WHERE outcome = 'done'") >= [(6,)])
    day.does("doctor")
    day.does("image", "info")
    drill = day.does("drill", seconds=DRILL_SECONDS)
    assert "held" in drill

    found = {name: loopback.read(path.read_text()) for name, path in day.traces.items()}
    strange = {name: sorted(map(str, strangers(trace, home, model, "drill" in name))) for name, trace in found.items()}
    assert not {name: those for name, those in strange.items() if those}
    asked = {name.partition("-")[2] for name, trace in found.items() if Reached(model, "connect") in trace.reached}
    assert {"setup", "ask", "run", "doctor"} <= asked, "the model's address itself was seen: so would others"


def set_up(day: Day, model: str) -> None:
    day.does("setup", "--url", f"http://{model}", "--model", "rehearsal", "--name", "Robin", "--yes")


def strangers(trace: Trace, home: Path, model: str, own: bool) -> set[Reached]:
    """What is neither the model's address, nor an engine's socket, nor one in this home. `own`: nor one that these very
    programs listen on, as the drill does, whose model is its own."""
    allowed = {model, USERS, *(trace.listening if own else ())}
    return {
        each
        for each in trace.reached
        if each.address not in allowed
        and not ENGINES.fullmatch(each.address)
        and not Path(each.address).resolve().is_relative_to(home.resolve())
    }


def a_day_goes_by(home: Path) -> None:
    """All tasks become due. The clock of the machine is everybody's: so their times are set back instead."""
    with contextlib.closing(sqlite3.connect(home / "data" / "nanoclaw.db", timeout=10)) as db, db:
        db.execute("UPDATE tasks SET next_run = ?, anchor = anchor - 86400", (time.time() - 3600,))


def test_what_is_tried_elsewhere_is_seen(space: Namespace, tmp_path: Path) -> None:
    """Without this, a parser that reads nothing would pass the test above."""
    out = tmp_path / "trace"
    subprocess.run(space.traced(out, sys.executable, "-c", ELSEWHERE), check=True, timeout=60)
    seen = {each.address for each in loopback.read(out.read_text()).reached}
    assert {"127.0.0.1:9", "[::1]:9", "192.0.2.1:123"} <= seen
    assert any(each.endswith(":53") or "resolve" in each or "nscd" in each for each in seen), "a look-up of a name"


def test_what_a_process_with_a_network_of_its_own_tries_is_not_ours(space: Namespace, tmp_path: Path) -> None:
    out = tmp_path / "trace"
    apart = ["unshare", "--net", *(["--user"] if os.geteuid() else []), "--", sys.executable, "-c", ELSEWHERE]
    subprocess.run(space.traced(out, *apart), check=True, timeout=60)
    text = out.read_text()
    assert "192.0.2.1" in text
    assert not [each for each in loopback.read(text).reached if ":" in each.address]


def test_lines_that_came_into_one_another_are_read_together() -> None:
    to = 'sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.53")'
    trace = loopback.read(
        "7 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n"
        f"8 connect(3, {{{to}}}, 16 <unfinished ...>\n"
        "7 <... clone resumed>) = 4 /* 8 in strace's PID NS */\n"
        "8 <... connect resumed>) = -1 EINPROGRESS (Operation now in progress)\n"
        "7 clone(child_stack=NULL, flags=CLONE_NEWNET|SIGCHLD) = 5 /* 9 in strace's PID NS */\n"
        "9 fork() = 2 /* 10 in strace's PID NS */\n"
        f'10 sendto(3, ""..., 5, 0, {{{to}}}, 16) = 5\n'
    )
    assert trace.reached == [Reached("192.0.2.53:53", "connect")]
