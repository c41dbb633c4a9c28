"""A runner that was turned, in a group's own turn: it looks at all that it was given, asks for all that it must not
have, and tells what came of it as its reply.

The program runs in a real sandbox in the runner's place and says a true hello. What it is to do are its orders, as
plain data; they hold no canary, only the pattern that one has.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from host.drill.ground import Ground, key_of
from host.drill.standin import ISOLATED, finish, with_command
from host.drill.turn import a_turn
from host.drill.words import RAN, wrapped
from host.model import Endpoint, Launch
from host.sandbox import spawn
from runner.protocol import (
    RUNNER_LINE_LIMIT,
    TO_HOST,
    Call,
    Decoder,
    Done,
    Entries,
    Frame,
    PeerError,
    Result,
    Say,
    encode,
)

PATTERN: Final = "NC[G]-[0-9a-z]{16}-[a-z]+"
"""A group's canary: the group's own mark, and where it was put. It does not match itself."""
PLACES: Final = ("/workspace", "/tmp", "/mnt", "/srv", "/home", "/root", "/run", "/media", "/var")  # noqa: S108
NOWHERE: Final = Endpoint("http://127.0.0.1:9", "127.0.0.1", 9, tls=False)
PATIENCE: Final = 20.0
SECONDS: Final = 40.0
FLOOD_FROM: Final = 1000
"""Number of the first call of a flood: nobody waits for the answers."""

PROGRAM: Final = r"""
import ctypes, json, os, re, resource, select, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path[:0] = ["/opt/nanoclaw"]
from runner import protocol, seal
orders = json.loads(sys.argv[1])
held = protocol.Lines(protocol.HOST_LINE_LIMIT)
waiting = []

def frame(value):
    data = memoryview(protocol.encode(value))
    while data:
        data = data[os.write(1, data):]

def told(seconds):
    end = time.monotonic() + seconds
    while not waiting:
        if not select.select([0], [], [], max(0, end - time.monotonic()))[0]:
            return None
        data = os.read(0, 65536)
        if not data:
            os._exit(0)
        waiting.extend(held.feed(data))
    return json.loads(waiting.pop(0))

def canaries(place, value):
    text = value if isinstance(value, str) else json.dumps(value)
    found.extend(f"{place}: {canary}" for canary in sorted(set(re.findall(orders["pattern"], text))))

def search(top):
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try:
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), errors="replace") as f:
                    canaries(path, f.read(1 << 20))
            except OSError:
                continue

