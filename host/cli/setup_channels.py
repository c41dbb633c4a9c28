"""The step of `nanoclaw setup` about WhatsApp: an account linked, and which chat is main."""

from __future__ import annotations

import argparse
from typing import Any, Final

from host.channels import whatsapp as channel
from host.cli.desk import request
from host.cli.out import note
from host.cli.questions import line, say, yes
from host.cli.setup_walk import Walk
from host.errors import UserError

SKIP, QR, SELF, HERE = "skip", "qr", "self", "console"
LINKS: Final = "  To stay in touch by WhatsApp, this machine becomes one of your account's linked devices."


def whatsapp(walk: Walk) -> None:
    wish = walk.args.whatsapp
    if wish == SKIP or (wish is None and not walk.asks):
        return
    known = channel.account(walk.home)
    if known is not None:
        say(f"  an account is linked: +{known.partition('@')[0].partition(':')[0]}")
    else:
        if wish is None:
            say(LINKS)
            wish = line(f"[Enter] not now, `{QR}`: by a QR code, or your number (+49…): by a code to type on the phone")
        if wish in ("", SKIP):
            return
        _link(walk, wish)
        walk.changed.append("whatsapp")
    _choose_main(walk)


def _link(walk: Walk, wish: str) -> None:
    from host.cli import linking
    from host.cli.status import person

    if wish != QR and not wish.startswith("+"):
        raise UserError(f"{wish[:40]!r} is neither {QR} nor a number with its country", "such as +4915112345678")
    try:
        found = linking.link(walk.args, "" if wish == QR else wish, None)
    except linking.Interrupted:
        raise UserError("called off; nothing is linked") from None
    note(f"linked as {person(found['account']) or 'your account'}")


def _choose_main(walk: Walk) -> None:
    """The talk with oneself, unless the person says otherwise."""
    chat = walk.args.main
    if chat is None and main(walk.args)["channel"] == channel.NAME:
        return
    if chat is None and walk.asks:
        say(f"  Your main chat, which alone administers {walk.config.assistant}, is this terminal's so far.")
        chat = SELF if yes("Is it to be your WhatsApp talk with yourself?", default=True) else HERE
    if chat == HERE:
        return
    wish = {"group": "main", "channel": channel.NAME, "chat": chat or SELF}
    request(walk.args, "move_group", wish)
    walk.changed.append("main")


def main(args: argparse.Namespace) -> dict[str, Any]:
    """The main group, as it is now."""
    found: dict[str, Any] = request(args, "show_group", {"group": "main"})["group"]
    return found
