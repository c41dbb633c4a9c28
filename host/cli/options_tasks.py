"""`nanoclaw tasks …`: what it takes, and its help."""

from __future__ import annotations

import argparse
from typing import Final

from host.cli.options_parser import Parser, commands_of

ADD: Final = """\
Make a task. Exactly one of --cron, --every and --at says when; times are in the group's time zone."""
ADD_EXAMPLES: Final = """\
examples:
  nanoclaw tasks add --group main --cron "0 8 * * 1-5" "Sum up what is new in news.md."
      minute, hour, day of the month, month, day of the week: at 8:00 from Monday to Friday
  nanoclaw tasks add --group main --every 15m --check "test -s inbox.txt" "Sort inbox.txt, then empty it."
      the check is a shell command in the sandbox: the model is asked only if it exits 0, else the run costs nothing
  nanoclaw tasks add --group family --at 2026-12-24T18:00 --isolated "Write a poem for tonight."
      --isolated: without the conversation so far, and leaving nothing in it"""
SET: Final = """\
Change a task. `key=` without a value goes back to the default.

  prompt    what to do                                 prompt="Say good morning."
  cron      at these times                             cron="30 7 * * *"
  every     again and again                            every=2h
  at        once                                       at=2026-12-24T18:00
  context   `group` (part of the conversation) or      context=isolated
            `isolated`
  check     a shell command that decides each run      check="test -s inbox.txt\""""
SET_EXAMPLES: Final = """\
examples:
  nanoclaw tasks set ID every=1h
  nanoclaw tasks set ID prompt="Say good morning." check="""

# Command → its summary and description.
VERBS: Final = {
    "pause": (
        "let a task rest",
        "Let a task rest until `nanoclaw tasks resume`. A run that has begun goes on to its end.",
    ),
    "resume": ("wake a task that rests", "Wake a task that rests: it runs at its next time, not for those it missed."),
    "cancel": ("remove a task", "Remove a task, also from the queue if it waits there. Its past runs stay on record."),
    "run": (
        "run a task now",
        "Run a task now, beside its schedule. If no host runs, it is run as soon as one does (`nanoclaw run`).",
    ),
}


def add_tasks(tasks: Parser, common: Parser) -> None:
    _of_group(tasks)
    action = commands_of(tasks, common, "action")
    _of_group(action("list", "all tasks (also without a command)", "List tasks, and when each runs next."))
    add = action("add", "make a task", ADD, ADD_EXAMPLES)
    add.add_argument("--group", metavar="NAME", required=True, help="whose task it is")
    when = add.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", metavar='"M H DOM MON DOW"', help="at these times: five fields, as crontab(5) has them")
    when.add_argument("--every", metavar="TIME", help="again and again: 90s, 15m, 2h, 1d")
    when.add_argument("--at", metavar="DATETIME", help="once: 2026-12-24T18:00")
    add.add_argument("--isolated", action="store_true", help="without the conversation so far, leaving nothing in it")
    add.add_argument(
        "--check", metavar="CMD", help="shell command in the sandbox; the model is asked only if it exits 0"
    )
    add.add_argument("prompt", metavar="PROMPT", help="what to do, or - to read it from standard input")
    _identified(action("show", "all about one task, and its last runs", "Show one task, and its last runs."))
    change = _identified(action("set", "change a task", SET, SET_EXAMPLES))
    change.add_argument("settings", metavar="key=value", nargs="+", help="a setting; `key=` for the default")
    for verb, (summary, description) in VERBS.items():
        _identified(action(verb, summary, description))


def _of_group(parser: Parser) -> None:
    # Both before and after `list`: suppressed, so that the one does not reset the other.
    parser.add_argument("--group", metavar="NAME", default=argparse.SUPPRESS, help="of this group only")


def _identified(parser: Parser) -> Parser:
    parser.add_argument("id", metavar="ID", help="the task; `nanoclaw tasks` lists them")
    return parser
