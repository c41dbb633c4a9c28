"""`nanoclaw licenses`: what is carried, under which licences, and where its source is."""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import re
import sys
from pathlib import Path
from typing import Any, Final

from host.carried import VERSION
from host.cli.out import emit
from host.cli.tables import table
from host.errors import UserError

DATA: Final = "licenses.json"
TEXTS: Final = "license-texts.json.xz"
HEADS: Final = ("component", "version", "licence", "what it is", "part", "source")
ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = {"host": "the program", "image": "the sandbox image", "whatsapp": "the WhatsApp program"}
UNKNOWN: Final = "see the package"


def licenses(args: argparse.Namespace) -> int:
    found = carried() if (folder() / DATA).is_file() else checkout()
    if args.text:
        texts = words()
        record = [{**each, "texts": [texts[name] for name in each["texts"]]} for each in found]
        return emit(args.json, {"components": record}, _written(found, texts))
    rows = [[str(each[key]) for key in ("name", "version", "licence", "kind", "part", "source")] for each in found]
    return emit(args.json, {"components": found}, table(HEADS, rows, "nothing"))


def folder() -> Path:
    """Where the built program's data lie."""
    return Path(getattr(sys, "_MEIPASS", ROOT / ".none"))


def carried() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder() / DATA).read_text(encoding="utf-8"))["components"]
    return found


def words() -> dict[str, str]:
    """The licences' own words by the names that the components have for them."""
    try:
        with lzma.open(folder() / TEXTS) as packed:
            found: dict[str, str] = json.load(packed)
    except FileNotFoundError:
        raise UserError("only the built program carries the licences' texts", "each package here has its own") from None
    return found


def _written(found: list[dict[str, Any]], texts: dict[str, str]) -> str:
    """Each text once, after the names of all that it is for."""
    of: dict[str, list[str]] = {}
    for each in found:
        for name in each["texts"]:
            of.setdefault(name, []).append(f"{each['name']} {each['version']} ({each['part']}): {each['licence']}")
    rule = "=" * 78
    return "\n\n".join(f"{rule}\n" + "\n".join(names) + f"\n{rule}\n{texts[name]}" for name, names in of.items())


def checkout() -> list[dict[str, Any]]:
    """From source nothing is carried: what the locks of this checkout name, and the Python that runs."""
    found = [
        _row("NanoClaw", VERSION, "MIT", "the program", "here"),
        _row("Python", platform.python_version(), "PSF-2.0", "the program", "this machine's"),
    ]
    for lock, part in LOCKS.items():
        path = ROOT / "requirements" / f"{lock}.txt"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for name, version in re.findall(r"^([\w.-]+)==([^ \\;]+)", text, re.MULTILINE):
            found.append(_row(name, version, _licence(name), part, f"PyPI: {name} {version}"))
    return found


def _licence(name: str) -> str:
    """As an installed package tells it."""
    from importlib import metadata

    try:
        record = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN
    said = [str(record[key]).split("\n", maxsplit=1)[0] for key in ("License-Expression", "License") if key in record]
    return next(filter(None, said), UNKNOWN)


def _row(name: str, version: str, licence: str, part: str, source: str) -> dict[str, Any]:
    return {"name": name, "version": version, "licence": licence, "kind": "in this checkout", "part": part,
            "source": source, "texts": []}  # fmt: skip
