"""The client whose model stream is measured. Runs in a container, in the runner's place, as `python3 -c` of this
text: `pipe URL` speaks through the runner's own transport over the pipe, `direct URL` through a plain TCP one.
All else is the same: the SDK, the HTTP client, its settings.
"""
# ruff: noqa: E402 (the paths come first, as in the runner's own __main__)

import ctypes
import resource
import sys
import time

ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # as the runner does: the host compares its hello with what it expects
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path[:0] = ["/opt/nanoclaw", "/opt/nanoclaw/lib"]

import anthropic
import httpx2

from runner import model, pipe_http, seal
from runner.wire import Wire, take_stdio

Report = dict[str, int | list[int]]
LIMIT_SECONDS = 300.0


def main(way: str, url: str) -> None:
    transport = over_the_pipe() if way == "pipe" else httpx2.HTTPTransport()
    http = pipe_http.client(transport, LIMIT_SECONDS)
    sdk = model.client({}, url, http)
    report: Report = {}
    while True:
        http.post(f"{url}/go/{way}", json=report).raise_for_status()  # answered when it is this one's turn
        start = time.monotonic_ns()
        ask(sdk, "a short answer please")
        report = {"request": time.monotonic_ns() - start, "lags": ask(sdk, "stream please")}


def over_the_pipe() -> httpx2.BaseTransport:
    wire = Wire(*take_stdio())
    wire.start()
    wire.send(seal.hello())
    wire.turns.get()  # until then the host takes no other frame
    return pipe_http.PipeTransport(wire.streams, pipe_http.tls_context())


def ask(sdk: anthropic.Anthropic, words: str) -> list[int]:
    """How long each piece of the answer was on its way, in nanoseconds."""
    with sdk.messages.stream(model="bench", max_tokens=100, messages=[{"role": "user", "content": words}]) as stream:
        return [time.monotonic_ns() - int(text) for text in stream.text_stream]


main(*sys.argv[1:])
