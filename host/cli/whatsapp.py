"""`nanoclaw whatsapp`: an account linked, taken off, looked at."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
import uuid
from pathlib import Path
from shlex import quote
from typing import Any, Final

from host import control
from host.channels import whatsapp as channel
from host.cli import linking, tables
from host.cli.desk import request
from host.cli.out import emit, note
from host.cli.session import Connection, Event, home_of
from host.cli.status import person
from host.errors import UserError
from host.home import Home
from host.loop import Loop

INTERRUPTED: Final = 130
UNLINK_SECONDS: Final = 60.0
GONE_SECONDS: Final = 15.0
"""For the program to end, and its folder to go after it."""


def whatsapp(args: argparse.Namespace) -> int:
    return ACTIONS[args.action](args)


def link(args: argparse.Namespace) -> int:
    try:
        found = linking.link(args, args.phone or "", Path(args.png) if args.png else None)
    except linking.Interrupted:
        note("called off; nothing is linked")
        return INTERRUPTED
    who = person(found["account"]) or "an account that tells its name when it is connected"
    emit(args.json, {"linked": found["account"], "connected": found["connected"]}, f"linked as {who}")
    if not args.json and not args.quiet:
        if not found["connected"]:
            note("it is not connected yet: nanoclaw whatsapp status")
        if found["own_host"]:
            note("it is answered while a host runs: nanoclaw run")
        note("which chats there are: nanoclaw chats; your talk with yourself as main: "
             "nanoclaw groups move main --channel whatsapp --chat self")  # fmt: skip
    return 0


def unlink(args: argparse.Namespace) -> int:
    home = home_of(args)
    if not channel.in_use(home):
        return emit(args.json, {"unlinked": False}, "no account is linked here")
    if args.force:
        request(args, "forget_channel", {"channel": channel.NAME})
        require_gone(home)
        if not args.json:
            note("WhatsApp was not told: take this device off the list on your phone (Linked devices)")
        return emit(args.json, {"unlinked": True}, "its session is removed from this machine")
    with contextlib.closing(Loop()) as loop:
        connection = Connection(loop, args, listen=True)
        unlinking = Unlinking(loop, connection)
        try:
            loop.run()
        finally:
            connection.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if unlinking.error is not None:
        raise unlinking.error
    require_gone(home)
    return emit(args.json, {"unlinked": True}, "unlinked; its session is removed from this machine")


def require_gone(home: Home) -> None:
    """The host answers before it has removed the session: that waits for the program that uses it."""
    until = time.monotonic() + GONE_SECONDS
    while channel.in_use(home):
        if time.monotonic() >= until:
            folder = channel.folder(home)
            still = f"{folder} is still there: it holds the account's keys"
            raise UserError(still, f"remove it: rm -r {quote(str(folder))}")
        time.sleep(0.05)


class Unlinking:
    """Tells WhatsApp, as soon as there is a connection, and then removes what is kept here."""

    def __init__(self, loop: Loop, connection: Connection) -> None:
        self._loop = loop
        self.error: UserError | None = None
        self._asked = ""
        self._method = ""
        self._until = loop.now() + UNLINK_SECONDS
        self._session = connection.session(self._on_event, self._lost)
        loop.on_signal(signal.SIGINT, lambda: self._fail(UserError("called off; the account is still linked")))
        self._ask("channel_status")

    def _ask(self, method: str, **params: Any) -> None:
        self._asked, self._method = uuid.uuid4().hex, method
        self._session.request(control.Call(self._asked, method, params))

    def _on_event(self, event: Event) -> None:
        if event.get("id") != self._asked or event["event"] not in {"result", "refused"}:
            return
        if event["event"] == "refused":
            self._fail(UserError(event["error"], *event["hints"], status=event["status"]))
        elif self._method == "forget_channel":
            self._loop.stop()
        elif self._method == "unlink_channel":
            self._again()
        else:
            self._look(event["value"]["channels"].get(channel.NAME))

    def _again(self) -> None:
        self._loop.call_later(linking.POLL_SECONDS, lambda: self._ask("channel_status"))

    def _look(self, line: dict[str, Any] | None) -> None:
        told = line["linking"] if line else {"kind": "unlink", "outcome": "unlinked"}
        if told["kind"] == "unlink" and told["outcome"] == "unlinked":
            self._ask("forget_channel", channel=channel.NAME)
        elif told["kind"] == "unlink" and told["outcome"]:
            self._fail(UserError(f"the account is still linked: {told['outcome']}", FORCE))
        elif line is not None and self._loop.now() > self._until:
            why = line["why"] or "there is no connection to WhatsApp"
            self._fail(UserError(f"the account is still linked: {why}", FORCE))
        elif line is not None and told["kind"] != "unlink" and (
            line["state"] == "connected" or line["reason"] in {"unlinked", "logged_out"}
        ):  # fmt: skip
            self._ask("unlink_channel", channel=channel.NAME)
        else:
            self._again()

    def _fail(self, error: UserError) -> None:
        self.error = error
        self._loop.stop()

    def _lost(self) -> None:
        self._fail(UserError("the host went away", "see what it says: nanoclaw run"))


FORCE: Final = "or remove what this machine has of it, and take it off the list on your phone: --force"


def status(args: argparse.Namespace) -> int:
    home = home_of(args)
    found = request(args, "channel_status", {})["channels"].get(channel.NAME)
    account = channel.account(home)
    record: dict[str, Any] = {
        "in_use": channel.in_use(home),
        "linked": account is not None,
        "running": found is not None,
    }
    record |= {"account": account, **(found or {})}
    record.pop("linking", None)  # a code there is a credential, and this is for looking
    return emit(args.json, record, tables.fields(described(record, str(channel.folder(home)))))


def described(record: dict[str, Any], folder: str) -> dict[str, str]:
    if not record["in_use"]:
        return {"account": "none is linked: nanoclaw whatsapp link"}
    account = record["account"]
    who = person(account) if isinstance(account, dict) else person({"id": account or ""})
    rows = {"account": who if account else "none is linked: nanoclaw whatsapp link", "session": folder}
    if not record["running"]:
        return rows | {"state": "no host runs: nanoclaw run"}
    state = record["state"] + (f": {record['why']}" if record["why"] else "")
    return rows | {"state": state, "program": record["program"] or "-", "restarts": str(record["restarts"])}


ACTIONS: Final = {"link": link, "unlink": unlink, "status": status}
