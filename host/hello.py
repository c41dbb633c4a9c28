"""Is this sandbox the one that was asked for? Decided from its hello, before it is given anything."""

from __future__ import annotations

from typing import Final

from host.model import Spec
from runner.protocol import VERSION, Hello

# What hello must report, whatever the engine; each engine adds its own claims. `pid`: an init before the
# runner, which a daemon's configuration can ask for, would hold the same pipes.
REQUIRED: Final = {
    "pid": 1,
    "dumpable": 0,
    "cap_eff": 0,
    "cap_bnd": 0,
    "no_new_privs": 1,
    "core_limit": 0,
    "interfaces": 0,
}


def fault(
    untrusted_hello: Hello,
    spec: Spec,
    expect_build: str,
    claims: dict[str, int],
    own_mounts: frozenset[str],
    *,
    same_kernel: bool = True,
) -> str:
    """What is wrong with it, in our words, or nothing. `claims`, `own_mounts` and `same_kernel` (see
    `Engine.verifies_mounts`) are the engine's."""
    if untrusted_hello.version != VERSION:
        return f"it speaks version {untrusted_hello.version} of the pipe's language, not {VERSION}"
    if untrusted_hello.build != expect_build:
        return "its runner is of another build than this program"
    if found := _check_fault(untrusted_hello.checks, spec, claims):
        return found
    return _mount_fault(untrusted_hello.mounts, spec, own_mounts, same_kernel)


def _check_fault(untrusted_checks: dict[str, int], spec: Spec, claims: dict[str, int]) -> str:
    required = {**REQUIRED, "uid": spec.uid, "gid": spec.gid, **claims}
    for name, value in required.items():
        found = untrusted_checks.get(name)
        if found != value:
            return f"{name} is {'not told' if found is None else found}, not {value}"
    if spec.uid == 0:
        return "it runs as root"
    return ""


def _mount_fault(untrusted_mounts: dict[str, str], spec: Spec, own_mounts: frozenset[str], same_kernel: bool) -> str:
    """Device and inode as the sandbox sees them, against what was opened and judged. Between that and the mount
    the path may have come to mean another folder; and nothing may be there that was not asked for."""
    wanted = {mount.target: f"{mount.identity[0]}:{mount.identity[1]}" for mount in spec.mounts}
    for target, identity in wanted.items():
        if not same_kernel and target in untrusted_mounts:  # another kernel has numbers of its own
            continue
        if untrusted_mounts.get(target) != identity:
            return f"{target} is another folder than the one that was checked"
    extra = untrusted_mounts.keys() - wanted.keys() - own_mounts
    return f"{len(extra)} more mounts than asked for" if extra else ""
