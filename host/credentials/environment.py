"""Keys that the host inherited: taken out of its environment at once, used only if the person said so."""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from host.credentials.dotenv import BASE_URL, choose
from host.credentials.endpoint import DEFAULT_URL, endpoint
from host.errors import UserError

PREFIX: Final = "ANTHROPIC_"
_ENV_START, _ENV_END = 47, 48
"""Places in /proc/self/stat, counted behind the program's name (proc_pid_stat(5): fields 50 and 51)."""


def take_from_environment(environ: MutableMapping[str, str], use: bool) -> dict[str, str]:
    """Remove every `ANTHROPIC_*`; the key or token that was there if `use`, else nothing.

    Removed in the mapping, and, where that is the process's own, in its memory: until it is overwritten,
    /proc/PID/environ shows the environment that the process was started with, whatever became of it since.
    """
    taken = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    if environ is os.environ:
        for name in taken:
            _wipe(os.fsencode(name))
        if not _wipe_initial_block() and taken:
            raise UserError(
                f"{next(iter(taken))} is in the environment, and cannot be removed from this process's memory:"
                " this system does not tell where that lies",
                "unset it, and write the key into .env",
            )
    for name in taken:
        del environ[name]
    if not use:
        return {}
    found = choose(taken, "the environment")
    if found.secrets and found.base_url is not None and endpoint(found.base_url) != endpoint(DEFAULT_URL):
        # The key is that endpoint's. Used with another one, it would be told to a stranger.
        raise UserError(f"{BASE_URL} is taken from .env only", "write it there, and remove it from the environment")
    return found.secrets


def _wipe(name: bytes) -> None:
    """Overwrite the value in the C library's environment, which may be a copy of what the process began with."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    libc.getenv.argtypes = [ctypes.c_char_p]
    if address := libc.getenv(name):
        ctypes.memset(address, 0, len(ctypes.string_at(address)))


def _wipe_initial_block() -> bool:
    """Overwrite the values where the kernel shows them from (Linux), every one of a name that is there twice. False
    if it does not say where that is, as under an emulator of another processor."""
    try:
        stat = Path("/proc/self/stat").read_bytes()
    except OSError:
        return True
    start, end = initial_block(stat)
    if not start:
        return False
    block = ctypes.string_at(start, end - start)
    prefix, at = os.fsencode(PREFIX), 0
    for entry in block.split(b"\0"):
        if entry.startswith(prefix) and (cut := entry.find(b"=") + 1):
            ctypes.memset(start + at + cut, 0, len(entry) - cut)
        at += len(entry) + 1
    return True


def initial_block(stat: bytes) -> tuple[int, int]:
    """Where it begins and ends, of what /proc/PID/stat says; zeros if that does not say."""
    numbers = stat[stat.rindex(b")") + 2 :].split()
    return (int(numbers[_ENV_START]), int(numbers[_ENV_END])) if len(numbers) > _ENV_END else (0, 0)
