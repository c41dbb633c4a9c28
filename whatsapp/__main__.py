"""Start of the WhatsApp channel: `whatsapp FOLDER [--proxy URL]`, with the host's socket as descriptor 3."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Final

from channel import wire
from whatsapp import library
from whatsapp.pace import Manners
from whatsapp.program import DATABASE, Program
from whatsapp.speech import Speech, leave

GLIBC: Final = (2, 34)
"""What the library was linked against, whatever its wheel says."""
PR_SET_PDEATHSIG: Final = 1
ENVIRONMENT: Final = {
    # Without it, messages to people who go by phone id would be marked as a business's bot's.
    "NEONIZE_BOT_TAG": "off",
    # Half of what it grows by in its first thousand messages: a heap that is collected sooner, two of malloc's arenas
    # for a dozen threads.
    "GOGC": "50",
    "MALLOC_ARENA_MAX": "2",
}


def main(manners: Manners | None = None) -> None:
    options = _options()
    if problem := _glibc_problem():
        sys.exit(f"nanoclaw: error: {problem}")
    if options.check:
        return _check()
    _settle_environment()
    speech = Speech(_connection())
    _seclude(options.folder)
    try:
        library.quiet()
        library.load()
    except library.LibraryError as e:
        speech.say(wire.Hello(wire.VERSION, "neonize", False, []))
        speech.say(wire.Disconnected("internal", str(e)[:500], wire.NEVER))
        leave(1)
    try:
        Program(Path.cwd(), options.proxy, speech, manners or Manners()).run()
    except wire.PeerError as e:
        sys.stderr.write(f"whatsapp: the host broke the rules of the wire: {e}\n")
        sys.stderr.flush()
        leave(1)
    leave(0)
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="whatsapp", description="The WhatsApp channel of NanoClaw, which starts it.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where the session lies")
    parser.add_argument("--proxy", default="", help="http://… or socks5://…, for all that goes out")
    parser.add_argument("--check", action="store_true", help="say whether the library loads here, and end")
    parser.add_argument("--version", action="version", version=f"neonize {library.VERSION}")
    return parser.parse_args()


def _check() -> None:
    try:
        library.load()
    except library.LibraryError as e:
        sys.exit(f"nanoclaw: error: {e}")
    print(f"neonize {library.VERSION}")
    sys.stdout.flush()
    leave(0)


def _glibc_problem() -> str:
    """Empty where the library can be loaded, as far as the C library goes."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        name = ""
    found = re.match(r"glibc (\d+)\.(\d+)", name)
    if found is None:
        return "WhatsApp needs a system with glibc 2.34 or newer, and this one has another C library"
    version = (int(found[1]), int(found[2]))
    return "" if version >= GLIBC else f"WhatsApp needs glibc 2.34 or newer, and this system has {found[1]}.{found[2]}"


def _settle_environment() -> None:
    """Start anew with what the library must find in its environment: Go sees only what the process began with."""
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ENVIRONMENT})  # noqa: S606 - ourselves


def _connection() -> socket.socket:
    try:
        good = stat.S_ISSOCK(os.fstat(wire.FD).st_mode)
    except OSError:
        good = False
    if not good:
        sys.exit("nanoclaw: error: this program is started by nanoclaw\nnanoclaw: hint: nanoclaw whatsapp link")
    os.set_inheritable(wire.FD, False)
    return socket.socket(fileno=wire.FD)


def _seclude(folder: Path) -> None:
    """Before the library is loaded: nothing of the session is anybody else's, and nothing of ours stays behind."""
    os.umask(0o077)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(folder)
    Path(DATABASE).touch(mode=0o600)
    for entry in Path().iterdir():
        if entry.is_file() and not entry.is_symlink():
            entry.chmod(0o600)  # an older one may have been written under another umask
    # Go prints to stdout. Nobody reads there: with the log it is seen.
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A Ctrl-C, a terminal that closes, a service manager's stop: they are for the host, which then asks us to hang up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the session's keys
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
