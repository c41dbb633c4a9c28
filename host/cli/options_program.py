"""The commands about the program itself (setup, install, update, image …): what they take, and their help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from host.cli.options_parser import Commands, Parser, commands_of, is_named

SETUP: Final = """\
Walk through the first set-up: the engine, the key or a model server of your own, the assistant's name, a first reply
from inside a sandbox, WhatsApp. Every step can be skipped, and all of it repeated later; what is not given or answered
stays as it is. A key is read from a terminal that does not show it, or from a file; never from an argument."""
SETUP_EXAMPLES: Final = """\
examples:
  nanoclaw setup
  nanoclaw setup --key-file key.txt --name Robin --yes
  pass show anthropic | nanoclaw setup --key-file - --yes --no-reply
  nanoclaw setup --engine bubblewrap --url http://127.0.0.1:11434 --model qwen3 --yes
  nanoclaw setup --whatsapp +4915112345678 --main self --no-reply --yes"""
IMAGE: Final = """\
The sandbox image: the small Linux in which the assistant works. One is carried in the program; it can be extended on a
machine with a network, and moved to one without. An image that was not accepted here is never used."""
IMAGE_EXAMPLES: Final = """\
examples:
  nanoclaw image                                what is used, and what else is there
  nanoclaw image build --with ffmpeg --with pandoc
  nanoclaw image save mine.tar.xz               on the machine with a network
  nanoclaw image load mine.tar.xz --accept      on the one without"""
INSTALL: Final = """\
Copy this program to where your shell finds it (~/.local/bin, or /usr/local/bin as root), with completions for bash, zsh
and fish and a man page. Your settings and data are not touched."""
UNINSTALL: Final = """\
Remove what `nanoclaw install` put in place, what the program unpacked, and the containers and images of this
installation; says first what that is. Your settings and data stay, unless --purge takes them too."""
UPDATE: Final = """\
Replace this program by a newer one from a file. Its signature must be of a key that this program knows. The old program
is kept for `nanoclaw rollback`, and the database is backed up before the new one changes it."""
ROLLBACK: Final = """\
Go back to the program that the last `nanoclaw update` replaced. If it cannot read the database that the newer one
changed, a copy from before takes its place, and what came since is not in it: that is said first, and asked."""
SOURCE: Final = "Write NanoClaw's own source, as it runs, into a new folder DIR."
LICENSES: Final = """\
Every component that this program carries: its version, its licence, and where its source is."""


def add_program(command: Commands, common: Parser, argv: Sequence[str]) -> None:
    setup = command("setup", "the first set-up, step by step", SETUP, SETUP_EXAMPLES)
    setup.add_argument("--key-file", metavar="FILE", help="take the key from FILE (- for standard input)")
    setup.add_argument("--url", metavar="URL", help="a model server of your own that speaks the Anthropic Messages API")
    setup.add_argument("--model", metavar="NAME", help="the model's name there")
    setup.add_argument("--name", metavar="NAME", help="the assistant's name")
    setup.add_argument("--timezone", metavar="ZONE", help="such as Europe/Berlin")
    setup.add_argument("--whatsapp", metavar="HOW", help="link an account: qr, its phone's number (+49…), or skip")
    setup.add_argument("--main", metavar="CHAT", help="with WhatsApp, the main chat: self, a name or id, or console")
    setup.add_argument("--yes", action="store_true", help="ask nothing; the first reply is one real request")
    setup.add_argument("--no-reply", action="store_true", help="without the first reply")
    image = command("image", "the sandbox image: look, extend, move", IMAGE, IMAGE_EXAMPLES)
    if is_named(image, argv):
        _image(image, common)
    install = command("install", "put this program where your shell finds it", INSTALL)
    install.add_argument("--to", metavar="DIR", help="another folder than the usual one")
    uninstall = command("uninstall", "remove it again", UNINSTALL)
    uninstall.add_argument("--purge", action="store_true", help="also settings, messages, groups' folders: everything")
    uninstall.add_argument("--yes", action="store_true", help="do not ask")
    update = command("update", "replace this program by a newer one", UPDATE)
    update.add_argument("--from", dest="file", metavar="FILE", required=True, help="the new one; FILE.sig beside it")
    update.add_argument("--allow-older", action="store_true", help="also if it is an older version")
    rollback = command("rollback", "go back to the program before the last update", ROLLBACK)
    rollback.add_argument("--yes", action="store_true", help="do not ask, also where newer messages are lost by it")
    source = command("source", "write out NanoClaw's source", SOURCE)
    source.add_argument("dir", metavar="DIR")
    licenses = command("licenses", "what is carried, and under which licences", LICENSES)
    licenses.add_argument("--text", action="store_true", help="the licences themselves")


def _image(image: Parser, common: Parser) -> None:
    action = commands_of(image, common, "action")
    action("info", "what is used, and what else is there", "Show the image that is used, and others in the cache.")
    load = action("load", "take in an image from a file", "Take in an image that `nanoclaw image save` wrote.")
    load.add_argument("file", metavar="FILE")
    load.add_argument("--accept", action="store_true", help="and use it from now on")
    save = action("save", "write the image to a file", "Write the image that is used to FILE.")
    save.add_argument("file", metavar="FILE")
    build = action("build", "extend the image", "Extend the carried image, with docker or podman and a network.")
    build.add_argument(
        "--with", dest="packages", metavar="PACKAGE", action="append", default=[], help="a Debian package"
    )
    build.add_argument("--from", dest="dockerfile", metavar="DOCKERFILE", help="instead: steps of your own")
    build.add_argument("--again", action="store_true", help="as the last time: for a new version of NanoClaw")
    accept = action("accept", "use an image", "Use this image from now on; `carried` is the one in the program.")
    accept.add_argument("id", metavar="ID")
