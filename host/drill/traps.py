"""What an agent leaves in its folder for the host to trip over, and the host's ways of reading there.

The agent in a real sandbox lays the traps. Then the host looks, in the one way that it ever does (`beneath`); in
the control, in the ways that come to mind first.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host import beneath
from host.drill.ground import KEPT
from host.drill.probes.programs import python
from host.drill.words import RAN
from host.errors import UserError

PLACE: Final = "traps"
ODD: Final = "\x1b[2Jodd"
"""A name that clears the terminal of whoever is shown it as it is."""
HUNG_SECONDS: Final = 0.5
RACE_SECONDS: Final = 4.0
"""For as long as that may take where nothing escapes; a leak ends it at once."""
RACE_TRIES: Final = 2000
SWAP_SECONDS: Final = 12

# `{secret}` is a folder of the host's, which the sandbox does not see: only the host can be led there.
LAY: Final = python(
    f"""
import ctypes, os, shutil, time
place = "/workspace/group/{PLACE}"
shutil.rmtree(place, ignore_errors=True)
os.mkdir(place)
os.chdir(place)
os.symlink("{{secret}}/notes.txt", "link")
os.symlink("{{secret}}", "folder")
os.symlink("../../../secret", "up")
os.symlink("{{secret}}/kept", "out")
os.mkfifo("fifo")
with open("huge", "w") as f:
    f.truncate(1 << 28)
with open("one", "w") as f:
    f.write("two names")
os.link("one", "two")
os.mkdir("{ODD!r}".encode().decode("unicode_escape").strip("'"))
os.mkdir("swapped")
with open("swapped/notes.txt", "w") as f:
    f.write("harmless")
os.symlink("{{secret}}", "other")
if os.fork() == 0:
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    exchange, end = ctypes.CDLL(None).renameat2, time.monotonic() + {SWAP_SECONDS}
    while time.monotonic() < end:
        for _ in range(500):
            exchange(-100, b"swapped", -100, b"other", 2)
    os._exit(0)
"""
)


@dataclass(frozen=True)
class Ways:
    """How a host reads and writes in a folder that an agent can write."""

    read: Callable[[Path, str], bytes]
    """The whole file, or at most what it takes."""
    read_checked: Callable[[Path, str], bytes]
    """The same, where the path is looked at before it is used."""
    write: Callable[[Path, str, bytes], None]
    complain: Callable[[Path, str], str]
    """What a person is told of a name that cannot be read."""


def look(folder: Path, secret: Path, ways: Ways) -> dict[str, str]:
    """Each trap's text, by probe. `folder`: the group's; `secret`: where the traps lead."""
    looks: dict[str, Callable[[], str]] = {
        "host-reads-link": lambda: _read(folder, ways, "link"),
        "host-reads-through-link": lambda: _read(folder, ways, "folder/notes.txt"),
        "host-reads-above": lambda: _read(folder, ways, "up/notes.txt"),
        "host-reads-fifo": lambda: _waited(folder, ways),
        "host-reads-huge": lambda: _read(folder, ways, "huge"),
        "host-reads-two-names": lambda: _read(folder, ways, "two"),
        "host-writes-link": lambda: _write(folder, secret, ways),
        "host-reads-race": lambda: _race(folder, ways),
        "host-shows-name": lambda: f"{ways.complain(folder, f'{PLACE}/{ODD}')}\n{RAN}",
    }
    return {probe: one() for probe, one in looks.items()}


def _read(folder: Path, ways: Ways, name: str) -> str:
    try:
        data = ways.read(folder, f"{PLACE}/{name}")
    except (UserError, OSError) as e:
        # A trap that is not there was not laid: nothing was tried.
        return str(e) if isinstance(e, FileNotFoundError) else f"refused: {e}\n{RAN}"
    return f"read {len(data)} bytes: {data[:80].decode(errors='replace')}\n{RAN}"


def _waited(folder: Path, ways: Ways) -> str:
    """Whether reading a FIFO that nobody writes to comes back. On a thread, which is let go of in the end."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_read(folder, ways, "fifo")), daemon=True)
    thread.start()
    thread.join(HUNG_SECONDS)
    if thread.is_alive():
        with contextlib.suppress(OSError):
            os.close(os.open(folder / PLACE / "fifo", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
        return f"hung\n{RAN}"
    return found[0]


def _write(folder: Path, secret: Path, ways: Ways) -> str:
    kept = secret / "kept"
    if not (folder / PLACE / "out").is_symlink():
        return "the trap is not there"
    try:
        ways.write(folder, f"{PLACE}/out", b"overwritten\n")
        told = "wrote beside it"
    except (UserError, OSError) as e:
        told = f"refused: {e}"
    if kept.read_text() != KEPT:
        kept.write_text(KEPT)
        told = "overwrote a file outside"
    return f"{told}\n{RAN}"


def _race(folder: Path, ways: Ways) -> str:
    """Read a file whose folder is exchanged for a link all the time."""
    harmless = refused = tries = 0
    end = time.monotonic() + RACE_SECONDS
    while (tries < RACE_TRIES or not (harmless and refused)) and time.monotonic() < end:
        tries += 1
        try:
            data = ways.read_checked(folder, f"{PLACE}/swapped/notes.txt")
        except (UserError, OSError):
            refused += 1
            continue
        if data != b"harmless":
            return f"{data.decode(errors='replace').strip()} at try {tries}\n{RAN}"
        harmless += 1
    told = f"{tries} reads: {harmless} of the right file, {refused} refused, none outside"
    # Had it not been exchanged meanwhile, nothing would have been raced.
    return f"{told}\n{RAN}" if harmless and refused else told


# --- as the host does it, and as it must not -------------------------------------------------------------


def _complaint(folder: Path, relative: str) -> str:
    try:
        beneath.read_file(folder, relative)
    except (UserError, OSError) as e:
        return str(e)
    return "it could be read"


CAREFUL: Final = Ways(beneath.read_file, beneath.read_file, beneath.write_file, _complaint)


def _trusting(folder: Path, relative: str) -> bytes:
    with (folder / relative).open("rb") as f:
        return f.read(1 << 27)


def _checking(folder: Path, relative: str) -> bytes:
    """Looks before it leaps, as is often done; in between the path may have come to mean something else."""
    if not (folder / relative).resolve().is_relative_to(folder.resolve()):
        raise UserError("it leads outside")
    return _trusting(folder, relative)


def _overwriting(folder: Path, relative: str, data: bytes) -> None:
    (folder / relative).write_bytes(data)


CARELESS: Final = Ways(_trusting, _checking, _overwriting, lambda folder, relative: f"cannot read {relative}")
