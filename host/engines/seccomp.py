"""The system call filter for bubblewrap, assembled here: BPF needs no library, only `struct`.

Docker brings an audited filter of its own; bubblewrap has none and takes one by descriptor. This is a list
of what is refused, not of what is allowed: an allowed list breaks programs that nobody here has tried, and
the sandbox's walls are the namespaces and the missing capabilities. The filter takes away what those walls
do not stop (reading another process of the same user, user namespaces, keyrings, the kernel's newest and
least tried doors). A call this list does not know does not exist in the sandbox (`NEWEST`), so that a new
kernel does not open new doors.

Refusals are errors, not kills, because programs probe: ENOSYS where a program has a fallback for older
kernels, EPERM where it should hear that it may not. Only a foreign architecture kills, because the same
numbers mean other calls there.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from host.errors import EngineError

NEWEST: Final = 462
"""`mseal`, Linux 6.10: the last call read and judged for this list. The same number on all machines."""

# (x86_64, aarch64); None: the machine has no such call. From 424 on the numbers are the same everywhere.
REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # Mounts: also without privilege where a user namespace is to be had.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # Namespaces: a new user namespace gives every capability in it, and most kernel exploits start there.
    "unshare": (272, 97),
    "setns": (308, 268),
    # Other processes of the same user: the runner with the key is one. It is not dumpable either.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # Keyrings are not in a namespace: the host user's keys would be in reach.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Kernel machinery that no tool of an assistant needs and that exploits were written for.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "get_mempolicy": (239, 236),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    # Files by handle: around every path check, out of the mount.
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # The machine itself. Capabilities say no as well.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "_sysctl": (156, None),
    "sysfs": (139, None),
    "ustat": (136, None),
    # The kernel's log names addresses and devices.
    "syslog": (103, 116),
}

ABSENT: Final[dict[str, tuple[int | None, int | None]]] = {
    # Its flags lie in memory, where a filter cannot look. The C library falls back to clone.
    "clone3": (435, 435),
    # Newer ways to read the mount table; /proc/self/mountinfo is the fallback.
    "statmount": (457, 457),
    "listmount": (458, 458),
    # Work that the kernel does for the caller past this filter. Libraries fall back to epoll.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}

# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET. (NEWTIME cannot come through clone.)
NAMESPACE_FLAGS: Final = 0x7E020000
# Typing into a terminal that the person sits at; there is none in the sandbox, and none to be gained.
TERMINAL_INPUT: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# Sockets of these families, and of netlink only protocol 0 (routes), which lists interfaces: getifaddrs and
# if_nameindex use it. Every other family is a kernel parser that the agent has no use for.
FAMILIES: Final = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
NETLINK: Final = 16
# personality(): Linux's own (0) and the question (all ones). Others turn off address randomisation.
PERSONALITIES: Final = (0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Machine:
    """What differs between architectures: the audit number, the column in the tables, and five calls."""

    audit: int
    column: int
    clone: int
    ioctl: int
    socket: int
    socketpair: int
    personality: int


MACHINES: Final = {
    "x86_64": Machine(0xC000003E, 0, clone=56, ioctl=16, socket=41, socketpair=53, personality=135),
    "aarch64": Machine(0xC00000B7, 1, clone=220, ioctl=29, socket=198, socketpair=199, personality=92),
}

LOAD, JUMP_EQUAL, JUMP_GREATER, JUMP_BITS, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# Offsets in struct seccomp_data: number, architecture, then 64-bit arguments. Both machines are little-endian,
# so the low half of an argument comes first; the calls judged by argument here take 32-bit ones.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000

Instruction = tuple[int, int, int, int]


def program(machine: str) -> bytes:
    """The filter for `machine` (as `os.uname().machine` names it), ready for bwrap's `--seccomp`."""
    if machine not in MACHINES:
        raise EngineError(f"bubblewrap: there is no system call filter for {machine}, only for {', '.join(MACHINES)}")
    m = MACHINES[machine]
    code = [
        *_load(ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, m.audit),
        _return(KILL),
        *_load(NUMBER),
        # x86_64 kernels answer a second set of numbers (x32) from 0x40000000 up: refused here as well.
        (JUMP_GREATER, 0, 1, NEWEST),
        _error(errno.ENOSYS),
    ]
    for table, error in ((REFUSED, errno.EPERM), (ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[m.column]
            if number is not None:
                code += [(JUMP_EQUAL, 0, 1, number), _error(error)]
    code += _judged_by_argument(m)
    code.append(_return(ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _judged_by_argument(m: Machine) -> list[Instruction]:
    # Each block ends in a verdict, so the number that it overwrote is not needed again.
    families = _only(0, FAMILIES, errno.EAFNOSUPPORT, netlink=True)
    return [
        *_when(m.clone, [*_argument(0), (JUMP_BITS, 0, 1, NAMESPACE_FLAGS), _error(errno.EPERM), _return(ALLOW)]),
        *_when(m.ioctl, _never(1, TERMINAL_INPUT, errno.EPERM)),
        *_when(m.socket, families),
        *_when(m.socketpair, families),
        *_when(m.personality, _only(0, PERSONALITIES, errno.EPERM)),
    ]


def _when(number: int, block: list[Instruction]) -> list[Instruction]:
    return [(JUMP_EQUAL, 0, len(block), number), *block]


def _never(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    block = _argument(argument)
    for value in values:
        block += [(JUMP_EQUAL, 0, 1, value), _error(error)]
    return [*block, _return(ALLOW)]


def _only(argument: int, values: tuple[int, ...], error: int, netlink: bool = False) -> list[Instruction]:
    block = _argument(argument)
    for value in values:
        block += [(JUMP_EQUAL, 0, 1, value), _return(ALLOW)]
    if netlink:
        block += [(JUMP_EQUAL, 0, 3, NETLINK), *_argument(2), (JUMP_EQUAL, 0, 1, 0), _return(ALLOW)]
    return [*block, _error(error)]


def _load(offset: int) -> list[Instruction]:
    return [(LOAD, 0, 0, offset)]


def _argument(index: int) -> list[Instruction]:
    return _load(ARGUMENTS + 8 * index)


def _return(verdict: int) -> Instruction:
    return (RETURN, 0, 0, verdict)


def _error(number: int) -> Instruction:
    return _return(ERROR | number)
