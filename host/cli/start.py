"""Starting the host: home, settings, key handling, engine, image, and then the wiring."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace

from host import config as configuration
from host import credentials, images, source
from host.app import App, Parts
from host.channels import whatsapp
from host.channels.program import Command
from host.cli.out import note
from host.config import Config, Home
from host.engines.base import Engine
from host.engines.choice import choose
from host.errors import UserError
from host.log import Log
from host.loop import Loop
from host.model import Enforcement, Image


def start_app(
    loop: Loop, args: argparse.Namespace, home: Home, progress: Callable[[str], None], *, listen: bool
) -> App:
    """A host that is open for business. Says on standard error what a person must know before trusting it."""
    parts = gather(args, home, progress)
    log = Log(home.data / "log" / "nanoclaw.log", to_stderr=args.command == "run", quiet=args.quiet)
    app = App(loop, parts, log)
    app.open(listen=listen, tasks=args.command != "ask")
    announce(args, parts, app)
    return app


def gather(args: argparse.Namespace, home: Home, progress: Callable[[str], None]) -> Parts:
    config = configuration.load(home)
    from_environment = credentials.take_from_environment(
        os.environ, use=args.key_from_environment or config.key_from_environment
    )
    engine, enforcement, image = ready_engine(args, home, config, progress)
    if args.command == "ask":  # gone after one turn: nothing would ever use a warm sandbox
        config = replace(config, warm_sandboxes=0)
    return Parts(
        home=home,
        config=config,
        engine=engine,
        enforcement=enforcement,
        image=image,
        project=source.snapshot(home.cache),
        environment_secrets=from_environment,
        channels=channels_of(home, config, progress),
    )


def channels_of(home: Home, config: Config, progress: Callable[[str], None]) -> dict[str, Command]:
    """The channels that are programs: those that config.toml names, and WhatsApp where it is in use. One that cannot
    be started is there all the same, with the reason: what it brought is answered elsewhere, and kept."""
    found = {name: Command(argv, home.data / "channels" / name) for name, argv in config.channels.commands}
    if whatsapp.in_use(home):
        try:
            found[whatsapp.NAME] = whatsapp.command(home, config.channels.whatsapp_proxy, progress)
        except UserError as e:
            problem = "; ".join([str(e), *e.hints])
            found[whatsapp.NAME] = Command((), whatsapp.folder(home), problem=problem)
    return found


def ready_engine(
    args: argparse.Namespace, home: Home, config: Config, progress: Callable[[str], None]
) -> tuple[Engine, Enforcement, Image]:
    """An engine that works here, what it enforces, and the image, which it has."""
    progress("looking for a container engine …")
    engine, enforcement = choose(configuration.engine_name(args.engine, os.environ, config))
    image = images.used(home)
    images.ready(engine, image, progress, note)
    images.tidy(home, image)
    return engine, enforcement, image


def announce(args: argparse.Namespace, parts: Parts, app: App) -> None:
    if args.quiet or args.json:
        return
    if app.rehearsing:
        note("no key is configured: a rehearsal script answers, not an AI")
        note(f"to use a model: nanoclaw setup, or ANTHROPIC_API_KEY=… in {parts.home.config / '.env'} (mode 0600)")
    if args.command == "run":
        note(f"sandboxes by {parts.enforcement.engine} {parts.enforcement.version}")
        for control, why in parts.enforcement.missing.items():
            note(f"not enforced here: {control}: {why}")
