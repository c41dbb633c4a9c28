"""Run a program in a folder as if that were the whole machine: `enter ROOT [--uid N] [--mount KIND:WHERE:OPTIONS] -- …`

Not by chroot: the kernel refuses to make user namespaces in one (EPERM, since a process in it could get out), and
without those bubblewrap makes no sandbox as an ordinary user. `pivot_root` in a mount namespace of its own makes the
folder a real root. Nothing of the root itself is used for it: it may be empty. As root; standard library only.

    sudo unshare --mount --pid --fork --kill-child python3 enter.py ROOT --uid 1000 -- nanoclaw doctor
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path
from typing import Final

MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH: Final = 2
PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
FLAGS: Final = {"noexec": MS_NOEXEC, "ro": MS_RDONLY}

libc = ctypes.CDLL(None, use_errno=True)


def mount(what: str, where: str, kind: str, flags: int = 0, options: str = "") -> None:
    if libc.mount(what.encode(), where.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {kind or 'a folder'} on {where}")


def furnish(root: str) -> None:
    """What every Linux has while it runs: /proc, the plain devices, terminals, shared memory, /tmp."""
    for folder in ("proc", "dev", "tmp", "old"):
        Path(root, folder).mkdir(exist_ok=True)
    mount("proc", f"{root}/proc", "proc")
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        Path(root, "dev", name).touch()
        mount(f"/dev/{name}", f"{root}/dev/{name}", "", MS_BIND)
    for folder in ("shm", "pts"):
        Path(root, "dev", folder).mkdir()
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID, "mode=1777")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")
    for name, to in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd")):
        Path(root, "dev", name).symlink_to(to)
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID, "mode=1777")


def extra(root: str, wanted: str) -> None:
    """`WHERE:OPTION,OPTION…`: a tmpfs there, with options such as noexec, size=4m, mode=0700; `ro` at the end."""
    where, _, text = wanted.partition(":")
    options = [each for each in text.split(",") if each]
    flags = sum(FLAGS[each] for each in options if each in FLAGS)
    Path(root + where).mkdir(parents=True, exist_ok=True)
    mount("tmpfs", root + where, "tmpfs", flags, ",".join(each for each in options if each not in FLAGS))


def enter(root: str) -> None:
    os.chdir(root)
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    if libc.umount2(b"/old", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount")


def main() -> None:
    options = argparse.ArgumentParser(description="Run a program with a folder as its machine.")
    options.add_argument("root")
    options.add_argument("--uid", type=int, default=0)
    options.add_argument("--mount", action="append", default=[], metavar="WHERE:OPTIONS", help="a tmpfs")
    options.add_argument(
        "--bind", action="append", default=[], metavar="FROM:WHERE", help="a file or folder, read-only"
    )
    options.add_argument("command", nargs="+")
    args = options.parse_args()
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount(args.root, args.root, "", MS_BIND | MS_REC)
    furnish(args.root)
    for each in args.mount:
        extra(args.root, each)
    for each in args.bind:
        source, _, where = each.partition(":")
        target = Path(args.root + where)
        if Path(source).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount(source, str(target), "", MS_BIND)
        mount(source, str(target), "", MS_BIND | MS_REMOUNT | MS_RDONLY)
    enter(args.root)
    os.setgroups([])
    os.setgid(args.uid)
    os.setuid(args.uid)
    try:
        os.execve(args.command[0], args.command, dict(os.environ))
    except OSError as e:
        sys.exit(f"{args.command[0]}: {e.strerror}")


if __name__ == "__main__":
    main()
