"""The parts of a turn, put together. Imports the model's SDK, so it is imported late."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2

from runner import forwarder, pipe_http, prompt, protocol, shell, tools
from runner.agent import Agent
from runner.errors import TurnError
from runner.model import Model, client
from runner.wire import Wire

READ_SECONDS: Final = 600.0
"""A local model may think that long before its first word."""

WARM_UP: Final = protocol.Turn(
    turn="", group="", is_main=False, assistant="", prompt="", history=[], secrets={}, base_url="http://nowhere",
    model="none", max_tokens=1, limits=protocol.Limits(1, 1, 1, 1, 1), tools=[], timezone="UTC",
)  # fmt: skip
_MESSAGE: Final[dict[str, Any]] = {
    "id": "", "type": "message", "role": "assistant", "model": "", "content": [], "stop_reason": None,
    "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
}  # fmt: skip
WARM_UP_EVENTS: Final[dict[str, dict[str, Any]]] = {
    "message_start": {"message": _MESSAGE},
    "content_block_start": {"index": 0, "content_block": {"type": "text", "text": ""}},
    "content_block_delta": {"index": 0, "delta": {"type": "text_delta", "text": "x"}},
    "content_block_stop": {"index": 0},
    "message_delta": {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 1}},
    "message_stop": {},
}


def warm_up() -> ssl.SSLContext:
    """Ask a model that is not there: what the SDK and its parts put off until their first use, they do now.

    That is half of what a warm container spares its turn; the other half is the import. The TLS context is
    made for the real thing, because reading the authorities takes long.
    """
    events = WARM_UP_EVENTS.items()
    body = "".join(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events)
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=body)
    http = pipe_http.client(httpx2.MockTransport(lambda _: answer), 1)
    model = Model(WARM_UP, client({}, WARM_UP.base_url, http), lambda _: None)
    model.ask(prompt.system(WARM_UP, datetime.now(UTC), [], proxied=False), [], tools.schemas())
    return pipe_http.tls_context()


def run(
    turn: protocol.Turn, wire: Wire, context: ssl.SSLContext, mounted: Iterable[str], *, proxied: bool
) -> protocol.Done:
    Path(shell.HOME).mkdir(exist_ok=True)
    if proxied:
        forwarder.start(wire.streams)
    env = shell.environment(turn.timezone, forwarder.URL if proxied else "")
    bash = shell.Shell(env, turn.limits, shell.WORKDIR)
    carried = tools.Tools(bash, turn.limits, wire.send, turn.tools, wire.call, wire.send_file)
    if turn.ca_pem:
        _trust(context, turn.ca_pem)
    transport = pipe_http.PipeTransport(wire.streams, context)
    http = pipe_http.client(transport, min(READ_SECONDS, turn.limits.seconds))
    model = Model(turn, client(turn.secrets, turn.base_url, http), wire.send)
    system = prompt.system(turn, datetime.now(UTC), mounted, proxied=proxied)
    return Agent(turn, model, carried, wire.send, wire.take_inputs, system).run()


def _trust(context: ssl.SSLContext, ca_pem: str) -> None:
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as e:
        raise TurnError("endpoint", "The further certificate authorities that were configured are not PEM.") from e
