"""From the first breath to the last: seal, hello, payload, turn, exit."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from runner import children, protocol, seal, shell, text
from runner.errors import TurnError
from runner.wire import EXIT_BUG, EXIT_LATE, EXIT_PEER, Deadline, Wire, leave, take_stdio

if TYPE_CHECKING:
    import ssl

THREAD_STACK: Final = 1024 * 1024
M_ARENA_MAX: Final = -8
FIRST_LOOK_SECONDS: Final = 0.1
"""How long to wait for a payload before anything is got ready: a host that has one sends it at once."""
CHECK_GRACE_SECONDS: Final = 5
"""A check's command is ended at its time; this much later the process is."""


def main(argv: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog="runner")
    parser.add_argument("--deadline", type=float, required=True, help="seconds to wait for a turn")
    parser.add_argument("--proxy", action="store_true", help="give tools a proxy on 127.0.0.1")
    options = parser.parse_args(argv)
    hello = seal.hello()
    if wrong := seal.faults(hello.checks):
        sys.stderr.write(f"runner: not sealed: {'; '.join(wrong)}\n")
        sys.exit(EXIT_BUG)
    serve(hello, options.deadline, proxied=options.proxy)


def serve(hello: protocol.Hello, deadline_seconds: float, *, proxied: bool) -> NoReturn:
    """Say hello on the pipe that stdin and stdout are, wait for one turn, and carry it out."""
    if os.getpid() == 1:
        # As PID 1 a signal without a handler is one that the agent's processes cannot send.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        children.start_reaping()
    # Under bubblewrap there is a bound on address space, and the usual thread asks for 8 MiB of it, and for
    # 64 MiB more to allocate from.
    threading.stack_size(THREAD_STACK)
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
    os.environ.clear()
    os.environ["HOME"] = "/nonexistent"  # nothing that the agent writes under its own home is ours to read
    wire = Wire(*take_stdio())
    deadline = Deadline(deadline_seconds, lambda: leave(EXIT_LATE))
    wire.start()
    wire.send(hello)
    # Whoever sends a check waits for a command, and not for the model's SDK.
    payload = wire.wait_for_payload(FIRST_LOOK_SECONDS)
    if isinstance(payload, protocol.Check):
        check(payload, wire, deadline, proxied=proxied)
    context = ready(wire)
    turn = payload or wire.wait_for_payload(None)
    if not isinstance(turn, protocol.Turn):
        assert turn is not None
        check(turn, wire, deadline, proxied=proxied)
    from runner import work

    deadline.extend(turn.limits.seconds, lambda: wire.finish(_out_of_time(turn.limits.seconds)))
    wire.finish(carry_out(lambda: work.run(turn, wire, context, hello.mounts, proxied=proxied)))


def check(wanted: protocol.Check, wire: Wire, deadline: Deadline, *, proxied: bool) -> NoReturn:
    from runner import checking

    late = protocol.Checked(shell.TIMED_OUT, "")
    deadline.extend(wanted.seconds + CHECK_GRACE_SECONDS, lambda: wire.finish(late))
    wire.finish(carry_out(lambda: checking.run(wanted, wire, proxied=proxied)))


def ready(wire: Wire) -> ssl.SSLContext:
    """Import the model's SDK, which takes a second or two, and have used it once, if nobody waits yet."""
    # What an import makes stays: looking for garbage among it takes a fifth of the import's time.
    gc.disable()
    from runner import pipe_http, work

    context = work.warm_up() if wire.payload is None else pipe_http.tls_context()
    gc.freeze()
    gc.enable()
    return context


Last = TypeVar("Last", protocol.Done, protocol.Checked)


def carry_out(run: Callable[[], Last]) -> Last | protocol.Failed:
    try:
        return run()
    except TurnError as e:
        return protocol.Failed(e.kind, text.clip(text.clean(e.message), 2000))
    except protocol.PeerError as e:
        sys.stderr.write(f"runner: the host broke the rules of the pipe: {e}\n")
        leave(EXIT_PEER)
    except BaseException as e:  # noqa: BLE001 (a bug: it ends the turn, and in words)
        return _bug(e)


def _bug(error: BaseException) -> protocol.Failed:
    """Where it happened, and nothing that it says or that was in a variable: either may hold the key."""
    frames = traceback.extract_tb(error.__traceback__)
    sys.stderr.write(f"runner: {type(error).__name__} (most recent call last)\n{''.join(frames.format())}")
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"  # noqa: PTH119
    return protocol.Failed("internal", f"The runner has a bug: {type(error).__name__} at {where}.")


def _out_of_time(seconds: int) -> protocol.Failed:
    return protocol.Failed("limit", f"The turn took longer than its {seconds} seconds.")
