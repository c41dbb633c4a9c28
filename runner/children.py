"""Processes that the runner starts: one at a time in the foreground, its output taken from a pipe.

The runner is PID 1, so every orphan in the container becomes its child and must be reaped; a child that
somebody here waits for must not be, or its exit status would be lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

READ: Final = 64 * 1024
TICK: Final = 0.05
DRAIN_SECONDS: Final = 0.5
REAP_SECONDS: Final = 0.5
GRACE_SECONDS: Final = 2.0
"""Between the polite signal and the other one."""

_lock = threading.Lock()
_ours: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Outcome:
    status: int
    """Exit status, or minus the signal that ended it."""
    timed_out: bool


def run(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    stdin: int,
    seconds: float,
    output: Callable[[bytes], None],
) -> Outcome:
    """Run one command to its end, or to the end of its time. `OSError` if it cannot be started.

    stdout and stderr come together, as they would at a terminal. What the command leaves running in the
    background does not hold up the call: the call ends with the command.
    """
    process = _start(argv, cwd, env, stdin)
    try:
        timed_out = not _follow(process, output, time.monotonic() + seconds)
        if timed_out:
            _kill_group(process, output)
        return Outcome(process.wait(), timed_out)
    finally:
        with _lock:
            _ours.pop(process.pid, None)
        _let_go(process)


def _start(argv: Sequence[str], cwd: str, env: Mapping[str, str], stdin: int) -> subprocess.Popen[bytes]:
    with _lock:  # so that nobody reaps it between its birth and its entry in the table
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, to be killed as one
        )
        _ours[process.pid] = process
    return process


def _follow(process: subprocess.Popen[bytes], output: Callable[[bytes], None], until: float) -> bool:
    """Take output until the command has ended; whether it did in time."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    ended_at = until
    while (now := time.monotonic()) < until:
        ready = poller.poll(TICK * 1000)
        if ready:
            data = os.read(fd, READ)
            if not data:
                return _ended_by(process, until)
            output(data)
        if process.poll() is not None:
            # What is in the pipe is its own, for a moment; then it is of something left in the background.
            ended_at = min(ended_at, now)
            if not ready or now > ended_at + DRAIN_SECONDS:
                return True
    return process.poll() is not None


def _ended_by(process: subprocess.Popen[bytes], until: float) -> bool:
    # It closed its output and may yet go on.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, until - time.monotonic()))
        return True
    return False


def _kill_group(process: subprocess.Popen[bytes], output: Callable[[bytes], None]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    _follow(process, output, time.monotonic() + GRACE_SECONDS)
    # Also when the leader has gone: others of its group may have ignored the first.
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Something in the background may still write: swallow that until it ends, or its next line kills it."""
    pipe = process.stdout
    assert pipe is not None
    try:
        threading.Thread(target=_swallow, args=(pipe,), name="swallow", daemon=True).start()
    except RuntimeError:  # no thread left: the agent used them up
        pipe.close()


def _swallow(pipe: IO[bytes]) -> None:
    with pipe, contextlib.suppress(OSError):
        while os.read(pipe.fileno(), READ):
            pass


# --- orphans ----------------------------------------------------------------------------------------


def start_reaping() -> None:
    """Only for PID 1: elsewhere there are no orphans, and other people's children."""
    threading.Thread(target=_reap_for_ever, name="reaper", daemon=True).start()


def _reap_for_ever() -> None:
    while True:
        time.sleep(REAP_SECONDS)
        reap()


def reap() -> None:
    """Take the exit status of every dead child that nobody here waits for."""
    with _lock, contextlib.suppress(ChildProcessError):
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if dead.si_pid in _ours:
                return  # its own waiter is about to; the others behind it wait for the next time
            os.waitpid(dead.si_pid, os.WNOHANG)


def kill_all() -> None:
    """The process is about to leave. PID 1 takes everything with it; this is for when it is not PID 1."""
    # Never given back: a command that is being started is in the table by now, and no other starts.
    _lock.acquire(timeout=GRACE_SECONDS)
    for pid in list(_ours):
        _signal_group(pid, signal.SIGKILL)
