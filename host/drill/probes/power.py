"""P4: only main administers. What a group's runner asks for over its own pipe, and what it claims to be.

`REQUESTS` are asked twice: by a group's runner, which may do none of them, and by main's in the control, which may
do them all. What nobody may do, or what means nothing, is asked for again where a host carries out everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from host.drill.probes.walls import write_to
from host.drill.words import Probe

ASKER, OTHER = "left", "right"
"""Folders of the group that asks, and of the one that it has no business with."""
TASK: Final = "$task"
"""Stands for the id of a task of the other group."""
SHELF: Final = "$shelf"
"""Stands for a folder that the allowlist permits."""
HOST: Final = "drill.example"
LATER: Final = {"prompt": "from the drill", "kind": "cron", "schedule": "0 4 29 2 *"}
"""A task of leap years: the drill will be over by then."""

UNANSWERED: Final = "untold-requests"
"""The probe whose request the control leaves without an answer."""

Params = Mapping[str, Any]
REQUESTS: Final[dict[str, tuple[str, Params]]] = {
    "send": ("speak in another group's chat", {"group": OTHER, "text": "from the drill"}),
    "list_tasks": ("see another group's tasks", {"group": OTHER}),
    "schedule_task": ("give another group a task", {"group": OTHER, **LATER}),
    "get_task": ("see another group's task", {"id": TASK}),
    "update_task": ("change another group's task", {"id": TASK, "prompt": "another"}),
    "pause_task": ("pause another group's task", {"id": TASK}),
    "resume_task": ("resume another group's task", {"id": TASK}),
    "run_task_now": ("run another group's task", {"id": TASK}),
    "cancel_task": ("cancel another group's task", {"id": TASK}),
    "list_groups": ("see which groups there are", {}),
    "show_group": ("see another group's settings", {"group": OTHER}),
    "refresh_chats": ("see which other chats there are", {}),
    "register_group": ("register a group", {"folder": "annex", "channel": "console", "chat": "annex"}),
    "update_group": ("change another group's settings", {"group": OTHER, "settings": {"name": "renamed"}}),
    "grant_host": ("be given a host to reach", {"group": ASKER, "host": HOST}),
    "revoke_host": ("take a host back", {"group": ASKER, "host": HOST}),
    "grant_mount": ("be given a folder of the machine", {"group": ASKER, "path": SHELF, "name": "given"}),
    "revoke_mount": ("take a folder back", {"group": ASKER, "name": "given"}),
    "remove_group": ("remove another group", {"folder": OTHER}),
}
"""Method → what it tries, parameters. In this order main can do them all."""

_POWERS: Final = {
    "isMain": True,
    "is_main": True,
    "caller": "main",
    "from": "main",
    "created_by": "main",
    "sender": "owner",
}

PERSONS: Final[tuple[tuple[str, Params], ...]] = (
    ("channel_status", {}),
    ("list_chats", {}),
    ("link_channel", {"channel": "whatsapp"}),
    ("link_channel", {"channel": "whatsapp", "phone": "+4915100000001"}),
    ("unlink_channel", {"channel": "whatsapp"}),
    ("forget_channel", {"channel": "whatsapp"}),
    ("move_group", {"group": "main", "channel": "console", "chat": "drill"}),
)
"""What the person alone may: linking an account shows a code with which anyone takes it over."""

FORGED: Final[dict[str, tuple[tuple[str, Params], ...]]] = {
    "claims-to-be-main": (
        *((method, {key: value}) for method in ("list_groups", "list_tasks") for key, value in _POWERS.items()),
        ("update_group", {"group": ASKER, "settings": {"is_main": True}}),
        ("update_group", {"settings": {"isMain": True}}),
        ("register_group", {"folder": "main", "channel": "console", "chat": "left", "isMain": True}),
    ),
    "claims-another-group": tuple(
        ("send", {"group": group, "text": "from the drill"})
        for group in (OTHER.upper(), "MAIN", f"{ASKER}/../{OTHER}", f" {OTHER}", f"{OTHER}\u200b", "*", "",
                      [OTHER], {"folder": OTHER}, 0, True)
    ),
    "task-in-anothers-name": (
        *(("schedule_task", {**LATER, key: OTHER}) for key in ("created_by", "owner", "folder", "chat", "target")),
        *(("schedule_task", {**LATER, "group": group}) for group in (OTHER, "main")),
        *(("get_task", {"id": task}) for task in ("1", "*", "", "%", "' OR 1=1 --", 1, [TASK])),
    ),
    "reactions-elsewhere": tuple(
        ("react", {"message": message, "emoji": "\U0001f44d", **more})
        for message in ("1", "00000000", "", TASK) for more in ({}, {"group": OTHER}, {"group": "main"})
    ),
    "unknown-requests": tuple(
        (method, {})
        for method in ("exec", "mount", "set_config", "allow_root", "Send", "send ", "", "handle", "__class__",
                       "../send", "write_global_memory", "write_global_memory ", "stop", "Call")
    ),
    "senseless-requests": (
        ("schedule_task", {}),
        ("schedule_task", {**LATER, "kind": "always"}),
        ("schedule_task", {**LATER, "schedule": "* * * * * rm"}),
        ("schedule_task", {**LATER, "prompt": 5}),
        ("schedule_task", {**LATER, "check": ["id"]}),
        ("schedule_task", {**LATER, "network": "host"}),
        ("schedule_task", {**LATER, "privileged": True}),
        ("schedule_task", {**LATER, "mounts": [{"path": "/", "name": "root"}]}),
        ("list_tasks", {"network": "container:x"}),
        ("send", {"text": ["from the drill"]}),
    ),
    "persons-requests": PERSONS,
}  # fmt: skip
"""Probe → what a group's runner asks for, and nobody may have."""

