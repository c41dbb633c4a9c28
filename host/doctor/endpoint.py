"""The model's endpoint: does anybody answer there? Asked without the key."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from host import credentials
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning
from host.errors import UserError
from host.model import Endpoint

SECONDS: Final = 10.0


def model(subject: Subject) -> Iterator[Finding]:
    try:
        found = credentials.read(subject.home.config / ".env")
    except UserError:  # told where the key is looked at
        yield warning("model", "not asked, because .env cannot be used")
        return
    if not found.secrets and found.base_url is None:
        yield ok("model", "the rehearsal script, which needs nothing from outside")
        return
    endpoint = credentials.endpoint(found.base_url)
    where = f"{endpoint.host}:{endpoint.port}"
    if subject.offline:
        yield ok("model", f"{where}; not asked, as you said")
        return
    yield ask(endpoint, subject, where)


def ask(endpoint: Endpoint, subject: Subject, where: str) -> Finding:
    """Any answer in HTTP is one: without a key it will be a refusal."""
    try:
        connection = _connection(endpoint, subject)
        with contextlib.closing(connection):
            path = endpoint.base_url.partition("://")[2].partition("/")[2]
            connection.request("GET", f"/{path}".rstrip("/") + "/v1/models", headers={"user-agent": "nanoclaw-doctor"})
            status = connection.getresponse().status
    except ssl.SSLError as e:
        return failure("model", f"{where} does not speak TLS that can be trusted: {e.reason or e}",
                       "for an authority of your own set model.ca_file in config.toml")  # fmt: skip
    except socket.gaierror as e:
        return failure("model", f"the name {endpoint.host} cannot be looked up: {e.strerror}", "is there a network?")
    except TimeoutError:
        return failure("model", f"{where} did not answer within {SECONDS:.0f} seconds", "is it up, and not blocked?")
    except (OSError, http.client.HTTPException) as e:
        why = getattr(e, "strerror", None) or type(e).__name__
        return failure("model", f"{where} does not answer: {why}", "is it up? ANTHROPIC_BASE_URL in .env names it")
    return ok("model", f"{where} answers (HTTP {status}; asked without the key)")


def _connection(endpoint: Endpoint, subject: Subject) -> http.client.HTTPConnection:
    if not endpoint.tls:
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=SECONDS)
    context = ssl.create_default_context()
    if subject.settings.ca_file is not None:
        context.load_verify_locations(subject.settings.ca_file)
    return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=SECONDS, context=context)
