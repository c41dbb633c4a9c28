"""How the WhatsApp channel is started: a program of its own, out of the one file or with a Python that has its library.

Nothing of it is looked at, unpacked or started before an account is linked, or linking was begun: its folder in the
data folder says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from host import bundle
from host.channels.program import Command
from host.config import Home
from host.errors import UserError

NAME: Final = "whatsapp"
DATABASE: Final = "session.db"
"""What the library keeps of the account: who has it is that account's device."""
PYTHON: Final = "NANOCLAW_WHATSAPP_PYTHON"
"""From a source tree: the Python that has the library."""
ROOT: Final = Path(__file__).resolve().parents[2]
CHECK_SECONDS: Final = 60.0
"""A Raspberry Pi reads 60 MB from a slow card."""
PASSED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Of our environment: where this machine keeps the authorities that it trusts, if not where all others do."""

Progress = Callable[[str], None]


def folder(home: Home) -> Path:
    return home.data / NAME


def in_use(home: Home) -> bool:
    """Whether an account is linked in this home, or linking was begun."""
    return folder(home).is_dir()


def begin(home: Home) -> None:
    """From now on the host has this channel."""
    folder(home).mkdir(mode=0o700, exist_ok=True)


def forget(home: Home) -> None:
    """Remove all that is kept of the account. Its program does not run. Whether it is gone is for the one who asked to
    see (`in_use`): this is called where nobody could be told."""
    shutil.rmtree(folder(home), ignore_errors=True)


def account(home: Home) -> str | None:
    """The id of the account that is linked, as the library's database has it; None if none is. Read beside a program
    that may be running, and not opened read-only: one that was killed leaves a journal there, and SQLite reads nothing
    before it may roll that back."""
    path = folder(home) / DATABASE
    if not path.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=2)) as db:
            row = db.execute("SELECT jid FROM whatsmeow_device LIMIT 1").fetchone()
    except sqlite3.Error:
        return None
    return str(row[0]) if row else None


def command(home: Home, proxy: str, progress: Progress, environ: Mapping[str, str] = os.environ) -> Command:
    """How it is started, unpacked if it was not yet. `UserError` where it cannot be."""
    argv, env = _program(progress, environ)
    env |= {name: environ[name] for name in PASSED if name in environ}
    return Command((*argv, str(folder(home)), *(["--proxy", proxy] if proxy else [])), folder(home), env)


def check(progress: Progress, environ: Mapping[str, str] = os.environ) -> str:
    """The library's name and version. `UserError` if it cannot be loaded on this machine."""
    argv, env = _program(progress, environ)
    progress("looking at WhatsApp's library …")
    try:
        done = subprocess.run(
            [*argv, "--check"],
            env={"PATH": os.defpath, "LANG": "C.UTF-8", **env},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except OSError as e:
        raise UserError(f"the WhatsApp program cannot be started: {argv[0]}: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise UserError(f"the WhatsApp program does not start within {CHECK_SECONDS:.0f} seconds") from e
    if done.returncode:
        raise UserError(*_words(done.stderr.decode(errors="replace")), status=69)
    return done.stdout.decode(errors="replace").strip()


def _words(stderr: str) -> tuple[str, ...]:
    """Error and hints of a program that speaks with our voice; else its last words."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("nanoclaw: error: ")]
    hints = [line.partition("hint: ")[2] for line in lines if line.startswith("nanoclaw: hint: ")]
    if errors:
        return (errors[-1][:500], *(hint[:500] for hint in hints))
    return (f"the WhatsApp program does not start: {lines[-1][:300] if lines else 'it says nothing'}",)


def _program(progress: Progress, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The beginning of its command line, and what its environment needs for that."""
    if bundle.frozen():
        if bundle.carried(NAME) is None:
            raise UserError(
                "this build of NanoClaw comes without WhatsApp", "download the larger file, which has it", status=69
            )
        return [str(bundle.unpack(NAME, bundle.cache(), progress) / NAME)], {}
    # Not `python -m` in its own folder: what lies in the session's folder is never imported (-P).
    return [_python(environ), "-P", "-B", "-m", NAME], {"PYTHONPATH": str(ROOT)}


def _python(environ: Mapping[str, str]) -> str:
    given = environ.get(PYTHON, "")
    if given:
        if not Path(given).is_absolute() or not os.access(given, os.X_OK):
            raise UserError(f"{PYTHON} is {given!r}, which is no program's full path", status=69)
        return given
    if importlib.util.find_spec("neonize") is None:  # it is found, and not imported
        raise UserError(
            "WhatsApp needs a library that is not here (neonize)",
            "python3 -m venv .whatsapp && .whatsapp/bin/pip install --no-deps --require-hashes -r "
            "requirements/whatsapp.txt",
            f"then: export {PYTHON}=$PWD/.whatsapp/bin/python",
            status=69,
        )
    return sys.executable


def fault(home: Home) -> tuple[str, str]:
    """What is wrong with how the session lies there, and what to do; empty if nothing is."""
    place = folder(home)
    for path, close in ((place, "700"), (place / DATABASE, "600")):
        try:
            seen = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(seen.st_mode):
            return f"{path} is a link", "move what it leads to into its place"
        if seen.st_uid != os.geteuid():
            return f"{path} belongs to user {seen.st_uid}", "run NanoClaw as that user"
        if stat.S_IMODE(seen.st_mode) & 0o077:
            return f"{path} can be read by others", f"chmod {close} {path}"
    return "", ""
