"""What the pipe adds to a model's stream: one client in two sandboxes, over the pipe and over TCP, in turns."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from host.drill.ground import Edited
from host.engines.base import Engine, kill_session, replacing, start_command, without
from host.gate import Gate, Resolver
from host.lines import JsonLines
from host.loop import Loop, Pipe
from host.model import Endpoint, Launch, Spec
from host.sandbox import Gone, Sandbox, spawn
from runner.protocol import Bytes, Close, Credit, Frame, Limits, Open, Turn
from tests.bench.figures import BenchError, Row, Samples
from tests.bench.ground import Ground, load
from tests.bench.parties import WAIT_SECONDS, Model

REQUEST_AIM_MS: Final = 5.0
EVENT_AIM_MS: Final = 2.0
STREAM_SECONDS: Final = 20.0
CLIENT: Final = Path(__file__).with_name("inside.py")
WAYS: Final = ("direct", "pipe")
LINE_LIMIT: Final = 1024 * 1024

# The client waits for it and looks at nothing in it: only after it does the host take other frames.
TURN: Final = Turn(
    turn="bench", group="bench", is_main=False, assistant="", prompt="", history=[], secrets={}, base_url="",
    model="bench", max_tokens=1, limits=Limits(1, 1, 1, 1, 1), tools=[], timezone="UTC",
)  # fmt: skip

Reports = dict[str, list[dict[str, Any]]]


def stream(ground: Ground) -> list[Row]:
    spec = ground.spec("bench-" + secrets.token_hex(6))
    reports: Reports = {way: [] for way in WAYS}
    loop = Loop()
    try:
        with (
            Model() as model,
            Course(loop, model) as course,
            direct(course, ground.engine, spec),
            piped(course, ground.engine, spec),
        ):
            for at in ground.repeat(ground.rounds + 1, STREAM_SECONDS):
                for way in WAYS if at % 2 else WAYS[::-1]:
                    reports[way].append(course.round(way))
    finally:
        ground.engine.reap(spec.install)
        loop.close()
    return rows({way: found[1:] for way, found in reports.items()})  # the first round fills caches


def rows(reports: Reports) -> list[Row]:
    requests = {way: Samples.of([report["request"] for report in reports[way]], 1e-6) for way in WAYS}
    events = {way: Samples.of([lag for report in reports[way] for lag in report["lags"]], 1e-6) for way in WAYS}
    made = []
    for what, aim, found in (
        ("pipe adds to a request", REQUEST_AIM_MS, requests),
        ("pipe adds to a streamed event", EVENT_AIM_MS, events),
    ):
        details = tuple(f"{way}: {found[way].described()}" for way in WAYS)
        made.append(Row(what, found["pipe"].median - found["direct"].median, "ms", aim, (*details, load())))
    return made


class Course:
    """Lets one client go at a time, and takes its report."""

    def __init__(self, loop: Loop, model: Model) -> None:
        self.loop, self.model = loop, model
        self._lines = JsonLines(LINE_LIMIT)
        self._waiting: dict[str, dict[str, Any]] = {}
        self.broken = ""
        """Why a client is no more; empty while all is well."""

    def __enter__(self) -> Course:
        self.loop.watch(self.model.fd, readable=self._told)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.unwatch(self.model.fd)

    def round(self, way: str) -> dict[str, Any]:
        self._report_of(way)  # of the round before
        self.model.let_go(way)
        report = self._waiting[way] = self._report_of(way)
        return report

    def _report_of(self, way: str) -> dict[str, Any]:
        late: list[bool] = []
        timer = self.loop.call_later(WAIT_SECONDS, lambda: late.append(True))
        while way not in self._waiting:
            if late or self.broken:
                raise BenchError(f"the client of the {way} stream: {self.broken or 'no word from it'}")
            self.loop.step()
        timer.cancel()
        return self._waiting.pop(way)

    def _told(self) -> None:
        for record in self._lines.feed(os.read(self.model.fd, 64 * 1024)):
            if "waiting" in record:
                self._waiting[record["waiting"]] = record["report"]


# --- the two clients -----------------------------------------------------------------------------------------


def instead_of_runner(launch: Launch, spec: Spec, way: str, url: str) -> Launch:
    """The same sandbox with our client in the runner's place."""
    ours = ("/usr/bin/python3", "-I", "-S", "-B", "-c", CLIENT.read_text(), way, url)
    return replacing(launch, start_command(spec), ours)


@contextlib.contextmanager
def piped(course: Course, engine: Engine, spec: Spec) -> Iterator[None]:
    """Behind the real sandbox actor and a real gate, with the bench as their host."""
    loop, url = course.loop, course.model.url
    spec = replace(spec, name=f"{spec.name}-pipe")
    port = urlsplit(url).port or 0

    def handle(untrusted_frame: Frame) -> None:
        assert isinstance(untrusted_frame, Open | Bytes | Credit | Close)
        gate.handle(untrusted_frame)

    def gone(why: Gone) -> None:
        course.broken = f"{why.message} {why.stderr_tail}"

    sandbox = Sandbox(
        loop,
        cast(Engine, Edited(engine, lambda launch: instead_of_runner(launch, spec, "pipe", url))),
        spec,
        expect_build=spec.image.build,
        on_ready=lambda: sandbox.hand_over(TURN),
        on_frame=handle,
        on_gone=gone,
    )
    resolver = Resolver(loop)
    gate = Gate(
        loop,
        resolver,
        group="bench",
        turn="bench",
        endpoint=Endpoint(url, "127.0.0.1", port, tls=False),
        allowed=(),
        send=sandbox.send,
        audit=lambda _: None,
    )
    sandbox.start()
    try:
        yield
    finally:
        gate.close()
        sandbox.stop("measured", grace=0)
        until = loop.now() + WAIT_SECONDS
        while sandbox.state != "gone" and loop.now() < until:
            loop.call_later(1.0, lambda: None)
            loop.step()
        resolver.close()


@contextlib.contextmanager
def direct(course: Course, engine: Engine, spec: Spec) -> Iterator[None]:
    """With the network of the host: only here, only for what the bench itself runs."""
    spec = replace(spec, name=f"{spec.name}-direct")
    launch = instead_of_runner(engine.launch(spec), spec, "direct", course.model.url)
    if engine.name == "docker":
        launch = replacing(launch, ["--network", "none"], ["--network", "host"])
    else:
        launch = without(launch, "--unshare-net")
    process, *fds = spawn(launch)
    said: list[bytes] = []

    def ended(_: str) -> None:
        course.broken = b"".join(said)[-500:].decode(errors="replace")

    errors = Pipe(course.loop, fds.pop(), None, said.append, ended, 0)
    try:
        yield
    finally:
        errors.close()
        for fd in fds:
            os.close(fd)
        if (argv := engine.kill(spec.name)) is not None:
            subprocess.run(argv, capture_output=True, timeout=WAIT_SECONDS, check=False)
        else:
            kill_session(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_SECONDS)