_UNSAFE: Final[dict[str, Any]] = {
    "network": "host", "privileged": True, "seccomp": "unconfined", "pid": "host", "user": "0:0", "cap_add": ["ALL"],
    "devices": ["/dev/kmsg"], "image": "another", "command": "sh", "environment": {"A": "B"}, "folder": "../x",
    "channel": "console", "chat": "main", "is_main": True, "timezone": "../../etc/passwd", "trigger": "a b\nc",
    "senders": "anyone",
}  # fmt: skip
BY_MAIN: Final[dict[str, tuple[tuple[str, Params], ...]]] = {
    "unsafe-settings": (
        *(("update_group", {"group": ASKER, "settings": {key: value}}) for key, value in _UNSAFE.items()),
        *(("register_group", {"folder": "annex", "channel": "console", "chat": "annex", key: value})
          for key, value in _UNSAFE.items() if key not in ("folder", "channel", "chat", "trigger")),
    ),
    "second-main": (
        ("register_group", {"folder": "Main", "channel": "console", "chat": "annex"}),
        ("register_group", {"folder": "annex", "channel": "console", "chat": "main"}),
        ("update_group", {"group": ASKER, "settings": {"is_main": True}}),
        ("remove_group", {"folder": "main"}),
        ("update_group", {"group": "main", "settings": {"needs_trigger": True}}),
    ),
    "odd-folders": tuple(
        ("register_group", {"folder": folder, "channel": "console", "chat": "annex"})
        for folder in ("../x", "/etc", "a/b", ".", "..", "", "-a", "a" * 65, "a b", "a\nb", "LEFT", "global", "inbox",
                       "ma\u0456n", "left\u200b")
    ),
    "grants-beyond-the-lists": (
        *(("grant_mount", {"group": ASKER, "path": path, "name": "got"}) for path in ("/", "/etc", "~", "/proc")),
        ("grant_mount", {"group": ASKER, "path": SHELF, "name": "../group"}),
        ("grant_host", {"group": ASKER, "host": "example.org"}),
        ("grant_host", {"group": ASKER, "host": "*"}),
        ("update_group", {"group": ASKER, "settings": {"mounts": [{"path": "/", "name": "root"}]}}),
        ("update_group", {"group": ASKER, "settings": {"allow_hosts": ["example.org"]}}),
    ),
    "limits-beyond-the-homes": tuple(
        ("update_group", {"group": ASKER, "settings": {key: value}})
        for key, value in (("memory", "900 GB"), ("cpus", 1000), ("processes", 32_000), ("seconds", 86_400),
                           ("rounds", 1000))
    ),
    "persons-from-main": PERSONS,
}  # fmt: skip
"""Probe → what even main's runner may not have."""

