"""Linking an account to WhatsApp, as a person sees it: what to tap, the code while it is good, and how it ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final

from host import control
from host.channels import whatsapp
from host.cli import qr
from host.cli.out import Progress, note, write
from host.cli.session import Connection, Event, home_of
from host.errors import UserError
from host.loop import Loop

POLL_SECONDS: Final = 0.3
"""The host is asked how far it is; it has no event for it, which every terminal would hear."""
CONNECT_SECONDS: Final = 60.0
"""From being linked to being connected: the phone sends what it has to tell first."""
TAPS: Final = "On your phone, in WhatsApp: Settings → Linked devices → Link a device"
TAPS_FOR_QR: Final = f"{TAPS}; then point it at this code."
TAPS_FOR_CODE: Final = f"{TAPS} → Link with phone number instead; then type:"


class Interrupted(Exception):  # noqa: N818 (a person's wish)
    """Ctrl-C: the linking was called off."""


def link(args: argparse.Namespace, phone: str, png: Path | None) -> dict[str, Any]:
    """Link an account; who it is, and whether it is connected. `UserError` says why it is not linked."""
    progress = Progress(args.quiet or args.json)
    whatsapp.check(progress)
    progress.clear()
    file = qr.File(png) if png is not None else None
    known = whatsapp.in_use(home_of(args))
    with contextlib.closing(Loop()) as loop:
        connection = Connection(loop, args, listen=True)
        linking = Linking(loop, connection, phone, Shown(args, file), known=known)
        try:
            loop.run()
        finally:
            linking.screen.end()
            connection.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if linking.interrupted:
        raise Interrupted
    if linking.error is not None:
        raise linking.error
    return linking.found | {"own_host": connection.own_host}


class Shown:
    """What is on the terminal, in the pipe, or in the file."""

    def __init__(self, args: argparse.Namespace, file: qr.File | None) -> None:
        self._json, self._file = args.json, file
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._blocks = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._last: tuple[str, str] | None = None
        self._lines = 0
        """Lines that the code takes on the terminal now."""

    def show(self, kind: str, code: str, until: float) -> None:
        """Once for each code."""
        if (kind, code) == self._last or not code:
            return
        first, self._last = self._last is None, (kind, code)
        if self._file is not None and kind == "qr":
            self._file.write(qr.png(qr.matrix(code)))
        if self._json:
            write(json.dumps({"kind": kind, "code": code, "until": round(until)}))
        elif kind == "code":
            note(TAPS_FOR_CODE)
            write(code)
        elif self._live:
            self._draw(code, until)
        else:
            if first:
                note(TAPS_FOR_QR.replace("this code", "a QR code of this text"))
            write(code)

    def _draw(self, code: str, until: float) -> None:
        lines = qr.drawn(qr.matrix(code), blocks=self._blocks)
        room = shutil.get_terminal_size()
        self._erase()
        wide = len(lines) * (2 if self._blocks else 1)
        if wide > room.columns * (1 if self._blocks else 2) or len(lines) + 3 > room.lines:
            note(
                f"the code needs {len(lines) + 3} lines of {wide} columns: make the window larger, the letters smaller,"
            )
            note("or let it be written to a file: --png FILE")
        left = max(1, round(until - time.time()))
        text = [
            TAPS_FOR_QR,
            *lines,
            f"It is good for {left} seconds; a new one follows by itself. Ctrl-C calls it off.",
        ]
        sys.stdout.write("\n".join(text) + "\n")
        sys.stdout.flush()
        self._lines = len(text)

    def _erase(self) -> None:
        if self._lines:
            # Whoever scrolls up finds no code that was good a minute ago.
            sys.stdout.write(f"\x1b[{self._lines}A\r\x1b[J")
            sys.stdout.flush()
            self._lines = 0

    def end(self) -> None:
        self._erase()
        if self._file is not None:
            self._file.remove()


class Linking:
    """Asks the host to begin, then how far it is, until it is linked and connected, or is not to be."""

    def __init__(self, loop: Loop, connection: Connection, phone: str, screen: Shown, *, known: bool) -> None:
        self._loop, self.screen, self._known = loop, screen, known
        self.found: dict[str, Any] = {}
        self.error: UserError | None = None
        self.interrupted = False
        self._linked_at = 0.0
        self._asked = ""
        """The request that is not answered yet."""
        self._leaving = False
        self._session = connection.session(self._on_event, self._lost)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.on_signal(signum, self._interrupt)
        self._ask("link_channel", channel=whatsapp.NAME, phone=phone)

    def _ask(self, method: str, **params: Any) -> None:
        self._asked = uuid.uuid4().hex
        self._session.request(control.Call(self._asked, method, params))

    def _on_event(self, event: Event) -> None:
        if event.get("id") != self._asked or event["event"] not in {"result", "refused"}:
            return
        if self._leaving:
            self._loop.stop()
        elif event["event"] == "refused":
            self._fail(UserError(event["error"], *event["hints"], status=event["status"]))
        elif "channels" in event["value"]:
            self._look(event["value"]["channels"].get(whatsapp.NAME))
        else:
            self._look_later()

    def _look_later(self) -> None:
        self._loop.call_later(POLL_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if not self._leaving:
            self._ask("channel_status")

    def _look(self, line: dict[str, Any] | None) -> None:
        if line is None:
            self._fail(UserError("the host has no WhatsApp any more", "was it unlinked meanwhile?"))
            return
        linking = line["linking"]
        outcome = linking["outcome"]
        if outcome == "linked":
            self._linked(line)
        elif outcome:
            hint = "nanoclaw whatsapp unlink" if "already" in outcome else "try again: nanoclaw whatsapp link"
            self._fail(UserError(f"no account was linked: {outcome}", hint))
        else:
            self.screen.show(linking["kind"], linking["code"], linking["until"])
            self._look_later()

    def _linked(self, line: dict[str, Any]) -> None:
        self.screen.end()
        self._linked_at = self._linked_at or self._loop.now()
        connected = line["state"] == "connected"
        if not connected and self._loop.now() - self._linked_at < CONNECT_SECONDS:
            self._look_later()
            return
        self.found = {"account": line["account"], "connected": connected}
        self._loop.stop()

    def _fail(self, error: UserError) -> None:
        self.error = error
        self._leave()

    def _interrupt(self) -> None:
        if self.interrupted:  # twice: at once
            self._loop.stop()
        self.interrupted = True
        self._leave()

    def _leave(self) -> None:
        """What was begun here and came to nothing leaves nothing behind: the host would start it each time."""
        self.screen.end()
        if self._leaving:
            return
        self._leaving = True
        if self._known:
            self._ask("unlink_channel", channel=whatsapp.NAME) if self.interrupted else self._loop.stop()
        else:
            self._ask("forget_channel", channel=whatsapp.NAME)

    def _lost(self) -> None:
        self.error = UserError("the host went away", "see what it says: nanoclaw run")
        self._loop.stop()
