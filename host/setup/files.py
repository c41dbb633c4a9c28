"""The person's two files, read, changed and put back: whole and 0600, or as they were."""

from __future__ import annotations

import contextlib
import os
import secrets
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from host import config as configuration
from host import credentials
from host.config import Config, Home, Machine
from host.errors import UserError
from host.setup import env_text, toml_text

MAX_FILE: Final = 1024 * 1024


def set_config(home: Home, values: Mapping[str, str]) -> Config:
    """Settings by their dotted names; what holds then. `UserError` leaves the file as it was, and says why."""
    path = home.config / "config.toml"
    text = old = _text(path)
    try:
        for key, value in values.items():
            text = toml_text.changed(text, key, value)
        config = configuration.parse(tomllib.loads(text), Machine.here(os.environ))
    except UserError as e:
        raise UserError(f"{path}: {e}", *e.hints) from e
    if text != old:
        replace(path, text, lambda: "\n".join(line for kv in values.items() for line in toml_text.by_hand(*kv)))
    return config


def set_env(home: Home, values: Mapping[str, str]) -> None:
    """All of them together, or none: a key belongs to its endpoint. An empty value takes the line out."""
    path = home.config / ".env"
    credentials.read(path)  # also judges whose it is, and who may read it
    old = _text(path)
    try:
        text = env_text.changed(old, values)
    except UserError as e:
        raise UserError(f"{path}: {e}", *e.hints) from e
    if text != old:
        replace(path, text, lambda: f"write there yourself: {', '.join(values)}")


def _text(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 (it is a descriptor)
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise UserError(f"{path} is over {MAX_FILE // 1024} KiB")
        return raw.decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start})") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e


def replace(path: Path, text: str, instead: Callable[[], str]) -> None:
    """Complete under its name, 0600, or not at all. One that is a link stays one: what it leads to is replaced.
    `instead`: what the person can do where it cannot be written."""
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(fd)
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}; it is as it was", instead()) from e
    with contextlib.suppress(OSError):  # some file systems have no such thing for folders
        os.fsync(folder)
    os.close(folder)
