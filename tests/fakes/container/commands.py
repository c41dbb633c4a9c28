"""The commands of the stand-in for Apple's `container`, and how each of them ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grammar
import machine
import services
from grammar import Said, fail

FORMATS = {"json", "table", "yaml", "toml"}


def main(arguments: list[str]) -> None:
    name, said = grammar.parse(arguments)
    HANDLERS[name](said)


def run(said: Said) -> None:
    image = _image_to_run(said)
    folder = services.create(said, image)
    try:
        machine.leave(machine.start(said, folder, services.root_file_system(image), said.words[1:]))
    except SystemExit:
        services.remove(folder)
        raise


def create(said: Said) -> None:
    print(services.create(said, _image_to_run(said)).name)


def _image_to_run(said: Said) -> services.Image:
    if not said.words:
        fail("Missing expected argument '<image>'", grammar.USAGE)
    services.require()
    found = services.image(said.words[0])
    if found is None:
        # The real one now asks the registry whose name the reference begins with.
        fail(f"failed to resolve {said.words[0].partition('/')[0]}: it would have been fetched")
    return found


def kill(said: Said) -> None:
    name = said.last("--signal", "KILL").removeprefix("SIG")
    _each(said, lambda folder: _kill(folder, getattr(signal, f"SIG{name}")))


def _kill(folder: Path, number: signal.Signals) -> str:
    pid = services.process_of(folder)
    if pid is None:
        return f"invalidState: container {folder.name} is not running"
    os.kill(pid, number)
    return ""


def delete(said: Said) -> None:
    _each(said, lambda folder: _delete(folder, said.has("--force")))


def _delete(folder: Path, force: bool) -> str:
    if services.process_of(folder) is not None:
        if not force:
            return f"invalidState: container {folder.name} is running and can not be deleted"
        _kill(folder, signal.SIGKILL)
        for _ in range(500):
            if services.process_of(folder) is None:
                break
            time.sleep(0.01)
    services.remove(folder)
    return ""


def _each(said: Said, act: Callable[[Path], str]) -> None:
    if not said.words:
        fail("no containers specified and --all not supplied")
    services.require()
    failed = []
    for name in said.words:
        folder = services.bundle(name)
        wrong = act(folder) if folder.exists() else f"notFound: container {name} not found"
        if wrong:
            failed.append(wrong)
        else:
            print(name)
    if failed:
        fail("\n".join(failed))


def list_(said: Said) -> None:
    _format(said)
    services.require()
    found = [services.listed(folder) for folder in services.containers()]
    found = [each for each in found if said.has("--all") or each["status"]["state"] == "running"]
    if said.has("--quiet"):
        print("\n".join(each["id"] for each in found))
    elif _format(said) == "json":
        print(json.dumps(found, sort_keys=True))
    else:
        print("\n".join(["ID  IMAGE  STATE", *[f"{each['id']}  -  {each['status']['state']}" for each in found]]))


def _format(said: Said) -> str:
    chosen = said.last("--format", "table")
    if chosen not in FORMATS:
        fail(f"The value '{chosen}' is invalid for '--format <format>'", grammar.USAGE)
    return chosen


def image_load(said: Said) -> None:
    services.require()
    if not said.has("--input"):
        fail("this stand-in does not read an archive from its standard input", grammar.NOT_HERE)
    for image in services.load_image(Path(said.last("--input"))):
        print(image.reference)


def image_inspect(said: Said) -> None:
    services.require()
    found = {name: services.image(name) for name in said.words}
    if missing := [name for name, image in found.items() if image is None]:
        fail(f"notFound: image not found: {', '.join(missing)}")
    resources = [
        {
            "id": image.index.partition(":")[2],
            "configuration": {"name": image.reference, "descriptor": {"digest": image.index}},
            "variants": [{"digest": image.manifest, "config": image.config, "platform": {"os": "linux"}}],
        }
        for image in found.values()
        if image is not None
    ]
    print(json.dumps(resources, indent=2, sort_keys=True))


def image_tag(said: Said) -> None:
    if len(said.words) != 2:
        fail("Missing expected argument '<target>'", grammar.USAGE)
    found = services.image(said.words[0])
    if found is None:
        fail(f"notFound: image with reference {said.words[0]}")
    found.reference = said.words[1]
    services.keep_image(found)
    print(said.words[1])


def system_start(said: Said) -> None:
    services.place().mkdir(parents=True, exist_ok=True)
    (services.place() / "running").touch()


def system_stop(said: Said) -> None:
    (services.place() / "running").unlink(missing_ok=True)


def system_status(said: Said) -> None:
    running = (services.place() / "running").exists()
    status = {"status": "running" if running else "unregistered", "appRoot": "", "installRoot": ""}
    version = f"container-apiserver version {services.VERSION} (build: release, commit: 0000000)"
    status |= {"apiServerVersion": version if running else "", "apiServerAppName": "container-apiserver"}
    if _format(said) == "json":
        print(json.dumps(status, sort_keys=True))
    else:
        print(f"status  {status['status']}")
    sys.exit(0 if running else 1)


HANDLERS: dict[tuple[str, ...], Callable[[Said], None]] = {
    ("run",): run,
    ("create",): create,
    ("kill",): kill,
    ("delete",): delete,
    ("list",): list_,
    ("image", "load"): image_load,
    ("image", "inspect"): image_inspect,
    ("image", "tag"): image_tag,
    ("system", "start"): system_start,
    ("system", "stop"): system_stop,
    ("system", "status"): system_status,
}
