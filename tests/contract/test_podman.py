"""What is podman's alone: settings files that add to every container, stdin as it is, nothing kept on disk."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host.engines import podman
from host.engines.base import replacing
from host.model import Launch
from tests.contract.house import INSTALL, House, Watched

pytestmark = pytest.mark.parametrize("house", ["podman", "podman-user"], indirect=True)

CANARY = "NCC-p0dm4n"
UNSEALED: dict[str, Any] = {"seal": False, "checks": {"dumpable": 0, "core_limit": 0}}
SHOW = "tr '\\0' '\\n' < /proc/1/environ; ls -d /settings-*"


@pytest.fixture
def settings(house: House) -> Iterator[Path]:
    """A `containers.conf` that weakens every container, and what it names. Where podman has a home folder of the
    tests' own, that is where it lies as well."""
    folder = house.folder / "settings"
    (folder / "hooks").mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "mounts.conf").write_text(f"{folder}/shared:/run/secrets\n")
    script = folder / "hook"
    script.write_text(f"#!/bin/sh\ntouch {folder}/shared/ran\n")
    hook = {"version": "1.0.0", "hook": {"path": str(script)}, "when": {"always": True}, "stages": ["prestart"]}
    (folder / "hooks" / "hook.json").write_text(json.dumps(hook))
    (folder / "containers.conf").write_text(f"""
[containers]
annotations = ["{CANARY}=1"]
default_capabilities = ["CHOWN", "NET_RAW"]
env = ["SETTING={CANARY}"]
env_host = true
seccomp_profile = "unconfined"
volumes = ["{folder}/shared:/settings-volume"]
[engine]
hooks_dir = ["{folder}/hooks"]
""")
    for path in (folder, folder / "shared"):
        path.chmod(0o777)
    script.chmod(0o755)
    home = Path(house.engine.launch(house.spec()).argv[2]).with_name("home") / ".config" / "containers"
    if not home.parent.parent.is_dir():
        yield folder
        return
    home.mkdir(parents=True)
    (home / "containers.conf").write_bytes((folder / "containers.conf").read_bytes())
    yield folder
    shutil.rmtree(home.parent)


def weakened(launch: Launch, *options: tuple[tuple[str, ...], tuple[str, ...]]) -> Launch:
    for old, new in options:
        launch = replacing(launch, old, new)
    return launch


