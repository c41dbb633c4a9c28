"""The command line. Each subcommand imports what it needs when it runs: `--help` and `version` start at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module

from host.cli.options import parser
from host.cli.out import be_lenient, drop_output, report
from host.errors import EngineError, UserError


def main(argv: list[str]) -> int:
    """Run one command; the exit status."""
    if argv[:1] == ["rehearsal-server"]:  # the host's own child, not for people
        from host.rehearsal import server

        return server.main(argv[1:])
    be_lenient()
    args = arguments(argv)
    # `chat`, `ask` and `run` take the keys out themselves, and may be told to use them.
    keeps_keys = args.command in {"first", "chat", "ask", "run"}
    try:
        if not keeps_keys and any(name.startswith("ANTHROPIC_") for name in os.environ):
            from host.credentials.environment import take_from_environment

            take_from_environment(os.environ, use=False)
        return dispatch(args)
    except UserError as e:
        report(str(e), *e.hints)
        return e.status
    except EngineError as e:
        report(str(e), *e.hints)
        return 69
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing to say, and nobody to say it to.
        drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the person asked for. Options that can stand in several places are there whether given or not."""
    top = parser(argv)
    args = top.parse_args(argv)
    if args.command is None:
        args = top.parse_args([*argv, "chat"])
        args.command = "first"  # the chat, and before it, in a home where nothing was ever done, its set-up
    for name in ("home", "engine", "group"):
        args.__dict__.setdefault(name, None)
    for name in ("json", "quiet", "key_from_environment"):
        args.__dict__.setdefault(name, False)
    if args.command in {"groups", "tasks", "mounts"}:
        args.action = args.action or "list"
    elif args.command == "image":
        args.action = args.action or "info"
    elif args.command == "whatsapp":
        args.action = args.action or "status"
    return args


def dispatch(args: argparse.Namespace) -> int:
    """Every command is a function of its own name in a module of its own name beside this one."""
    command: Callable[[argparse.Namespace], int] = getattr(import_module(f"host.cli.{args.command}"), args.command)
    return command(args)
