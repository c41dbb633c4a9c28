"""Tasks: to schedule, show, change and cancel them."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any, Final

from host import schedule
from host.calls.base import Caller, Desk, Method, Param
from host.errors import UserError
from host.model import Task
from host.text import clean_text

MAX_PROMPT: Final = 16 * 1024
SHOWN_RUNS: Final = 10
LISTED_PROMPT: Final = 200
"""Characters of each prompt in a list; `get_task` shows all of it."""


def schedule_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    now = desk.now()
    when = schedule.parse(params["kind"], params["schedule"], _zone(desk, target), now)
    task = Task(
        id=f"t-{secrets.token_hex(4)}",
        group=target,
        prompt=_prompt(params["prompt"]),
        kind=when.kind,
        schedule=when.text,
        context=params.get("context", "group"),
        check=params.get("check", "").strip(),
        state="active",
        created_by=caller.folder,
        created_at=now,
        next_run=schedule.next_run(when, now),
        zone=when.zone,
        anchor=when.anchor,
        made_in=_made_in(desk, caller, params["prompt"]),
    )
    desk.store.tasks.add(task)
    desk.tasks_changed()
    return _answer(desk, task.id)


def _made_in(desk: Desk, caller: Caller, untrusted_prompt: str) -> str:
    """The task whose run asks, by the turn that is at work. Such a run may schedule a few other things, and itself
    again, but not itself twice: nothing that an agent was once talked into multiplies."""
    run = desk.running(caller.folder) if caller.group is not None else None
    if run is None:
        return ""
    said = _prompt(untrusted_prompt)
    others = [task for task in desk.store.tasks.all() if task.state != "done" and task.id != run.task.id]
    if said == run.task.prompt and any(task.prompt == said for task in others):
        raise UserError("this task has scheduled itself again already", "a copy of it may not be made twice", status=2)
    return run.task.id


def list_tasks(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    tasks = [shown(task) for task in desk.store.tasks.all(target)]
    for task in tasks:
        if len(task["prompt"]) > LISTED_PROMPT:
            task["prompt"] = task["prompt"][: LISTED_PROMPT - 1] + "…"
    return {"tasks": tasks}


def get_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    return _answer(desk, params["id"])


def update_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    task, now = _task(desk, params["id"]), desk.now()
    changed = replace(
        task,
        prompt=_prompt(params.get("prompt", task.prompt)),
        context=params.get("context", task.context),
        check=params.get("check", task.check).strip(),
    )
    if "schedule" in params:
        when = schedule.parse(params.get("kind", task.kind), params["schedule"], _zone(desk, target), now)
        state = "paused" if task.state == "paused" else "active"
        changed = replace(
            changed,
            kind=when.kind,
            schedule=when.text,
            zone=when.zone,
            anchor=when.anchor,
            state=state,
            next_run=schedule.next_run(when, now) if state == "active" else None,
        )
    elif "kind" in params:
        raise UserError("a new kind needs a new schedule", "give both", status=2)
    desk.store.tasks.update(changed)
    desk.tasks_changed()
    if task.queued_for is not None:
        desk.task_updated(changed)
    return _answer(desk, task.id)


def pause_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    task = _task(desk, params["id"])
    if task.state == "done":
        raise UserError(f"the task {task.id} is done", "there is nothing to pause", status=2)
    desk.store.tasks.pause(task.id)
    desk.task_cancelled(task.id)
    return _answer(desk, task.id)


def resume_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    """It waits for its next time: those that passed while it rested are not made up for."""
    task = _task(desk, params["id"])
    if task.state == "active":
        raise UserError(f"the task {task.id} is not paused", "run_task_now runs it at once", status=2)
    next_run = schedule.next_run(schedule.of(task), desk.now())
    if next_run is None:
        raise UserError(f"the time of the task {task.id} has passed", "give it a new one (update_task)", status=2)
    desk.store.tasks.update(replace(task, state="active", next_run=next_run))
    desk.tasks_changed()
    return _answer(desk, task.id)


def cancel_task(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    task = _task(desk, params["id"])
    desk.store.tasks.cancel(task.id)
    desk.task_cancelled(task.id)
    desk.tasks_changed()
    return {"cancelled": task.id}


def run_task_now(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    task = _task(desk, params["id"])
    run = desk.store.tasks.claim(task.id, desk.now())
    if run is None:
        raise UserError(f"a run of the task {task.id} waits or works already", "a task never overlaps itself")
    desk.run_task(run)
    return _answer(desk, task.id)


def shown(task: Task) -> dict[str, Any]:
    """A task as people and agents see it."""
    return {
        "id": task.id,
        "group": task.group,
        "state": task.state,
        "kind": task.kind,
        "schedule": task.schedule,
        "timezone": task.zone,
        "next_run": task.next_run,
        "next": None if task.next_run is None else schedule.local(task.next_run, task.zone),
        "queued": task.queued_for is not None,
        "context": task.context,
        "check": task.check,
        "created_by": task.created_by,
        "prompt": task.prompt,
    }


def _answer(desk: Desk, task_id: str) -> dict[str, Any]:
    """All about one task, as it is now."""
    runs = desk.store.tasks.runs(task_id, SHOWN_RUNS)
    return {"task": shown(_task(desk, task_id)) | {"runs": runs}}


def _task(desk: Desk, task_id: str) -> Task:
    task = desk.store.tasks.get(task_id)
    if task is None:
        raise UserError(f"there is no task {task_id[:40]!r}", "list_tasks shows them", status=2)
    return task


def _prompt(untrusted_text: str) -> str:
    text = clean_text(untrusted_text).strip()
    if not text:
        raise UserError("the prompt is empty", "say what is to be done", status=2)
    return text


def _zone(desk: Desk, folder: str) -> str:
    group = desk.store.group(folder)
    if group is None:
        raise UserError(f"no group is named {folder[:64]!r}", status=2)
    return desk.config.group(group).timezone


_ID: Final = {"id": Param("string", "The task's id, as list_tasks shows it.", required=True)}
_WHAT: Final = {
    "prompt": Param(
        "string",
        "What to do then, with all that is needed to do it; what you answer goes to the group's chat, and if you "
        "answer nothing, nothing is said.",
        required=True,
        most=MAX_PROMPT,
    ),
    "kind": Param("string", "The kind of schedule.", required=True, choices=schedule.KINDS),
    "schedule": Param(
        "string",
        "cron: five fields (minute, hour, day of the month, month, day of the week) in the group's time zone. "
        f"interval: seconds, {schedule.MIN_INTERVAL} or more. once: local date and time, such as 2026-12-24T18:00.",
        required=True,
    ),
    "context": Param(
        "string",
        "group (the default): part of the group's conversation. isolated: begins with nothing, and leaves nothing in "
        "the conversation.",
        choices=("group", "isolated"),
    ),
    "check": Param(
        "string",
        "A shell command that is run first, in the sandbox: you are asked only if it exits 0, and are shown what it "
        "printed. A watch that finds nothing to do costs nothing.",
    ),
}

METHODS: Final[dict[str, Method]] = {
    "schedule_task": Method("Schedule something that you are to do later, once or again and again.", _WHAT,
                            schedule_task),
    "list_tasks": Method("List the scheduled tasks, and when each runs next.", {}, list_tasks, whose="groups"),
    "get_task": Method("Show all about one task, and its last runs.", _ID, get_task, whose="task"),
    "update_task": Method(
        "Change a task: what is left out stays as it is.",
        _ID | {name: replace(param, required=False) for name, param in _WHAT.items()}, update_task, whose="task",
    ),
    "pause_task": Method("Let a task rest until it is resumed.", _ID, pause_task, whose="task"),
    "resume_task": Method("Let a task that rests go on, from its next time.", _ID, resume_task, whose="task"),
    "cancel_task": Method("Remove a task for good.", _ID, cancel_task, whose="task"),
    "run_task_now": Method("Run a task now, beside its schedule.", _ID, run_task_now, whose="task"),
}  # fmt: skip
