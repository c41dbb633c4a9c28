"""`nanoclaw` without a word: the chat; and before it, where nothing was ever set up, what this is and its set-up."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from host import config as configuration
from host.cli.chat import chat
from host.setup import was_set_up

WHAT: Final = """\
NanoClaw is an AI assistant for you and your family, on a machine of yours.
Each answer is worked out in a sealed container that sees one group's folder,
has no network but what you allow, and no key where its tools could read it.
Nothing is sent but to the model you name: Anthropic's, or a server of your own.
`nanoclaw drill` attacks all of that here, and shows what held.
"""
CHOICE: Final = "[Enter] set it up   [l] look around first: a rehearsal script answers, no AI   [q] leave"


def first(args: argparse.Namespace) -> int:
    args.command = "chat"
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    if at_terminal and not args.key_from_environment and not was_set_up(configuration.locate(args.home, os.environ)):
        status = welcome(args)
        if status is not None:
            return status
    return chat(args)


def welcome(args: argparse.Namespace) -> int | None:
    """None: on to the chat; else the exit status."""
    from host.cli import questions
    from host.cli.setup import walk
    from host.credentials import take_from_environment

    take_from_environment(os.environ, use=False)
    questions.say(WHAT)
    try:
        pressed = questions.key(CHOICE, "\nlq")
    except EOFError:
        return 0
    if pressed == "q":
        return 0
    questions.say()
    return walk(args) if pressed == "\n" else None
