"""A channel for tests, as a program of its own: it behaves as its first argument says, and obeys lines in the file that
its second names: each a frame that it says to the host when it is told to (`say`), or an answer that it gives.

It writes what it was sent, one line each, to `sent.jsonl` in its working directory.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

PEER = socket.socket(fileno=3)
LINES = PEER.makefile("rb")
HELLO: dict[str, Any] = {"frame": "hello", "version": 1, "program": "fake 1", "linked": True}
HELLO["can"] = ["files", "typing", "read", "quote", "qr", "unlink", "chats", "react", "mentions"]
ME = {"id": "me@x", "alt": "", "name": "Me"}


def say(**frame: Any) -> None:
    PEER.sendall(json.dumps(frame).encode() + b"\n")


def note(frame: dict[str, Any]) -> None:
    with Path("sent.jsonl").open("a") as file:
        file.write(json.dumps(frame) + "\n")


def remember(seq: int) -> None:
    Path("kept.part").write_text(str(seq))
    Path("kept.part").rename("kept")


def up() -> None:
    PEER.sendall(json.dumps(HELLO).encode() + b"\n")
    say(frame="connected", account=ME)


def polite(one_by_one: bool = False) -> None:
    """Answers everything, and says what `script.jsonl` holds: again in every run, as a real channel does, until it is
    kept. `one_by_one`: the next one when the one before is."""
    up()
    script = Path("script.jsonl")
    kept = int(Path("kept").read_text()) if Path("kept").exists() else 0
    for line in script.read_text().splitlines() if script.exists() else ():
        if json.loads(line).get("seq", 1 << 40) > kept:
            PEER.sendall(line.encode() + b"\n")
            if one_by_one:
                while (frame := json.loads(LINES.readline()))["frame"] != "kept":
                    say(frame="done", id=frame["id"])
                remember(frame["seq"])
    obey({each.name: each.read_bytes() for each in Path("files").iterdir()} if Path("files").is_dir() else {})


def obey(files: dict[str, bytes]) -> None:
    data: dict[int, bytes] = {}
    waiting: dict[int, int] = {}
    for line in LINES:
        frame = json.loads(line)
        number = frame.get("id", 0)
        if frame["frame"] not in {"ping", "data"}:
            note(frame)
        match frame["frame"]:
            case "data":
                data[number] = data.get(number, b"") + base64.b64decode(frame["data"])
                if len(data[number]) == waiting.get(number):
                    Path(f"got-{number}").write_bytes(data[number])
                    say(frame="done", id=number, sent=[f"f{number}"])
            case "kept":
                remember(frame["seq"])
            case "stop":
                say(frame="done", id=number)
                return
            case "fetch":
                give(number, files.get(frame["ref"]))
            case "link":
                link(number, frame["phone"])
            case "send":
                send(frame, waiting)
            case "react" if frame["emoji"] == "💥":
                say(frame="failed", id=number, reason="refused", text="no", retry=0)
            case _:
                account_frame(frame)
                say(frame="done", id=number)


def send(frame: dict[str, Any], waiting: dict[int, int]) -> None:
    number = frame["id"]
    if frame.get("file"):
        waiting[number] = frame["file"]["size"]
    elif frame["text"].startswith("fail "):
        say(frame="failed", id=number, reason="refused", text="no", retry=int(frame["text"].split()[1]))
    else:
        say(frame="done", id=number, sent=[f"s{number}"])


PLAY: list[str] = []
"""What becomes of linking: codes, and at last `linked`, or `failed` and why not; without either it goes on. `seen`: not
before somebody opened the pipe of that name to write."""
CHATS: list[dict[str, Any]] = []
OPEN: list[int] = []
"""The linking that goes on."""


def account() -> None:
    """A program whose account is linked in it; in argv what `PLAY` is, and the people that it knows."""
    PLAY.extend(sys.argv[2].split(","))
    CHATS.append({"id": ME["id"], "alt": "me@lid", "name": "", "kind": "self"})
    CHATS.append({"id": "1@g", "alt": "", "name": "The family", "kind": "group"})
    linked = Path("linked").exists()
    PEER.sendall(json.dumps({**HELLO, "linked": linked}).encode() + b"\n")
    if linked:
        say(frame="connected", account=ME)
    else:
        say(frame="disconnected", reason="unlinked", text="no account is linked: nanoclaw whatsapp link", retry=-1)
    obey({})


def account_frame(frame: dict[str, Any]) -> None:
    """What comes before the `done`."""
    match frame["frame"]:
        case "listchats":
            say(frame="chats", id=frame["id"], chats=CHATS)
        case "unlink" if OPEN:
            say(frame="failed", id=OPEN.pop(), reason="expired", text="it was called off", retry=-1)


def link(number: int, phone: str) -> None:
    if Path("confused").exists():
        say(frame="data", id=number, data="AAAA")
        return
    kind = "code" if phone else "qr"
    for step in PLAY:
        if step == "seen":
            os.mkfifo("seen")
            Path("seen").read_bytes()
        elif step == "linked":
            Path("linked").touch()
            say(frame="linked", account=ME)
            say(frame="done", id=number)
            say(frame="connected", account=ME)
        elif step.startswith("failed "):
            say(frame="failed", id=number, reason="expired", text=step[7:], retry=-1)
        else:
            say(frame=kind, id=number, code=step, seconds=20)
    if PLAY[-1] != "linked" and not PLAY[-1].startswith("failed "):
        OPEN.append(number)


def ailing() -> None:
    """Loses its account, and says so again and again."""
    up()
    for _ in range(3):
        say(frame="disconnected", reason="logged_out", text="the account took this device off its list", retry=-1)
    obey({})


def give(number: int, found: bytes | None) -> None:
    if Path("confused").exists():
        say(frame="qr", id=number, code="x", seconds=1)
    elif found is None:
        say(frame="failed", id=number, reason="gone", text="the file is no longer there", retry=-1)
    else:
        give_all(number, found)


def give_all(number: int, found: bytes) -> None:
    for at in range(0, len(found), 49152):
        say(frame="data", id=number, data=base64.b64encode(found[at : at + 49152]).decode())
    say(frame="done", id=number)


def careful() -> None:
    polite(one_by_one=True)


def dies() -> None:
    print("the card is gone", file=sys.stderr, flush=True)
    sys.exit(3)


def gives_up() -> None:
    """As WhatsApp's does where its library does not load: says why, and ends."""
    PEER.sendall(json.dumps(HELLO).encode() + b"\n")
    say(frame="disconnected", reason="internal", text="the library does not load", retry=-1)
    sys.exit(1)


def dies_after_hello() -> None:
    up()
    LINES.readline()
    os._exit(4)


def hangs() -> None:
    up()
    while True:
        time.sleep(60)  # what hangs waits for nothing


def silent() -> None:
    while True:
        time.sleep(60)


def garbage() -> None:
    up()
    PEER.sendall(b"{\n")
    silent()


def endless() -> None:
    up()
    while True:
        PEER.sendall(b"x" * 65536)


def early() -> None:
    say(frame="connected", account=ME)
    silent()


def old() -> None:
    say(**{**HELLO, "version": 0})
    silent()


def unasked() -> None:
    up()
    say(frame="data", id=77, data="")
    silent()


def shows() -> None:
    """What it was born with."""
    report = {"argv": sys.argv, "env": dict(os.environ), "fds": len(list(Path("/proc/self/fd").iterdir()))}
    note(report)
    polite()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
