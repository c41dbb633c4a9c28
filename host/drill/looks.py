"""Where the host looks for a leak outside of the sandbox: its process list, the engine's records, the disk.

Each look returns a text, like a probe's command does; `RAN` at its end says that it could look everywhere.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from host.drill.words import RAN
from host.engines.base import Engine, run
from host.errors import EngineError

CHUNK: Final = 1 << 20
MAX_SCANNED: Final = 512 << 20
"""Most bytes that one look reads from disk."""
ASK_SECONDS: Final = 20.0


def around(engine: Engine, name: str, canary: str, since: float) -> dict[str, str]:
    """All that can be seen while a sandbox called `name` lives, probe by probe."""
    looks: dict[str, Callable[[], str]] = {"host-processes": lambda: processes(canary)}
    if (kill := engine.kill(name)) is not None:
        # With what it needs to be told before the verb, such as which store it is to look into.
        program = kill[: kill.index("kill")]
        looks["engine-metadata"] = lambda: metadata(program, name)
        looks["engine-log"] = lambda: log(program, name)
    if engine.name == "docker":
        looks["engine-files"] = lambda: engine_files(canary, since)
    return {probe: look() for probe, look in looks.items()}


def processes(canary: str) -> str:
    """Arguments and environments of all processes of this machine, as far as we may see them."""
    found, count = [], 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        count += 1
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if canary.encode() in (process / part).read_bytes():
                    found.append(f"/proc/{process.name}/{part}: {canary}")
    return "\n".join(found or [f"not in {count} processes"]) + f"\n{RAN}"


def metadata(program: tuple[str, ...], name: str) -> str:
    answers = [run((*program, verb, name), ASK_SECONDS) for verb in ("inspect", "top")]
    if answers[0].status != 0:
        return f"the engine does not tell: {answers[0].reason}"
    return "\n".join(answer.out for answer in answers) + f"\n{RAN}"


def log(program: tuple[str, ...], name: str) -> str:
    answer = run((*program, "logs", name), ASK_SECONDS)
    said = len(answer.out) + len(answer.err) if answer.status == 0 else 0
    return (f"logged {said} bytes" if said else f"no log: {answer.reason}") + f"\n{RAN}"


def engine_files(canary: str, since: float) -> str:
    answer = run(("docker", "info", "--format", "{{.DockerRootDir}}"), ASK_SECONDS)
    root = Path(answer.out.strip())
    if answer.status != 0 or not root.is_absolute():
        return f"docker does not tell where its folder is: {answer.reason}"
    if not os.access(root, os.R_OK | os.X_OK):
        return f"only root can look into {root}"
    return files(root, canary, since)


def files(root: Path, canary: str, since: float = 0.0, skip: str = "") -> str:
    """Regular files under `root` that changed since then and hold the canary, as it is or encoded."""
    found, scanned = [], 0
    for path, size in _changed(root, since):
        if path.name == skip:
            continue
        scanned += size
        if scanned > MAX_SCANNED:
            return f"there is more under {root} than can be searched"
        if _holds(path, canary):
            found.append(f"{path}: {canary}")
    return "\n".join(found or [f"not in {scanned} bytes under {root}"]) + f"\n{RAN}"


def _changed(root: Path, since: float) -> Iterator[tuple[Path, int]]:
    """Regular files, and their sizes. By `find`: an engine's folder has tens of thousands that did not change."""
    newer = ("(", "-newermt", f"@{since:.3f}", "-o", "-newerct", f"@{since:.3f}", ")") if since else ()
    answer = run(("find", str(root), "-xdev", "-type", "f", *newer, "-print0"), ASK_SECONDS)
    if answer.status is None:
        raise EngineError(f"there is more under {root} than can be searched")
    for name in filter(None, answer.out.split("\0")):
        with contextlib.suppress(OSError):
            yield Path(name), Path(name).lstat().st_size


def _holds(path: Path, canary: str) -> bool:
    wanted = [re.escape(form) for form in forms(canary)]
    pattern, tail = re.compile(b"|".join(wanted)), b""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as f:  # noqa: PTH123 (it is an fd)
            while data := f.read(CHUNK):
                if pattern.search(tail + data):
                    return True
                tail = data[-256:]
    except OSError:
        pass  # it went away while we looked
    return False


def forms(canary: str) -> list[bytes]:
    """The canary plain, in hex, and in base64 as it falls on each boundary."""
    return [form for named in FORMS.values() for form in named(canary.encode())]


def _base64_forms(data: bytes) -> list[bytes]:
    # Without the first and last group, which what stands beside it changes.
    return [base64.b64encode(b"\0" * shift + data)[4:-4] for shift in range(3)]


FORMS: Final[dict[str, Callable[[bytes], list[bytes]]]] = {
    "plain": lambda data: [data],
    "hex": lambda data: [data.hex().encode()],
    "base64": _base64_forms,
}


def told(words: str, canary: str, form: str) -> str:
    """What was said of the canary in one of the forms: the canary itself, or the beginning of what was said."""
    found = any(piece.decode() in words for piece in FORMS[form](canary.encode()))
    return f"{canary if found else words[:200]}\n{RAN}"
