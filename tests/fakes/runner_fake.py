"""A runner for the contract tests: speaks the pipe's language with the standard library alone, and behaves in
one of the ways below. Runs on a plain subprocess and, mounted read-only, in real sandboxes.

usage: runner_fake.py BEHAVIOUR '{"build": …, "hello": {…}, "stat": {…}, "seal": …}'
"""

import ctypes
import html
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

BEHAVIOUR = sys.argv[1]
OPTIONS = json.loads(sys.argv[2])
LIBC = ctypes.CDLL(None)
if OPTIONS.get("seal", True):
    LIBC.prctl(4, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

# As the runner does: the pipe moves to descriptors that children do not get.
IN = os.fdopen(os.dup(0), "rb", buffering=0) if OPTIONS.get("seal", True) else sys.stdin.buffer.raw
OUT = os.dup(1) if OPTIONS.get("seal", True) else 1
if OPTIONS.get("seal", True):
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(2, 1)

HELD = bytearray()


def send(**frame: object) -> None:
    data = json.dumps(frame).encode() + b"\n"
    while data:
        data = data[os.write(OUT, data) :]


def receive() -> dict:
    """The next frame; the end of the pipe is the end of this process."""
    while b"\n" not in HELD:
        piece = IN.read(1 << 20)
        if not piece:
            os._exit(0)
        HELD.extend(piece)
    line, _, rest = HELD.partition(b"\n")
    HELD[:] = rest
    return json.loads(line)


def limit(kind: int) -> int:
    return resource.getrlimit(kind)[0]


def hello() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    devices = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line]
    checks = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "dumpable": LIBC.prctl(3, 0, 0, 0, 0),
        "cap_eff": int(status["CapEff"], 16),
        "cap_bnd": int(status["CapBnd"], 16),
        "no_new_privs": int(status["NoNewPrivs"]),
        "seccomp": int(status["Seccomp"]),
        "core_limit": limit(resource.RLIMIT_CORE),
        "interfaces": len([d for d in devices if d != "lo"]),
        "nproc_limit": limit(resource.RLIMIT_NPROC),
        "as_limit": limit(resource.RLIMIT_AS),
        "fsize_limit": limit(resource.RLIMIT_FSIZE),
    }
    mounts = {}
    for target, path in OPTIONS["stat"].items():
        seen = Path(path).stat()
        mounts[target] = f"{seen.st_dev}:{seen.st_ino}"
    frame = {"frame": "hello", "version": OPTIONS["version"], "build": OPTIONS["build"], "mounts": mounts}
    checks.update(OPTIONS.get("checks", {}))
    send(**{**frame, "checks": checks, **OPTIONS.get("hello", {})})


def shell() -> None:
    """Run each payload's prompt, and each input, as the agent's tools would; say what it printed."""
    text = receive()["prompt"]
    while True:
        command = ["/bin/bash", "-c", text]
        clean = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=clean,
                timeout=30,
                check=False,
            )
            output = done.stdout[-100_000:].decode(errors="replace")
        except subprocess.TimeoutExpired:
            output = "timeout"
        send(frame="say", text=output)
        frame = receive()
        if frame["frame"] == "stop":
            os._exit(0)
        text = frame["text"]


def polite() -> None:
    turn = receive()
    send(frame="progress", kind="status", text="working")
    send(frame="done", text="you said " + turn["prompt"], inputs=0)
    receive()


def echo() -> None:
    receive()
    while True:
        frame = receive()
        if frame["frame"] == "stop":
            send(frame="failed", kind="stopped", message=frame["reason"])
            os._exit(0)
        send(frame="say", text=frame["text"])


def call(number: int, method: str, params: dict) -> dict:
    send(frame="call", id=number, method=method, params=params)
    return receive()


def asks() -> None:
    """Ask the host what the message says after `ask `, and reply with the answer's frame."""
    prompt = html.unescape(receive()["prompt"].rpartition("ask ")[2].partition("</message>")[0])
    wish = json.loads(prompt)
    send(frame="done", text=json.dumps(call(1, wish["method"], wish["params"])), inputs=0)
    receive()


def asks_on() -> None:
    """Ask as many times as the message says; reply with how often it was answered in which way."""
    count = int(receive()["prompt"].rpartition('">')[2].partition("</message>")[0])
    kinds = [call(number, "list_tasks", {})["frame"] for number in range(1, count + 1)]
    send(frame="done", text=json.dumps({kind: kinds.count(kind) for kind in ("result", "refused")}), inputs=0)
    receive()


def tools() -> None:
    """Reply with the names of the tools that the host offers."""
    send(frame="done", text=json.dumps([tool["name"] for tool in receive()["tools"]]), inputs=0)
    receive()


def checks() -> None:
    """Answer a check with the status that its command names; else be polite."""
    first = receive()
    if first["frame"] == "check":
        send(frame="checked", status=int(first["command"].split()[1]), output="found")
    else:
        send(frame="done", text="you said " + first["prompt"], inputs=0)
    receive()


def checks_without_end() -> None:
    """Answer a check with more than any model should read."""
    receive()
    send(frame="checked", status=0, output="x" * 1_000_000)
    receive()


def ignores_everything() -> None:
    """Neither the end of its stdin nor a signal that can be ignored ends it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


def floods() -> None:
    receive()
    while True:
        os.write(OUT, b"x" * 65536)


def floods_stderr() -> None:
    receive()
    for _ in range(2000):
        os.write(2, b"noise " * 1000 + b"\n")
    os.write(2, b"the end\n")
    os._exit(3)


def closes_output() -> None:
    receive()
    os.close(OUT)
    if OUT != 1:
        os.close(1)
    os.close(2)
    time.sleep(60)


def does_not_read() -> None:
    time.sleep(60)


def exits() -> None:
    receive()
    os.write(2, b"a reason \x1b[31mfor people\n")
    os._exit(7)


def second_hello() -> None:
    receive()
    hello()
    time.sleep(60)


def two_payload_frames() -> None:
    send(frame="say", text="before any payload")
    time.sleep(60)


def garbage() -> None:
    receive()
    os.write(OUT, b"not json\n")
    time.sleep(60)


def leaves_a_child() -> None:
    """Ends, while a child of it, in a session of its own, holds its output open."""
    receive()
    send(frame="done", text="bye", inputs=0)
    if os.fork() == 0:
        os.setsid()
        time.sleep(20)
    os._exit(0)


def main() -> None:
    if BEHAVIOUR == "silent":
        ignores_everything()
    if BEHAVIOUR == "early_frame":
        send(frame="say", text="before hello")
        time.sleep(60)
    if BEHAVIOUR == "fails_at_start":
        sys.exit("cannot start: a reason")
    hello()
    globals()[BEHAVIOUR]()


main()
