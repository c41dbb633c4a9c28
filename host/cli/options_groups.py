"""`nanoclaw groups …` and `nanoclaw mounts …`: what they take, and their help."""

from __future__ import annotations

from typing import Final

from host.cli.options_parser import Parser, commands_of

ADD: Final = """\
Register a chat as a group. From then on the assistant sees what is written there, and answers when it is called.
NAME becomes the name of its folder and is what commands call the group: letters, digits, - and _, at most 64; upper
and lower case make no difference, and a name that is used for something else, like `global`, is refused."""
ADD_EXAMPLES: Final = """\
examples:
  nanoclaw groups add family                        called by @Andy (the assistant's name) at the start of a message
  nanoclaw groups add notes --no-trigger            every message is answered
  nanoclaw groups add team --channel console --chat team --name "The team" --trigger Robin
  nanoclaw groups add club --channel whatsapp --chat "Chess club\""""
MOVE: Final = """\
Let a group be another chat: its folder, its memory and its conversation go along. So main, which begins at this
terminal, comes to be a chat on your phone."""
MOVE_EXAMPLES: Final = """\
examples:
  nanoclaw groups move main --channel whatsapp --chat self       your talk with yourself
  nanoclaw groups move main --channel console --chat main        back to this terminal"""
SHOW: Final = "Show one group: its chat, who can call the assistant there and how, its limits, and what it may reach."
SET: Final = """\
Change settings of a group. `key=` without a value goes back to the default. What is set here is overruled by
config.toml where that has a section for the group.

  name            what people call it                          name="The family"
  needs_trigger   whether only @WORD calls the assistant       needs_trigger=false
  trigger         the word, without the @                      trigger=Robin
  senders         ids of those who may call it, anyone if not  senders=mia,tom
  model           which model answers                          model=claude-sonnet-5-5
  memory          of its sandbox                               memory="512 MB"
  cpus            how many at most                             cpus=1.5
  processes       how many at most                             processes=128
  seconds         longest turn                                 seconds=300
  rounds          most requests to the model in a turn         rounds=20
  tokens_per_day  most tokens from midnight to midnight        tokens_per_day=2000000
  allow_hosts     what its tools may reach, nothing if not     allow_hosts=en.wikipedia.org,*.example.org
  timezone        for the times it is told, and its tasks      timezone=Europe/Berlin

Folders of this machine are given with `nanoclaw groups mount`."""
SET_EXAMPLES: Final = """\
examples:
  nanoclaw groups set family needs_trigger=false
  nanoclaw groups set family senders=mia,tom memory="512 MB"
  nanoclaw groups set family senders=                 anyone may call it again"""
REMOVE: Final = """\
Stop taking part in a chat: what runs for the group is ended, its tasks are cancelled, and its chat can be
registered anew. Its folder with the files and the memory stays where it is, and so does what was said: the same chat
finds both again if you add it again. With --trash the folder is moved into the data folder's `trash`, where you can
delete it, and what was said is deleted; that can also be done later. The main group cannot be removed."""
REMOVE_EXAMPLES: Final = """\
examples:
  nanoclaw groups remove family
  nanoclaw groups remove family --trash"""
MOUNT: Final = """\
Let a group see a folder of this machine, as /workspace/extra/NAME_INSIDE. It must lie beneath a folder that the
allowlist permits (`nanoclaw mounts` shows it; `nanoclaw mounts allow PATH` adds to it), and is looked at anew at
every start of a sandbox. Says what would be seen where, or why not."""
MOUNT_EXAMPLES: Final = """\
examples:
  nanoclaw mounts allow ~/photos
  nanoclaw groups mount family ~/photos/2026 --as photos
  nanoclaw groups mount main ~/projects/site --rw       the agent may also write; the allowlist must say so too"""
UNMOUNT: Final = "Take a folder away from a group again. The folder itself is not touched."

CHECK: Final = """\
Say whether a folder may be given to a group, as what, and why. Nothing is changed. Exit status 0 if it may, 1 if
not."""
CHECK_EXAMPLES: Final = """\
examples:
  nanoclaw mounts check ~/photos
  nanoclaw mounts check ~/projects/site --rw --group family --as site --json"""

NAME_HELP: Final = "the group; `nanoclaw groups` lists them"


def add_groups(groups: Parser, common: Parser) -> None:
    action = commands_of(groups, common, "action")
    action("list", "all groups (also without a command)", "List all groups.")
    add = action("add", "register a chat as a group", ADD, ADD_EXAMPLES)
    add.add_argument("name", metavar="NAME", help="what commands and its folder are to call it")
    add.add_argument("--channel", default="console", help="where the chat is (default: console, this terminal)")
    add.add_argument("--chat", metavar="CHAT", help="its id or name; `nanoclaw chats` lists them (console: NAME)")
    add.add_argument("--name", dest="display", metavar="DISPLAY", help="what people call it (default: NAME)")
    called = add.add_mutually_exclusive_group()
    called.add_argument("--trigger", metavar="WORD", help="who wants an answer writes @WORD first")
    called.add_argument("--no-trigger", action="store_true", help="every message is answered")
    _named(action("show", "all about one group", SHOW))
    change = _named(action("set", "change settings of a group", SET, SET_EXAMPLES))
    change.add_argument("settings", metavar="key=value", nargs="+", help="a setting; `key=` for the default")
    move = _named(action("move", "let a group be another chat", MOVE, MOVE_EXAMPLES))
    move.add_argument("--channel", required=True, help="where that chat is")
    move.add_argument("--chat", metavar="CHAT", required=True, help="its id or name, or self: your talk with yourself")
    remove = _named(action("remove", "stop taking part in a chat", REMOVE, REMOVE_EXAMPLES))
    remove.add_argument("--trash", action="store_true", help="also move its folder to the trash")
    mount = _named(action("mount", "let a group see a folder of this machine", MOUNT, MOUNT_EXAMPLES))
    mount.add_argument("path", metavar="PATH", help="the folder")
    mount.add_argument("--rw", action="store_true", help="let the agent also write to it")
    mount.add_argument("--as", dest="name_inside", metavar="NAME_INSIDE", help="default: the folder's own name")
    unmount = _named(action("unmount", "take a folder away from a group again", UNMOUNT))
    unmount.add_argument("name_inside", metavar="NAME_INSIDE", help="as `nanoclaw groups show` calls it")


def _named(parser: Parser) -> Parser:
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    return parser


def add_mounts(mounts: Parser, common: Parser) -> None:
    mounts.set_defaults(path=None, rw=False, group=None, name_inside=None)
    action = commands_of(mounts, common, "action")
    action("list", "the allowlist (also without a command)", "Show the allowlist, and whether it is in order.")
    check = action("check", "whether a folder may be given, and why", CHECK, CHECK_EXAMPLES)
    check.add_argument("path", metavar="PATH", help="the folder")
    check.add_argument("--rw", action="store_true", help="also to write")
    check.add_argument("--group", metavar="NAME", help="to this group (default: main)")
    check.add_argument("--as", dest="name_inside", metavar="NAME_INSIDE", help="as /workspace/extra/NAME_INSIDE")
    allow = action("allow", "put a folder on the allowlist", "Put a folder, and all in it, on the allowlist.")
    allow.add_argument("path", metavar="PATH", help="the folder")
    allow.add_argument("--rw", action="store_true", help="may also be given to write")
    deny = action("deny", "take a folder off the allowlist", "Take a folder off the allowlist.")
    deny.add_argument("path", metavar="PATH", help="the folder, as `nanoclaw mounts` shows it")
