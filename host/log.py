"""The host's log: what happened, when, and why, in lines; never what was said in a chat.

Each line passes two filters: keys are removed from it, and so is what would make one line look like two, or
like a terminal's command. Logging never fails: a full disk costs lines, and later a line that says how many.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

LEVELS: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""With syslog's numbers, which journald reads from the beginning of a line."""
MAX_FILE: Final = 1024 * 1024
KEPT: Final = 2
"""Full files kept beside the current one: `nanoclaw.log.1` is the newer."""
# A pipe that is ready takes this much without blocking (PIPE_BUF is at least 4096 on Linux, 512 elsewhere).
MAX_LINE: Final = 4000
MAX_VALUE: Final = 1000

_REMOVED: Final = "[secret removed]"
# Whatever key is in use: these are what keys look like, also those of other services that a tool may print.
_KEY_SHAPES: Final = re.compile(
    r"sk-ant-[A-Za-z0-9_-]{8,}|\bsk-[A-Za-z0-9_-]{12,}|\bgh[a-z]_[A-Za-z0-9]{20,}|\bxox[a-z]-[A-Za-z0-9-]{10,}|\bAKIA[A-Z0-9]{16}\b"
    r"|(?i:(?<=bearer )|(?<=x-api-key: )|(?<=api_key=)|(?<=auth_token=))[^\s\"',;]{8,}"
)
_BARE: Final = re.compile(r"[\w./:@+-]{1,200}")


class Log:
    """`path` is made with its folder when the first line is written. `scrub` is applied to every line."""

    def __init__(
        self,
        path: Path,
        *,
        to_stderr: bool = False,
        quiet: bool = False,
        debug: bool = False,
        scrub: Callable[[str], str] = lambda text: text,
    ) -> None:
        self._path, self._scrub = path, scrub
        self._least = LEVELS["debug" if debug else "info"]
        self._least_shown = (LEVELS["warning"] if quiet else self._least) if to_stderr else -1
        # systemd reads "<4>" at the beginning of a line as its level.
        self._to_journal = "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty()
        self._fd: int | None = None
        self._shown: int | None = None
        self._size = self._lost = 0
        self._torn = False
        """Whether the file ends in half a line, because the disk was full."""

    def debug(self, text: str, /, **values: Any) -> None:
        self._log("debug", text, values)

    def info(self, text: str, /, **values: Any) -> None:
        self._log("info", text, values)

    def warning(self, text: str, /, **values: Any) -> None:
        self._log("warning", text, values)

    def error(self, text: str, /, **values: Any) -> None:
        self._log("error", text, values)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _log(self, level: str, text: str, values: dict[str, Any]) -> None:
        if LEVELS[level] > self._least:
            return
        # Scrubbed before anything is cut: half of a key is found by nobody.
        clean, *rest = (remove_keys(self._scrub(str(each))) for each in (text, *values.values()))
        pairs = (f"{name}={_value(value)}" for name, value in zip(values, rest, strict=True))
        line = one_line(" ".join([clean, *pairs]))
        if LEVELS[level] <= self._least_shown:
            self._show(level, line)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._lost and self._write(f"{now} warning {self._lost} lines could not be written before this one"):
            self._lost = 0
        if not self._write(f"{now} {level} {line}"):
            self._lost += 1

    def _show(self, level: str, line: str) -> None:
        start = f"<{LEVELS[level]}>" if self._to_journal else "nanoclaw: "
        said = line if level == "info" else f"{level}: {line}"
        # A reader that hangs, or a terminal that was stopped with Ctrl-S, must not stop the host: what cannot
        # be written at once is left out here; the file has it.
        with contextlib.suppress(OSError, ValueError):
            if self._shown is None:
                self._shown = _without_waiting(sys.stderr)
            poll = select.poll()
            poll.register(self._shown, select.POLLOUT)
            if poll.poll(0):
                sys.stderr.flush()
                os.write(self._shown, _bounded(start + said))

    def _write(self, line: str) -> bool:
        data = (b"\n" if self._torn else b"") + _bounded(line)
        try:
            fd = self._fd if self._fd is not None else self._open()
            if self._size + len(data) > MAX_FILE:
                self._rotate()
                fd = self._open()
            written = os.write(fd, data)
        except OSError:
            self.close()  # the next line tries anew: the disk may have room then, or the folder be back
            return False
        self._size += written
        self._torn = written < len(data)
        return not self._torn

    def _open(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        os.fchmod(self._fd, 0o600)
        self._size = os.fstat(self._fd).st_size
        return self._fd

    def _rotate(self) -> None:
        self.close()
        for age in range(KEPT, 0, -1):
            newer = self._path.with_name(f"{self._path.name}.{age - 1}") if age > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(self._path.with_name(f"{self._path.name}.{age}"))


def one_line(untrusted_text: str) -> str:
    """The text with everything escaped that does not print: line ends, terminal commands, marks that change the
    direction of writing, invisible characters, lone surrogates."""
    if untrusted_text.isprintable():
        return untrusted_text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in untrusted_text)


def remove_keys(text: str) -> str:
    """The text without what looks like a key, whether or not it is one that is in use here."""
    return _KEY_SHAPES.sub(_REMOVED, text)


def _without_waiting(stream: TextIO) -> int:
    """A descriptor for the same place. A ready terminal may still take less than a line, so it is opened anew:
    to set the one that we share with the shell to non-blocking would change the shell's too."""
    if not stream.isatty():
        return stream.fileno()
    return os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


def _value(text: str) -> str:
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}… ({len(text)} characters)"
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _bounded(line: str) -> bytes:
    data = line.encode("utf-8", "replace")
    if len(data) >= MAX_LINE:
        data = data[: MAX_LINE - 8].decode("utf-8", "ignore").encode() + "…".encode()
    return data + b"\n"
