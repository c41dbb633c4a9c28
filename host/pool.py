"""Sandboxes for groups: what each is made of, the warm ones that wait, and which of them may still be used.

A warm sandbox has said hello and waits on its stdin, before any secret. It was made for one group with
the mounts and settings of that moment; if today's differ in anything, it is thrown away unused.

The folders that it is to have beyond its own were judged by what they are, and are held open until its hello has
shown that they are what it got: until then, none of their inode numbers can come to mean another folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from host.config import Config
from host.engines.base import Engine, sandbox_user
from host.errors import UserError
from host.log import Log
from host.loop import Loop
from host.model import Group, Image, Mount, Spec
from host.mounts import Judged
from host.sandbox import Gone, Sandbox
from runner.protocol import Frame

# A runner that never gets a payload leaves by itself a little after the pool would have thrown it away,
# so that it also ends when the host has died and an engine's daemon keeps its stdin open.
START_GRACE_SECONDS: Final = 120


class Owner(Protocol):
    """Who uses a sandbox: one attempt at a turn."""

    def sandbox_ready(self) -> None: ...
    def sandbox_frame(self, untrusted_frame: Frame) -> None: ...
    def sandbox_gone(self, gone: Gone) -> None: ...


@dataclass(frozen=True)
class Folders:
    """Where the data of this home lies that sandboxes may see."""

    groups: Path
    shared: Path
    """What every group reads as /workspace/global."""
    inbox: Path
    project: Path
    """NanoClaw's own source as it runs, for main."""

    @classmethod
    def of(cls, data: Path, project: Path) -> Folders:
        return cls(data / "groups", data / "global", data / "inbox", project)


class _Place:
    """A sandbox and whoever owns it at the moment; warm ones are owned by nobody."""

    def __init__(self, judged: Judged) -> None:
        self.owner: Owner | None = None
        self.sandbox: Sandbox | None = None
        self.judged = judged


