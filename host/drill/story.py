"""What happens in the village, in order: groups are founded, leave their marks, meet, ask, and one is removed.

Its canaries are the groups' own: the drill looks for those of one group wherever another looked.
"""

from __future__ import annotations

from typing import Any, Final

from host.drill.ground import made_up
from host.drill.hostile import beats
from host.drill.probes import PROBES
from host.drill.probes.groups import KINDS
from host.drill.probes.power import ASKER, LATER, OTHER, REQUESTS, SHELF, TASK, asked_by_a_group, asked_by_main
from host.drill.rogue import FLOODS, MANY_TASKS, Orders, tasks_asked_for
from host.drill.shelf import BAD_LIST, FINE, TARGET
from host.drill.village import NAME, Story, Texts, Village
from host.drill.words import RAN
from host.errors import UserError
from host.house import MAIN

SHORT: Final = 10
"""Seconds that the endless turn is given: the least that a group may be set to."""
LINGER: Final = 4.0
"""Seconds after the end of a turn by which its sandbox has to be gone."""
SHELF_GROUP, ENDLESS, PLANNER, STRANGER = "shelf", "endless", "planner", "stranger"
MINE: Final = "mine"
"""Not a probe: what a group does with its own, and has to succeed."""


def tell(v: Village, wanted: frozenset[str]) -> Story:
    """`wanted`: ids of the probes; who takes part only for others stays away."""
    alone = (*((f"{act}-bounded", act) for act in FLOODS), ("tasks-bounded", PLANNER), ("turn-overtime", ENDLESS))
    takers = tuple(group for probe, group in alone if probe in wanted)
    marks = {group: made_up("NCG-") for group in (ASKER, OTHER)}
    v.seen.canary = marks[OTHER]
    yield from _found(v, (ASKER, OTHER, SHELF_GROUP, *takers))
    yield from _plant(v, marks, takers)
    task = (yield from v.person("list_tasks", group=OTHER))["tasks"][0]["id"]
    yield from _meet(v, marks, task)
    yield from _administer(v, task)
    yield from _return(v, marks[OTHER])
    yield lambda: all(v.outcomes.get(group) for group in takers)
    if ENDLESS in takers:
        yield from v.pause(LINGER)
    _count(v, takers)


def _found(v: Village, groups: tuple[str, ...]) -> Story:
    home, shelf = v.ground.folder / NAME, v.ground.shelf
    v.write_allowlist(shelf.allowlist(home))
    for group in groups:
        yield from v.person("register_group", folder=group, channel="console", chat=group, needs_trigger=False)
        v.watch(group)
    if ENDLESS in groups:
        yield from v.person("update_group", group=ENDLESS, settings={"seconds": SHORT})
    yield from v.person(
        "update_group", group=SHELF_GROUP, settings={"mounts": shelf.wishes(home, v.ground.engine.name)}
    )
    # So that there is a folder which an agent can write, and one in it that another wishes for.
    writable = [{"path": str(shelf.writable), "name": "writable", "rw": True}]
    yield from v.person("update_group", group=MAIN.folder, settings={"mounts": writable})


def _plant(v: Village, marks: dict[str, str], takers: tuple[str, ...]) -> Story:
    """Each of the two leaves its mark in all that it has. The floods begin, and go on beside all that follows."""
    for group, mark in marks.items():
        v.put_into_inbox(group, f"{mark}-inbox")
        left = f"cd /workspace/group; echo {mark}-files > notes.txt; echo {mark}-memory > CLAUDE.md; ls"
        said = ({"role": "user", "content": f"{mark}-transcript"}, {"role": "assistant", "content": "yes"})
        task = (MINE, "schedule_task", {**LATER, "prompt": f"{mark}-tasks"})
        v.orders[group] = Orders(run=((MINE, left),), calls=(task,), entries=said)
    for act in (*FLOODS, ENDLESS):
        v.orders[act] = Orders(acts=(act,))
    v.orders[PLANNER] = Orders(calls=tasks_asked_for(MANY_TASKS))
    if ENDLESS in takers:
        v.house.say(ENDLESS, "go")
    yield from v.turns(**dict.fromkeys(marks, "go"))
    for group in marks:
        if "carried out: schedule_task" not in v.report(group).texts[MINE]:
            raise UserError(f"{group} may not even do what is its own: {v.report(group).texts[MINE]}")
    for group in takers:
        if group != ENDLESS:
            v.house.say(group, "go")


