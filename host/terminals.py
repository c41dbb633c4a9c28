"""What terminals ask of the host, answered: messages, watching a chat, requests, the status."""

from __future__ import annotations

import re
import time
from typing import Any, Final, Protocol

from host import intake
from host.attempt import Attempt
from host.channels.console import Console
from host.config import Config
from host.control import Ack, Call, Client, Request, Send, Status, StopTurn, Watch
from host.errors import UserError
from host.house import OWNER
from host.model import Group, Message, Outgoing
from host.store import Store
from host.text import clean_text

HISTORY_LINES_MAX: Final = 200
UNREAD_MAX: Final = 100
"""Unread replies that a terminal is given when it opens; the rest wait for the next one."""
SENDER: Final = re.compile(r"[^\x00-\x20\x7f-\x9f\u2028\u2029]{1,100}\Z")


class Host(Protocol):
    """What a terminal's requests are carried out with."""

    @property
    def rehearsing(self) -> bool: ...
    def group(self, folder: str) -> Group: ...
    def attempt(self, folder: str) -> Attempt | None: ...
    def receive(self, message: Message) -> tuple[int, bool]: ...
    def deliver(self, outgoing: Outgoing) -> None: ...
    def keep_warm(self, group: Group) -> None: ...
    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]: ...
    def status(self) -> dict[str, Any]: ...


class Terminals:
    """Requests in, events out. Whoever can open the control socket is the person who owns the home."""

    def __init__(self, host: Host, store: Store, config: Config) -> None:
        self._host, self._store, self._config = host, store, config

    def on_request(self, client: Client, request: Request) -> None:
        name = type(request).__name__.lower()
        try:
            self._serve(client, request)
        except UserError as e:
            also = {"id": request.id} if isinstance(request, Call | Send) else {}
            client.send("refused", request=name, error=str(e), hints=list(e.hints), status=e.status, **also)

    def _serve(self, client: Client, request: Request) -> None:
        match request:
            case Send():
                self._send(client, request)
            case Watch(folder, history):
                self._watch(client, self._host.group(folder), history)
            case Ack(out):
                self._store.outbox.mark_sent(out)  # S4
                client.send("acked", out=out)
            case StopTurn(folder):
                attempt = self._host.attempt(folder)
                if attempt is not None:
                    attempt.stop("stopped by the person at the terminal")
            case Call(id, method, params):
                client.send("result", id=id, value=self._host.call(method, params))
            case Status():
                client.send("status", **self._host.status())

    def _send(self, client: Client, request: Send) -> None:
        group = self._host.group(request.group)
        if group.channel != Console.name:
            raise UserError(f"the group {group.folder} is a {group.channel} chat", "write to it there", status=2)
        text = clean_text(request.text)
        if refusal := intake.check_size(text):
            raise UserError(refusal, status=2)
        sender = request.sender or OWNER
        if not SENDER.fullmatch(sender):
            raise UserError("a sender is 1 to 100 characters without spaces", "choose another for --as", status=2)
        rehearsal = self._host.rehearsing  # a bad .env refuses the message here, before it is accepted
        message = Message(group.channel, request.id, group.chat, sender, sender, text, time.time())
        seq, wanted = self._host.receive(message)
        client.send("accepted", id=request.id, seq=seq, rehearsal=rehearsal, wanted=wanted)

    def _watch(self, client: Client, group: Group, history: int) -> None:
        client.watches.add(group.folder)
        lines = self._store.recent_lines(group.folder, max(0, min(history, HISTORY_LINES_MAX)))
        client.send(
            "watching",
            group=group.folder,
            name=group.name,
            assistant=self._config.assistant,
            trigger=self._config.group(group).trigger,
            rehearsal=self._host.rehearsing,
            running=self._host.attempt(group.folder) is not None,
            history=[vars(line) for line in lines],
        )
        unread = [out for out in self._store.outbox.pending(Console.name) if out.group == group.folder]
        for outgoing in unread[:UNREAD_MAX]:
            self._host.deliver(outgoing)
        # Whoever opens a chat is about to write: the sandbox can start while they type.
        self._host.keep_warm(group)
