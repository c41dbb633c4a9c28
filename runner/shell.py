"""Commands in the sandbox: the agent's shell, and the process of the file tools."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from runner import children, plainfile, protocol, text

HOME: Final = "/tmp/home"  # noqa: S108 (the container's own /tmp, gone with it)
WORKDIR: Final = "/workspace/group"
FILETOOL: Final = Path(__file__).with_name("filetool.py")
MAX_COMMAND: Final = 100_000
"""Linux takes at most 128 KiB in one argument."""
TIMED_OUT: Final = 124
"""As timeout(1) has it."""
MAX_ANSWER: Final = 8 * 1024 * 1024
CWD_LIMIT: Final = 4096
PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")

# In front of each command, on its first line so that line numbers in messages are the model's own.
# - The kernel, short of memory, is to end the command and not the runner.
# - Where the command leaves the shell is where the next one begins.
PRELUDE: Final = "echo 900 2>/dev/null >/proc/self/oom_score_adj; trap 'pwd -P 2>/dev/null >|{note}' EXIT; "


class ToolError(Exception):
    """A tool could not do it; the text is for the model."""


def environment(timezone: str, proxy: str) -> dict[str, str]:
    """All that a tool's process gets to see. Nothing is inherited."""
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "TZ": timezone,
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }
    if proxy:
        env |= dict.fromkeys(PROXY_VARIABLES, proxy)
        env |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return env


class Shell:
    """Each command is a bash of its own; the working directory goes from one to the next."""

    def __init__(self, env: Mapping[str, str], limits: protocol.Limits, workdir: str) -> None:
        self._env = env
        self._limits = limits
        self._home = workdir
        self.cwd = workdir

    def run(self, command: str, seconds: int, limit: int) -> tuple[str, bool]:
        """What the command printed and how it ended, and whether that is an error."""
        seconds = max(1, min(seconds or self._limits.command_seconds, self._limits.command_seconds))
        lost = "" if os.path.isdir(self.cwd) else f"({self.cwd} is gone; back in {self._home})\n"  # noqa: PTH112
        if lost:
            self.cwd = self._home
        outcome, printed = self._command(command, seconds, limit)
        ending = _ending(outcome, seconds)
        gap = "\n" if ending and printed and not printed.endswith("\n") else ""
        return lost + printed + gap + ending, bool(ending)

    def check(self, command: str, seconds: int, limit: int) -> tuple[int, str]:
        """How the command ended, as a shell tells it (124: at its time limit), and what it printed."""
        outcome, printed = self._command(command, seconds, limit)
        if outcome.timed_out:
            return TIMED_OUT, printed
        return (outcome.status if outcome.status >= 0 else 128 - outcome.status), printed

    def _command(self, command: str, seconds: int, limit: int) -> tuple[children.Outcome, str]:
        if len(command.encode()) > MAX_COMMAND:
            raise ToolError("the command is too long: write it to a file with write_file, and run that")
        note = f"/tmp/.cwd-{secrets.token_hex(8)}"  # noqa: S108
        captured = text.Capture(limit)
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", PRELUDE.format(note=note) + command]
        outcome = self._spawn(argv, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), seconds, captured.feed)
        self.cwd = _take_note(note) or self.cwd
        return outcome, captured.text()

    def file_tool(self, tool: str, arguments: dict[str, Any], limit: int) -> tuple[str, bool]:
        """One file tool, in its own process (see `filetool`)."""
        found, is_error, _ = self._file_process(tool, arguments, MAX_ANSWER)
        return text.clip(text.printable(text.clean(found).encode()), limit), is_error

    def file_to_send(self, path: str) -> tuple[str, bytes]:
        """A file's name, and all of it; `ToolError` if it cannot be read."""
        found, is_error, data = self._file_process("send_file", {"path": path}, protocol.MAX_SENT_FILE + MAX_ANSWER)
        if is_error:
            raise ToolError(text.clip(text.clean(found), 1000))
        return text.clean(found), data

    def _file_process(self, tool: str, arguments: dict[str, Any], most: int) -> tuple[str, bool, bytes]:
        """Its words, whether they say that it failed, and the bytes that came after them."""
        # A memory file, not a pipe: no size of request can block the two on each other.
        stdin = os.memfd_create("request")
        with open(os.dup(stdin), "wb") as f:  # noqa: PTH123 (it is a descriptor)
            f.write(json.dumps({"tool": tool, "input": arguments}).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        seconds = self._limits.command_seconds
        answer = bytearray()
        outcome = self._spawn(
            [sys.executable, "-I", "-S", "-B", str(FILETOOL)],
            stdin,
            seconds,
            lambda data: answer.extend(data[: most - len(answer)]),
        )
        if outcome.timed_out:
            raise ToolError(f"it took longer than {seconds} s, and was stopped")
        words, _, data = bytes(answer).partition(b"\n")
        try:
            untrusted = protocol.parse_object(words)
            found, is_error = str(untrusted["text"]), untrusted["is_error"] is True
        except (protocol.PeerError, KeyError) as e:
            raise ToolError(f"it ended without an answer (status {outcome.status})") from e
        return found, is_error, data

    def _spawn(self, argv: list[str], stdin: int, seconds: float, output: Callable[[bytes], None]) -> children.Outcome:
        try:
            return children.run(argv, cwd=self.cwd, env=self._env, stdin=stdin, seconds=seconds, output=output)
        except OSError as e:
            raise ToolError(f"no process could be started: {e.strerror}") from e
        finally:
            os.close(stdin)


def _ending(outcome: children.Outcome, seconds: float) -> str:
    if outcome.timed_out:
        return f"(stopped: it took longer than {seconds:.0f} s)"
    if outcome.status < 0:
        return f"(ended by signal {-outcome.status})"
    return f"(exit status {outcome.status})" if outcome.status else ""


def _take_note(path: str) -> str:
    """Where the shell was at its end."""
    noted = ""
    with contextlib.suppress(OSError):
        noted = plainfile.read(Path(path), CWD_LIMIT)[0].decode("utf-8", "surrogateescape").removesuffix("\n")
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108
    return noted if os.path.isabs(noted) and "\0" not in noted else ""  # noqa: PTH117
