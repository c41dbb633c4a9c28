"""Commands that several lines of code are needed for: the sandbox's own Python is the one tool that is there for
certain. Each is bounded, and does no harm where the control is off: a device it makes is another /dev/null, a
mount goes over an empty folder, a bomb is a little larger than what its scene allows.
"""

from __future__ import annotations

from typing import Final

PATTERN: Final = "[N]CC-[0-9a-z]{16}"
"""grep -E for any canary."""


def python(code: str) -> str:
    """A command that runs `code`. The sandbox's own Python is the one tool that is there for certain."""
    return f"python3 -I -S - <<'END'\n{code.strip()}\nEND"


_LIBC: Final = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def told(result, yes):
    print(yes if result >= 0 else os.strerror(ctypes.get_errno()))
"""

READ_MEMORY: Final = python(
    """
import glob, os, re
for maps in glob.glob("/proc/[0-9]*/maps"):
    pid = maps.split("/")[2]
    if pid == str(os.getpid()):
        continue
    try:
        with open(maps) as regions, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for region in regions:
                span, mode = region.split()[:2]
                start, end = (int(x, 16) for x in span.split("-"))
                if not mode.startswith("rw") or end - start > 1 << 26:
                    continue
                try:
                    memory.seek(start)
                    data = memory.read(end - start)
                except OSError:
                    continue
                for found in set(re.findall(rb"NCC-[0-9a-z]{16}", data)):
                    print(pid, found.decode())
    except OSError as e:
        print(e)
"""
)
PTRACE: Final = python(_LIBC + "told(libc.ptrace(0x4206, 1, 0, 0), 'attached to process 1')")
VM_READ: Final = python(
    _LIBC
    + """
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
space = ctypes.create_string_buffer(8)
here, there = Span(ctypes.addressof(space), 8), Span(8, 8)
read = libc.process_vm_readv(1, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
# EFAULT: the kernel would have read, had the address been a good one.
told(0 if read < 0 and ctypes.get_errno() == 14 else read, "may read the memory of process 1")
"""
)
TAKE_FD: Final = python(
    _LIBC
    + """
pidfd = os.pidfd_open(1)
told(max(libc.syscall(438, pidfd, fd, 0) for fd in (1, 0)), "took a descriptor of process 1")
"""
)
RAISE_CORE: Final = python(
    """
import resource
try:
    hard = resource.prlimit(1, resource.RLIMIT_CORE)[1]
    resource.prlimit(1, resource.RLIMIT_CORE, (hard, hard))
    print("no core may be written" if hard == 0 else f"raised to {hard}")
except OSError as e:
    print(e)
"""
)
OPEN_FDS: Final = python(
    """
import os
for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        continue  # the one that listed them
    if fd > 2 and not target.startswith("pipe:"):
        print("open:", fd, target)
"""
)

MOUNT: Final = python(
    _LIBC
    + """
told(libc.mount(b"none", b"/workspace/extra", b"tmpfs", 0, None), "mounted")
libc.umount2(b"/workspace/extra", 2)
"""
)
REMOUNT: Final = python(
    # MS_REMOUNT | MS_BIND, and no MS_RDONLY
    _LIBC + "told(libc.mount(None, b'/workspace/inbox', None, 0x1020, None), 'mounted it again')"
)
UNMOUNT: Final = python(_LIBC + "told(libc.umount2(b'/workspace/inbox', 2), 'took it away')")
FILE_HANDLE: Final = python(
    _LIBC
    + """
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("number", ctypes.c_char * 128)]
handle, mount = Handle(128), ctypes.c_int()
libc.name_to_handle_at(-100, b"/workspace/group", ctypes.byref(handle), ctypes.byref(mount), 0)
here = os.open("/workspace/group", os.O_RDONLY)
told(libc.open_by_handle_at(here, ctypes.byref(handle), os.O_RDONLY), "opened a folder by its number")
"""
)
UNSHARE: Final = python(_LIBC + "told(libc.unshare(0x10000000), 'made a user namespace')")
MAKE_DEVICE: Final = python(
    """
import os
try:
    os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))
    print("made a device")
    os.unlink("/tmp/null")
except OSError as e:
    print(e)
"""
)
RAW_SOCKET: Final = python(
    """
import socket
for family, kind in ((17, 3), (2, 3)):
    try:
        socket.socket(family, kind, 1).close()
        print("opened a raw socket")
    except OSError as e:
        print(e)
"""
)


# What was asked for is filled in where the command is run: a bound that is another than that is none of ours.
BOUND: Final = """
import glob, os, resource
def bounded(what, asked, limit, *files):
    found = [] if limit == resource.RLIM_INFINITY else [limit]
    for name in files:
        try:
            value = open(name).read().split()[0]
        except OSError:
            continue
        # cgroup v1 says "no limit" as a number near 2**63
        if value.isdigit() and int(value) < 1 << 60:
            found.append(int(value))
    if not found:
        print(f"{what}: unbounded")
    elif min(found) > asked:
        print(f"{what}: bounded at {min(found)}, and not at {asked}")
    else:
        print(f"{what}: at most {min(found)}, as asked")
NONE = resource.RLIM_INFINITY
"""
PROCESSES: Final = python(
    BOUND + "bounded('processes', {asked_processes}, resource.getrlimit(resource.RLIMIT_NPROC)[1],"
    " '/sys/fs/cgroup/pids.max', '/sys/fs/cgroup/pids/pids.max')"
)
MEMORY: Final = python(
    BOUND + "bounded('memory', {asked_memory}, resource.getrlimit(resource.RLIMIT_AS)[1],"
    " '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')"
)
SWAP: Final = python(
    BOUND
    + """
# Version 1 of cgroups counts memory and swap together, version 2 swap alone.
both = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
is_first = os.path.exists(both)
bounded("swap", {asked_memory} if is_first else 0, NONE, both if is_first else "/sys/fs/cgroup/memory.swap.max")
"""
)
CPU: Final = python(
    BOUND
    + """
quota = period = NONE
for names in (("cpu.max",) * 2, ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
    try:
        values = [open(f"/sys/fs/cgroup/{name}").read().split() for name in names]
    except OSError:
        continue
    if values[0][0].isdigit():
        quota, period = int(values[0][0]), int(values[1][-1])
bounded("cpu", {asked_percent}, NONE if quota == NONE else quota * 100 // period)
"""
)
FILE_SIZE: Final = python(BOUND + "bounded('file size', {asked_file}, resource.getrlimit(resource.RLIMIT_FSIZE)[1])")
TMP_SIZE: Final = python(
    BOUND + "found = os.statvfs('/tmp')\nbounded('/tmp', {asked_tmp}, found.f_frsize * found.f_blocks or NONE)"
)
OPEN_FILES: Final = python(BOUND + "bounded('open files', 4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])")
# Each bomb is a little over what its scene allows, so that it harms nothing where the control is missing.
FORK: Final = python(
    """
import os, signal, time
children = []
try:
    for _ in range(120):
        pid = os.fork()
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        children.append(pid)
except OSError as e:
    print(e)
for pid in children:
    os.kill(pid, signal.SIGKILL)
print("forked", len(children), "times")
"""
)
ALLOCATE: Final = python(
    """
held = []
try:
    for _ in range(50):
        held.append(b"x" * (1 << 24))
except MemoryError:
    print("no more memory")
print("held", len(held) * 16, "MB")
"""
)
