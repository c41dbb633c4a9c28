"""One call of the person at the terminal: carried out by the host that runs for this home, or here if none does."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import uuid
from typing import Any, Final

from host import control, store
from host.cli.session import exchange, home_of
from host.config import Home
from host.errors import UserError

# A host that starts or stops holds the home's lock for a moment in which nobody listens at its socket, and so does
# another command while it is carried out: neither is worth an error.
TRIES: Final = 30
TRY_SECONDS: Final = 0.1


def request(args: argparse.Namespace, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The answer, as JSON values. `UserError` says why there is none; then nothing was changed."""
    try:
        json.dumps(params, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("an argument is not UTF-8 text", status=2) from None
    home = home_of(args)
    found = host_or_lock(home)
    if isinstance(found, int):
        return ask_host(found, method, params)
    with contextlib.closing(found):
        return carry_out_here(home, method, params)


def host_or_lock(home: Home) -> int | store.Lock:
    """The descriptor of a connection to the host that runs for this home, or the lock that keeps one from starting."""
    for left in reversed(range(TRIES)):
        connection = control.connect(home.data / "host.sock")
        if connection is not None:
            return connection.detach()
        try:
            return store.lock(home.data)
        except UserError:
            if not left:
                raise
        time.sleep(TRY_SECONDS)
    raise AssertionError("the last try returns or raises")


def ask_host(fd: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    name = uuid.uuid4().hex
    call = control.Call(name, method, params)
    answer = exchange(fd, call, lambda event: event["event"] in {"result", "refused"} and event.get("id") == name)
    if answer["event"] == "refused":
        raise UserError(answer["error"], *answer["hints"], status=answer["status"])
    value: dict[str, Any] = answer["value"]
    return value


def carry_out_here(home: Home, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """What a running host would do: the same calls on the same store, but there is no engine to be asked and nobody
    to be told. The home's lock is held."""
    from host import calls, config, source
    from host.channels import whatsapp

    settings = config.load(home)
    with contextlib.closing(store.Store(home.data / "nanoclaw.db")) as opened:
        if not opened.groups():  # a new home, and only then: what it is made with knows every engine
            from host.house import registered

            registered(opened)
        names = ["console", *(name for name, _ in settings.channels.commands)]
        names += [whatsapp.NAME] if whatsapp.in_use(home) else []
        desk = calls.Desk(
            store=opened, config=settings, home=home, now=time.time, project=str(source.ROOT), channels=lambda: names
        )
        return calls.carry_out(desk, calls.Caller(None), method, params)