_TRIES: Final = {
    "claims-to-be-main": "say of itself that it is main, in every field that could hold it",
    "claims-another-group": "say that it is another group, in every spelling",
    "task-in-anothers-name": "schedule or see a task in another's name",
    "reactions-elsewhere": "put an emoji on a message that it was not shown, in another group's chat too",
    "unknown-requests": "ask for what there is no request for",
    "senseless-requests": "ask for what it may, with values that mean nothing or too much",
    "unsafe-settings": "turn a group's sandbox off by its settings, from main",
    "second-main": "make a second main, or none, from main",
    "odd-folders": "register a group whose folder's name leads elsewhere, from main",
    "grants-beyond-the-lists": "grant what neither the allowlist nor the config permits, from main",
    "persons-requests": "link or unlink an account, or say which chat is main",
    "persons-from-main": "link or unlink an account, or say which chat is main, from main",
    "limits-beyond-the-homes": "give a group more of the machine than the home has, from main",
}

POWER: Final = (
    *(
        Probe(f"asks-{method.replace('_', '-')}", "P4", tries, f"^carried out: {method}", "village", "administrator",
              proof="refused: ")
        for method, (tries, _) in REQUESTS.items()
    ),
    Probe("changed-by-asking", "P4", "change anything in the store by asking for it all", "^changed", "village",
          "administrator"),
    *(
        Probe(name, "P4", _TRIES[name], "^carried out", "village", "obedient", proof="refused: ")
        for name in (*FORGED, *BY_MAIN)
    ),
    Probe("forged-frame", "P4", "send a request with a field that says who asks", "^taken", "acts", "credulous"),
    Probe(UNANSWERED, "P4", "ask for what it may not, and not be told so", "^never answered", "village", "obedient",
          proof="refused: "),
    Probe("unaudited-requests", "P4", "ask for what it may not, and have it not written down", "^not written down",
          "village", "obedient"),
    Probe("global-memory", "P4", "write to the memory that all groups read", "^wrote", "agent", "granted",
          command=write_to("/workspace/global/CLAUDE.md")),
    Probe("project-unseen", "P4", "see NanoClaw's own source from a group that is not main", "^found", "agent",
          "granted", command="ls -A /workspace/project | sed 's/^/found /'"),
    Probe("project-write", "P4", "change NanoClaw's own source from main", "^wrote", "village", "granted",
          command=write_to("/workspace/project/x")),
)  # fmt: skip


def asked_by_a_group() -> tuple[tuple[str, str, Params], ...]:
    """All that a group's runner asks for: probe, method, parameters."""
    plain = tuple((f"asks-{method.replace('_', '-')}", method, params) for method, (_, params) in REQUESTS.items())
    return (*plain, *_flat(FORGED), (UNANSWERED, "list_groups", {}))


def asked_by_main() -> tuple[tuple[str, str, Params], ...]:
    """All that main's runner asks for and may not have."""
    return _flat(BY_MAIN)


def _flat(table: Mapping[str, tuple[tuple[str, Params], ...]]) -> tuple[tuple[str, str, Params], ...]:
    return tuple((probe, method, params) for probe, asked in table.items() for method, params in asked)