class Pool:
    """Starts sandboxes, keeps warm ones, and stops them all at the end."""

    def __init__(
        self,
        loop: Loop,
        engine: Engine,
        image: Image,
        config: Config,
        folders: Folders,
        install: str,
        judge: Callable[[Group], Judged] = lambda group: Judged(),
        log: Log | None = None,
    ) -> None:
        """`judge`: what comes today of the mounts that a group was given."""
        self._loop, self._engine, self._image = loop, engine, image
        self._config, self._folders, self._install = config, folders, install
        self._judge, self._log = judge, log
        self._refused: dict[str, tuple[str, ...]] = {}
        self._warm: dict[str, _Place] = {}
        self._live: set[Sandbox] = set()
        self.on_idle: Callable[[], None] | None = None
        """Called when the last sandbox is gone."""

    @property
    def live(self) -> int:
        """Sandboxes that exist, starting and stopping ones included."""
        return len(self._live)

    @property
    def warm(self) -> list[str]:
        """Folders of the groups that a warm sandbox waits for."""
        return sorted(self._warm)

    def refused_mounts(self, folder: str) -> list[str]:
        """What the group's newest sandbox had to do without, as `name: reason`."""
        return list(self._refused.get(folder, ()))

    def take(self, group: Group, owner: Owner) -> Sandbox:
        """The group's warm sandbox if it still fits, else a new one; `owner` hears of it from now on.

        `owner.sandbox_ready` is called for a new one only: a warm one may be `ready` already.
        """
        judged, spec = self._wanted(group)
        place = self._warm.pop(group.folder, None)
        if place is not None and place.sandbox is not None:
            if place.sandbox.state in {"starting", "ready"} and _same(place.sandbox.spec, spec):
                judged.close()  # it has these very folders, or will have shown so before it is given anything
                place.owner = owner
                return place.sandbox
            place.sandbox.stop("no longer fits", grace=0)
        place = self._start(spec, judged, owner)
        assert place.sandbox is not None
        return place.sandbox

    def keep_warm(self, group: Group) -> None:
        """Have a sandbox wait for this group's next turn, unless there is one or the settings want none."""
        if self._config.warm_sandboxes == 0 or group.folder in self._warm:
            return
        while len(self._warm) >= self._config.warm_sandboxes:  # the one that has waited longest goes
            self._discard(next(iter(self._warm)))
        judged, spec = self._wanted(group)
        place = self._warm[group.folder] = self._start(spec, judged, None)
        self._loop.call_later(self._config.warm_seconds, lambda: self._expire(group.folder, place))

    def drop(self, folder: str) -> None:
        """No sandbox waits for this group any more."""
        self._refused.pop(folder, None)
        if folder in self._warm:
            self._discard(folder)

    def spec_for(self, group: Group, extra: tuple[Mount, ...] = ()) -> Spec:
        """What a sandbox for this group is made of today, beside `extra`. Holds no secret."""
        uid, gid = sandbox_user()
        settings = self._config.group(group)
        return Spec(
            name=f"nanoclaw-{self._install}-{secrets.token_hex(6)}",
            install=self._install,
            group=group.folder,
            image=self._image,
            mounts=(*self._mounts(group, uid, gid), *extra),
            resources=settings.resources,
            uid=uid,
            gid=gid,
            deadline_seconds=int(self._config.warm_seconds) + START_GRACE_SECONDS,
            proxy=bool(settings.allow_hosts),
        )

    def _wanted(self, group: Group) -> tuple[Judged, Spec]:
        """Today's extra folders, held open, and what a sandbox with them is made of."""
        judged = self._judged(group)
        try:
            return judged, self.spec_for(group, judged.mounts)
        except BaseException:
            judged.close()
            raise

    def _judged(self, group: Group) -> Judged:
        """The group's mounts as they may be today. A turn does without those that may not be, and is told."""
        judged = self._judge(group)
        if judged.refused != self._refused.get(group.folder, ()) and self._log is not None:
            for each in judged.refused:
                self._log.warning("left out a mount", group=group.folder, why=each)
        self._refused.pop(group.folder, None)
        if judged.refused:
            self._refused[group.folder] = judged.refused
        return judged

    def close(self) -> None:
        """Stop everything; `on_idle` tells when all are gone."""
        self._warm.clear()
        for sandbox in list(self._live):
            sandbox.stop("the host stops", grace=0)

    def _mounts(self, group: Group, uid: int, gid: int) -> tuple[Mount, ...]:
        f = self._folders
        mounts = [
            own_folder(f.groups / group.folder, "/workspace/group", False, uid, gid),
            own_folder(f.shared, "/workspace/global", not group.is_main, uid, gid),
            own_folder(f.inbox / group.folder, "/workspace/inbox", True, uid, gid),
        ]
        if group.is_main:
            mounts.append(Mount(f.project, "/workspace/project", True, identity(f.project)))
        return tuple(mounts)

    def _start(self, spec: Spec, judged: Judged, owner: Owner | None) -> _Place:
        place = _Place(judged)
        place.owner = owner

        def on_ready() -> None:
            place.judged.close()
            if place.owner is not None:
                place.owner.sandbox_ready()

        def on_gone(gone: Gone) -> None:
            place.judged.close()
            assert place.sandbox is not None
            self._gone(place, place.sandbox, gone)

        place.sandbox = Sandbox(
            self._loop,
            self._engine,
            spec,
            expect_build=self._image.build,
            on_ready=on_ready,
            on_frame=lambda frame: place.owner.sandbox_frame(frame) if place.owner else None,
            on_gone=on_gone,
        )
        self._live.add(place.sandbox)
        place.sandbox.start()
        return place

    def _gone(self, place: _Place, sandbox: Sandbox, gone: Gone) -> None:
        self._live.discard(sandbox)
        if self._warm.get(sandbox.spec.group) is place:
            del self._warm[sandbox.spec.group]
        if place.owner is not None:
            place.owner.sandbox_gone(gone)
        if not self._live and self.on_idle is not None:
            self.on_idle()

    def _expire(self, folder: str, place: _Place) -> None:
        if self._warm.get(folder) is place:
            self._discard(folder)

    def _discard(self, folder: str) -> None:
        place = self._warm.pop(folder)
        if place.sandbox is not None:
            place.sandbox.stop("waited long enough", grace=0)


def _same(made: Spec, wanted: Spec) -> bool:
    return replace(made, name="") == replace(wanted, name="")


def identity(folder: Path) -> tuple[int, int]:
    """(st_dev, st_ino) of a folder that is no symlink; `UserError` if it is anything else."""
    try:
        status = folder.lstat()
    except OSError as e:
        raise UserError(f"cannot use the folder {folder}: {e.strerror}") from e
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{folder} is not a folder", "move it away; NanoClaw makes a new one")
    return status.st_dev, status.st_ino


def own_folder(folder: Path, target: str, readonly: bool, uid: int, gid: int) -> Mount:
    """A folder of ours, made if it is not there and owned by the sandbox's user: a host that is root writes
    there all the same, and nobody else needs to. Its parents are the host's own, which no agent can write."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # whatever it is: `identity` says so, also of a link to nowhere
            folder.mkdir(mode=0o700)
        made = identity(folder)
        _hand_over(folder, uid, gid)
    except PermissionError as e:  # another user's, of a host that ran as root
        mine = f"make it yours: sudo chown -R {uid}:{gid} {folder}"
        raise UserError(f"cannot use the folder {folder}: {e.strerror}", mine) from e
    except OSError as e:
        raise UserError(f"cannot use the folder {folder}: {e.strerror}") from e
    return Mount(folder, target, readonly, made)


def _hand_over(folder: Path, uid: int, gid: int) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if (status.st_uid, status.st_gid) != (uid, gid) and os.getuid() == 0:
            os.fchown(handle, uid, gid)
        os.fchmod(handle, 0o700)
    finally:
        os.close(handle)
