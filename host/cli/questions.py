"""Questions to the person at the terminal, on standard error: results alone go to standard output.

Enter keeps what is there, `<` goes back to the question before, Ctrl-C leaves.
"""

from __future__ import annotations

import getpass
import os
import sys
import termios
import tty
from typing import Final

from host.cli.out import paint
from host.errors import UserError

BACK: Final = "<"
MAX_LINE: Final = 4096


class Back(Exception):  # noqa: N818 (a turn in the conversation, and no error)
    """The person wants to go back one step."""


def at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def say(text: str = "", code: str = "") -> None:
    print(paint(text, code, sys.stderr) if code else text, file=sys.stderr, flush=True)


def line(question: str) -> str:
    """What was typed, without blanks around it; empty for Enter. `EOFError` for Ctrl-D."""
    print(f"{question} ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.buffer.readline(MAX_LINE + 1)
    if not typed:
        raise EOFError
    return _checked(typed)


def hidden(question: str) -> str:
    """The same, not shown while it is typed."""
    return _checked(getpass.getpass(f"{question} ", stream=sys.stderr).encode("utf-8", "surrogateescape"))


def _checked(typed: bytes) -> str:
    try:
        text = typed.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UserError("that is not UTF-8 text") from None
    if len(typed) > MAX_LINE:
        raise UserError(f"that is over {MAX_LINE // 1024} KiB")
    if text == BACK:
        raise Back
    return text


def yes(question: str, *, default: bool) -> bool:
    while True:
        answer = line(f"{question} {'[Y/n]' if default else '[y/N]'}").lower()
        if answer in ("", "y", "yes", "n", "no"):
            return answer[:1] == "y" if answer else default
        say("y or n")


def key(question: str, choices: str) -> str:
    """One key out of `choices`, pressed and not entered. Enter is "\\n"; `EOFError` for Ctrl-D."""
    before = termios.tcgetattr(0)
    try:
        tty.setcbreak(0, termios.TCSADRAIN)  # before it is asked: what is pressed at once counts too
        say(question, "1")
        while True:
            pressed = os.read(0, 1).decode("ascii", "replace").lower().replace("\r", "\n")
            if pressed in ("", "\x04"):
                raise EOFError
            if pressed in choices:
                return pressed
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
