"""What the command line takes, and its help. Data and prose: nothing of the host is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from host.carried import VERSION
from host.cli.options_parser import Commands, Help, Parser, commands_of, is_named

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

`nanoclaw COMMAND --help` explains a command, with examples.
exit status: 0 done, 1 it failed, 2 wrong use, 69 no engine or no image to run sandboxes with"""

CHAT: Final = """\
Talk with the assistant at this terminal. Ctrl-C stops what it is doing and not the program; Ctrl-D leaves. If a
host runs for this home (`nanoclaw run`), this talks to it; otherwise it does the host's work itself."""
CHAT_EXAMPLES: Final = """\
examples:
  nanoclaw chat                      with the main group, the one that administers
  nanoclaw chat family               with another group (`nanoclaw groups` lists them)
  nanoclaw chat --as mia family      as another member of it: to try who may call the assistant, and with which word"""
ASK: Final = """\
Send one message and print the reply on standard output; what the assistant is doing goes to standard error. Exit
status 0 with a reply, or if the message did not call the assistant; 1 with an error. The message is on disk before
it is worked on."""
ASK_EXAMPLES: Final = """\
examples:
  nanoclaw ask "what is on my list?"
  git log -5 | nanoclaw ask -
  nanoclaw ask --as mia --group family "@Andy when is dinner?\""""
GROUPS: Final = """\
A group is a chat that the assistant takes part in. Each has a folder of its own with its files and its memory, which
no other group can see. The group `main` is there from the beginning: it is yours, its assistant answers everything
that is written in it, and it alone may administer the others (you can also ask it to: "add a group for the family").
In the others the assistant answers a message that begins with its name, such as `@Andy`, unless you say otherwise."""
GROUPS_EXAMPLES: Final = """\
examples:
  nanoclaw groups                                   all groups
  nanoclaw groups add family                        a chat at this terminal: nanoclaw chat family
  nanoclaw groups set family trigger=Robin memory="512 MB"
  nanoclaw groups mount family ~/photos --as photos
  nanoclaw groups remove family

`nanoclaw groups COMMAND --help` explains each."""
TASKS: Final = """\
A task is something that the assistant does at set times without being asked: its result is written to the group's
chat. You can make one here, or ask the assistant to ("every morning at 8, look at the weather"). Tasks are run while
a host runs (`nanoclaw run`); one that was missed meanwhile is made up for once, when it is back."""
TASKS_EXAMPLES: Final = """\
examples:
  nanoclaw tasks                                    all tasks, and when each runs next
  nanoclaw tasks --group family
  nanoclaw tasks add --group family --cron "0 8 * * 1-5" "Say what is on the calendar today."
  nanoclaw tasks pause ID

`nanoclaw tasks COMMAND --help` explains each."""
MOUNTS: Final = """\
The allowlist: which folders of this machine groups may be given at all. It is a file, mount-allowlist.json beside
config.toml, that no agent can reach; without it no folder is given to anyone. What is on it is not yet visible to
anybody: `nanoclaw groups mount` gives it to a group. Secrets (.ssh, .env, …) stay closed wherever they lie."""
MOUNTS_EXAMPLES: Final = """\
examples:
  nanoclaw mounts                                   the allowlist
  nanoclaw mounts allow ~/photos                    may be given, to read
  nanoclaw mounts allow ~/projects --rw             may be given, also to write
  nanoclaw mounts check ~/projects/site --rw --group family
  nanoclaw mounts deny ~/photos"""
RUN: Final = """\
Run the host in the foreground until Ctrl-C or SIGTERM: it receives messages, runs turns and tasks, and sends
replies. One host runs for each home."""
STATUS: Final = "Show what the host that runs for this home is doing, or that none runs."
DRILL: Final = """\
Attack this installation: start real sandboxes with a made-up key, play an agent that was taken over, and show for
each attempt whether it was held. Every probe first shows that it finds the leak where the control is off. Needs no
key and no network. Exit status 1 if anything was not held."""
DOCTOR: Final = """\
Look at all that NanoClaw depends on (the container engine and what it really enforces, the kernel, files and their
modes, room on the disk, the clock, the model's endpoint, the allowlist, what was left behind) and say of each thing
whether it is well, and if not, what to do. Exit status 1 if something must be mended."""
DOCTOR_EXAMPLES: Final = """\
examples:
  nanoclaw doctor
  nanoclaw doctor --offline          ask nobody outside of this machine; say what is needed from there
  nanoclaw doctor --json             for programs"""


