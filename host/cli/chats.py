"""`nanoclaw chats`: the chats that channels know, and which of them are groups."""

from __future__ import annotations

import argparse
from typing import Any, Final

from host.cli import tables
from host.cli.desk import request
from host.cli.out import emit

KINDS: Final = {"group": "group", "direct": "person", "self": "yourself"}


def chats(args: argparse.Namespace) -> int:
    found = request(args, "list_chats", {})
    rows = [row(each) for each in found["chats"]]
    return emit(args.json, found, tables.table(("CHAT", "KIND", "GROUP", "CHANNEL", "ID"), rows, "none"))


def row(chat: dict[str, Any]) -> list[str]:
    name = chat["name"] or ("(your talk with yourself)" if chat["kind"] == "self" else "-")
    return [name, KINDS.get(chat["kind"], "-"), chat["group"] or "-", chat["channel"], chat["chat"]]
