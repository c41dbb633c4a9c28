"""`nanoclaw tasks`: what the assistant does at set times."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from host.cli import tables
from host.cli.desk import request
from host.cli.out import emit
from host.cli.session import read_message
from host.cli.settings import assignments
from host.errors import UserError

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Option, or key of `tasks set` → the kind of schedule that it is.
KINDS: Final = {"cron": "cron", "every": "interval", "at": "once"}
SETTINGS: Final = (*KINDS, "prompt", "context", "check")
# What `key=` means.
DEFAULTS: Final = {"context": "group", "check": ""}


def tasks(args: argparse.Namespace) -> int:
    return ACTIONS[args.action](args)


def list_tasks(args: argparse.Namespace) -> int:
    found = request(args, "list_tasks", {} if args.group is None else {"group": args.group})
    rows = [[t["id"], t["group"], t["state"], comes(t), when(t), t["prompt"]] for t in found["tasks"]]
    heads = ("ID", "GROUP", "STATE", "NEXT", "WHEN", "PROMPT")
    none = "no tasks; `nanoclaw tasks add --help` tells how to make one"
    return emit(args.json, found, tables.table(heads, rows, none))


def when(task: dict[str, Any]) -> str:
    """The schedule, as people say it."""
    if task["kind"] == "interval":
        return f"every {spelled(int(task['schedule']))}"
    return f"at {task['schedule']}" if task["kind"] == "once" else str(task["schedule"])


def comes(task: dict[str, Any]) -> str:
    """When it runs next, by its group's clock."""
    if task["queued"]:
        return "now"
    return str(task["next"]).replace("T", " ") if task["next"] else "-"


def planned(task: dict[str, Any]) -> str:
    """A task that was made or changed, in a sentence."""
    return f"task {task['id']} of {task['group']}: {task['state']}, next: {comes(task)}"


def spelled(length: int) -> str:
    """`5400` → `1h30m`, as `--every` takes it."""
    parts = []
    for unit, size in sorted(UNITS.items(), key=lambda item: -item[1]):
        count, length = divmod(length, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts)


def add(args: argparse.Namespace) -> int:
    kind, schedule = scheduled({name: getattr(args, name) for name in KINDS if getattr(args, name) is not None})
    wish = {
        "group": args.group,
        "prompt": read_message(args.prompt),
        "kind": kind,
        "schedule": schedule,
        "context": "isolated" if args.isolated else "group",
        "check": args.check or "",
    }
    found = request(args, "schedule_task", wish)
    return emit(args.json, found, planned(found["task"]))


def scheduled(given: dict[str, str]) -> tuple[str, str]:
    """(kind, schedule) of the one way in which it is said when. `UserError` if there are two."""
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} contradict each other", "choose one of them", status=2)
    ((name, text),) = given.items()
    return KINDS[name], str(seconds(text)) if name == "every" else text


def seconds(text: str) -> int:
    """`90s`, `15m`, `2h`, `1d` or `1h30m`; a number alone has no unit, and is nobody's guess."""
    if not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise UserError(f"{text[:40]!r} is not a length of time", "such as 90s, 15m, 2h, 1d or 1h30m", status=2)
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"([0-9]+)([smhd])", text))


def show(args: argparse.Namespace) -> int:
    found = request(args, "get_task", {"id": args.id})
    return emit(args.json, found, tables.fields(described(found["task"])))


def described(task: dict[str, Any]) -> dict[str, str]:
    said = {
        "task": task["id"],
        "group": task["group"],
        "state": task["state"],
        "when": when(task),
        "next": comes(task),
        "timezone": task["timezone"],
        "context": task["context"],
        "check": task["check"] or "none",
        "made by": task["created_by"] or "you",
        "prompt": task["prompt"],
    }
    return said | {"runs": "\n".join(ran(run) for run in task["runs"]) or "none yet"}


def ran(run: dict[str, Any]) -> str:
    return f"{tables.clock(run['started_at'])}  {run['outcome']}, {run['seconds']:.0f} s, {run['tokens']} tokens"


def change(args: argparse.Namespace) -> int:
    given = assignments(args.settings, texts=SETTINGS)
    if unknown := [key for key in given if key not in SETTINGS]:
        raise UserError(
            f"{unknown[0][:60]!r} is not a setting of a task", f"what can be set: {', '.join(SETTINGS)}", status=2
        )
    if empty := [key for key, value in given.items() if value is None and key not in DEFAULTS]:
        raise UserError(f"{empty[0]} has no default", "say what it is to be, or cancel the task", status=2)
    wish = {key: DEFAULTS[key] if value is None else value for key, value in given.items() if key not in KINDS}
    if times := {key: value for key, value in given.items() if key in KINDS}:
        wish["kind"], wish["schedule"] = scheduled(times)
    found = request(args, "update_task", {"id": args.id, **wish})
    return emit(args.json, found, planned(found["task"]))


def resume(args: argparse.Namespace) -> int:
    found = request(args, "resume_task", {"id": args.id})
    return emit(args.json, found, planned(found["task"]))


def pause(args: argparse.Namespace) -> int:
    return act(args, "pause_task", "rests until it is resumed")


def cancel(args: argparse.Namespace) -> int:
    return act(args, "cancel_task", "is cancelled")


def run(args: argparse.Namespace) -> int:
    return act(args, "run_task_now", "is waiting to run")


def act(args: argparse.Namespace, method: str, said: str) -> int:
    return emit(args.json, request(args, method, {"id": args.id}), f"task {args.id} {said}")


ACTIONS: Final = {
    "list": list_tasks,
    "add": add,
    "show": show,
    "set": change,
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "run": run,
}
