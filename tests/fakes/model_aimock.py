"""aimock, a model server that none of us wrote, with the fixtures of one test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEXT_TO_US = Path(__file__).with_name("aimock")
SCRIPT = Path("node_modules", "@copilotkit", "aimock", "dist", "cli.js")


class Aimock:
    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}"

    def journal(self) -> list[dict[str, Any]]:
        """The requests that it got, oldest first."""
        with urllib.request.urlopen(f"{self.base_url}/__aimock/journal?path=/v1/messages", timeout=5) as answer:
            entries = json.load(answer)
        return list(entries if isinstance(entries, list) else entries["entries"])


@contextlib.contextmanager
def serving(folder: Path, fixtures: list[dict[str, Any]], *options: str, keys: str = "") -> Iterator[Aimock]:
    """Start it; the test is skipped, with the reason, where it is not installed."""
    script = Path(os.environ.get("AIMOCK_DIR", NEXT_TO_US)) / SCRIPT
    node = shutil.which("node")
    if node is None or not script.exists():
        pytest.skip("aimock is not installed: npm ci in tests/fakes/aimock, with node 20")
    path = folder / "fixtures.json"
    path.write_text(json.dumps({"fixtures": fixtures}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"PATH": os.environ["PATH"], **({"AIMOCK_API_KEYS": keys} if keys else {})}
    argv = [node, str(script), "-p", str(port), "-f", str(path), "--strict", "--log-level", "warn", *options]
    with (folder / "aimock.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_until_up(port, process, folder / "aimock.log")
        yield Aimock(port)
    finally:
        process.kill()
        process.wait()


def _wait_until_up(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("aimock did not start")
