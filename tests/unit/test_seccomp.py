"""The system call filter, run by an interpreter of its own instructions, and its numbers against the kernel's."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from host.engines.seccomp import ABSENT, ALLOW, ERROR, KILL, MACHINES, NEWEST, REFUSED, program
from host.errors import EngineError

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the kernel would return for this call: classic BPF as far as the filter uses it."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    audit = MACHINES[machine].audit if audit is None else audit
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *[v & (1 << 64) - 1 for v in values])
    code = [struct.unpack_from("=HBBI", program(machine), at) for at in range(0, len(program(machine)), 8)]
    at = accumulator = 0
    while True:
        operation, true, false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += true if accumulator == k else false
            case 0x25:
                at += true if accumulator > k else false
            case 0x45:
                at += true if accumulator & k else false
            case 0x06:
                return k
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_listed_call_is_refused_with_its_error(machine: str) -> None:
    column = MACHINES[machine].column
    for table, error in ((REFUSED, errno.EPERM), (ABSENT, errno.ENOSYS)):
        for name, numbers in table.items():
            if numbers[column] is not None:
                assert verdict(machine, numbers[column]) == ERROR | error, name


def test_ordinary_calls_are_allowed(machine: str) -> None:
    m = MACHINES[machine]
    listed = {n[m.column] for n in (*REFUSED.values(), *ABSENT.values())}
    judged = {m.clone, m.ioctl, m.socket, m.socketpair, m.personality}
    allowed = [n for n in range(NEWEST + 1) if n not in listed | judged]
    assert all(verdict(machine, n) == ALLOW for n in allowed)
    assert {437, 439} <= set(allowed)  # openat2, faccessat2: what safe file access needs


def test_calls_newer_than_the_list_do_not_exist(machine: str) -> None:
    for number in (NEWEST + 1, 500, 0x40000000, 0x40000001, 0xFFFFFFFF):
        assert verdict(machine, number) == ERROR | errno.ENOSYS


def test_another_architecture_is_killed(machine: str) -> None:
    for audit in {0x40000003, 0x40000028, 0, *(m.audit for m in MACHINES.values())} - {MACHINES[machine].audit}:
        assert verdict(machine, 0, audit=audit) == KILL


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str, flag: int) -> None:
    clone = MACHINES[machine].clone
    assert verdict(machine, clone, 17) == ALLOW  # fork: SIGCHLD
    assert verdict(machine, clone, 0x3D0F00) == ALLOW  # pthread_create
    assert verdict(machine, clone, 0x4111) == ALLOW  # posix_spawn: VM | VFORK | SIGCHLD
    assert verdict(machine, clone, flag | 17) == ERROR | errno.EPERM
    assert verdict(machine, clone, flag << 32 | 17) == ALLOW  # the kernel reads the low half only


def test_sockets_by_family(machine: str) -> None:
    m = MACHINES[machine]
    for call in (m.socket, m.socketpair):
        for family in range(64):
            allowed = family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
            wanted = ALLOW if allowed else ERROR | errno.EAFNOSUPPORT
            assert verdict(machine, call, family, 1, 0) == wanted, family
        assert verdict(machine, call, socket.AF_NETLINK, 3, 12) == ERROR | errno.EAFNOSUPPORT  # netfilter
        assert verdict(machine, call, 1 << 32 | socket.AF_PACKET) == ERROR | errno.EAFNOSUPPORT


def test_terminal_input_and_personalities(machine: str) -> None:
    m = MACHINES[machine]
    assert verdict(machine, m.ioctl, 0, 0x5401) == ALLOW  # TCGETS
    assert verdict(machine, m.ioctl, 0, 0x5412) == ERROR | errno.EPERM
    assert verdict(machine, m.ioctl, 0, 1 << 32 | 0x5412) == ERROR | errno.EPERM
    assert verdict(machine, m.personality, 0xFFFFFFFF) == ALLOW
    assert verdict(machine, m.personality, 0x0040000) == ERROR | errno.EPERM


def test_the_numbers_are_the_kernel_s(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"no {header}")
    text = header.read_text()
    found = {m[1]: int(m[2]) for m in re.finditer(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.MULTILINE)}
    m = MACHINES[machine]
    for name, numbers in (REFUSED | ABSENT).items():
        if name in found:
            assert found[name] == numbers[m.column], name
    for name in ("clone", "ioctl", "socket", "socketpair", "personality"):
        assert found[name] == getattr(m, name), name
    missing = {name for name in REFUSED | ABSENT if name not in found and (REFUSED | ABSENT)[name][m.column]}
    assert missing <= {"statmount", "listmount", "nfsservctl"}  # newer, or older, than some headers


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(EngineError, match="riscv64"):
        program("riscv64")


PROBE = """
import ctypes, os, socket, struct, sys, threading, errno
code = sys.stdin.buffer.read()
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
buffer = ctypes.create_string_buffer(code)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, ctypes.addressof(buffer))), 0, 0) == 0, ctypes.get_errno()
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "OK")
import subprocess
print(subprocess.run(["/bin/echo", "children"], capture_output=True).stdout.decode().strip())
thread = threading.Thread(target=lambda: print("threads")); thread.start(); thread.join()
print(len(socket.if_nameindex()) >= 1)
for family, kind in ((38, 5), (40, 1), (17, 3)):
    try:
        socket.socket(family, kind); print("made")
    except OSError as e:
        print(errno.errorcode[e.errno])
print(call(435, None, 0), call(425, 1, None), call(424, -1, 0, None, 0), call(2000))  # 424: pidfd_send_signal
"""


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no filter for this machine")
def test_the_kernel_takes_it_and_programs_run_under_it() -> None:
    code = program(os.uname().machine)
    done = subprocess.run([sys.executable, "-c", PROBE], input=code, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "children", "threads", "True", "EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT", "ENOSYS ENOSYS EBADF ENOSYS",
    ]  # fmt: skip


def test_the_probe_would_see_an_absent_filter() -> None:
    allow_all = struct.pack("=HBBI", 0x06, 0, 0, ALLOW)
    done = subprocess.run([sys.executable, "-c", PROBE], input=allow_all, capture_output=True, timeout=60, check=False)
    assert b"ENOSYS ENOSYS" not in done.stdout
