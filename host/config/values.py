"""What a value in config.toml may be, kind by kind. Pure: a value in, what it means out, or `UserError`."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo

from host.errors import UserError
from host.model import AllowedHost

UNITS: Final = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([KMGT])i?)?B?", re.IGNORECASE)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
MAX_HOSTS: Final = 200


def fail(key: str, problem: str, *hints: str) -> NoReturn:
    raise UserError(f"{key} {problem}", *hints)


def _shown(value: Any) -> str:
    """What was found, for a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        fail(key, f"is {_shown(value)}", "it must be text in quotes")
    return value


def texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 100 or not all(isinstance(item, str) for item in value):
        fail(key, f"is {_shown(value)}", 'it must be a list of texts: ["…", "…"]')
    return tuple(value)


def flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        fail(key, f"is {_shown(value)}", "it must be true or false")
    return value


def integer(key: str, value: Any) -> int:
    if type(value) is not int:  # `type() is`: a bool is an int to isinstance
        fail(key, f"is {_shown(value)}", "it must be a whole number")
    return value


def number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        fail(key, f"is {_shown(value)}", "it must be a number")
    return float(value)


def size(key: str, value: Any) -> int:
    """`"512 MB"`, or bytes. Units are powers of 1024, as memory is counted."""
    if type(value) is int:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        fail(key, f"is {_shown(value)}", 'it must be a size: "512 MB", "1.5 GB", or a whole number of bytes')
    return int(float(found[1]) * UNITS[(found[2] or "").upper()])


def zone(key: str, value: Any) -> str:
    if not is_zone(text(key, value)):
        some = is_zone("Europe/Berlin")
        hint = 'name one like "Europe/Berlin" or "UTC"' if some else 'it knows none: install tzdata, or write "UTC"'
        fail(key, f"is {_shown(value)}, which this machine does not know", hint)
    return str(value)


def is_zone(name: str) -> bool:
    if name == "UTC":  # even where no time zones are installed
        return True
    try:
        return bool(name) and ZoneInfo(name) is not None
    except (KeyError, ValueError, OSError):  # not there; not a relative name; a folder of zones
        return False


def local_zone(environ: Mapping[str, str]) -> str:
    """The name of this machine's time zone; UTC if it cannot be told."""
    link = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    candidates = (environ.get("TZ", "").removeprefix(":"), link)
    return next((name for name in candidates if is_zone(name)), "UTC")


def is_name(name: str) -> bool:
    """Whether people can call someone by it: one line of 1 to 40 characters, letters and digits of any script,
    with spaces, hyphens and apostrophes inside."""
    inside = " _-'\u2019\u200c\u200d"  # the last two join letters in some scripts
    return (
        0 < len(name) <= 40
        and name[0].isalnum()
        and name[-1] not in inside
        and all(c.isalnum() or c in inside or unicodedata.category(c)[0] == "M" for c in name)
    )


def path(key: str, value: Any) -> Path:
    named = Path(text(key, value))
    try:
        named = named.expanduser()
    except RuntimeError:
        fail(key, f"is {_shown(value)}, and there is no such home folder")
    if not named.is_absolute() or "\0" in str(named):
        fail(key, f"is {_shown(value)}", "it must be an absolute path")
    return named


# --- allowed hosts ----------------------------------------------------------------------------------


def hosts(key: str, value: Any) -> tuple[AllowedHost, ...]:
    if not isinstance(value, list) or len(value) > MAX_HOSTS:
        fail(key, f"is {_shown(value)}", f'it must be a list: ["a.example", "*.example.org:8443"], at most {MAX_HOSTS}')
    return tuple(_host(f"{key}[{i}]", item) for i, item in enumerate(value))


def _host(key: str, value: Any) -> AllowedHost:
    if isinstance(value, str):
        name, colon, port = value.partition(":")
        return AllowedHost(_pattern(key, name), (_port(key, port),) if colon else ())
    if not isinstance(value, dict) or "host" not in value or not value.keys() <= {"host", "ports", "networks"}:
        fail(key, f"is {_shown(value)}", 'write "host", "host:port" or {host = "…", ports = […], networks = […]}')
    ports, networks = value.get("ports", []), value.get("networks", [])
    if not isinstance(ports, list) or not isinstance(networks, list):
        fail(key, "has ports or networks that are no list", 'such as ports = [443], networks = ["192.168.1.0/24"]')
    return AllowedHost(
        _pattern(key, value["host"]),
        tuple(_port(key, port) for port in ports),
        tuple(_network(key, network) for network in networks),
    )


def _pattern(key: str, value: Any) -> str:
    name = text(key, value).lower()
    labels = name.removeprefix("*.").removesuffix(".").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        fail(
            key,
            f"names {_shown(value)}, which is not a host",
            'write a name ("a.example"), "*." and a name for all below it, or an IPv4 address; no https://, no path',
        )
    return name.removesuffix(".")


def _port(key: str, value: Any) -> int:
    port = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else value
    if type(port) is not int or not 1 <= port <= 65535:
        fail(key, f"has the port {_shown(value)}", "a port is a number from 1 to 65535")
    return port


def _network(key: str, value: Any) -> str:
    try:
        network = ipaddress.ip_network(text(key, value))
    except ValueError as e:
        fail(key, f"has the network {_shown(value)}: {e}", 'write a range like "192.168.1.0/24"')
    if network.prefixlen == 0:
        fail(key, f"has the network {_shown(value)}, which is every address", "name the range that the host is in")
    return str(network)
