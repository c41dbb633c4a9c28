"""What can go wrong between the runner and the model, as a sentence for the person who waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import anthropic
import httpx2

from runner import text


@dataclass(frozen=True)
class Trouble:
    """One failed request: what it means, and whether the same request may do better in a moment."""

    kind: str
    message: str
    retry: bool = False
    wait: float | None = None
    """Seconds that the endpoint asked for."""


BROKE_OFF: Final = Trouble("endpoint", "The model's answer broke off before its end.", retry=True)

KEY_HINT: Final = "check ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN in .env"

# An error in the middle of a stream comes with status 200, and only its type says what it is.
STATUS_OF: Final = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "api_error": 500,
    "overloaded_error": 529,
}

# Nothing that the endpoint says about a key is repeated: it may repeat the key.
PLAIN: Final = {
    401: ("auth", "The model endpoint refused the key"),
    403: ("auth", "The model endpoint refused the key"),
    402: ("auth", "The model endpoint asks for payment"),
    404: ("request", "The endpoint does not know this model or this address"),
    **dict.fromkeys((301, 302, 303, 307, 308), ("request", "The model endpoint redirects elsewhere")),
}
BUSY: Final = {
    429: "The model endpoint limits how often it may be asked",
    503: "The model endpoint is overloaded",
    529: "The model endpoint is overloaded",
}


def understand(error: Exception, secrets: dict[str, str]) -> Trouble | None:
    """None for what is no trouble with the endpoint, but a bug."""
    if isinstance(error, anthropic.APIStatusError):
        return _status(error, secrets)
    if isinstance(error, anthropic.APITimeoutError):
        return Trouble("endpoint", "The model endpoint did not answer in time.", retry=True)
    if isinstance(error, anthropic.APIConnectionError):
        return _connection(error, secrets)
    if isinstance(error, httpx2.TransportError):
        return BROKE_OFF
    return None


def _connection(error: anthropic.APIConnectionError, secrets: dict[str, str]) -> Trouble:
    cause = error.__cause__
    if isinstance(cause, httpx2.LocalProtocolError):
        # Its words quote the header that it did not like, and one of them is the key.
        return Trouble("request", "The request could not be written as HTTP.")
    reason = _quote(str(cause or "no reason given"), secrets)
    if not isinstance(cause, httpx2.ConnectError):
        return Trouble("endpoint", f"The model endpoint broke the connection: {reason}.", retry=True)
    # Refused by the host's rules, or by the certificate check: the same again will not help.
    final = reason.startswith(("refused:", "TLS: the certificate"))
    said = reason.removeprefix("failed: ")
    return Trouble("endpoint", f"The model endpoint cannot be reached: {said}.", retry=not final)


def _status(error: anthropic.APIStatusError, secrets: dict[str, str]) -> Trouble:
    status = error.status_code if error.status_code >= 300 else STATUS_OF.get(str(error.type), 500)
    said = _quote(error.api_message or "it gave no reason", secrets)
    if status in PLAIN:
        kind, sentence = PLAIN[status]
        return Trouble(kind, f"{sentence} ({status}): {KEY_HINT}." if kind == "auth" else f"{sentence} ({status}).")
    if status in BUSY:
        return Trouble("overloaded", f"{BUSY[status]} ({status}).", retry=True, wait=_retry_after(error))
    if status in (408, 409) or status >= 500:
        trouble = f"The model endpoint failed ({status}): {said}."
        return Trouble("endpoint", trouble, retry=True, wait=_retry_after(error))
    if status == 413 or "too long" in said:  # the API has no type of its own for it
        return Trouble("request", f"The conversation is too long for the model: {said}.")
    return Trouble("request", f"The model endpoint refused the request ({status}): {said}.")


def _retry_after(error: anthropic.APIStatusError) -> float | None:
    try:
        wait = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return wait if 0 <= wait < 1e6 else None


def _quote(said: Any, secrets: dict[str, str]) -> str:
    """Words of the other side, short, on one line, and without the key."""
    words = text.clean(str(said))
    for secret in filter(None, secrets.values()):
        words = words.replace(secret, "[key]")
    return text.shorten(words, 300).rstrip(".")
