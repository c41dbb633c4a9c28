"""The file tools, in a process of their own: `python3 -I -S -B filetool.py`, a request in, an answer out (JSON).

Not in the runner: a path may name /proc/self/mem, by any number of symlinks, and the runner's memory holds the
key. This process has no more rights and no more secrets than the agent's shell. It costs about 25 ms.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

MAX_FILE: Final = 16 * 1024 * 1024
"""Largest file that is read or edited whole."""
MAX_SENT: Final = 32 * 1024 * 1024
"""Largest file that is sent: `protocol.MAX_SENT_FILE`, which this process does not import."""
MAX_LINE: Final = 2000
DEFAULT_LINES: Final = 2000
MAX_FOUND: Final = 1000
SKIPPED_FOLDERS: Final = frozenset({".git", "node_modules", "__pycache__", ".venv"})


class RefusalError(Exception):
    """The request cannot be met; the text is for the model."""


def read_file(path: Path, offset: int = 1, limit: int = DEFAULT_LINES) -> str:
    lines = _read_text(path).splitlines()
    start = max(offset, 1) - 1
    shown = lines[start : start + max(limit, 1)]
    if not shown:
        return f"(the file has {len(lines)} lines)" if lines else "(the file is empty)"
    numbered = [f"{number:6d}\t{_cut(line)}" for number, line in enumerate(shown, start + 1)]
    rest = len(lines) - start - len(shown)
    return "\n".join(numbered) + (
        f"\n({rest} more lines; read on with offset {start + len(shown) + 1})" if rest else ""
    )


def write_file(path: Path, content: str) -> str:
    existed = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
    return f"{'Replaced' if existed else 'Created'} {path} ({len(content.encode())} bytes)."


def edit_file(path: Path, old: str, new: str, replace_all: bool = False) -> str:
    text = _read_text(path)
    if not old or old == new:
        raise RefusalError("old must not be empty, and must differ from new")
    count = text.count(old)
    if count == 0:
        raise RefusalError("old does not occur in the file; read it again, and copy the text exactly")
    if count > 1 and not replace_all:
        raise RefusalError(f"old occurs {count} times; give more of its surroundings, or set replace_all")
    _replace(path, text.replace(old, new))
    return f"Edited {path} ({count} {'place' if count == 1 else 'places'})."


def glob(path: Path, pattern: str) -> str:
    found = []
    for file in _files(path):
        if _matches(file, path, pattern):
            found.append(file)
            if len(found) > MAX_FOUND:
                break
    found.sort()
    more = f"\n(more than {MAX_FOUND} files; narrow the pattern)" if len(found) > MAX_FOUND else ""
    return "\n".join(map(str, found[:MAX_FOUND])) + more if found else "No file matches."


def grep(path: Path, pattern: str, include: str = "", ignore_case: bool = False) -> str:
    try:
        expression = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except (re.error, RecursionError, OverflowError) as e:
        raise RefusalError(f"the pattern is not a regular expression: {e}") from e
    found: list[str] = []
    for file in [path] if path.is_file() else sorted(_files(path)):
        if include and not _matches(file, path, include):
            continue
        found += _grep_file(file, expression, MAX_FOUND + 1 - len(found))
        if len(found) > MAX_FOUND:
            return "\n".join(found[:MAX_FOUND]) + f"\n(more than {MAX_FOUND} lines; narrow the search)"
    return "\n".join(found) or "No line matches."


def _grep_file(file: Path, expression: re.Pattern[str], most: int) -> list[str]:
    try:
        lines = _read_text(file).splitlines()
    except (RefusalError, OSError):
        return []  # binary, too large, or not for reading: not what a search is after
    found = []
    for number, line in enumerate(lines, 1):
        if expression.search(line):
            found.append(f"{file}:{number}:{line[:500]}")
            if len(found) >= most:
                break
    return found


# --- files ------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    data = _read(path)
    if b"\0" in data[:8192]:
        raise RefusalError(f"it is a binary file of {len(data)} bytes; look at it with a command")
    return data.decode("utf-8", "surrogateescape")  # an edit must give back every byte that it did not touch


def _read(path: Path, most: int = MAX_FILE) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(fd, "rb") as f:  # noqa: PTH123 (it is a descriptor)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise RefusalError("it is not a regular file")
        data = f.read(most + 1)
    if len(data) > most:
        raise RefusalError(f"it has more than {most} bytes; take parts of it with a command")
    return data


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: a full disk leaves the old content."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise RefusalError("it is a folder")
    if target.exists() and not target.is_file():
        raise RefusalError("it is not a regular file")
    fd, temporary = tempfile.mkstemp(prefix=".write-", dir=target.parent)
    try:
        with open(fd, "wb") as f:  # noqa: PTH123
            f.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(fd, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise RefusalError(f"{folder} is not a folder")
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in names:
            yield Path(here, name)


def _matches(file: Path, folder: Path, pattern: str) -> bool:
    """`*.py` matches at any depth; a pattern with a slash is held against the path from the folder on."""
    if "/" not in pattern:
        return fnmatch.fnmatchcase(file.name, pattern)
    relative = str(file.relative_to(folder)) if file != folder else file.name
    return bool(re.fullmatch(_translate(pattern), relative))


def _translate(pattern: str) -> str:
    parts = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        parts.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part))
    return "(?s:" + "".join(parts) + ")"


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} [... {len(line) - MAX_LINE} characters cut here ...]"


# --- one request ------------------------------------------------------------------------------------


def send_file(path: Path) -> bytes:
    """The whole file, for the chat."""
    data = _read(path, MAX_SENT)
    if not data:
        raise RefusalError("the file is empty")
    return data


OPERATIONS: Final[dict[str, Callable[..., str | bytes]]] = {
    "read_file": read_file,
    "write_file": write_file,
    "edit_file": edit_file,
    "glob": glob,
    "grep": grep,
    "send_file": send_file,
}


def answer(request: dict[str, Any]) -> tuple[str | bytes, bool]:
    """What to tell the model, and whether it is an error; of a file that is sent, its bytes."""
    arguments = dict(request["input"])
    try:
        path = Path(arguments.pop("path", "."))
        return OPERATIONS[request["tool"]](path, **arguments), False
    except RefusalError as e:
        return f"{path}: {e}", True
    except OSError as e:
        return f"{path}: {e.strerror or e}", True
    except ValueError as e:  # a NUL in a path
        return f"{path!r}: {e}", True


def main() -> None:
    request = json.load(sys.stdin)
    found, is_error = answer(request)
    data = b"" if isinstance(found, str) else found
    text = Path(request["input"]["path"]).name if isinstance(found, bytes) else found
    # ASCII: whatever bytes a file name or a line held, they arrive. A file's own bytes follow on the next line.
    sys.stdout.buffer.write(json.dumps({"text": text, "is_error": is_error}).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
