"""`.env`: lines of NAME=VALUE, of which three matter. No message ever holds a piece of a line."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host.errors import UserError

MAX_FILE: Final = 64 * 1024
API_KEY: Final = "ANTHROPIC_API_KEY"
AUTH_TOKEN: Final = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105 (the name of a setting)
BASE_URL: Final = "ANTHROPIC_BASE_URL"

_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)", re.DOTALL)
_SINGLE: Final = re.compile(r"'([^']*)'\s*(?:#.*)?")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')


@dataclass(frozen=True)
class Credentials:
    """What `.env` says. Held for one handoff, then forgotten."""

    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """`api_key` or `auth_token`, or neither."""
    base_url: str | None = None


def read(path: Path) -> Credentials:
    """A file that is not there says nothing. `UserError` if others can read it, or if a line is malformed."""
    text = _contents(path)
    if text is None:
        return Credentials()
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        pair = parse_line(line)
        if isinstance(pair, str):
            raise UserError(f"{path}: line {number} {pair}", "write NAME=value, one on each line")
        if pair is not None:
            values[pair[0]] = pair[1]
    return choose(values, str(path))


def choose(values: Mapping[str, str], where: str) -> Credentials:
    """The three settings among `values`; an empty one counts as not there."""
    key, token, url = (values.get(name, "") for name in (API_KEY, AUTH_TOKEN, BASE_URL))
    if key and token:
        raise UserError(f"{where} sets both {API_KEY} and {AUTH_TOKEN}", "keep the one that the endpoint asks for")
    for name, value in ((API_KEY, key), (AUTH_TOKEN, token)):
        # It goes into an HTTP header, where a blank or a line end would be an error far from its cause.
        if value and not re.fullmatch(r"[!-~]+", value):
            raise UserError(f"{where}: {name} holds a blank, or a character that no key has")
    secrets = {"api_key": key} if key else {"auth_token": token} if token else {}
    return Credentials(secrets, url or None)


def parse_line(line: str) -> tuple[str, str] | str | None:
    """Name and value; None for a blank or a comment; else what is wrong with it, in words that hold none of it."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    match = _LINE.fullmatch(line)
    if not match:
        return "is not NAME=value"
    name, rest = match.groups()
    if any(not c.isprintable() and c != "\t" for c in rest):
        return "holds a control character"
    value = _value(rest)
    return "has a quote that is not closed" if value is None else (name, value)


def _value(rest: str) -> str | None:
    if rest.startswith("'"):
        match = _SINGLE.fullmatch(rest)
    elif rest.startswith('"'):
        match = _DOUBLE.fullmatch(rest)
        return None if match is None else re.sub(r"\\(.)", r"\1", match[1])
    else:
        return re.split(r"(?:^|\s)#", rest, maxsplit=1)[0].rstrip()
    return None if match is None else match[1]


def _contents(path: Path) -> str | None:
    try:
        # The owner may keep it elsewhere and link to it; a FIFO must not hold us up. What counts is what was
        # opened, so that is what is judged.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    try:
        _judge(path, os.fstat(fd))
        raw = b""
        while len(raw) <= MAX_FILE and (piece := os.read(fd, MAX_FILE + 1)):
            raw += piece
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    finally:
        os.close(fd)
    if len(raw) > MAX_FILE:
        raise UserError(f"{path} is over {MAX_FILE // 1024} KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        number = raw.count(b"\n", 0, e.start) + 1
        raise UserError(f"{path}: line {number} is not UTF-8 text") from None


def _judge(path: Path, opened: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(opened.st_mode):
        raise UserError(f"{path} is not a regular file")
    if opened.st_uid != os.geteuid():
        raise UserError(f"{path} belongs to another user", f"take it over: chown {os.geteuid()} {quoted}")
    if opened.st_mode & 0o077:
        mode = stat.S_IMODE(opened.st_mode)
        raise UserError(f"{path} can be read by others (mode {mode:04o})", f"close it: chmod 600 {quoted}")