COMMANDS: Final = frozenset({
    "chat", "ask", "groups", "tasks", "mounts", "run", "status", "doctor", "drill", "version", "whatsapp", "chats",
    "setup", "image", "install", "uninstall", "update", "rollback", "source", "licenses",
})  # fmt: skip


def parser(argv: Sequence[str]) -> Parser:
    """For these arguments: what a command has beneath it is put together only where they name it, and where they begin
    with a command no other is, since each parser costs half a millisecond of every start."""
    common = _common()
    top = Parser(prog="nanoclaw", description=DESCRIPTION, epilog=EPILOG, parents=[common], formatter_class=Help)
    top.add_argument("--version", action="version", version=f"nanoclaw {VERSION}")
    command = commands_of(top, common, "command", only=argv[0] if argv and argv[0] in COMMANDS else None)
    _talking(command)
    groups = command("groups", "the chats that the assistant takes part in", GROUPS, GROUPS_EXAMPLES)
    tasks = command("tasks", "what the assistant does at set times", TASKS, TASKS_EXAMPLES)
    mounts = command("mounts", "which folders of this machine groups may be given", MOUNTS, MOUNTS_EXAMPLES)
    _looking(command)
    from host.cli import options_channels, options_program

    options_channels.add_channels(command, common, argv)
    options_program.add_program(command, common, argv)
    if is_named(groups, argv):
        from host.cli import options_groups

        options_groups.add_groups(groups, common)
    if is_named(mounts, argv):
        from host.cli import options_groups

        options_groups.add_mounts(mounts, common)
    if is_named(tasks, argv):
        from host.cli import options_tasks

        options_tasks.add_tasks(tasks, common)
    return top


def _common() -> Parser:
    common = Parser(add_help=False)
    add = common.add_argument_group("options of every command").add_argument
    hide = argparse.SUPPRESS  # so that an option given before the command is not reset by the command's default
    add("--home", metavar="DIR", default=hide, help="keep everything under DIR (a USB stick, say); also NANOCLAW_HOME")
    add(
        "--engine",
        metavar="NAME",
        default=hide,
        help="what runs the sandboxes: docker, podman, container (Apple's), bubblewrap, or auto, the first of them "
        "that works here; also NANOCLAW_ENGINE",
    )
    add("--json", action="store_true", default=hide, help="print JSON, for programs")
    add("--quiet", action="store_true", default=hide, help="print no progress")
    add(
        "--key-from-environment",
        action="store_true",
        default=hide,
        help="use ANTHROPIC_* of the environment this once, where .env has none; they are removed from it at once",
    )
    return common


def _talking(command: Commands) -> None:
    as_help = "write as this sender and not as the owner; an id of your choice, such as mia"
    chat = command("chat", "talk with the assistant at this terminal", CHAT, CHAT_EXAMPLES)
    chat.add_argument("--as", dest="sender", metavar="SENDER", help=as_help)
    chat.add_argument("group", metavar="GROUP", nargs="?", default="main", help="which group's chat (default: main)")
    ask = command("ask", "send one message, print the reply", ASK, ASK_EXAMPLES)
    ask.add_argument("--as", dest="sender", metavar="SENDER", help=as_help)
    ask.add_argument("--group", metavar="GROUP", default="main", help="which group's chat (default: main)")
    ask.add_argument("text", metavar="TEXT", help="the message, or - to read it from standard input")


def _looking(command: Commands) -> None:
    command("run", "run the host in the foreground", RUN)
    command("status", "what the host is doing", STATUS)
    doctor = command("doctor", "look for what is wrong, and say what to do", DOCTOR, DOCTOR_EXAMPLES)
    doctor.add_argument("--offline", action="store_true", help="ask nobody outside, and say what is needed from there")
    drill = command("drill", "attack this installation and show what held", DRILL)
    drill.add_argument("--only", metavar="WHAT", default=None, help="one promise (P1) or one probe, by name")
    command("version", "print the version", "Print the version.")