def test_settings_files_add_nothing(house: House, settings: Path) -> None:
    own_home = house.engine.launch(house.spec()).argv[2].startswith("/var/tmp/")
    read = (podman.NO_SETTINGS[1:], () if own_home else (f"CONTAINERS_CONF={settings}/containers.conf",))

    def seen(*options: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        w = house.start("shell", edit=lambda launch: weakened(launch, *options), claims=False, **UNSEALED)
        return w.run(SHOW)

    # Read, the file gives a folder to every container, and variables where ours does not clear them.
    assert "/settings-volume\n" in seen(read)
    assert CANARY in seen(read, (("--unsetenv-all",), ()))
    clean = seen((("--unsetenv-all",), ()))
    assert CANARY not in clean and "/settings-volume\n" not in clean
    # Programs that the host runs for every container: kept out by a flag of their own as well.
    assert not (settings / "shared" / "ran").exists()
    seen(read, (podman.GLOBAL[2:4], ()))
    assert (settings / "shared" / "ran").exists()


def test_no_folder_of_the_host_s_is_mounted_by_default(house: House, settings: Path) -> None:
    (settings / "shared" / "file").write_text(CANARY)
    (settings / "shared" / "file").chmod(0o644)
    mounts = (podman.GLOBAL[:2], ("--default-mounts-file", str(settings / "mounts.conf")))
    show = "cat /run/secrets/*"
    assert CANARY not in house.start("shell").run(show)
    leaking = house.start("shell", edit=lambda launch: weakened(launch, mounts))
    assert CANARY in leaking.run(show)


def test_the_host_s_names_are_not_told(house: House) -> None:
    """/etc/hosts and the line of /etc/passwd that tells a rootless user's name."""
    show = "cat /etc/hosts /etc/passwd"
    seen = house.start("shell").run(show)
    for line in Path("/etc/hosts").read_text().splitlines():
        if line.strip() and "localhost" not in line and not line.startswith(("#", "ff0", "fe0")):
            assert line not in seen
    user = house.user[0]
    assert f":{user}:{user}:" not in seen.replace("agent:x:1000:1000:Agent", "")
    told = house.start("shell", edit=lambda launch: weakened(launch, (("--passwd=false",), ()))).run(show)
    assert f":{user}:" in told


def test_nothing_but_tmp_is_memory_to_fill(house: House) -> None:
    show = "awk '$(NF-2) == \"tmpfs\" && $6 ~ /^rw/ { print $5 }' /proc/self/mountinfo"
    assert not {"/run", "/var/tmp"} & set(house.start("shell").run(show).split())
    leaking = house.start("shell", edit=lambda launch: weakened(launch, (("--read-only-tmpfs=false",), ())))
    assert {"/run", "/var/tmp"} <= set(leaking.run(show).split())


def test_two_control_characters_do_not_end_the_pipe(house: House) -> None:
    """Each in a read of its own, as when a terminal's user types them."""

    def echoed(launch: Launch) -> bytes:
        at, seen = launch.argv.index("/usr/bin/python3"), b""
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen((*launch.argv[:at], "/bin/cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat,
        ):
            assert cat.stdin is not None and cat.stdout is not None
            for byte in (b"a", b"\x10", b"\x11", b"b"):
                cat.stdin.write(byte)
                cat.stdin.flush()
                # podman holds the first of the two back until it has seen what follows.
                if select.select([cat.stdout], [], [], 2)[0]:
                    seen += os.read(cat.stdout.fileno(), 10)
        return seen

    assert echoed(house.engine.launch(house.spec())) == b"a\x10\x11b"
    assert b"b" not in echoed(weakened(house.engine.launch(house.spec()), (("--detach-keys=",), ())))


def test_what_it_says_is_nowhere_on_disk(house: House) -> None:
    argv = house.engine.launch(house.spec()).argv
    question = argv[: argv.index("run")]
    stores = subprocess.run(
        (*question, "info", "--format", "{{.Store.GraphRoot}} {{.Store.RunRoot}}"),
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout.split()  # fmt: skip

    def on_disk() -> bool:
        folders = [str(path) for store in stores for path in Path(store).glob("*-containers")]
        found = subprocess.run(["grep", "-rl", CANARY, *folders], capture_output=True, timeout=60, check=False)
        return bool(found.stdout)

    def saying_it(log_driver: str) -> Watched:
        changed = (("--log-driver", "none"), ("--log-driver", log_driver))
        w = house.start("shell", edit=lambda launch: weakened(launch, changed))
        w.run(f"echo {CANARY}")
        w.run("echo and more, so that the first was dealt with")
        return w

    w = saying_it("none")
    assert not on_disk()
    w.sandbox.stop("seen", 0)
    w.wait_gone()
    saying_it("k8s-file")
    house.until(on_disk, 10)


def test_many_are_reaped_at_once(house: House) -> None:
    """A polite `rm --force` waits for as long as each takes to stop."""
    made = [house.start("ignores_everything") for _ in range(3)]
    for w in made:
        w.wait_ready()
    started = time.monotonic()
    assert len(house.engine.reap(INSTALL)) == 3
    assert time.monotonic() - started < podman.REMOVE_SECONDS / 2
    for w in made:
        w.wait_gone()


def test_a_filter_that_is_gone_starts_nothing(house: House) -> None:
    path = podman.filter_file(house.image)
    elsewhere = replace(house.image, archive=house.folder / "image.tar")
    assert path.is_file()
    gone = house.start("shell", house.spec(image=elsewhere)).wait_gone()
    assert gone.kind == "engine"
    assert "podman-seccomp.json" in gone.message