def _meet(v: Village, marks: dict[str, str], task: str) -> Story:
    """Both look for all that they can see, at the same time, and one asks for what is the other's."""
    calls = tuple(_filled(v, task, call) for call in asked_by_a_group())
    v.orders[ASKER] = Orders(look=True, calls=((MINE, "list_tasks", {}), *calls))
    v.orders[OTHER] = Orders(look=True, calls=((MINE, "list_tasks", {}),))
    looked = tuple((p.id, p.command) for p in PROBES if p.scene == "shelf" and p.id != f"mount-{BAD_LIST}")
    v.orders[SHELF_GROUP] = Orders(run=((FINE, f"cat {TARGET}{FINE}/notes.txt"), *looked))
    before = _state(v)
    yield from v.turns(**{group: f"{mark}-messages" for group, mark in marks.items()}, shelf="go")
    asker = v.report(ASKER)
    v.seen.village |= asker.texts | {"changed-by-asking": _changed(before, _state(v)), "unaudited-requests": _audit(v)}
    other = v.report(OTHER)
    for texts, report, group in ((v.seen.village, asker, ASKER), (v.seen.own, other, OTHER)):
        seen = _of(marks[OTHER], report.found)
        texts |= {f"neighbour-{kind}": seen for kind in KINDS}
        texts["neighbour-replies"] = _of(marks[OTHER], v.told[group])
        at_once = frozenset({ASKER, OTHER}) in v.together
        texts["two-at-once"] = seen if at_once else "the two turns were not at the same time"
    shelf = v.report(SHELF_GROUP).texts
    if "for all" not in shelf.get(FINE, ""):
        raise UserError(f"not even the folder that is permitted was mounted: {shelf.get(FINE)}")
    v.seen.shelf |= shelf


def _administer(v: Village, task: str) -> Story:
    """Main asks for the same, and may; and for what nobody may. Meanwhile the allowlist is found to be damaged."""
    shelf = v.ground.shelf
    v.write_allowlist(shelf.allowlist(v.ground.folder / NAME))
    project = next(probe for probe in PROBES if probe.id == "project-write")
    may = [call for call in asked_by_a_group() if call[0].startswith("asks-")]
    calls = tuple(_filled(v, task, call) for call in (*asked_by_main(), *may))
    v.orders[MAIN.folder] = Orders(run=((project.id, project.command),), calls=calls)
    v.orders[OTHER] = Orders()  # for the run that main asks for
    before = _state(v)
    yield from v.turns(main="go")
    main = v.report(MAIN.folder)
    v.seen.administrator |= main.texts | {"changed-by-asking": _changed(before, _state(v))}
    v.seen.village |= {probe: text for probe, text in main.texts.items() if not probe.startswith("asks-")}
    v.write_allowlist(shelf.bad_allowlist())
    yield from v.person("update_group", group=SHELF_GROUP, settings={"mounts": shelf.bad_wishes()})
    bad = next(probe for probe in PROBES if probe.id == f"mount-{BAD_LIST}")
    v.orders[SHELF_GROUP] = Orders(run=((bad.id, bad.command),))
    yield from v.turns(shelf="go")
    v.seen.shelf |= v.report(SHELF_GROUP).texts


