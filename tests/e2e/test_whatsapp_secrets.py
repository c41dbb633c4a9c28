"""The model's key is nowhere in WhatsApp's program: not in its arguments, environment, open files or memory, after a
turn that used the key. And what a channel says that it should not stops the channel, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.rehearsal.child import Rehearsal
from tests.conftest import built_image, require_engine
from tests.e2e.cli import ROOT, answer, environment, nanoclaw, wait_for
from tests.fakes.whatsapp_town import Town, town

# In two parts, so that this file does not hold what it looks for.
KEY = "sk-ant-api03-" + "Zp4wTestKeyThatNoChannelMaySee0123456789"
CANARY = "canary-of-the-memory-" + "4711-4712"
CHUNK = 1 << 20
HOLDS = "import sys; secret = sys.stdin.readline(); print(flush=True); sys.stdin.readline()"

needs_ptrace = pytest.mark.skipif(os.getuid() != 0, reason="reads other processes' memory: needs root")


def shown_by(pid: int, needle: bytes) -> set[str]:
    """Where this process has the bytes, or their base64 or hex: `cmdline`, `environ`, `memory`, or an open file."""
    forms = [needle, needle.hex().encode(), *(base64.b64encode(b"x" * shift + needle)[4:-4] for shift in range(3))]
    place = Path(f"/proc/{pid}")
    found = {name for name in ("cmdline", "environ") if any(form in (place / name).read_bytes() for form in forms)}
    for entry in (place / "fd").iterdir():
        target = entry.readlink() if entry.is_symlink() else entry
        if target.is_file() and any(form in target.read_bytes() for form in forms):
            found.add(str(target))
    return found | ({"memory"} if in_memory(place, forms) else set())


def in_memory(place: Path, forms: list[bytes]) -> bool:
    most = max(map(len, forms))
    with (place / "mem").open("rb", buffering=0) as memory:
        for line in (place / "maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if span is None:
                continue
            at, end, tail = int(span[1], 16), int(span[2], 16), b""
            while at < end:
                try:
                    data = os.pread(memory.fileno(), min(CHUNK, end - at), at)
                except (OSError, OverflowError):
                    break  # of the kernel's own, or gone meanwhile
                if not data:
                    break
                if any(form in tail + data for form in forms):
                    return True
                at, tail = at + len(data), data[-most:]
    return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Town]:
    """Its model server takes the one key only."""
    model = Rehearsal(expect_key=KEY)
    base = model.start().base_url
    with town(tmp_path / "town", settings=f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={base}\n") as made:
        yield made
    model.stop()


@needs_ptrace
def test_the_program_knows_no_key_though_a_turn_that_it_brought_used_one(place: Town) -> None:
    needle = KEY.encode()
    place.register("family")
    since = place.server.now()
    place.writes("@Andy run env\nrepeat this took the key")
    place.sent("this took the key", since)
    place.until_idle()
    child = place.child
    assert shown_by(child, needle) == set()
    assert shown_by(child, b"this took the key") == {"memory"}, "a word that it did carry is found there"
    # The host's own memory has the key: so the search finds one where it is.
    assert place.host is not None
    assert "memory" in shown_by(place.host.pid, needle)
    environment = (Path("/proc") / str(child) / "environ").read_bytes()
    assert b"ANTHROPIC" not in environment
    # Its open files: its own folder, the library's, the socket, the log's pipe.
    files = {str(fd.readlink()) for fd in Path(f"/proc/{child}/fd").iterdir() if fd.is_symlink()}
    assert str(place.home / "data/whatsapp/session.db") in files, "they are seen at all"
    strange = {
        f for f in files if f.startswith(str(place.home)) and not f.startswith(str(place.home / "data/whatsapp"))
    }
    assert strange == set()


@needs_ptrace
def test_the_search_finds_a_key_in_each_place(tmp_path: Path) -> None:
    """The control of the test above."""
    needle = CANARY.encode()
    kept = tmp_path / "kept"
    kept.write_text(CANARY)
    argv = [sys.executable, "-c", HOLDS]
    for how, place in (({}, "memory"), ({"env": {**os.environ, "KEY": CANARY}}, "environ"), ({}, "cmdline")):
        with subprocess.Popen(
            [*argv, *([CANARY] if place == "cmdline" else [])], stdin=-1, stdout=-1, text=True, **how
        ) as process:  # type: ignore[call-overload]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{CANARY}\n" if place == "memory" else "\n")
            process.stdin.flush()
            process.stdout.readline()
            assert place in shown_by(process.pid, needle)
            process.stdin.close()
    with kept.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        assert shown_by(process.pid, needle) == {str(kept)}
        process.kill()


# --- what a channel says that it should not --------------------------------------------------------------------------

RUDE = 200
SEED = 20_261_123
MOST_GROWTH = 3 << 20
"""Bytes by which the host may have grown after them: a third of what they said, so that it would show if it stayed."""

# A channel that breaks the rules in the way of its number, and counts on the next time.
PROGRAM = """
import json, os, random, sys
n = int(open("n").read()) if os.path.exists("n") else 0
open("n", "w").write(str(n + 1))
r = random.Random({seed} + n)
hello = {{"frame": "hello", "version": 1, "program": "rude", "linked": True, "can": ["typing"]}}
person = {{"id": "ann@x", "alt": "", "name": "Ann"}}
chat = {{"id": "1@g", "alt": "", "name": "", "kind": "group"}}
message = {{"frame": "message", "seq": 1, "chat": chat, "id": "m1", "sender": person, "own": False, "at": 1}}
message["text"] = "x"
def line(o): return json.dumps(o).encode() + b"\\n"
def spoiled():
    data = bytearray(line(message))
    for _ in range(r.randint(1, 8)):
        data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data) + b"{{\\n"
