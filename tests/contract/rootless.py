"""podman as an ordinary user starts it, for tests that run as root: a user of this machine who has numbers to spare
for containers, with a home folder of the tests' own."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from host.engines.base import Engine, find
from host.engines.podman import Podman
from host.errors import EngineError
from host.model import Image


def podman(image: Image) -> tuple[Engine, Image, tuple[int, int]]:
    """The engine, the image where that user can read it, and who that is; skips the test where there is none."""
    found = _made(image)
    if isinstance(found, str):
        pytest.skip(f"podman without root: {found}")
    return found


@functools.cache
def _made(image: Image) -> tuple[Engine, Image, tuple[int, int]] | str:
    person = someone()
    if person is None:
        return "no ordinary user with a line in /etc/subuid and /etc/subgid"
    folder = Path(tempfile.mkdtemp(prefix="nc-", dir="/var/tmp"))
    folder.chmod(0o755)
    for name in ("home", "run"):  # podman's paths may have 50 characters
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, person.pw_uid, person.pw_gid)
    archive = Path(shutil.copy(image.archive, folder))
    archive.chmod(0o644)
    program = folder / "podman"
    program.write_text(as_person(person, folder))
    program.chmod(0o755)
    # Its pause process holds the user namespace, and would stay.
    atexit.register(_remove, program, folder)
    engine = Podman(str(program))
    try:
        engine.probe()
    except EngineError as e:
        return str(e)
    return engine, replace(image, archive=archive), (person.pw_uid, person.pw_gid)


def someone() -> pwd.struct_passwd | None:
    """An ordinary user to whom /etc/subuid and /etc/subgid give numbers."""
    if not find("newuidmap"):
        return None
    spare = [_names(Path(path)) for path in ("/etc/subuid", "/etc/subgid")]
    people = (person for person in pwd.getpwall() if person.pw_uid >= 1000)
    return next((person for person in people if all(person.pw_name in names for names in spare)), None)


def _names(path: Path) -> set[str]:
    try:
        return {line.partition(":")[0] for line in path.read_text().splitlines()}
    except OSError:
        return set()


def as_person(person: pwd.struct_passwd, folder: Path) -> str:
    """A program that is podman, started by that user, who has not logged in."""
    others = "-u XDG_CONFIG_HOME -u XDG_DATA_HOME -u DBUS_SESSION_BUS_ADDRESS"
    variables = f"{others} HOME={folder}/home XDG_RUNTIME_DIR={folder}/run USER={person.pw_name}"
    become = f"setpriv --reuid={person.pw_uid} --regid={person.pw_gid} --init-groups"
    return f"""#!/bin/sh
cd /
# The folder of a trial container was made by us: podman must be able to make mount points in it.
for argument; do
    [ "$before" != --rootfs ] || chown -R {person.pw_uid}:{person.pw_gid} "$argument"
    before=$argument
done
exec {become} env {variables} {find("podman")} "$@"
"""


def _remove(program: Path, folder: Path) -> None:
    subprocess.run([program, "system", "migrate"], capture_output=True, timeout=30, check=False)
    shutil.rmtree(folder, ignore_errors=True)
