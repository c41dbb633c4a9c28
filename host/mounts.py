"""The folders of this machine that groups were given: which of them a sandbox may have today.

What a group was given (`config`) is a wish; the allowlist, which is read anew each time, says what comes of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from host.allowlist import FILE, Allowlist, Protected, Verdict, judge, writable
from host.config import Config, Home
from host.model import Group, Mount, MountWish


@dataclass(frozen=True)
class Judged:
    """What comes of one group's wishes."""

    verdicts: tuple[tuple[MountWish, Verdict], ...] = ()
    """The folders of those that are allowed are open: to be closed when their sandbox has shown that it has them."""

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return tuple(
            Mount(Path(v.real_path), v.target, v.readonly, v.identity)
            for _, v in self.verdicts
            if v.allowed and v.real_path is not None and v.identity is not None
        )

    @property
    def refused(self) -> tuple[str, ...]:
        """`name: reason`, for a person."""
        return tuple(f"{wish.name}: {v.reason}" for wish, v in self.verdicts if not v.allowed)

    def close(self) -> None:
        for _, verdict in self.verdicts:
            verdict.close()


def judged(home: Home, config: Config, group: Group, groups: Iterable[Group]) -> Judged:
    """`groups`: all that are registered. `UserError` if what one was given means nothing."""
    wishes = config.mounts(group)
    if not wishes:  # nearly always: nothing is read then
        return Judged()
    allowlist = Allowlist.load(home.config / FILE)
    closed = protected(home, allowlist, all_wishes(config, groups))
    found: list[tuple[MountWish, Verdict]] = []
    for wish in wishes:
        taken = [other.name for other, verdict in found if verdict.allowed]
        verdict = judge(
            allowlist, wish.path, rw=wish.rw, is_main=group.is_main, name=wish.name, protected=closed, taken=taken
        )
        found.append((wish, verdict))
    return Judged(tuple(found))


def all_wishes(config: Config, groups: Iterable[Group]) -> list[tuple[MountWish, bool]]:
    """What all groups were given, each with whether its group is main."""
    return [(wish, group.is_main) for group in groups for wish in config.mounts(group)]


def protected(home: Home, allowlist: Allowlist, wishes: Iterable[tuple[MountWish, bool]]) -> Protected:
    """What no group can be given in this home, where agents can write to what they were given to write."""
    return Protected.of(home.config, home.data, home.cache, writable(allowlist, wishes))
