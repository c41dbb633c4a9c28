"""What an installation needs from other machines. All of it is read from the settings: nobody is asked, and no name is
looked up."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from host import credentials
from host.channels import whatsapp
from host.doctor.home import registered
from host.doctor.subject import Subject
from host.doctor.words import Finding, ok
from host.errors import UserError
from host.model import AllowedHost

NAME: Final = "from outside"
MOST: Final = 64 * 1024


def needs(subject: Subject) -> Iterator[Finding]:
    if not subject.offline:
        return
    with contextlib.suppress(UserError):  # told where the key is looked at
        yield ok(NAME, f"for the model: {_model(subject)}")
    yield ok(NAME, f"for groups' tools: {'; '.join(_tools(subject)) or 'nothing, no group has allow_hosts'}")
    if granted := subject.settings.grantable_hosts:
        yield ok(NAME, f"and what main may grant to groups: {_hosts(granted)}")
    if whatsapp.in_use(subject.home):
        by = (
            f", by way of {subject.settings.channels.whatsapp_proxy}"
            if subject.settings.channels.whatsapp_proxy
            else ""
        )
        yield ok(NAME, f"for WhatsApp: web.whatsapp.com:443, and hosts of whatsapp.net for files{by}")
    if subject.settings.channels.commands:
        names = ", ".join(name for name, _ in subject.settings.channels.commands)
        yield ok(NAME, f"and whatever the channels of config.toml connect to: {names}")
    yield ok(NAME, "nothing else: nothing is reported anywhere, and no newer version is looked for")


def _model(subject: Subject) -> str:
    found = credentials.read(subject.home.config / ".env")
    if not found.secrets and found.base_url is None:
        return "nothing, a rehearsal script answers"
    endpoint = credentials.endpoint(found.base_url)
    here = "which is this machine" if credentials.is_here(endpoint) else "and it alone"
    return f"{endpoint.host}:{endpoint.port}, {here}"


def _tools(subject: Subject) -> Iterator[str]:
    """A group whose settings mean nothing is told of where groups are looked at, and is not served."""
    for group in registered(subject):
        with contextlib.suppress(UserError):
            if allowed := subject.settings.group(group).allow_hosts:
                yield f"{group.folder}: {_hosts(allowed)}"


def _hosts(allowed: tuple[AllowedHost, ...]) -> str:
    return ", ".join(each.pattern + (":" if each.ports else "") + ",".join(map(str, each.ports)) for each in allowed)


# --- docker on another machine ------------------------------------------------------------------------------------


def remote_docker(environ: Mapping[str, str]) -> str:
    """Where docker's program would look for its daemon, if that is another machine; empty if it is this one."""
    host = environ.get("DOCKER_HOST", "")
    if not host:
        host = _context_host(environ)
    return "" if not host or host.startswith(("unix://", "fd://", "npipe://")) else host


def _context_host(environ: Mapping[str, str]) -> str:
    """The address in the context that is chosen, as docker's program keeps it."""
    folder = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/nonexistent"), ".docker"))
    name = environ.get("DOCKER_CONTEXT") or _text(_json(folder / "config.json"), "currentContext")
    if name in ("", "default"):
        return ""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return _text(_json(folder / "contexts" / "meta" / digest / "meta.json"), "Endpoints", "docker", "Host")


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(MOST))
    except (OSError, ValueError, RecursionError):
        return None


def _text(value: Any, *keys: str) -> str:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
