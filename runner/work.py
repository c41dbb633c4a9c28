"""The parts of a turn, put together. Imports the model's SDK, so it is imported late."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from runner import forwarder, prompt, protocol, shell
from runner.agent import Agent
from runner.model import Model
from runner.tools import Tools
from runner.wire import Wire


def run(turn: protocol.Turn, wire: Wire, mounted: Iterable[str], *, proxied: bool) -> protocol.Done:
    Path(shell.HOME).mkdir(exist_ok=True)
    if proxied:
        forwarder.start(wire.streams)
    env = shell.environment(turn.timezone, forwarder.URL if proxied else "")
    tools = Tools(shell.Shell(env, turn.limits, shell.WORKDIR), turn.limits, wire.send)
    model = Model(turn, wire.streams, wire.send)
    system = prompt.system(turn, datetime.now(UTC), mounted, proxied=proxied)
    return Agent(turn, model, tools, wire.send, wire.take_inputs, system).run()
