"""`nanoclaw install`: this program to where the shell finds it, with completions and a man page."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any, Final

from host import bundle
from host.cli import completions, manual
from host.cli.out import emit, note
from host.cli.session import home_of
from host.errors import UserError
from host.install import extras, place
from host.install.extras import Installed

NAME: Final = "nanoclaw"


def install(args: argparse.Namespace) -> int:
    asked = ["install", *(["--to", args.to] if args.to else [])]
    place.running(asked)
    source = bundle.executable()
    folder = Path(os.path.abspath(args.to)) if args.to else extras.usual_folder(os.environ)  # noqa: PTH100  # no links
    program = folder / NAME
    home = home_of(args)
    made = extras.missing(program)
    record: dict[str, Any] = {
        "program": str(program),
        "changed": put(source, program, shlex.join([str(source), *asked])),
    }
    files, left = put_extras(program, made)
    extras.remember(home.data, Installed((program,), files, tuple(made)))
    record |= {"files": [str(path) for path in files], "left": left, "on_path": on_path(folder)}
    for path in left:
        note(f"left as it is: {path}: it is not NanoClaw's")
    return emit(args.json, record, as_text(record, folder))


def put(source: Path, program: Path, command: str) -> bool:
    """Copy the one file; False if it is there already. `UserError` if something else is."""
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise UserError(f"cannot use {e.filename}: {e.strerror}", f"as root: sudo {command}", "or --to DIR") from e
    try:
        with place.taken(program, command) as here:
            there = place.digest_of(here, here.name)
            if there is not None and not place.is_ours(here, here.name):
                raise UserError(f"{program} is not NanoClaw: it stays", "move it away, or choose --to DIR")
            if there == place.digest(fd):
                return False
            with place.copied(here, fd, os.fstat(fd).st_size, None):
                if there is None:
                    place.put(here)
                else:
                    place.swap(here, here.new)  # another version: kept for `rollback`
    finally:
        os.close(fd)
    return True


def put_extras(program: Path, made: list[Path]) -> tuple[dict[Path, str], list[str]]:
    """Completions and the man page: what was written, by path, and what is someone else's and was left. Folders that
    had to be made are added to `made`."""
    share = extras.share_folder(program, os.environ)
    texts = {**completions.all_shells(), "man": manual.page()}
    written: dict[Path, str] = {}
    left: list[str] = []
    for kind, below in extras.BELOW_SHARE.items():
        path = share / below
        if extras.state(path) == "foreign":
            left.append(str(path))
            continue
        try:
            for folder in extras.missing(path):
                folder.mkdir()
                made.append(folder)
            written[path] = extras.write(path, texts[kind])
        except OSError as e:  # the program is there: it serves without them
            note(f"could not write {path}: {e.strerror}")
    return written, left


def on_path(folder: Path) -> bool:
    return any(part and Path(part) == folder for part in os.environ.get("PATH", "").split(os.pathsep))


def as_text(record: dict[str, Any], folder: Path) -> str:
    done = "installed" if record["changed"] else "already there:"
    lines = [f"{done} {record['program']}", *(f"wrote {path}" for path in record["files"])]
    zsh = next((Path(path).parent for path in record["files"] if Path(path).name == "_nanoclaw"), None)
    if _shell() == "zsh" and zsh is not None:
        lines.append(f"for zsh, before compinit in ~/.zshrc: fpath+=({shlex.quote(str(zsh))})")
    if not record["on_path"]:
        lines += [f"{folder} is not on your PATH. To mend that, and then log in again:", f"  {mend(folder)}"]
    return "\n".join(lines)


def mend(folder: Path) -> str:
    """The line that puts the folder on PATH, for the person's shell."""
    if _shell() == "fish":
        return f"fish_add_path {shlex.quote(str(folder))}"
    file = {"zsh": "~/.zprofile", "bash": "~/.profile"}.get(_shell(), "~/.profile")
    line = f'export PATH={shlex.quote(str(folder))}:"$PATH"'
    return f"echo {shlex.quote(line)} >> {file}"


def _shell() -> str:
    return Path(os.environ.get("SHELL", "")).name
