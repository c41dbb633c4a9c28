"""A key, as it is given: looked at for its form only. Nobody is asked whether it is good."""

from __future__ import annotations

import os
import re
from typing import Final

from host.credentials.dotenv import API_KEY, AUTH_TOKEN, parse_line
from host.credentials.scrub import MIN_SECRET
from host.errors import UserError

MAX_KEY: Final = 4096
PREFIX: Final = "sk-ant-"
"""What every key of Anthropic's begins with."""


def from_file(name: str) -> tuple[str, str]:
    """Name of the setting, and the key. `-` is standard input. The file may be a pipe: it is read to its end."""
    try:
        fd = 0 if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise UserError(f"{name} cannot be read: {e.strerror}", status=2) from e
    try:
        raw = b""
        while len(raw) <= MAX_KEY and (more := os.read(fd, MAX_KEY)):
            raw += more
    except OSError as e:
        raise UserError(f"{name} cannot be read: {e.strerror}", status=2) from e
    finally:
        if fd:
            os.close(fd)
    where = "standard input" if name == "-" else name
    if len(raw) > MAX_KEY:
        raise UserError(f"{where} is over {MAX_KEY // 1024} KiB: that is no key", status=2)
    return parsed(raw.decode("utf-8", "replace"), where)


def parsed(text: str, where: str) -> tuple[str, str]:
    """The same for what was typed: a key alone, or a line of a .env, which also says of which kind it is. `UserError`,
    which holds none of it, if it cannot be one."""
    name, key = API_KEY, text.removeprefix("\ufeff").strip()
    pair = parse_line(key)
    if isinstance(pair, tuple) and pair[0] in (API_KEY, AUTH_TOKEN):
        name, key = pair
    if not key:
        raise UserError(f"{where} holds no key", status=2)
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{where} holds a blank, or a character that no key has", "it must be one line", status=2)
    if len(key) < MIN_SECRET:
        raise UserError(f"{where} holds fewer than {MIN_SECRET} characters: that is no key", status=2)
    return name, key


def doubt(key: str, *, anthropics: bool) -> str:
    """What speaks against a key's form; empty if nothing does. `anthropics`: it is for Anthropic's own endpoint."""
    if anthropics and not key.startswith(PREFIX):
        return f"it does not begin with {PREFIX}, as Anthropic's keys do"
    return ""
