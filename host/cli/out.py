"""The command line's voice: `nanoclaw: error: …` and `nanoclaw: hint: …` on standard error, lower case, for
the person who can act; results on standard output; colour and tables at a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any, Final, TextIO

from host.errors import UserError


def report(error: str, *hints: str) -> None:
    print(f"nanoclaw: error: {error}", file=sys.stderr)
    for hint in hints:
        print(f"nanoclaw: hint: {hint}", file=sys.stderr)


def note(text: str) -> None:
    """Something to know that is neither a result nor an error."""
    print(f"nanoclaw: {text}", file=sys.stderr)


def emit(as_json: bool, record: dict[str, Any], text: str) -> int:
    """Print a result in the form that was asked for; always 0, so that a command can end with it."""
    if as_json:
        import json  # every start imports this module, and few need that one

        write(json.dumps(record, ensure_ascii=not _has_all_characters(sys.stdout)))
    elif text:
        write(text)
    return 0


def write(text: str) -> None:
    """A result, on standard output; `UserError` if it cannot be taken there."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as e:  # a full disk
        drop_output()
        raise UserError(f"cannot write to standard output: {e.strerror}") from e


def drop_output() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def be_lenient() -> None:
    """A terminal of an old encoding shows `?` for what it has no character for, instead of ending the program."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not _has_all_characters(sys.stdout):
        sys.stdout.reconfigure(errors="replace")


def _has_all_characters(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}


def coloured(stream: TextIO) -> bool:
    """Whether a person looks at `stream` and did not ask for plain text (https://no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """`text` with an SGR code (`1` bold, `2` dim, `31` red …) where colours are shown."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream) else text


def terminal_width() -> int:
    """In columns, as `shutil` measures it, a module that costs every start more than it is worth here."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal, or none open
        return 80


BAR: Final = 20


def with_bar(text: str) -> str:
    """`unpacking: 40 %` with a bar between; anything else as it is."""
    found = re.match(r"(.*): (\d{1,3}) %\Z", text)  # compiled when first needed: every start imports this
    if found is None:
        return text
    done = min(BAR, int(found[2]) * BAR // 100)
    return f"{found[1]} [{'#' * done}{'.' * (BAR - done)}] {found[2]} %"


class Progress:
    """What takes long, on standard error: one line that changes at a terminal, a line each elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._shown = False
        self._last = ""

    def __call__(self, text: str) -> None:
        if self._quiet or text == self._last:
            return
        self._last = text
        if self._live:
            sys.stderr.write(f"\r\x1b[K{paint(with_bar(text), '2', sys.stderr)}")
            self._shown = True
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
        self._last = ""
