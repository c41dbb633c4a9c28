"""Starts and stops the rehearsal's server as a child process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from host import bundle
from host.model import Endpoint

ROOT: Final = Path(__file__).resolve().parents[2]
STOP_SECONDS: Final = 2.0


class Rehearsal:
    """One server on a loopback port of the kernel's choice. `start` returns at once: the socket listens
    from then on, and what connects before the child is up waits in its queue."""

    def __init__(self, expect_key: str = "") -> None:
        self._expect_key = expect_key
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Endpoint:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            fd = listening.fileno()
            # stderr stays ours: the server says nothing there but a bug's traceback.
            self._process = subprocess.Popen(
                command(fd),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(fd,),
                cwd="/" if bundle.frozen() else ROOT,
                env=_environment(),
            )
            port: int = listening.getsockname()[1]
        assert self._process.stdin is not None
        self._process.stdin.write(self._expect_key.encode() + b"\n")
        self._process.stdin.flush()
        return Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port, tls=False)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Close the lease; kill what does not heed it. Never hangs, and may be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def command(fd: int) -> list[str]:
    """The frozen program, as it was unpacked, is its own interpreter and has the server as a subcommand; from source,
    `-S -E` skip what the server does not need and halve its start."""
    if bundle.frozen():
        return [sys.executable, "rehearsal-server", "--fd", str(fd)]
    return [sys.executable, "-S", "-E", "-m", "host.rehearsal.server", "--fd", str(fd)]


def _environment() -> dict[str, str]:
    # Nothing of ours is any of its business: keys least of all.
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
