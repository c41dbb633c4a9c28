"""`nanoclaw image`: what sandboxes are started from. Look at it, extend it, move it to another machine, accept it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from host import config as configuration
from host import images, parcels
from host.cli.out import Progress, emit
from host.cli.session import home_of
from host.config import Home
from host.errors import UserError
from host.model import Image
from host.parcels import Record

SHORTEST: Final = 12
"""Hex digits of an id that are enough to name an image that is here."""


def image(args: argparse.Namespace) -> int:
    home = home_of(args)
    progress = Progress(args.quiet or args.json)
    try:
        return ACTIONS[args.action](args, home, progress)
    finally:
        progress.clear()


# --- looking ----------------------------------------------------------------------------------------


def info(args: argparse.Namespace, home: Home, progress: Progress) -> int:
    """Also where the one that was accepted cannot be used: then it says why, and what to do."""
    problem: UserError | None = None
    found: Image | None = None
    try:
        found = images.used(home)
    except UserError as e:
        problem = e
    kept = {record.id: record for record in parcels.records(home.cache)}
    record = {
        "used": _record(home, found, kept) if found else None,
        "problem": str(problem) if problem else None,
        "others": [parcels.describe(each) for each in kept.values() if not found or each.id != found.id],
    }
    if problem and args.json:
        emit(True, record, "")
        return problem.status
    if problem:
        raise problem
    return emit(args.json, record, as_text(record))


def _record(home: Home, found: Image, kept: dict[str, Record]) -> dict[str, Any]:
    taken = images.pinned(home) if found.id != images.brought(home.cache).id else None
    known = taken or kept.get(found.id) or Record(found.id, found.build, found.manifest)
    return {**parcels.describe(known), "from": images.origin(home, found), "unpacked": unpacked(found),
            "folder": str(found.archive.parent), "stale": images.stale(home, found)}  # fmt: skip


def unpacked(found: Image) -> str:
    if not parcels.is_unpacked(found):
        return "no"
    why = parcels.altered(found)
    return f"altered: {why}; the next start unpacks it anew" if why else "unaltered"


def as_text(record: dict[str, Any]) -> str:
    used = record["used"]
    lines = [
        f"used       {used['id']}",
        f"           {used['from']}{contents(used)}",
        f"unpacked   {used['unpacked']} ({used['folder']})",
    ]
    if used["stale"]:
        lines += [f"note       {used['stale']}", "           make it again: nanoclaw image build --again"]
    for other in record["others"]:
        lines += [f"also here  {other['id']}", f"           taken in{contents(other)}; not used"]
    if record["others"]:
        lines += ["", "use another: nanoclaw image accept ID"]
    return "\n".join(lines)


def contents(record: dict[str, Any]) -> str:
    if record["packages"]:
        return f", with {', '.join(record['packages'])}"
    return f", made by the steps in {record['dockerfile']}" if record["dockerfile"] else ""


# --- moving -----------------------------------------------------------------------------------------


def save(args: argparse.Namespace, home: Home, progress: Progress) -> int:
    found, file = images.used(home), Path(args.file)
    if file.is_dir():
        raise UserError(f"{file} is a folder", "name a file, such as nanoclaw-image.tar.xz", status=2)
    size = parcels.save(found, images.raw(found), file, progress)
    progress.clear()
    record = {"id": found.id, "file": str(file), "bytes": size}
    return emit(
        args.json,
        record,
        f"{file} ({size / 1e6:.0f} MB) holds the image {found.id}\nthere: nanoclaw image load {file.name} --accept",
    )


def load(args: argparse.Namespace, home: Home, progress: Progress) -> int:
    ours = images.brought(home.cache)
    found = parcels.take_in(Path(args.file), home.cache, images.read(ours), ours, progress)
    record = next(each for each in parcels.records(home.cache) if each.id == found.id)
    if args.accept:
        images.accept(home, record)
    progress.clear()
    said = {**parcels.describe(record), "accepted": args.accept}
    told = "it is used from now on" if args.accept else f"use it: nanoclaw image accept {record.id}"
    return emit(args.json, said, f"taken in: {record.id}{contents(said)}\n{told}")


def accept(args: argparse.Namespace, home: Home, progress: Progress) -> int:
    if args.id == "carried":
        images.accept(home, None)
        return emit(args.json, {"accepted": "carried"}, "the image that NanoClaw brings is used from now on")
    ours = images.brought(home.cache)
    record = _named(args.id, parcels.records(home.cache))
    if record.build != ours.build:
        raise UserError("its runner is of another version of NanoClaw than this one",
                        "make it again for this version: nanoclaw image build …")  # fmt: skip
    images.verify(parcels.taken_in(home.cache, record), progress)
    images.accept(home, record)
    progress.clear()
    said = {"accepted": record.id}
    return emit(args.json, said, f"{record.id} is used from now on{contents(parcels.describe(record))}")


def _named(wanted: str, records: list[Record]) -> Record:
    digits = wanted.removeprefix("sha256:")
    found = [each for each in records if each.id.removeprefix("sha256:").startswith(digits)]
    if len(digits) < SHORTEST or len(found) != 1:
        here = "; ".join(each.id for each in records) or "none but the one that NanoClaw brings: carried"
        raise UserError(f"there is no image {wanted!r} here", f"there is: {here}",
                        "take one in: nanoclaw image load FILE", status=2)  # fmt: skip
    return found[0]


# --- extending --------------------------------------------------------------------------------------


def build(args: argparse.Namespace, home: Home, progress: Progress) -> int:
    from host import extending

    made = extending.wanted(args.packages, args.dockerfile, again=_last(home) if args.again else None, here=Path.cwd())
    engine = extending.engine_for(configuration.engine_name(args.engine, os.environ, configuration.Config()))
    record = extending.extend(home, engine, made, progress)
    images.accept(home, record)
    progress.clear()
    said = {**parcels.describe(record), "accepted": True}
    return emit(
        args.json,
        said,
        f"made: {record.id}{contents(said)}\n"
        "you made it here, so it is accepted: it is used from now on\n"
        "to another machine: nanoclaw image save FILE; back: nanoclaw image accept carried",
    )


def _last(home: Home) -> Record:
    """What was made or taken in last, but before that what is accepted."""
    records = [each for each in (images.pinned(home), *parcels.records(home.cache)) if each]
    found = next((each for each in records if each.packages or each.dockerfile), None)
    if found is None:
        raise UserError("no image was extended here", "say with what: nanoclaw image build --with PACKAGE", status=2)
    return found


ACTIONS: Final[dict[str, Callable[[argparse.Namespace, Home, Progress], int]]] = {
    "info": info,
    "save": save,
    "load": load,
    "accept": accept,
    "build": build,
}
