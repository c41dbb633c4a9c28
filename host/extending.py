"""Extending the image with docker or podman: Debian packages, or steps of the person's own."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from host import images, parcels
from host.config import Home
from host.doctor import engine as doctor
from host.doctor.subject import Subject
from host.engines import builder
from host.engines.base import Engine
from host.engines.builder import Builder
from host.engines.choice import choose
from host.errors import EngineError, UserError
from host.model import Image
from host.parcels import AlteredError, Record, extension
from host.parcels.extension import Known, Made

PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}\Z")
"""What Debian allows in a name. It becomes a word of a shell's line."""
MOST_PACKAGES: Final = 200
MOST_STEPS: Final = 1 << 20
FROM: Final = re.compile(r"^([ \t]*FROM[ \t]+)nanoclaw(?::latest)?(?=\s|$)(.*)$", re.IGNORECASE | re.MULTILINE)
BUILDERS: Final = ("docker", "podman")


def wanted(packages: Sequence[str], dockerfile: str | None, *, again: Record | None, here: Path) -> Made:
    """What to extend it with; `UserError` for nothing, for both, and for names that are none."""
    if again is not None and not packages and dockerfile is None:
        packages, dockerfile = again.packages, again.dockerfile or None
    if bool(packages) == bool(dockerfile):
        raise UserError(
            "say either which packages, or which steps",
            "nanoclaw image build --with ffmpeg --with pandoc",
            "nanoclaw image build --from Dockerfile",
            status=2,
        )
    for name in packages:
        if PACKAGE.match(name) is None or len(packages) > MOST_PACKAGES:
            raise UserError(f"{name!r} is no name of a Debian package", "search: https://packages.debian.org", status=2)
    path = str((here / dockerfile).resolve()) if dockerfile else ""
    if not path.isprintable():
        raise UserError(f"{path!r} has characters in its name that cannot be shown", "rename it", status=2)
    return Made(tuple(dict.fromkeys(packages)), path)


def engine_for(name: str) -> Engine:
    """The one that was asked for, which may turn out to build nothing; else docker or podman, whichever works."""
    if name in BUILDERS:
        return choose(name)[0]
    reasons: list[str] = []
    for each in BUILDERS if name == "auto" else ():
        try:
            return choose(each)[0]
        except EngineError as e:
            reasons.append(str(e))
    raise UserError(
        f"to extend the image takes docker or podman, and a network{': ' if reasons else ''}{'; '.join(reasons)}",
        "do it on a machine that has them: nanoclaw image build …, then nanoclaw image save mine.tar.xz",
        "and here: nanoclaw image load mine.tar.xz --accept",
        status=69,
    )


def extend(home: Home, engine: Engine, made: Made, progress: Callable[[str], None]) -> Record:
    """The image with what is asked for in it, in the cache, seen to start. `UserError` and `EngineError`."""
    ours, maker = images.brought(home.cache), builder.builder(engine)
    steps = _steps(made)
    maker.reap()
    try:
        known = extension.known(ours, progress)
        with parcels.workshop(home.cache, progress) as work:
            with (work / "export.tar").open("w+b") as export:
                with _prepared(maker, engine, ours, known, made, steps, work, progress) as (dockerfile, folder):
                    _built(maker, dockerfile, folder, export, progress)
                record = _archived(ours, known, made, work, progress)
            image = parcels.settle(home.cache, work / "image.tar.xz", record)
    except AlteredError as e:
        raise parcels.damaged(ours, str(e)) from None
    except OSError as e:
        raise parcels.no_room(home.cache, e) from None
    images.ready(engine, image, progress, progress)
    if fault := doctor.fault(engine, image, Subject(home)):
        raise EngineError(f"the new image was made, but no sandbox starts from it: {fault}", images.BACK)
    return record


def _steps(made: Made) -> str:
    """The person's file, read now: an hour later it may be gone."""
    if not made.dockerfile:
        return ""
    try:
        with Path(made.dockerfile).open("rb") as f:
            text = f.read(MOST_STEPS).decode()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {made.dockerfile}: {e}") from None
    if FROM.search(text) is None:
        raise UserError(f"{made.dockerfile} does not extend our image", "let its last stage begin with: FROM nanoclaw")
    return text


@contextmanager
def _prepared(
    maker: Builder, engine: Engine, ours: Image, known: Known, made: Made, steps: str, work: Path,
    progress: Callable[[str], None],
) -> Iterator[tuple[Path, Path]]:  # fmt: skip
    """The Dockerfile, and the folder that its steps may copy from."""
    dockerfile = work / "steps" / "Dockerfile"
    dockerfile.parent.mkdir()
    if made.packages:
        dockerfile.write_text(packages_steps(known.codename, made.packages))
        yield dockerfile, dockerfile.parent
        return
    images.ready(engine, ours, progress, progress)
    with maker.tagged(ours) as tag:
        dockerfile.write_text(own_steps(steps, tag))
        yield dockerfile, Path(made.dockerfile).parent


def packages_steps(codename: str, packages: Sequence[str]) -> str:
    """Into a whole Debian of the same version: ours lacks apt, and much that installing takes. What that Debian then
    has more than ours is taken over."""
    if not codename:
        raise UserError("the image does not tell of which Debian it is", "use steps of your own: --from DOCKERFILE")
    # Each name was judged: nothing in it means anything to a shell.
    return (
        f"FROM docker.io/library/debian:{codename}-slim\n"
        "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -- "
        f"{' '.join(packages)}\n"
    )


def own_steps(steps: str, tag: str) -> str:
    """Our image runs as an ordinary user in a folder of its own, and has a name of this build only."""
    return FROM.sub(lambda found: f"{found[1]}{tag}{found[2]}\nUSER 0:0\nWORKDIR /", steps)


def _built(maker: Builder, dockerfile: Path, folder: Path, export: IO[bytes], progress: Callable[[str], None]) -> None:
    tag = builder.new_tag()
    dockerfile.write_text(builder.labelled(dockerfile.read_text(), tag))
    try:
        maker.build(dockerfile, folder, tag, progress)
        maker.export(tag, export, progress)
    finally:
        with contextlib.suppress(EngineError):
            maker.forget(tag)


def _archived(ours: Image, known: Known, made: Made, work: Path, progress: Callable[[str], None]) -> Record:
    progress("comparing it with our image …")
    try:
        with tarfile.open(work / "export.tar", "r:") as export, (work / "layer.tar").open("w+b") as layer:
            changes = extension.difference(export, known.facts, beside=bool(made.packages))
            if not changes:
                raise UserError("what was built does not differ from our image: nothing to extend it with")
            new = extension.write_layer(layer, export, changes)
            return extension.write(work / "image.tar.xz", ours, known, layer, new, made, progress)
    except (tarfile.TarError, KeyError) as e:
        raise EngineError(f"what the engine gave out cannot be read: {e}") from None
