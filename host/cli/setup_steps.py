"""The steps of `nanoclaw setup` that need no model: what runs the sandboxes, the assistant's name, the time zone."""

from __future__ import annotations

import sys

from host.cli.out import note, paint
from host.cli.questions import line, say
from host.cli.setup_walk import Walk
from host.engines.choice import ENGINES, choose
from host.errors import EngineError, UserError
from host.model import Enforcement

WIDE: int = 12

Found = Enforcement | EngineError


def engine(walk: Walk) -> None:
    """Which there are, what each does not enforce, and which is to be used."""
    if walk.args.engine is not None:
        choose(walk.args.engine)  # or it says why not
        walk.set("engine", walk.args.engine, walk.config.engine)
        return
    if not walk.asks:
        return
    while True:
        found = look(walk)
        for name, each in found.items():
            say(shown(name, each))
        works = [name for name, each in found.items() if isinstance(each, Enforcement)]
        if works:
            break
        for hint in hints(found):
            say(f"  → {hint}")
        if line("None of them works yet. [Enter] look again, or `s`: go on without") == "s":
            return
    now = walk.config.engine
    chosen = line(f"[Enter] {keeping(now, works)}, or the name of another (auto: the first that works)") or now
    if chosen not in ("auto", *works):
        raise UserError(f"{chosen[:40]!r} is none that works here", f"choose one of: auto, {', '.join(works)}")
    walk.set("engine", chosen, now)


def look(walk: Walk) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for name, make in ENGINES.items():
        walk.progress(f"looking for {name} …")
        try:
            found[name] = make().probe()
        except EngineError as e:
            if name != "container" or sys.platform == "darwin":  # Apple's: nowhere else could it be
                found[name] = e
    walk.progress.clear()
    return found


def shown(name: str, found: Found) -> str:
    if isinstance(found, EngineError):
        return f"  {name.ljust(WIDE)} {paint('no', '33', sys.stderr)}     {found}"
    lacks = [f"\n{' ' * WIDE}           without {control}: {why}" for control, why in found.missing.items()]
    return f"  {name.ljust(WIDE)} {paint('works', '32', sys.stderr)}  {found.version}{''.join(lacks)}"


def hints(found: dict[str, Found]) -> list[str]:
    return list(dict.fromkeys(hint for each in found.values() if isinstance(each, EngineError) for hint in each.hints))


def keeping(now: str, works: list[str]) -> str:
    return f"auto, which is {works[0]} now" if now == "auto" else f"keep {now}"


def name(walk: Walk) -> None:
    given, now = walk.args.name, walk.config.assistant
    if given is None and walk.asks:
        given = line(f"What is it called? In groups it answers to @{now}. [Enter] keep {now}")
    if given:
        walk.set("assistant", given, now)


def zone(walk: Walk) -> None:
    """Shown, so that a machine whose clock was never told where it stands is noticed."""
    given, now = walk.args.timezone, walk.config.timezone
    if given is None and walk.asks:
        given = line(f"The time zone is {now}. [Enter] keep it, or such as Europe/Berlin")
    if given:
        walk.set("timezone", given, now)
    elif not walk.args.json and not walk.asks:
        note(f"the time zone is {now}")
