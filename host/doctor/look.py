"""The looks in their order, and that one which fails, or never ends, does not take the others along."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from host.doctor import channels, endpoint, engine, home, machine, outside, program
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure
from host.errors import EngineError, UserError

__all__ = ["Subject", "examine"]

Look = Callable[[Subject], Iterator[Finding]]
LOOKS: Final[dict[str, Look]] = {
    "program": program.program,
    "kernel": machine.kernel,
    "user namespaces": machine.namespaces,
    "memory cgroup": machine.cgroups,
    "folders": home.folders,
    "settings": home.settings,
    "key": home.key,
    "allowlist": home.allowlist,
    "database": home.database,
    "groups": home.groups,
    "room on disk": home.room,
    "clock": home.clock,
    "host": home.host,
    "whatsapp": channels.whatsapp,
    "sandbox image": engine.image,
    "engine": engine.engine,
    "other engines": engine.others,
    "what is enforced": engine.enforced,
    "sandbox": engine.sandbox,
    "left behind": engine.left_behind,
    "model": endpoint.model,
    "from outside": outside.needs,
}
SELF_BOUNDED: Final = frozenset({"engine", "whatsapp", "other engines", "sandbox", "left behind"})
"""All that these wait for are programs and sandboxes, with time limits of their own; and a loop is of the main
thread alone."""
LOOK_SECONDS: Final = 30.0
"""For each of the others. The slowest, a large database on a Raspberry Pi, gives up by itself after ten."""

AGAIN: Final = "mend that, and look again: nanoclaw doctor"
"""After an error that says by itself what to do."""


def examine(subject: Subject, progress: Callable[[str], None]) -> list[Finding]:
    found: list[Finding] = []
    subject.progress = progress
    for name, look in LOOKS.items():
        progress(f"looking at: {name} …")
        try:
            # One at a time: what was found before a look broke off is told too.
            for finding in look(subject) if name in SELF_BOUNDED else _within(LOOK_SECONDS, look, subject):
                found.append(finding)
        except (UserError, EngineError) as e:
            found.append(failure(name, str(e), "; ".join(e.hints) or AGAIN))
        except OSError as e:  # the machine refuses a look: told, and the others go on
            found.append(failure(name, f"cannot be looked at: {e.strerror or e}", AGAIN))
    return found


def _within(seconds: float, look: Look, subject: Subject) -> Iterator[Finding]:
    """The look on a thread of its own, which is left behind if it hangs: a disk of another machine that is gone,
    or a name server, cannot be called off."""
    found: list[Finding] = []
    broke: list[Exception] = []

    def run() -> None:
        try:
            found.extend(look(subject))
        except Exception as e:  # noqa: BLE001 (raised again, by the thread that waits)
            broke.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    hangs = thread.is_alive()
    yield from found[:]
    if hangs:
        raise UserError(
            f"no answer within {seconds:g} seconds", "does a network disk, a name server or the endpoint hang?"
        )
    if broke:
        raise broke[0]
