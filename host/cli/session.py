"""A terminal's connection to the host: the one that runs for this home, or one started here for as long as
it is needed. Both are spoken to through the same requests and events."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from host import config as configuration
from host import control, intake
from host.cli.out import Progress
from host.config import Home
from host.errors import UserError
from host.lines import JsonLines
from host.loop import Loop, Pipe
from host.text import clean_text
from runner.protocol import PeerError

# The host is this program, but a line of it may hold a whole conversation.
EVENT_LIMIT: Final = 32 * 1024 * 1024
# To remove a group its sandbox is ended first, which may take the whole of its stop ladder.
ANSWER_SECONDS: Final = 30.0

Event = dict[str, Any]


class Session:
    """Requests out, events in. `on_lost` is called once if the host goes away."""

    def __init__(self, loop: Loop, fd: int, on_event: Callable[[Event], None], on_lost: Callable[[], None]) -> None:
        self._lines = JsonLines(EVENT_LIMIT)
        self._on_event, self._on_lost = on_event, on_lost
        self._pipe = Pipe(loop, fd, fd, self._received, lambda _: on_lost(), control.WRITE_LIMIT)

    def request(self, request: control.Request) -> None:
        self._pipe.write(control.encode_request(request))

    def close(self) -> None:
        self._pipe.close()

    def _received(self, data: bytes) -> None:
        try:
            for event in self._lines.feed(data):
                self._on_event(event)
        except PeerError as e:
            raise UserError(f"the host that runs for this home does not speak this version's language ({e})") from e


def exchange(fd: int, request: control.Request, answers: Callable[[Event], bool]) -> Event:
    """Ask the host at the other end of `fd` one thing; the event that answers it. `UserError` if none comes."""
    loop = Loop()
    answer: list[Event] = []

    def on_event(event: Event) -> None:
        # A host that does not understand the request at all says so without saying whose it was.
        if not answer and (answers(event) or (event["event"] == "refused" and event["request"] == "")):
            answer.append(event)
            loop.stop()

    session = Session(loop, fd, on_event, loop.stop)
    session.request(request)
    loop.call_later(ANSWER_SECONDS, loop.stop)
    loop.run()
    session.close()
    loop.close()
    if not answer:
        raise UserError("the host that runs for this home does not answer", "is it stopped (Ctrl-Z)? see `ps`")
    if not answers(answer[0]):
        hint = "it may be an older version: stop it, and start it again"
        raise UserError(f"the host that runs for this home does not understand ({answer[0]['error']})", hint)
    return answer[0]


class Connection:
    """The host for one command: found or started, and let go of at the end."""

    def __init__(self, loop: Loop, args: argparse.Namespace, *, listen: bool) -> None:
        """`listen`: a host started here also serves other terminals while it lasts."""
        self._loop = loop
        self._session: Session | None = None
        self._close_host: Callable[[Callable[[], None]], None] = lambda then: then()
        self.home = home_of(args)
        found = control.connect(self.home.data / "host.sock")
        self.own_host = found is None
        self._fd = self._start_host(args, listen) if found is None else found.detach()

    def session(self, on_event: Callable[[Event], None], on_lost: Callable[[], None]) -> Session:
        self._session = Session(self._loop, self._fd, on_event, on_lost)
        return self._session

    def close(self) -> None:
        """Let go of the host; one that was started here is stopped first, in bounded time."""
        if self._session is not None:
            self._session.close()
        done: list[bool] = []

        def closed() -> None:
            done.append(True)
            self._loop.stop()

        self._close_host(closed)
        if not done:
            self._loop.run()

    def _start_host(self, args: argparse.Namespace, listen: bool) -> int:
        from host.cli.start import start_app

        progress = Progress(args.quiet or args.json)
        app = start_app(self._loop, args, self.home, progress, listen=listen)
        progress.clear()
        here, there = socket.socketpair()
        app.control.adopt(there.detach())
        self._close_host = app.close
        return here.detach()


def home_of(args: argparse.Namespace) -> Home:
    """Where this home lies; its folders are made if they are not there."""
    home = configuration.locate(args.home, os.environ)
    configuration.prepare(home)
    return home


def check_group(args: argparse.Namespace) -> None:
    """Whether GROUP could be a group's name at all; the host knows whether it is one's."""
    if not args.group.isprintable():
        raise UserError(f"no group is named {args.group!r}", "nanoclaw groups lists them", status=2)


def sender_of(args: argparse.Namespace) -> str:
    """Whose part the person plays (`--as`); empty: their own."""
    if args.sender is None:
        return ""
    sender: str = args.sender
    if not sender or not sender.isprintable() or " " in sender:
        raise UserError("--as is empty, or not one printable word", "it is an id, such as: --as mia", status=2)
    return sender


def why_not_called(watching: Event, sender: str, text: str) -> str:
    """Why a message that the host accepted does not call the assistant, and what would."""
    trigger = watching["trigger"]
    if trigger and not intake.calls(text, trigger):
        return f"kept for later, but it does not call {watching['assistant']}: begin it with @{trigger}"
    group = watching["group"]
    return (
        f"kept for later, but {sender or 'the owner'} is not among those who may call {watching['assistant']} here: "
        f"nanoclaw groups show {group}"
    )


def read_message(argument: str) -> str:
    """The message of `ask`: its argument, or standard input for `-`. `UserError` if it is not UTF-8 text."""
    try:
        text = read_stdin() if argument == "-" else argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"the message is not UTF-8 text (byte {e.start})", "convert it, or send it as a file") from e
    if not clean_text(text).strip():
        raise UserError("the message is empty", status=2)
    return text


def read_stdin() -> str:
    """Standard input to its end, but no more than could be a message: the rest would only be refused."""
    from runner.protocol import MAX_TEXT

    data = b""
    while len(data) <= MAX_TEXT and (more := os.read(0, 64 * 1024)):
        data += more
    if len(data) > MAX_TEXT:
        raise UserError(
            f"the message is over {MAX_TEXT // 1024} KiB", "put it into a file in the group's folder and ask about it"
        )
    return data.decode("utf-8")
