"""Who takes part in a measurement: the model's server, a host with a terminal, a bare sandbox to compare with."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from host import control
from host.engines.base import Engine, clean_environment, start_command
from host.model import Spec
from tests.bench import procfs
from tests.bench.figures import BenchError

ROOT: Final = Path(__file__).resolve().parents[2]
WAIT_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.05
RUNNER: Final = "/opt/nanoclaw/runner/__main__.py"
IMPORT: Final = "import sys; sys.path[:0] = ['/opt/nanoclaw/lib']; import anthropic; print('ready', flush=True)"
ECHO: Final = "import sys; print('ready', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"


def environment() -> dict[str, str]:
    """Ours, without what would change what the product does, or how it prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "NANOCLAW_"))}
    return {**kept, "NO_COLOR": "1"}


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Look until it is so: only for what another process does and sends no event of."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise BenchError(f"waited {WAIT_SECONDS:.0f} seconds for {what}")
        time.sleep(LOOK_SECONDS)


def end(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM) -> None:
    """Ask it to end, and make sure."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signum)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


class Lines:
    """Lines from a descriptor, each waited for no longer than a minute."""

    def __init__(self, fd: int, whose: str) -> None:
        self._fd, self._whose, self._held = fd, whose, b""

    def next(self) -> bytes:
        until = time.monotonic() + WAIT_SECONDS
        while b"\n" not in self._held:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise BenchError(f"no word from {self._whose} within {WAIT_SECONDS:.0f} seconds")
            data = os.read(self._fd, 64 * 1024)
            if not data:
                raise BenchError(f"{self._whose} ended too early")
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line


class Model:
    """The timed model endpoint: a child that ends with us."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.model"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.fd = self._process.stdout.fileno()
        self._lines = Lines(self.fd, "the model's server")
        self.url: str = self.next()["url"]

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def next(self) -> dict[str, Any]:
        """What it tells next."""
        record: dict[str, Any] = json.loads(self._lines.next())
        return record

    def asked(self) -> float:
        """When the first byte of the next request came."""
        while "asked" not in (record := self.next()):
            pass
        return float(record["asked"]) / 1e9

    def let_go(self, who: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(who.encode() + b"\n")
        self._process.stdin.flush()


class Host:
    """`nanoclaw run` on a home of its own, and a terminal that talks to it as `chat` does."""

    def __init__(self, home: Path, engine: Engine) -> None:
        self._home, self._engine = home, engine
        self._ready = threading.Event()
        self._said: list[bytes] = []
        argv = [sys.executable, str(ROOT / "nanoclaw.py"), "--home", str(home), "--engine", engine.name, "run"]
        self.process = subprocess.Popen(
            argv, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Host:
        self._ready.wait(WAIT_SECONDS)
        self._socket = control.connect(self._home / "data" / "host.sock")
        if self._socket is None:
            said = b" | ".join(self._said[-3:]).decode(errors="replace")
            self.__exit__()
            raise BenchError(f"the host did not start: {said}")
        self._lines = Lines(self._socket.fileno(), "the host")
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        end(self.process)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line.strip())
            if line.startswith(b"nanoclaw: ready"):
                self._ready.set()
        self._ready.set()  # it has ended

    # --- the terminal ---

    def request(self, request: control.Request) -> None:
        assert self._socket is not None
        self._socket.sendall(control.encode_request(request))

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; what is said to the person on the way is acknowledged."""
        while True:
            event: dict[str, Any] = json.loads(self._lines.next())
            if event["event"] in {"reply", "say"}:
                self.request(control.Ack(event["out"]))
            if event["event"] in {"refused", "trouble", "error"}:
                raise BenchError(f"the host says: {event.get('error') or event.get('text')}")
            if event["event"] == name:
                return event

    def watch(self) -> None:
        """Open the chat; from now on a sandbox is kept warm, where the settings say so."""
        self.request(control.Watch("main", 0))
        self.event("watching")

    def turn(self, model: Model) -> float:
        """One turn, whole. Seconds from the message's commit to the first byte of the request to the model."""
        self.request(control.Send(uuid.uuid4().hex, "main", "a short answer please", ""))
        self.event("accepted")  # sent when the commit has returned
        committed = time.monotonic()
        asked = model.asked()
        if (outcome := self.event("ended")["outcome"]) != "done":
            raise BenchError(f"a turn ended as {outcome}")
        return asked - committed

    def status(self) -> dict[str, Any]:
        self.request(control.Status())
        return self.event("status")

    def wait_until_alone(self) -> None:
        """Until the last turn's sandbox is gone, so that it is not in the next one's way."""
        wait_for("the sandbox to be gone", lambda: self.status()["sandboxes"] == 0)

    def warm_runner(self) -> int:
        """The process of the one sandbox that waits, when it has imported all that it needs."""

        def waits() -> bool:
            status = self.status()
            return bool(status["warm"] == ["main"] and status["sandboxes"] == 1 and self._runners())

        wait_for("a warm sandbox", waits)
        (pid,) = self._runners()[:1]
        procfs.wait_for_rest(pid, 0.2)
        return pid

    def _runners(self) -> list[int]:
        if self._engine.name != "docker":
            pids = procfs.descendants(self.process.pid)
        else:
            install = (self._home / "data" / "install-id").read_text().strip()
            argv = ["docker", "inspect", "--format", "{{.State.Pid}}", *self._engine.orphans(install)]
            pids = [int(pid) for pid in subprocess.run(argv, capture_output=True, check=False).stdout.split()]
        # bwrap's own processes name the runner too, as an argument.
        return [pid for pid in pids if RUNNER in (line := procfs.command(pid)) and line[0].endswith("python3")]


# --- to compare with --------------------------------------------------------------------------------------


def bare_argv(engine: Engine, spec: Spec, code: str) -> list[str]:
    """The least that the engine needs to run this Python code in the image: no limit, no mount, no filter."""
    python = ["/usr/bin/python3", "-I", "-S", "-B", "-c", code]
    argv = engine.launch(spec).argv
    if engine.name == "docker":
        known_as = argv[-len(start_command(spec)) - 1]
        return [argv[0], "run", "-i", "--rm", "--pull", "never", "--network", "none", "--log-driver", "none",
                known_as, *python]  # fmt: skip
    root = str(spec.image.rootfs)
    return [argv[0], "--unshare-all", "--die-with-parent", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev",
            "--tmpfs", "/tmp", *python]  # fmt: skip


@contextlib.contextmanager
def bare(engine: Engine, spec: Spec, code: str) -> Iterator[tuple[float, Bare]]:
    """A bare sandbox that runs `code`, and the seconds from its launch to its first line."""
    start = time.monotonic()
    process = subprocess.Popen(
        bare_argv(engine, spec, code), env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        running = Bare(process)
        running.lines.next()
        yield time.monotonic() - start, running
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            end(process)


class Bare:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self.lines = Lines(process.stdout.fileno(), "the bare sandbox")

    def round_trip(self) -> float:
        """Seconds that one line needs to and fro."""
        start = time.monotonic()
        self._stdin.write(b"x" * 100 + b"\n")
        self._stdin.flush()
        self.lines.next()
        return time.monotonic() - start
