"""The system call filter for podman, as the JSON that it takes: its own profile, less what bubblewrap's refuses.

podman's own lets every program make user namespaces and mount in them, read another process of the same user, and
use the keyrings, so that containers can be built in containers. docker's does not, and nothing here needs it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Collection
from typing import Any, Final

from host.engines.seccomp import ABSENT, NAMESPACE_FLAGS, REFUSED

_ALLOW, _ERROR = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
JUDGED: Final = frozenset({*REFUSED, *ABSENT, "clone"})
"""Calls on which podman's own profile is not asked."""
NAMESPACES: Final = tuple(1 << bit for bit in range(32) if NAMESPACE_FLAGS & 1 << bit)


def strict(own: dict[str, Any] | None) -> bytes:
    """The profile; `own` is podman's, or None where there is no file of it: then only what is refused is named."""
    base = own or {"defaultAction": _ALLOW, "architectures": []}
    rules = [{**rule, "names": names} for rule in base.get("syscalls") or [] if (names := _others(rule["names"]))]
    rules += [
        _rule(REFUSED, _ERROR, errnoRet=errno.EPERM),
        # The C library falls back to clone, whose flags a filter can see.
        _rule(ABSENT, _ERROR, errnoRet=errno.ENOSYS),
        *[_rule(["clone"], _ERROR, errnoRet=errno.EPERM, args=[_masked(bit, bit)]) for bit in NAMESPACES],
    ]
    if own:
        rules.append(_rule(["clone"], _ALLOW, args=[_masked(NAMESPACE_FLAGS, 0)]))
    # The same numbers mean other calls to 32-bit programs, of which the image has none.
    arches = [{**arch, "subArchitectures": []} for arch in base.get("archMap") or []]
    return json.dumps({**base, "archMap": arches, "syscalls": rules}, indent=1).encode()


def _others(names: Collection[str]) -> list[str]:
    return [name for name in names if name not in JUDGED]


def _rule(names: Collection[str], action: str, **more: Any) -> dict[str, Any]:
    return {"names": sorted(names), "action": action, "args": [], "includes": {}, "excludes": {}, **more}


def _masked(bits: int, are: int) -> dict[str, Any]:
    """Of the first argument."""
    return {"index": 0, "value": bits, "valueTwo": are, "op": "SCMP_CMP_MASKED_EQ"}
