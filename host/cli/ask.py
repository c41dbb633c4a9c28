"""`nanoclaw ask`: one message, the reply on standard output."""

from __future__ import annotations

import argparse
import signal
import sys
import uuid
from typing import Final

from host import control
from host.cli.out import Progress, emit, note, report, write
from host.cli.session import Connection, Event, check_group, read_message, sender_of, why_not_called
from host.loop import Loop

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""


def ask(args: argparse.Namespace) -> int:
    text, sender = read_message(args.text), sender_of(args)
    check_group(args)
    loop = Loop()
    connection = Connection(loop, args, listen=True)
    asking = Asking(loop, args, connection, sender, text)
    try:
        loop.run()
    finally:
        connection.close()
    return asking.status


class Asking:
    """Sends the message when the host watches for us, then waits for the turn that covers it to end."""

    def __init__(self, loop: Loop, args: argparse.Namespace, connection: Connection, sender: str, text: str) -> None:
        self._loop, self._args, self._sender, self._text = loop, args, sender, text
        self._show = Progress(args.quiet or args.json)
        self._seq = 0
        self._says: list[str] = []
        self._watching: Event = {}
        self._reply: Event | None = None
        self._failed = False
        self.status = 1
        self._session = connection.session(self._on_event, self._lost)
        self._session.request(control.Watch(args.group, 0))
        self._session.request(control.Send(uuid.uuid4().hex, args.group, text, sender))
        loop.on_signal(signal.SIGINT, self._interrupt)

    def _on_event(self, event: Event) -> None:
        match event["event"]:
            case "watching":
                self._watching = event
            case "accepted" if not event["wanted"]:
                self._not_called()
            case "accepted":
                self._seq = event["seq"]
            case "progress" if event["kind"] in {"tool", "status"}:
                self._show(event["text"])
            case "say" if self._seq:
                self._say(event)
            case "reply" | "error" if event["upto"] >= self._seq > 0:
                self._reply = event
            case "ended" if event["upto"] >= self._seq > 0:
                self._finish(event)
            case "trouble":
                self._fail(event)
            case "refused":
                self._fail(event)
            case "acked" if self._reply is not None and event["out"] == self._reply["out"]:
                self._loop.stop()

    def _not_called(self) -> None:
        """It is stored, and part of the next prompt; nobody answers it now."""
        self._show.clear()
        if self._args.json:
            emit(True, {"outcome": "not called", "reply": "", "said": [], "turn": ""}, "")
        else:
            note(why_not_called(self._watching, self._sender, self._text))
        self.status = 0
        self._loop.stop()

    def _say(self, event: Event) -> None:
        self._show.clear()
        self._says.append(event["text"])
        if not self._args.json:
            write(event["text"])
        self._session.request(control.Ack(event["out"]))

    def _finish(self, ended: Event) -> None:
        self._show.clear()
        reply = self._reply
        answered = ended["outcome"] == "done"
        self._tell(ended, reply["text"] if reply else "")
        if self.status != INTERRUPTED:
            self.status = 0 if answered else 1
        if reply is None:
            self._loop.stop()
        else:  # S4 is the host's to write: leave when it says so
            self._session.request(control.Ack(reply["out"]))

    def _tell(self, ended: Event, text: str) -> None:
        if self._args.json:
            emit(True, {"outcome": ended["outcome"], "reply": text, "said": self._says, "turn": ended["turn"]}, "")
        elif ended["outcome"] != "done":
            report(text or f"the turn ended without a reply ({ended['outcome']})")
        elif text:
            write(text)

    def _fail(self, event: Event) -> None:
        if self._failed:
            return  # the watch and the message are refused for the same reason: once is enough
        self._failed = True
        self._show.clear()
        report(event["error"], *event["hints"])
        self._loop.stop()

    def _lost(self) -> None:
        self._show.clear()
        kept = "the message is stored and is answered when a host runs again" if self._seq else "nothing was sent"
        report(f"the host went away; {kept}")
        self._loop.stop()

    def _interrupt(self) -> None:
        if self.status == INTERRUPTED:  # twice: leave at once
            self._loop.stop()
        self.status = INTERRUPTED
        self._session.request(control.StopTurn(self._watching.get("group", self._args.group)))
        print("stopping …", file=sys.stderr)
