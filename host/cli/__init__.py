"""The command line. Each subcommand imports what it needs when it runs: `--help` and `version` start at once."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from host.cli.out import report
from host.errors import EngineError, UserError

VERSION: Final = "0.1.0"

DESCRIPTION: Final = """\
A personal AI assistant that you and your family can message. Each time it works, it works inside a sealed
container of its own that sees its group's folder and nothing else of this machine, has no network of its own,
and never holds the key that pays for the answer where its tools could read it.

Start with `nanoclaw chat`: without a key it answers as a rehearsal script, so that you can look around first.
`nanoclaw drill` then attacks your own installation and shows what held."""

EPILOG: Final = """\
files:
  config/.env            ANTHROPIC_API_KEY=… (or ANTHROPIC_AUTH_TOKEN; ANTHROPIC_BASE_URL for a local server), mode 0600
  config/config.toml     settings; every key is optional
  data/                  messages, groups' folders and memory
under --home DIR, or in the usual folders (~/.config/nanoclaw, ~/.local/share/nanoclaw, ~/.cache/nanoclaw)

exit status: 0 done, 1 it failed, 2 wrong use, 69 no engine or no image to run sandboxes with"""


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("options of every command")
    add = group.add_argument
    hide = argparse.SUPPRESS  # so that an option given before the command is not reset by the command's default
    add("--home", metavar="DIR", default=hide, help="keep everything under DIR (a USB stick, say); also NANOCLAW_HOME")
    add("--engine", metavar="NAME", default=hide, help="docker, bubblewrap or auto; also NANOCLAW_ENGINE")
    add("--json", action="store_true", default=hide, help="print JSON, for programs")
    add("--quiet", action="store_true", default=hide, help="print no progress")
    add(
        "--key-from-environment",
        action="store_true",
        default=hide,
        help="use ANTHROPIC_* of the environment this once, where .env has none; they are removed from it at once",
    )
    top = argparse.ArgumentParser(
        prog="nanoclaw",
        description=DESCRIPTION,
        epilog=EPILOG,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=description, parents=[common])

    chat = command("chat", "talk with the assistant at this terminal", CHAT)
    chat.add_argument("group", metavar="GROUP", nargs="?", default="main", help="which group's chat (default: main)")
    ask = command("ask", "send one message, print the reply", ASK)
    ask.add_argument("--group", metavar="GROUP", default="main", help="which group's chat (default: main)")
    ask.add_argument("text", metavar="TEXT", help="the message, or - to read it from standard input")
    command("run", "run the host in the foreground", RUN)
    command("status", "what the host is doing", STATUS)
    drill = command("drill", "attack this installation and show what held", DRILL)
    drill.add_argument("--only", metavar="WHAT", default=None, help="one promise (P1) or one probe, by name")
    command("version", "print the version", "Print the version.")
    return top


CHAT: Final = """Talk with the assistant at this terminal. Ctrl-C stops what it is doing and not the program; Ctrl-D
leaves. If a host runs for this home (`nanoclaw run`), this talks to it; otherwise it does the host's work itself."""
ASK: Final = """Send one message and print the reply on standard output; what the assistant is doing goes to standard
error. Exit status 0 with a reply, 1 with an error. The message is on disk before it is worked on."""
RUN: Final = """Run the host in the foreground until Ctrl-C or SIGTERM: it receives messages, runs turns and sends
replies. One host runs for each home."""
STATUS: Final = "Show what the host that runs for this home is doing, or that none runs."
DRILL: Final = """Attack this installation: start real sandboxes with a made-up key, play an agent that was taken over,
and show for each attempt whether it was held. Every probe first shows that it finds the leak where the control
is off. Needs no key and no network. Exit status 1 if anything was not held."""


def main(argv: list[str]) -> int:
    """Run one command; the exit status."""
    if argv[:1] == ["rehearsal-server"]:  # the host's own child, not for people
        from host.rehearsal import server

        return server.main(argv[1:])
    top = parser()
    args = top.parse_args(argv)
    if args.command is None:
        args = top.parse_args([*argv, "chat"])
    for name in ("home", "engine"):
        args.__dict__.setdefault(name, None)
    for name in ("json", "quiet", "key_from_environment"):
        args.__dict__.setdefault(name, False)
    if args.command not in {"chat", "ask", "run"}:  # those take the keys out themselves, and may be told to use them
        from host.credentials.environment import take_from_environment

        take_from_environment(os.environ, use=False)
    try:
        return dispatch(args)
    except UserError as e:
        report(str(e), *e.hints)
        return e.status
    except EngineError as e:
        report(str(e), *e.hints)
        return 69
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def dispatch(args: argparse.Namespace) -> int:
    match args.command:
        case "chat":
            from host.cli.chat import chat

            return chat(args)
        case "ask":
            from host.cli.ask import ask

            return ask(args)
        case "run":
            from host.cli.run import run

            return run(args)
        case "status":
            from host.cli.status import status

            return status(args)
        case "drill":
            from host.cli.drill import drill

            return drill(args)
        case _:
            from host.cli.out import emit

            return emit(args.json, {"version": VERSION}, f"nanoclaw {VERSION}")
