"""`nanoclaw chat`: a conversation at this terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import termios
import time
import tty
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from host import control
from host.cli.editor import Editor, Interrupt, Leave, Line
from host.cli.out import note, paint, report, terminal_width
from host.cli.session import Connection, Event, check_group, sender_of, why_not_called
from host.loop import Loop
from host.text import clean_text, columns
from runner.protocol import MAX_TEXT

HISTORY_LINES: Final = 20
OWNER: Final = "owner"
"""What the person at the terminal is called in the conversation, unless they play another's part."""


def chat(args: argparse.Namespace) -> int:
    sender = sender_of(args)
    check_group(args)
    loop = Loop()
    connection = Connection(loop, args, listen=True)
    talk = Talk(loop, args, connection, sender)
    try:
        with talk.keyboard():
            loop.run()
    finally:
        connection.close()
    return talk.status


class Screen:
    """The terminal: lines above, and the line that is being typed, always last."""

    def __init__(self, editor: Editor, prompt: str) -> None:
        self._editor, self.prompt = editor, prompt
        self.live = sys.stdin.isatty() and sys.stdout.isatty()
        self._open = False
        """Whether streamed text stands on a line that is not ended yet."""

    def say(self, text: str, code: str = "") -> None:
        """A whole line (or several) above the one being typed."""
        self._close_text()
        self._lift()
        self._write((paint(text, code, sys.stdout) if code else text) + "\n")
        self.draw()

    def stream(self, text: str) -> None:
        """A piece of a reply as it is written; the typed line comes back when the piece's line ends."""
        if not self.live:
            return  # a pipe gets the reply whole, once
        if not self._open:
            self._lift()
        self._open = True
        self._write(text)

    def streamed(self) -> bool:
        """End the streamed text, if any was shown."""
        was = self._open
        self._close_text()
        self.draw()
        return was

    def draw(self) -> None:
        if self.live and not self._open:
            begin = columns(self.prompt)
            view, cursor = self._editor.view(terminal_width() - begin)
            back = f"\x1b[{begin + cursor + 1}G"
            self._write(f"\r\x1b[K{paint(self.prompt, '1;36', sys.stdout)}{view}{back}")

    def _close_text(self) -> None:
        if self._open:
            self._write("\n")
            self._open = False

    def _lift(self) -> None:
        if self.live:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Talk:
    """The conversation: what is typed goes to the host, what the host tells goes to the screen."""

    def __init__(self, loop: Loop, args: argparse.Namespace, connection: Connection, sender: str) -> None:
        self._loop, self._group, self._sender = loop, args.group, sender
        self._quiet = args.quiet
        self._editor = Editor()
        self._screen = Screen(self._editor, f"{sender}> ")
        self._lines_left = b""
        self._last_seq = self._ended_upto = 0
        self._unanswered: dict[str, str] = {}
        """Messages that were sent and not yet accepted by the host: id → text."""
        self._unacked: set[int] = set()
        """Outbox rows that were shown and that the host has not yet marked as sent."""
        self._watching: Event = {}
        self._running = False
        self._leaving = False
        self._trouble = ""
        """What the host could not do, and was said already."""
        self.status = 0
        self._session = connection.session(self._on_event, self._lost)
        self._session.request(control.Watch(self._group, HISTORY_LINES))

    # --- the keyboard -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def keyboard(self) -> Iterator[None]:
        """Raw keys from a terminal, lines from a pipe, all at once from a file; the terminal's modes are
        put back whatever happens."""
        self._loop.on_signal(signal.SIGTERM, self._loop.stop)
        if not self._screen.live:
            self._watch_plain()
            yield
            return
        before = termios.tcgetattr(0)
        tty.setcbreak(0)
        modes = termios.tcgetattr(0)
        modes[3] &= ~termios.ISIG  # Ctrl-C is a key here: it stops the turn and not the program
        modes[0] &= ~termios.ICRNL
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
        sys.stdout.write("\x1b[?2004h")  # bracketed paste: pasted lines are one message
        self._loop.watch(0, readable=self._keys)
        self._loop.on_signal(signal.SIGWINCH, self._screen.draw)
        try:
            yield
        finally:
            self._loop.unwatch(0)
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            sys.stdout.write("\x1b[?2004l\r\x1b[K")
            sys.stdout.flush()

    def _watch_plain(self) -> None:
        self._loop.on_signal(signal.SIGINT, self._interrupt)
        try:
            self._loop.watch(0, readable=self._plain)
        except PermissionError:  # epoll refuses regular files and /dev/null, which never block anyway
            self._loop.call_soon(self._plain_file)

    def _plain_file(self) -> None:
        while not self._leaving:
            self._plain()

    def _plain(self) -> None:
        data = os.read(0, 64 * 1024)
        *lines, self._lines_left = (self._lines_left + data).split(b"\n")
        if not data and self._lines_left:
            lines, self._lines_left = [self._lines_left], b""
        for line in lines:
            self._plain_line(line)
        if len(self._lines_left) > MAX_TEXT:
            report(f"a line of input is over {MAX_TEXT // 1024} KiB")
            self.status = 1
            data = b""
        if not data:
            with contextlib.suppress(KeyError):
                self._loop.unwatch(0)
            self._leave()

    def _plain_line(self, line: bytes) -> None:
        try:
            self._send(line.decode("utf-8"))
        except UnicodeDecodeError as e:
            report(f"a line of input is not UTF-8 text (byte {e.start}); it was not sent")
            self.status = 1

    def _keys(self) -> None:
        for action in self._editor.feed(os.read(0, 64 * 1024)):
            match action:
                case Line(text):
                    self._screen.say(self._screen.prompt + text, "2")
                    self._send(text)
                case Interrupt(cleared):
                    if self._running or not cleared:
                        self._interrupt()
                case Leave():
                    self._loop.stop()
        self._screen.draw()

    def _interrupt(self) -> None:
        if self._running:
            self._session.request(control.StopTurn(self._group))
        else:
            self._screen.say("nothing is running; Ctrl-D leaves", "2")

    def _send(self, text: str) -> None:
        if not clean_text(text).strip():
            return
        message = uuid.uuid4().hex
        self._trouble = ""
        self._unanswered[message] = text
        self._session.request(control.Send(message, self._group, text, self._sender))

    def _leave(self) -> None:
        """Input has ended (a pipe): leave when all of it is answered."""
        self._leaving = True
        self._leave_if_answered()

    def _leave_if_answered(self) -> None:
        waiting = self._unanswered or self._unacked or self._ended_upto < self._last_seq
        if self._leaving and not waiting:
            self._loop.stop()

    # --- the host ---------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        handler: Callable[[Event], None] | None = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_watching(self, event: Event) -> None:
        self._watching, self._group = event, event["group"]
        self._running = event["running"]
        for line in event["history"]:
            self._show_old(line)
        if self._screen.live:
            who, where = event["assistant"], event["name"]
            self._screen.say(f"{who} listens in {where}. Ctrl-C stops a turn, Ctrl-D leaves.", "2")
            if event["trigger"]:
                self._screen.say(f"Here {who} answers messages that begin with @{event['trigger']}.", "2")

    def _show_old(self, line: dict[str, Any]) -> None:
        if not self._screen.live:
            return
        when = time.strftime("%d %b %H:%M", time.localtime(line["at"]))
        who = line["who"] or self._watching["assistant"]
        if line["who"] == (self._sender or OWNER):
            self._editor.remember(line["text"])
        self._screen.say(f"{when}  {who}: {line['text']}", "2")

    def _on_accepted(self, event: Event) -> None:
        text = self._unanswered.pop(event["id"], "")
        if event["wanted"]:
            self._last_seq = max(self._last_seq, event["seq"])
            return
        why = why_not_called(self._watching, self._sender, text)
        if self._screen.live:
            self._screen.say(why, "2")
        else:
            note(why)
        self._leave_if_answered()

    def _on_started(self, _event: Event) -> None:
        self._running = True

    def _on_progress(self, event: Event) -> None:
        if event["kind"] == "text":
            self._screen.stream(event["text"])
        elif self._screen.live and not self._quiet:
            self._screen.say("  " + event["text"].rstrip().replace("\n", "\n  "), "2")

    def _on_say(self, event: Event) -> None:
        self._screen.say(event["text"])
        self._ack(event["out"])

    def _on_reply(self, event: Event) -> None:
        if not self._screen.streamed():
            self._screen.say(event["text"])
        self._ack(event["out"])

    def _on_error(self, event: Event) -> None:
        self._screen.streamed()
        self._screen.say(f"error: {event['text']}", "31")
        self._ack(event["out"])
        if not self._screen.live:
            self.status = 1

    def _on_ended(self, event: Event) -> None:
        self._running = False
        self._screen.streamed()
        if event["outcome"] == "stopped":
            self._screen.say("stopped", "2")
        self._ended_upto = max(self._ended_upto, event["upto"])
        self._trouble = ""
        self._leave_if_answered()

    def _ack(self, out: int) -> None:
        self._unacked.add(out)
        self._session.request(control.Ack(out))

    def _on_acked(self, event: Event) -> None:
        self._unacked.discard(event["out"])
        self._leave_if_answered()

    def _on_trouble(self, event: Event) -> None:
        """The host goes on trying, and tells each time. A person is told once; a pipe is not kept waiting for it."""
        if event["error"] != self._trouble:
            self._trouble = event["error"]
            said = [f"error: {event['error']}", *(f"hint: {hint}" for hint in event["hints"])]
            self._screen.say("\n".join(said), "31")
        if not self._screen.live:
            self.status = 1
            if self._leaving:
                self._loop.stop()

    def _on_refused(self, event: Event) -> None:
        self._on_trouble(event)
        self._unanswered.clear()
        if event["request"] == "watch" or self._leaving:
            self.status = 1
            self._loop.stop()

    def _lost(self) -> None:
        self._screen.say("the host went away; what you sent is stored and is answered when a host runs again", "31")
        self.status = 1
        self._loop.stop()