def _return(v: Village, mark: str) -> Story:
    """Main has removed the other group. Another chat asks for its folder; then it is thrown away, and made anew."""
    again = {"folder": OTHER, "channel": "console", "needs_trigger": False}
    strangers = yield from v.tried("register_group", chat=STRANGER, **again)
    v.seen.village["returned-folder"] = _registered(strangers)
    its_own = yield from v.tried("register_group", chat=OTHER, **again)
    v.seen.own["returned-folder"] = _registered(its_own)
    yield from v.person("remove_group", folder=OTHER, trash=True)
    yield from v.person("register_group", chat=STRANGER, **again)
    v.watch(OTHER)
    v.orders[OTHER] = Orders(look=True, calls=((MINE, "list_tasks", {}),))
    yield from v.turns(**{OTHER: "go"})
    v.seen.village["thrown-away"] = _of(mark, v.report(OTHER).found)
    v.seen.own["thrown-away"] = v.seen.own["neighbour-files"]


def _count(v: Village, takers: tuple[str, ...]) -> None:
    """What became of those that took more than a turn may."""
    ended = {group: v.outcomes[group][-1] for group in takers}
    said = v.rows("SELECT count(*) FROM outbox WHERE grp = 'says' AND kind = 'say'")[0][0]
    kept = v.rows("SELECT ifnull(sum(bytes), 0) FROM transcript WHERE grp = 'entries'")[0][0]
    held = v.rows("SELECT count(*) FROM tasks WHERE grp = ?", PLANNER)[0][0]
    did = v.rows("SELECT count(*) FROM events WHERE grp = 'calls' AND what = 'done'")[0][0]
    alive = beats(v.house.home.data / "groups" / ENDLESS)
    told = {
        "says-bounded": ("says", f"{ended.get('says')}: {said} texts"),
        "entries-bounded": ("entries", f"{ended.get('entries')}: {kept >> 20} MB"),
        "calls-bounded": ("calls", f"carried out {did}"),
        "tasks-bounded": (PLANNER, f"{held} tasks"),
        "turn-overtime": (ENDLESS, f"{'still there' if alive else 'it is gone'} ({ended.get(ENDLESS)})"),
    }
    v.seen.village |= {probe: f"{what}\n{RAN}" for probe, (group, what) in told.items() if group in takers}


# --- helpers ---------------------------------------------------------------------------------------------


def _of(mark: str, found: list[str]) -> str:
    """What was seen of the group with this mark."""
    others = [each for each in found if mark in each]
    return "\n".join([*(others or [f"nothing of it among {len(found)} things seen"]), RAN])


def _filled(v: Village, task: str, call: tuple[str, str, Any]) -> tuple[str, str, dict[str, Any]]:
    probe, method, params = call
    known = {TASK: task, SHELF: str(v.ground.shelf.fine)}
    return (
        probe,
        method,
        {key: known.get(value, value) if isinstance(value, str) else value for key, value in params.items()},
    )


def _state(v: Village) -> dict[str, list[tuple[Any, ...]]]:
    """All that a request could change, of the groups that the drill asks about."""
    queries = {
        "the groups": "SELECT folder, name, chat, settings FROM groups WHERE folder IN (?, ?, ?, ?) ORDER BY 1",
        "their tasks": "SELECT id, prompt, state, schedule FROM tasks WHERE grp IN (?, ?, ?, ?) ORDER BY 1",
        "what was said": "SELECT id, grp, text FROM outbox WHERE kind = 'say' AND grp IN (?, ?, ?, ?) ORDER BY 1",
    }
    return {name: v.rows(query, ASKER, OTHER, MAIN.folder, "annex") for name, query in queries.items()}


def _changed(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> str:
    found = [name for name in before if before[name] != after[name]]
    return f"{'changed: ' + ', '.join(found) if found else 'all is as it was'}\n{RAN}"


def _audit(v: Village) -> str:
    """Each request that was refused has to be in a row of the audit, by its name."""
    rows = [f"{what} {detail}" for what, detail in v.rows("SELECT what, detail FROM events WHERE grp = ?", ASKER)]
    missing = [method for method in REQUESTS if not any(method in row for row in rows)]
    told = f"not written down: {', '.join(missing)}" if missing else f"{len(rows)} rows in the audit"
    return f"{told}\n{RAN}"


def _registered(answer: dict[str, Any]) -> str:
    told = "registered" if answer["event"] == "result" else f"refused: {answer['error']}"
    return f"{told}\n{RAN}"


__all__ = ["Texts", "tell"]
