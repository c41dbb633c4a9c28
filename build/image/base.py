"""The base layer: a small Debian made by mmdebstrap, read as a tar stream and reduced to what an agent uses.

Nothing is unpacked here: mmdebstrap's output passes through `keep` and `layers.normalised` on its way
into the layer, so this works the same as root and as an ordinary user.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import layers

SUITE: Final = "bookworm"

PACKAGES: Final = (
    "bash", "coreutils", "findutils", "grep", "sed", "gawk", "curl", "ca-certificates", "git", "ripgrep", "jq",
    "python3", "zip", "unzip", "less", "procps", "util-linux", "tzdata",
)  # fmt: skip

# An alternation of what is left out, matched at the start of a path. Most of it is dead weight; the rest
# differs from build to build, or tells about the machine that built the image.
DROPPED: Final = re.compile(
    "|".join(
        (
            r"(boot|media|mnt|srv|opt)/.",
            r"dev/.",  # the engine brings its own; device nodes cannot be unpacked by an ordinary user
            r"(run|tmp|home|root)/.",
            # Copyright notices stay: whoever passes the image on has to pass them on too.
            r"usr/share/doc/[^/]+/(?!copyright$)",
            r"usr/share/(man|info|locale|lintian|bug|menu|gitweb|zsh|bash-completion|pixmaps|applications|doc-base)/",
            r"usr/share/(polkit-1|binfmts|pam-configs|debconf|python3/debpython)/",
            # perl-base is essential to Debian and handy in a shell. The full perl is there for git
            # add-ons (svn, send-email) only, and is the largest single thing in the image.
            r"usr/share/perl/|usr/share/perl5/|usr/lib/[^/]+/perl/|usr/lib/[^/]+/libperl\.so",
            # Character sets: UTF-8 and UTF-16 are built in; the Western ones are small; the rest is 7 MB.
            r"usr/lib/[^/]+/gconv/(?!gconv-modules|ISO8859|CP125|UTF)",
            r"usr/lib/git-core/git-(daemon|shell|imap-send|http-push|http-backend|http-fetch|instaweb|add--interactive)$",
            r"usr/lib/git-core/scalar$|usr/bin/(scalar|git-shell)$",
            r"usr/lib/python3\.\d+/(test|idlelib|ensurepip|lib2to3|pydoc_data|turtledemo|config-[^/]*)/",
            r"usr/share/zoneinfo/(right|posix)/",
            r"var/(cache|log|backups|mail|spool)/.",
            r"var/lib/(apt|systemd|pam|python|git)/",
            r"var/lib/dpkg/(?!status$)",  # `status` says what is in the image; the rest serves installing
            r"etc/(apt|cron\.daily|init\.d|rc.\.d|logrotate\.d|systemd|update-motd\.d|skel|security|pam\.d)/",
            r"etc/(hostname|resolv\.conf|machine-id|fstab|\.pwd\.lock|g?shadow-?|passwd-|group-|sub[ug]id-?)$",
        )
    )
)

CUSTOMIZE: Final = Path(__file__).parent / "customize"


def keep(path: str) -> bool:
    """Whether a path of the Debian (without a leading slash) goes into the image."""
    return DROPPED.match(path) is None


def mmdebstrap_argv(architecture: str, *, as_root: bool, customize: str) -> list[str]:
    """`essential` is minbase without apt, which is of no use on a read-only root.

    No mirror is named: mmdebstrap knows Debian's, with its security updates. `customize` is the hook's
    text, not its path: in unshare mode it runs as a user who may not enter the caller's home.
    """
    return [
        "mmdebstrap",
        "--mode=root" if as_root else "--mode=unshare",
        "--variant=essential",
        "--format=tar",
        f"--architectures={architecture}",
        f"--include={','.join(PACKAGES)}",
        # Spares unpacking 60 MB that `keep` would drop; slow disks feel it.
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--customize-hook={customize}",
        SUITE,
        "-",
    ]


def build(architecture: str, layer: IO[bytes], say: Callable[[str], None]) -> None:
    """Write the base layer's tar. `RuntimeError` with mmdebstrap's last words if it fails."""
    argv = mmdebstrap_argv(architecture, as_root=os.geteuid() == 0, customize=CUSTOMIZE.read_text())
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(layers.EPOCH), "LC_ALL": "C"}
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,  # when its reader fails, it kills its whole process group: let that not be ours
    )
    assert process.stdout and process.stderr
    last_words: list[str] = []
    listener = threading.Thread(target=_listen, args=(process.stderr, say, last_words), daemon=True)
    listener.start()
    broken = None
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as debian:
            layers.write(layer, _reduced(debian))
        while process.stdout.read(layers.CHUNK):  # zeros after the tar's end: whoever hangs up on them breaks its pipe
            pass
    except tarfile.TarError as e:  # it ended early: its exit status and words say more
        broken = e
    finally:
        status = _end(process)
        listener.join()
    if status or broken:
        raise RuntimeError("\n".join([f"mmdebstrap failed with status {status}", *last_words[-15:]]))


def _end(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end; when this is left by an error or Ctrl-C, ask for it. It then clears its work away."""
    assert process.stdout
    if sys.exc_info()[0] is not None:
        process.terminate()
    process.stdout.close()
    try:
        return process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _reduced(debian: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    for member in debian:
        member.name = member.name.removeprefix("./")
        if member.name in ("", ".") or not keep(member.name):
            continue
        if member.islnk():
            member.linkname = member.linkname.removeprefix("./")
        yield member, debian.extractfile(member) if member.isreg() else None


def _listen(stderr: IO[bytes], say: Callable[[str], None], last_words: list[str]) -> None:
    """Pass on the steps that mmdebstrap announces, and remember the rest for an error."""
    with stderr:
        for raw in stderr:
            line = raw.decode(errors="replace").strip()
            last_words.append(line)
            if line.startswith("I: ") and line.endswith("..."):
                say(f"Debian {SUITE}: {line.removeprefix('I: ')}")
