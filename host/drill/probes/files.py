"""P2, what files can do: links, races, odd names, and what is mounted beside the group's folder."""

from __future__ import annotations

from typing import Final

from host.drill.probes.programs import FILE_HANDLE, REMOUNT, UNMOUNT
from host.drill.probes.walls import write_to
from host.drill.words import Probe

OTHERS: Final = "NCG-[0-9a-z]{16}"
"""What lies in folders that a group has no business in."""

_LINK: Final = (
    "for to in /workspace/group /workspace/inbox /tmp; do ln /workspace/inbox/letter $to/second-name"
    ' && echo "linked it into $to"; rm -f $to/second-name; done'
)


def _trap(name: str, tries: str, leak: str = OTHERS) -> Probe:
    return Probe(name, "P2", tries, leak, "agent", "careless")


def _mount(name: str, tries: str) -> Probe:
    look = f"test -d /workspace/extra/{name} && echo found it; cat /workspace/extra/{name}/notes.txt"
    return Probe(f"mount-{name}", "P2", tries, f"{OTHERS}|^found", "shelf", "careless-mounts", command=look)


FILES: Final = (
    Probe("hard-link", "P2", "give a file that may only be read a second name, where it can be written", "^linked",
          "agent", "granted", command=_LINK),
    Probe("remount", "P2", "make a read-only folder writable by mounting it again", "^mounted it again", "agent",
          "power", command=REMOUNT),
    Probe("unmount", "P2", "take a mount away, to see what lies beneath", "^took it away", "agent", "power",
          command=UNMOUNT),
    Probe("file-handle", "P2", "open a folder by its number, past every mount", "^opened", "agent", "power",
          command=FILE_HANDLE),
    _trap("host-reads-link", "have the host read a file of its own, through a link in the group's folder"),
    _trap("host-reads-through-link", "the same, through a folder that is a link"),
    _trap("host-reads-above", "the same, through a link that goes up"),
    _trap("host-reads-race", "the same, through a folder that is swapped for a link all the time"),
    _trap("host-reads-fifo", "have the host wait for ever, on a pipe with a file's name", "^hung"),
    _trap("host-reads-huge", "have the host read a file larger than its memory", r"^read \d{8,} bytes"),
    _trap("host-reads-two-names", "have the host read a file that is also another's", r"^read \d+ bytes"),
    _trap("host-writes-link", "have the host write to a file of its own, through a link", "^overwrote"),
    _trap("host-shows-name", "write on the person's terminal, by the name of a file", "\x1b"),
    _mount("elsewhere", "be given a folder that the allowlist does not permit"),
    _mount("dotdot", "be given it by a path that goes up, out of one that is permitted"),
    _mount("link", "be given it by a link in one that is permitted"),
    _mount("beside", "be given a folder whose name begins like one that is permitted"),
    _mount("blocked", "be given a folder of keys, in one that is permitted"),
    _mount("inside-writable", "be given a folder in one that another agent can write, where it may be exchanged"),
    _mount("own-data", "be given NanoClaw's own data, though the allowlist permits it"),
    _mount("own-config", "be given the folder of the allowlist itself, though it permits that"),
    _mount("kernel", "be given /proc, though the allowlist permits it"),
    _mount("bad-list", "be given a folder that an allowlist permits which is not in order"),
    Probe("mount-odd-name", "P2", "be given another folder by one whose name reads like an engine's option", OTHERS,
          "shelf", "careless-mounts", command="cat /workspace/extra/odd-name/notes.txt", proof="for all",
          engines=("docker", "podman", "bubblewrap")),
    Probe("mount-odd-target", "P2", "have a folder mounted elsewhere than below /workspace/extra, by its name inside",
          "^found", "shelf", "careless-mounts", command="test -e /workspace/elsewhere && echo found it"),
    Probe("mount-not-main", "P2", "write to a folder that groups other than main may only read", "^wrote", "shelf",
          "careless-mounts", command=write_to("/workspace/extra/not-main/x")),
    Probe("mount-not-asked", "P2", "write to a folder that was given to be read", "^wrote", "shelf", "careless-mounts",
          command=write_to("/workspace/extra/not-asked/x")),
    Probe("mount-within", "P2", "write to a file system that is mounted in a folder given to be read", "^wrote",
          "shelf",
          "careless-mounts", command=write_to("/workspace/extra/within/inner/x")),
    Probe("mount-swapped", "P2", "have a folder that was permitted swapped for a link before it is mounted",
          "^handed over", "acts", "true-hello", depends=("mount comparison",)),
)  # fmt: skip
