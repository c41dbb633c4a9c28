"""One request to the model: ask, stream the answer, try again where that can help.

The SDK's own retries are off: they are silent, and do not cover an answer that breaks off in the middle.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import anthropic
import httpx2

from runner import conversation, failures, protocol, text
from runner.errors import TurnError
from runner.failures import KEY_HINT

ATTEMPTS: Final = 4
BACKOFF_SECONDS: Final = 1.0
LONGEST_WAIT: Final = 120.0
NO_KEY: Final = "none"
"""The SDK insists on a key; a server that asks for none ignores it."""
SHOWN_DELTA: Final = 64 * 1024
OFFICIAL: Final = "api.anthropic.com"


@dataclass(frozen=True)
class Answer:
    content: list[dict[str, Any]]
    stop_reason: str
    stop_details: dict[str, Any]
    usage: protocol.Usage


class Model:
    def __init__(
        self, turn: protocol.Turn, client: anthropic.Anthropic, send: Callable[[protocol.Frame], None]
    ) -> None:
        self._turn = turn
        self._send = send
        self._until = time.monotonic() + turn.limits.seconds
        self._client = client
        # Other servers of this API may refuse fields that they do not know.
        official = urlsplit(turn.base_url).hostname == OFFICIAL
        self._extras: dict[str, Any] = {"cache_control": {"type": "ephemeral"}} if official else {}

    def ask(self, system: list[str], messages: list[conversation.Entry], tools: list[dict[str, Any]]) -> Answer:
        """The model's next answer, whole. `TurnError` when there is none to be had."""
        attempt = 1
        while not isinstance(outcome := self._try(system, messages, tools), Answer):
            if not outcome.retry or attempt == ATTEMPTS:
                tried = f" Tried {attempt} times." if attempt > 1 else ""
                raise TurnError(outcome.kind, outcome.message + tried)
            self._wait(outcome, attempt)
            attempt += 1
        return outcome

    def _try(
        self, system: list[str], messages: list[conversation.Entry], tools: list[dict[str, Any]]
    ) -> Answer | failures.Trouble:
        try:
            message = self._receive(system, messages, tools)
        except (ValueError, AssertionError, LookupError, AttributeError, TypeError):
            # What the SDK raises when it cannot make sense of a stream: bad JSON, events out of order, no event.
            return failures.BROKE_OFF
        except Exception as e:
            trouble = failures.understand(e, self._turn.secrets)
            if trouble is None:
                raise
            return trouble
        answer = _answer(message)
        self._send(answer.usage)
        # A clean end before the last events raises nothing: the answer was cut on its way.
        return answer if answer.stop_reason else failures.BROKE_OFF

    def _receive(
        self, system: list[str], messages: list[conversation.Entry], tools: list[dict[str, Any]]
    ) -> dict[str, Any]:
        # Plain JSON, as it came and went before: the SDK takes it so, its types do not say so.
        with self._client.messages.stream(
            model=self._turn.model,
            max_tokens=self._turn.max_tokens,
            system=[{"type": "text", "text": piece} for piece in system],
            messages=messages,  # type: ignore[arg-type]
            tools=tools,  # type: ignore[arg-type]
            **self._extras,
        ) as stream:
            for event in stream:
                if event.type == "text" and event.text:
                    self._send(protocol.Progress("text", text.clip(text.clean(event.text), SHOWN_DELTA)))
            return stream.current_message_snapshot.to_dict(mode="json", warnings=False)

    def _wait(self, trouble: failures.Trouble, attempt: int) -> None:
        wait = trouble.wait if trouble.wait is not None else BACKOFF_SECONDS * 2 ** (attempt - 1)
        if wait > min(LONGEST_WAIT, self._until - time.monotonic()):
            raise TurnError(trouble.kind, f"{trouble.message} The next try would have to wait {wait:.0f} seconds.")
        wait += random.uniform(0, wait / 4)  # noqa: S311 (so that many turns do not come back at once)
        again = f"{trouble.message} Trying again in {wait:.0f} s ({attempt + 1} of {ATTEMPTS})."
        self._send(protocol.Progress("status", again))
        time.sleep(wait)


def client(secrets: dict[str, str], base_url: str, http: httpx2.Client) -> anthropic.Anthropic:
    """Everything is said: what is not, the SDK would look for in the environment and in home folders."""
    token = secrets.get("auth_token")
    if not all(_is_header(secret) for secret in secrets.values()):
        # Said here, because what HTTP says of it would quote it.
        raise TurnError("auth", f"The key has characters that no key has: {KEY_HINT}.")
    return anthropic.Anthropic(
        api_key=None if token else secrets.get("api_key") or NO_KEY,
        auth_token=token,
        base_url=base_url,
        max_retries=0,
        open_telemetry=False,
        http_client=http,
    )


def _is_header(secret: str) -> bool:
    return bool(secret) and all("!" <= c <= "~" for c in secret)


def _answer(message: dict[str, Any]) -> Answer:
    usage = message.get("usage") or {}
    return Answer(
        content=text.clean(message.get("content") or []),
        stop_reason=text.clean(message.get("stop_reason") or ""),
        stop_details=text.clean(message.get("stop_details") or {}),
        usage=protocol.Usage(
            *(
                _count(usage.get(name))
                for name in (
                    "input_tokens",
                    "output_tokens",
                    "cache_read_input_tokens",
                    "cache_creation_input_tokens",
                )
            )
        ),
    )


def _count(untrusted: Any) -> int:
    return min(untrusted, 2**53) if type(untrusted) is int and untrusted > 0 else 0