ways = [
    lambda: os.urandom(r.randint(1, 4000)) + b"\\n",
    lambda: line(hello) + spoiled(),
    lambda: line(hello) + line(hello),
    lambda: line(message),
    lambda: line(hello) + b"[" * 100000 + b"\\n",
    lambda: line(hello) + b'"' + b"a" * (600 * 1024),
    lambda: line(hello) + line({{**message, "text": "a" * 70000}}),
    lambda: line(hello) + line({{**message, "seq": -1}}),
    lambda: line(hello) + line({{**message, "at": 1e400}}).replace(b"Infinity", b"1e999"),
    lambda: line(hello) + line({{**message, "extra": 1}}),
    lambda: line(hello) + line({{"frame": "done", "id": 99, "sent": []}}),
    lambda: line(hello) + line({{"frame": "qr", "id": 1, "code": "x", "seconds": 1}}),
    lambda: line(hello) + line({{"frame": "data", "id": 7, "data": "AAAA"}}),
    lambda: line(hello) + line({{"frame": "send", "id": 7}}),
    lambda: line(hello) + b'{{"frame":"message","frame":"message"}}\\n',
    lambda: line({{**hello, "version": 2}}),
    lambda: line(hello) + b"\\xff\\xfe\\n",
    lambda: line(hello) + line({{**message, "text": "\\ud800"}}),
]
import socket
s = socket.socket(fileno=3)
try:
    s.sendall(ways[n % len(ways)]())
    s.shutdown(socket.SHUT_WR) if n % 7 == 6 else None
    while s.recv(65536): pass
except OSError:
    pass
"""
HASTE = """\
import sys
sys.path.insert(0, sys.argv[1])
from host.channels import program
from host.cli import main
program.BACK_OFF = (0.01,)
sys.exit(main(sys.argv[2:]))
"""
"""The real host, but for its patience."""


@contextlib.contextmanager
def host_of(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", HASTE, str(ROOT), "--home", str(home), "--engine", "bubblewrap", "run"]
    host = subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (home / "data/host.sock").exists() or host.poll() is not None)
        assert host.poll() is None, "the host did not start"
        yield host
    finally:
        host.terminate()
        host.wait(30)


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_two_hundred_channels_that_break_the_rules_break_nothing_else(home: Path) -> None:
    require_engine("bubblewrap")
    built_image()
    program = home / "rude.py"
    program.write_text(PROGRAM.format(seed=SEED))
    (home / "config").mkdir(mode=0o700)
    (home / "config/config.toml").write_text(
        f"[channels.rude]\ncommand = [{sys.executable!r}, '-I', {str(program)!r}]\n"
    )
    counted = home / "data/channels/rude/n"

    def count() -> int:
        return int(counted.read_text() or 0) if counted.exists() else 0

    with host_of(home) as host:
        assert "said so" in nanoclaw(home, "bubblewrap", "ask", "repeat said so").stdout
        wait_for(lambda: count() >= 20)
        before = resident(host.pid)
        wait_for(lambda: count() >= 20 + RUDE)
        grown = resident(host.pid) - before
        assert grown < MOST_GROWTH, f"{grown >> 10} KiB"
        line = answer(home, "status")["channels"]["rude"]
        assert line["restarts"] >= RUDE
        assert "still here" in nanoclaw(home, "bubblewrap", "ask", "repeat still here").stdout
    log = (home / "data/log/nanoclaw.log").read_text()
    assert "it broke the rules" in log
    assert "Traceback" not in log
