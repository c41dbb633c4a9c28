"""Who may do what: one table, decided by the pipe that a request came on and by nothing in the request. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import Final

from host.model import Group


class Scope(Enum):
    """Whose things an action may touch."""

    NONE = "nobody's"
    OWN = "the caller's own"
    ANY = "any registered group's"


NONE, OWN, ANY = Scope

# action → what main may, what every other group may. An action that is not here is nobody's.
# Granting a mount or a host is further bounded by the allowlist and the config, which no request can change.
MAY: Final[dict[str, tuple[Scope, Scope]]] = {
    "send": (ANY, OWN),
    # A message is named by what the agent was shown of it, and it is shown its own chat.
    "react": (OWN, OWN),
    "schedule_task": (ANY, OWN),
    "list_tasks": (ANY, OWN),
    "get_task": (ANY, OWN),
    "update_task": (ANY, OWN),
    "pause_task": (ANY, OWN),
    "resume_task": (ANY, OWN),
    "cancel_task": (ANY, OWN),
    "run_task_now": (ANY, OWN),
    "list_groups": (ANY, NONE),
    "show_group": (ANY, NONE),
    "register_group": (ANY, NONE),
    "update_group": (ANY, NONE),
    "remove_group": (ANY, NONE),
    "refresh_chats": (ANY, NONE),
    "write_global_memory": (ANY, NONE),
    "grant_mount": (ANY, NONE),
    "revoke_mount": (ANY, NONE),
    "grant_host": (ANY, NONE),
    "revoke_host": (ANY, NONE),
    # The person's alone: who is linked, and which chat administers, is not for an agent to say.
    "channel_status": (NONE, NONE),
    "link_channel": (NONE, NONE),
    "unlink_channel": (NONE, NONE),
    "forget_channel": (NONE, NONE),
    "list_chats": (NONE, NONE),
    "move_group": (NONE, NONE),
}


def scope(action: str, caller: Group) -> Scope:
    """How far a known action reaches for this caller."""
    main, others = MAY[action]
    return main if caller.is_main else others


def authorize(untrusted_action: str, caller: Group, target: str | None = None) -> str | None:
    """None if `caller` may do this to the group `target` (a folder; None: the caller's own), else the reason.

    The reason is the same whether or not the target exists: a refusal tells nobody which groups there are.
    """
    if untrusted_action not in MAY:
        return f"there is no request named {untrusted_action[:64]!r}"
    allowed = scope(untrusted_action, caller)
    own = target is None or target.lower() == caller.folder.lower()
    if allowed is ANY or (allowed is OWN and own):
        return None
    if MAY[untrusted_action] == (NONE, NONE):
        return f"{untrusted_action} is for the person at the terminal alone"
    if allowed is OWN:
        main = "" if MAY[untrusted_action][0] is OWN else "; the main group may do it for others"
        return f"{untrusted_action} is permitted for this group's own chat only{main}"
    return f"{untrusted_action} is permitted to the main group only"