def run(command):
    child = subprocess.run(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
    return child.stdout.decode(errors="replace")

def ask(number, method, params):
    frame(protocol.Call(number, method, params))
    while True:
        answer = told(orders["patience"])
        if answer is None:
            return f"never answered: {method}"
        if answer.get("id") != number:
            continue
        if answer["frame"] == "refused":
            return f"refused: {method}: {answer['reason']}"
        canaries(f"the answer to {method}", answer["value"])
        return f"carried out: {method}: {json.dumps(answer['value'])}"

frame(seal.hello())
turn = None
while turn is None:
    turn = told(60)
found, texts = [], {}
if orders["look"]:
    for place in ("prompt", "history", "tools", "notes"):
        canaries(place, turn.get(place, ""))
    for top in orders["places"]:
        search(top)
for probe, command in orders["run"]:
    texts[probe] = run(command)[:600]
for number, (probe, method, params) in enumerate(orders["calls"], 1):
    texts[probe] = texts.get(probe, "") + ask(number, method, params)[:300] + "\n"
if orders["entries"]:
    frame(protocol.Entries(orders["entries"]))
if "says" in orders["acts"]:
    for number in range(60):
        frame(protocol.Say(f"word {number}"))
if "calls" in orders["acts"]:
    for number in range(1000, 1300):
        frame(protocol.Call(number, "list_tasks", {}))
if "entries" in orders["acts"]:
    for _ in range(6):
        frame(protocol.Entries([{"role": "user", "content": "x" * 3900000}]))
if "endless" in orders["acts"]:
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    frame(protocol.Progress("status", "on and on"))
    while True:
        with open("/workspace/group/.alive", "w") as f:
            f.write(str(time.monotonic()))
        time.sleep(0.1)
frame(protocol.Done(json.dumps({"texts": texts, "found": found})))
told(60)
"""


FLOODS: Final = ("says", "calls", "entries")
"""What a runner does more of than a turn may."""
MANY_TASKS: Final = 105
"""A few more than one group may have."""


def tasks_asked_for(count: int) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
    wish = {"kind": "cron", "schedule": "0 4 29 2 *"}
    return tuple(("tasks-bounded", "schedule_task", {**wish, "prompt": f"number {number}"}) for number in range(count))


@dataclass(frozen=True)
class Orders:
    """What one rogue is to do, in this order."""

    look: bool = False
    """Whether it searches the payload and the files for canaries; answers are always searched."""
    run: tuple[tuple[str, str], ...] = ()
    """Probe and shell command."""
    calls: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    """Probe, method, parameters. A probe may ask more than once."""
    entries: tuple[Mapping[str, Any], ...] = ()
    """For the transcript."""
    acts: tuple[str, ...] = ()
    """`says`, `calls`, `entries`: more of them than a turn may; `endless`: never ends."""


@dataclass
class Report:
    """What a rogue told."""

    texts: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    """Place and canary, of those that it saw."""


def playing(launch: Launch, orders: Orders, patience: float = PATIENCE) -> Launch:
    record = asdict(orders) | {"pattern": PATTERN, "places": PLACES, "patience": patience}
    record["run"] = [(probe, wrapped(command)) for probe, command in orders.run]
    return with_command(launch, (*ISOLATED, "-c", PROGRAM, json.dumps(record)))


def read_report(untrusted_text: str) -> Report:
    """`ValueError` if it is none."""
    record = json.loads(untrusted_text)
    # A request's text came to its end when there is an answer, or none; a command says so itself.
    asked = {
        probe: text if RAN in text else f"{text}{RAN}"
        for probe, text in record["texts"].items()
        if isinstance(text, str)
    }
    return Report(asked, [str(place) for place in record["found"]])


# --- a host that carries out everything ------------------------------------------------------------------


@dataclass
class Obeyed:
    """What a host without any bound took from the rogues."""

    report: Report = field(default_factory=Report)
    says: int = 0
    calls: int = 0
    flooded: int = 0
    """Calls of a flood."""
    entry_bytes: int = 0
    done: bool = False


def obey(ground: Ground, orders: Orders, silent_for: str) -> Obeyed:
    """Answer every call with a yes, note nothing, and take all that comes: the control for what a host refuses.
    The calls of the probe `silent_for` are not answered at all."""
    spec = ground.spec("obedient")
    process, stdin, stdout, stderr = spawn(playing(ground.engine.launch(spec), orders, patience=1.0))
    obeyed, decoder = Obeyed(), Decoder(TO_HOST, RUNNER_LINE_LIMIT)
    try:
        os.write(stdin, encode(a_turn(spec.group, "go", key_of(ground.canary[::-1]), NOWHERE)))
        silent = {number for number, (probe, _, _) in enumerate(orders.calls, 1) if probe == silent_for}
        end = time.monotonic() + SECONDS
        while not obeyed.done and time.monotonic() < end:
            ready, _, _ = select.select([stdout], [], [], 1.0)
            data = os.read(stdout, 1 << 20) if ready else b""
            if ready and not data:
                break
            for untrusted_frame in decoder.feed(data):
                _obey_one(obeyed, untrusted_frame, stdin, silent)
    except (PeerError, OSError, ValueError):
        pass  # what was taken until then counts
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        finish(ground.engine, spec.name, process)
    return obeyed


def _obey_one(obeyed: Obeyed, untrusted_frame: Frame, stdin: int, silent: set[int]) -> None:
    match untrusted_frame:
        case Call(number):
            obeyed.calls += 1
            obeyed.flooded += number >= FLOOD_FROM
            if number < FLOOD_FROM and number not in silent:
                os.write(stdin, encode(Result(number, {})))
        case Say():
            obeyed.says += 1
        case Entries(entries):
            obeyed.entry_bytes += sum(len(str(entry)) for entry in entries)
        case Done(text):
            obeyed.report, obeyed.done = read_report(text), True
