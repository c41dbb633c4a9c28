"""`nanoclaw setup`: from nothing to a first reply out of a sandbox, step by step."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from host import config as configuration
from host import control
from host.channels import whatsapp
from host.cli import setup_channels, setup_model, setup_steps
from host.cli.ask import Asking
from host.cli.out import Progress, emit, note, report
from host.cli.questions import Back, at_terminal, line, say, yes
from host.cli.session import Connection, Event, home_of
from host.cli.setup_walk import Walk
from host.errors import EngineError, UserError
from host.loop import Loop

INTERRUPTED: Final = 130
HELLO: Final = "Say hello to me in one short sentence."
REHEARSED: Final = "repeat Hello from inside a sandbox."
"""What the rehearsal script understands."""
SHOWN: Final = 80
GIVEN: Final = ("url", "key_file", "model", "name", "timezone", "whatsapp", "main")
OPTIONS: Final = {**dict.fromkeys(GIVEN), "yes": False, "no_reply": False}
"""What the command takes, and what each is where `nanoclaw` without a word comes here."""


class FirstReply(Asking):
    """The same as `nanoclaw ask`; the reply is kept and not printed."""

    text = ""

    def _say(self, event: Event) -> None:
        self._session.request(control.Ack(event["out"]))

    def _tell(self, ended: Event, text: str) -> None:
        if ended["outcome"] == "done":
            self.text = text
        else:
            report(text or f"the turn ended without a reply ({ended['outcome']})")


def reply(walk: Walk) -> None:
    """A real turn, in a real sandbox: what shows that all of it works together."""
    who = walk.config.assistant
    if walk.args.no_reply:
        return
    if whatsapp.in_use(walk.home) and (where := setup_channels.main(walk.args)["channel"]) != "console":
        note(f"main is a chat of {where}: write to {who} there")
        return
    costs = setup_model.costs(walk)
    if walk.asks and not yes(f"Have {who} say hello, out of a sandbox? ({costs})", default=True):
        return
    text, status = first_reply(walk)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError("there is no reply yet")
    walk.reply = text
    if walk.asks:
        say(f"{who}: {text}", "1")


def first_reply(walk: Walk) -> tuple[str, int]:
    args = argparse.Namespace(**{**vars(walk.args), "command": "ask", "group": "main", "json": False})
    args.quiet = True if walk.asks else walk.args.quiet or walk.args.json  # its notes are told by the steps themselves
    with contextlib.closing(Loop()) as loop:
        connection = Connection(loop, args, listen=False)
        asking = FirstReply(loop, args, connection, "", HELLO if walk.endpoint() else REHEARSED)
        try:
            loop.run()
        finally:
            connection.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return asking.text, asking.status


class Step(NamedTuple):
    title: str
    do: Callable[[Walk], None]


STEPS: Final = (
    Step("what runs the sandboxes", setup_steps.engine),
    Step("where the model answers", setup_model.access),
    Step("the model", setup_model.model),
    Step("the assistant's name", setup_steps.name),
    Step("the time zone", setup_steps.zone),
    Step("a first reply", reply),
    # After the first reply, which goes to this terminal while main is its chat.
    Step("WhatsApp", setup_channels.whatsapp),
)


def setup(args: argparse.Namespace) -> int:
    if not args.yes and not at_terminal():
        raise UserError("there is no terminal to ask at", "say all of it beforehand, and --yes", status=2)
    return walk(args) or 0


def walk(args: argparse.Namespace) -> int | None:
    """None: to the end."""
    for name, value in OPTIONS.items():
        args.__dict__.setdefault(name, value)
    home = home_of(args)
    walked = Walk(args, home, not args.yes, Progress(args.quiet or args.json), configuration.load(home))
    try:
        if walked.asks:
            _talk(walked)
        else:
            for step in STEPS:
                step.do(walked)
    except (KeyboardInterrupt, EOFError):
        walked.progress.clear()
        say()
        note("what was set so far is kept; the rest: nanoclaw setup")
        return INTERRUPTED
    _tell(walked)
    return None


def _talk(walked: Walk) -> None:
    say("[Enter] keeps what is there, `<` goes one step back, Ctrl-C leaves.", "2")
    at = 0
    while at < len(STEPS):
        say(f"\n{at + 1} of {len(STEPS)}  {STEPS[at].title}", "1;36")
        at = max(0, at + _one(walked, STEPS[at]))


def _one(walked: Walk, step: Step) -> int:
    """One step, until it is done or left; how many to go on by."""
    try:
        while True:
            try:
                step.do(walked)
            except (UserError, EngineError) as e:
                walked.progress.clear()
                report(str(e), *e.hints)
            else:
                return 1
            if line("[Enter] once more, or `s`: go on without, or `<`: back") == "s":
                return 1
    except Back:
        return -1


def _tell(walked: Walk) -> None:
    found = record(walked)
    if not walked.args.json and _host_runs(walked) and set(walked.changed) - {"key", "url"}:
        note("the host that runs for this home goes by its old settings until it is started again")
    key = f", with the key in {found['env']}" if found["key"] else ""
    lines = [
        f"engine     {found['engine']}",
        f"model      {found['model']} at {found['url']}{key}" if found["url"] else "model      a rehearsal script",
        f"name       {found['name']}",
        f"time zone  {found['timezone']}",
        f"reply      {_first_line(found['reply'])}",
        *([f"whatsapp   +{found['whatsapp']}", f"main       {found['main']}"] if found["whatsapp"] else []),
    ]
    if walked.asks and not walked.args.json:
        say()
    emit(walked.args.json, found, "\n".join(lines))


def _first_line(text: str | None) -> str:
    if text is None:
        return "none was asked for"
    first = text.strip().partition("\n")[0]
    return first if len(first) <= SHOWN and first == text.strip() else first[: SHOWN - 1] + " …"


def _host_runs(walked: Walk) -> bool:
    connection = control.connect(walked.home.data / "host.sock")
    if connection is None:
        return False
    with contextlib.closing(connection):
        return True


def record(walked: Walk) -> dict[str, Any]:
    config, endpoint, account = walked.config, walked.endpoint(), whatsapp.account(walked.home)
    main = setup_channels.main(walked.args) if account else None
    return {
        "changed": walked.changed,
        "engine": config.engine,
        "url": endpoint.base_url if endpoint else None,
        "key": bool(walked.credentials().secrets),
        "model": config.model if endpoint else None,
        "name": config.assistant,
        "timezone": config.timezone,
        "reply": walked.reply,
        "whatsapp": account.partition("@")[0].partition(":")[0] if account else None,
        "main": f"{main['channel']}:{main['chat']}" if main else None,
        "config": str(walked.home.config / "config.toml"),
        "env": str(walked.home.config / ".env"),
    }
