"""A model server of the person's own: does it speak the Messages API, and which models does it name?

Asked once, because the person named it, and without any key. A request with nothing in it costs nothing: a server of
this kind says what it misses.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from host.model import Endpoint

SECONDS: Final = 10.0
MAX_ANSWER: Final = 1024 * 1024
MAX_MODELS: Final = 200
MAX_NAME: Final = 200


@dataclass(frozen=True)
class Answer:
    """What was found out. With a fault nothing else is known."""

    fault: str = ""
    """Why it is no use, in words; empty if it answers as it should."""
    hint: str = ""
    wants_key: bool = False
    models: tuple[str, ...] = ()
    """By name; empty where it does not list them."""


def ask(endpoint: Endpoint, ca_file: Path | None) -> Answer:
    """Bounded in time, whatever the server does: one that sends a byte now and then is left behind."""
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(_ask(endpoint, ca_file)), daemon=True)
    thread.start()
    thread.join(3 * SECONDS)
    return found[0] if found else _late(endpoint)


def _late(endpoint: Endpoint) -> Answer:
    return Answer(f"{_where(endpoint)} did not answer in time", "is it up, and not blocked?")


def _where(endpoint: Endpoint) -> str:
    return f"{endpoint.host}:{endpoint.port}"


def _ask(endpoint: Endpoint, ca_file: Path | None) -> Answer:
    where = _where(endpoint)
    try:
        status, untrusted_body = _request(endpoint, ca_file, "POST", "/v1/messages", b"{}")
        if not _speaks(status, untrusted_body):
            return Answer(
                f"{where} answers, but does not speak the Anthropic Messages API (HTTP {status} at /v1/messages)",
                "is a newer version of that server needed, or a path in the address?",
            )
        wants_key = status in (401, 403)
        _, untrusted_list = _request(endpoint, ca_file, "GET", "/v1/models", None)
    except ssl.SSLError as e:
        return Answer(f"{where} does not speak TLS that can be trusted: {e.reason or e}",
                      "for an authority of your own set model.ca_file in config.toml")  # fmt: skip
    except socket.gaierror as e:
        return Answer(f"the name {endpoint.host} cannot be looked up: {e.strerror}", "is there a network?")
    except TimeoutError:
        return _late(endpoint)
    except (OSError, http.client.HTTPException) as e:
        why = getattr(e, "strerror", None) or type(e).__name__
        return Answer(f"nobody answers at {where}: {why}", "start the server, or look at its address")
    return Answer(wants_key=wants_key, models=models(untrusted_list))


def _request(endpoint: Endpoint, ca_file: Path | None, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    beneath = endpoint.base_url.partition("://")[2].partition("/")[2]
    headers = {"user-agent": "nanoclaw-setup", "anthropic-version": "2023-06-01"}
    if body is not None:
        headers["content-type"] = "application/json"
    with contextlib.closing(_connection(endpoint, ca_file)) as connection:
        connection.request(method, f"/{beneath}".rstrip("/") + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER)


def _connection(endpoint: Endpoint, ca_file: Path | None) -> http.client.HTTPConnection:
    if not endpoint.tls:
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=SECONDS)
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=SECONDS, context=context)


def _speaks(status: int, untrusted_body: bytes) -> bool:
    """An error in the API's own form is one, whatever its number (a server may say 404 of a model that was not named);
    and a refusal of the empty request, or for want of a key, that a proxy before it words in its own way."""
    value = _json(untrusted_body)
    if isinstance(value, dict) and value.get("type") in ("error", "message"):
        return True
    return status in (400, 401, 403, 422)


def models(untrusted_body: bytes) -> tuple[str, ...]:
    """The names in a list of models; what is not one is left out."""
    value = _json(untrusted_body)
    items = value.get("data") if isinstance(value, dict) else None
    names = [item.get("id") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    good = [name for name in names if isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()]
    return tuple(dict.fromkeys(good))[:MAX_MODELS]


def _json(untrusted_body: bytes) -> Any:
    try:
        return json.loads(untrusted_body)
    except (ValueError, RecursionError):
        return None
