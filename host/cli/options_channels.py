"""`nanoclaw whatsapp …` and `nanoclaw chats`: what they take, and their help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from host.cli.options_parser import Commands, Parser, commands_of, is_named

WHATSAPP: Final = """\
WhatsApp as a channel: your account, with this machine as one of its linked devices. Messages of a chat are read only
where you made it a group (`nanoclaw groups add`); of all others nothing is kept but that they are there."""
WHATSAPP_EXAMPLES: Final = """\
examples:
  nanoclaw whatsapp link                            shows a QR code for the phone
  nanoclaw whatsapp link --phone +4915112345678     a code to be typed on the phone
  nanoclaw chats                                    which chats there are
  nanoclaw groups add family --channel whatsapp --chat "The family"
  nanoclaw groups move main --channel whatsapp --chat self"""
LINK: Final = """\
Link your account: a QR code is drawn here, anew whenever it expires, and your phone scans it (WhatsApp → Settings →
Linked devices → Link a device). With --phone a code is shown that you type on the phone instead. In a pipe only the
code's text is printed. Whoever scans it first has the account linked: let nobody else see it."""
UNLINK: Final = """\
Take this machine off the account's linked devices, and remove what is kept of the session. Messages and groups stay.
Needs a connection to WhatsApp, unless --force."""
STATUS: Final = "Show whether an account is linked, which, and how its connection is."
CHATS: Final = """\
Show all chats that channels know: what each is called, whether it is a group, a person or your talk with yourself,
which group of NanoClaw's it is, and its id. Names are what others chose: where two are alike, go by the id."""
CHATS_EXAMPLES: Final = """\
examples:
  nanoclaw chats
  nanoclaw chats | grep -i family
  nanoclaw groups add family --channel whatsapp --chat 120363000000000001@g.us"""


def add_channels(command: Commands, common: Parser, argv: Sequence[str]) -> None:
    whatsapp = command("whatsapp", "WhatsApp: link an account, look at it", WHATSAPP, WHATSAPP_EXAMPLES)
    command("chats", "the chats that channels know", CHATS, CHATS_EXAMPLES)
    if not is_named(whatsapp, argv):
        return
    action = commands_of(whatsapp, common, "action")
    link = action("link", "link your account", LINK)
    link.add_argument("--phone", metavar="NUMBER", help="a code to type on this phone, and no QR code: +4915112345678")
    link.add_argument("--png", metavar="FILE", help="write the QR code to FILE too; it is removed at the end")
    unlink = action("unlink", "take this machine off the account", UNLINK)
    unlink.add_argument("--force", action="store_true", help="remove the session here, also if WhatsApp cannot be told")
    action("status", "how it is (also without a command)", STATUS)
