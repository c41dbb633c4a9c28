"""A task's check: one command, in the place of a turn. No key ever comes here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from runner import forwarder, protocol, shell
from runner.wire import Wire

OUTPUT_BYTES: Final = 16 * 1024
"""Most of what the command prints that the model is shown later."""
NOT_RUN: Final = 126
"""As shells have it for what cannot be executed."""


def run(check: protocol.Check, wire: Wire, *, proxied: bool) -> protocol.Checked:
    Path(shell.HOME).mkdir(exist_ok=True)
    if proxied:
        forwarder.start(wire.streams)
    env = shell.environment(check.timezone, forwarder.URL if proxied else "")
    limits = protocol.Limits(1, check.seconds, 1, check.seconds, OUTPUT_BYTES)
    try:
        status, output = shell.Shell(env, limits, shell.WORKDIR).check(check.command, check.seconds, OUTPUT_BYTES)
    except shell.ToolError as e:
        status, output = NOT_RUN, str(e)
    return protocol.Checked(status, output)
