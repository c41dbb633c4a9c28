"""A container that runs: on this machine in the place of a virtual one, a sandbox that bubblewrap makes.

Three processes. The program that was called passes bytes on, and may be killed; the container does not end with
it. The service, in a session of its own, holds the other ends, writes all that the container says to `stdio.log`
as well, and cleans up. bubblewrap is its child, and dies with it.

What the options ask for is given and no more: without `--network none` it has the host's network, without
`--cap-drop ALL` its bounding set is left, without `--uid` it is root, and each is there for a test to see.
bubblewrap always sets no-new-privileges, which a real one does only if it is told to; memory is not bounded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import services
from grammar import NOT_HERE, Said, fail

TMPFS_BYTES = 1 << 30


def start(said: Said, folder: Path, root: Path, command: list[str]) -> int:
    """Run the container to its end; its exit status."""
    argv = _argv(said, root, command)
    their_stdin, our_stdin = os.pipe()
    our_out, their_out = os.pipe()
    our_err, their_err = os.pipe()
    verdict, their_verdict = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for fd in (our_stdin, our_out, our_err, verdict):
            os.close(fd)
        _close_stdio()
        _serve(argv, folder, (their_stdin, their_out, their_err, their_verdict), said.has("--rm"))
        os._exit(0)
    for fd in (their_stdin, their_out, their_err, their_verdict):
        os.close(fd)
    signal.signal(signal.SIGTERM, lambda *_: _signal(folder, signal.SIGTERM))
    if said.has("--interactive"):
        threading.Thread(target=_copy, args=(0, [our_stdin]), daemon=True).start()
    else:
        os.close(our_stdin)
    copies = [threading.Thread(target=_copy, args=(our_out, [1])), threading.Thread(target=_copy, args=(our_err, [2]))]
    for each in copies:
        each.start()
    status = os.read(verdict, 20)
    for each in copies:
        each.join(3)  # the real one gives up after as long
    return int(status or b"1")


def _close_stdio() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)


def _signal(folder: Path, number: int) -> None:
    if (pid := services.process_of(folder)) is not None:
        os.kill(pid, number)


def _copy(source: int, targets: list[int]) -> None:
    """To the end. A target that is gone is no reason to stop reading."""
    lost: set[int] = set()
    while data := os.read(source, 1 << 16):
        for target in targets:
            rest = data
            try:
                while rest and target not in lost:
                    rest = rest[os.write(target, rest) :]
            except OSError:
                lost.add(target)
    for target in targets:
        if target > 2:
            os.close(target)


def _serve(argv: list[str], folder: Path, ends: tuple[int, int, int, int], remove: bool) -> None:
    stdin, out, err, verdict = ends
    log = os.open(folder / "stdio.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.fchmod(log, 0o644)  # as the real one has it
    told, tell = os.pipe()
    process = subprocess.Popen(
        [argv[0], "--info-fd", str(tell), *argv[1:]],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(tell,),
    )
    os.close(tell)
    os.close(stdin)
    with os.fdopen(told) as info:
        said = info.read()
    if said:
        (folder / "pid").write_text(str(json.loads(said)["child-pid"]))
    pipes: list[IO[bytes] | None] = [process.stdout, process.stderr]
    copies = [
        threading.Thread(target=_copy, args=(pipe.fileno(), [end, os.dup(log)]), daemon=True)
        for pipe, end in zip(pipes, (out, err), strict=True)
        if pipe is not None
    ]
    for each in copies:
        each.start()
    status = process.wait()
    for each in copies:
        each.join(3)
    (folder / "pid").unlink(missing_ok=True)
    if remove:
        services.remove(folder)
    os.write(verdict, str(128 - status if status < 0 else status).encode())


def _argv(said: Said, root: Path, command: list[str]) -> list[str]:
    if not said.has("--read-only"):
        fail("without --read-only a real container has a layer to write to, which this stand-in has not", NOT_HERE)
    uid = services.whole(said.last("--uid", "0"), "--uid")
    gid = services.whole(said.last("--gid", "0"), "--gid")
    limits = services.ulimits(said.all("--ulimit"))
    files = [services.mount(text) for text in dict.fromkeys(said.all("--mount"))]
    files += [services.Filesystem("tmpfs", "", target) for target in said.all("--tmpfs")]
    return [
        "bwrap",
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", *(["--unshare-net"] if _alone(said) else []),
        "--as-pid-1", "--die-with-parent", "--new-session", "--hostname", said.last("--name"), "--clearenv",
        *[item for each in said.all("--env") for item in _variable(each)],
        # What becomes another user below; it gives them up, all of them or (without --cap-drop) not the bounding set.
        *(_kept() if os.geteuid() == 0 else ["--unshare-user", "--uid", str(uid), "--gid", str(gid)]),
        *[item for entry in sorted(root.iterdir()) for item in _from_image(entry)],
        "--proc", "/proc", "--dev", "/dev",
        "--perms", "1777", "--size", str(64 << 20), "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
        "--perms", "0755", "--dir", "/workspace", "--perms", "0755", "--dir", "/workspace/extra",
        *[item for each in files for item in _bound(each)],
        "--remount-ro", "/",
        "--",
        "/usr/bin/prlimit", *[f"--{name}={soft}:{hard}" for name, (soft, hard) in limits.items()],
        *(_become(uid, gid, "ALL" in said.all("--cap-drop")) if os.geteuid() == 0 else []),
        "/usr/bin/env", f"--chdir={said.last('--cwd', '/')}",
        *command,
    ]  # fmt: skip


def _from_image(entry: Path) -> list[str]:
    """One name of the image's root. The root itself is new, so that mount points can be made in it."""
    if entry.is_symlink():
        return ["--symlink", str(entry.readlink()), f"/{entry.name}"]
    if entry.name in {"proc", "dev", "tmp", "workspace"}:
        return ["--perms", "0755", "--dir", f"/{entry.name}"]
    return ["--ro-bind", str(entry), f"/{entry.name}"]


def _alone(said: Said) -> bool:
    networks = said.all("--network")
    if "none" in networks and len(networks) > 1:
        fail("no other networks may be created along with network none")
    return networks == ["none"]


def _variable(text: str) -> list[str]:
    name, equals, value = text.partition("=")
    if not equals:  # a name alone is inherited from the caller, if it is there
        return ["--setenv", name, os.environ[name]] if name in os.environ else []
    return ["--setenv", name, value]


def _kept() -> list[str]:
    added = [item for name in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") for item in ("--cap-add", name)]
    return ["--cap-drop", "ALL", *added]


def _become(uid: int, gid: int, drop: bool) -> list[str]:
    dropped = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"] if drop else []
    return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *dropped]


def _bound(each: services.Filesystem) -> list[str]:
    if each.kind == "tmpfs":
        return ["--perms", each.mode, "--size", str(each.bytes or TMPFS_BYTES), "--tmpfs", each.target]
    return ["--ro-bind" if each.readonly else "--bind", each.source, each.target]


def leave(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)  # threads may still wait for our stdin
