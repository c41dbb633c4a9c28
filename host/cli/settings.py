"""`key=value …` on a command line, as JSON values."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Sequence
from typing import Any

from host.errors import UserError


def assignments(
    arguments: Sequence[str], *, texts: Collection[str] = (), lists: Collection[str] = ()
) -> dict[str, Any]:
    """Key → value; None for `key=`. Values are as in config.toml, quotes may be left out where nothing else could
    be meant: of `texts`, never a number, and of `lists`, `a,b` for `["a", "b"]`. `UserError` for what is neither."""
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"{argument[:60]!r} is not key=value", 'such as memory="512 MB"', status=2)
        if key in found:
            raise UserError(f"{key} is given twice", status=2)
        found[key] = None if text == "" else _value(text, key in texts, key in lists)
    return found


def _value(text: str, is_text: bool, is_list: bool) -> Any:
    value = toml_value(text)
    if is_list and not isinstance(value, list):
        return [value] if text.startswith(('"', "'")) else [item.strip() for item in text.split(",")]
    return text if is_text and not isinstance(value, str) else value


def toml_value(text: str) -> Any:
    """The JSON value that `text` is in TOML; the text itself where it is none (`Andy`, `512 MB`, a date)."""
    if "\n" in text or "\r" in text:
        return text  # a second line would be read as a second setting
    try:
        # Within brackets, so that a comment (`Andy #1`) would take the closing one away, and is none.
        values = tomllib.loads(f"value = [{text}]")["value"]
        json.dumps(values, allow_nan=False)
    except (ValueError, TypeError, RecursionError):  # TypeError: a date, which JSON has not
        return text
    return values[0] if len(values) == 1 else text
