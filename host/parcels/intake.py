"""Taking in an image from a file that may come from anywhere: one pass, in which it is copied and judged.

What is taken in is bounded in every way, holds no file that could make its user another one, and carries the runner of
this very program in the layers where ours has it: nothing that an engine or a sandbox would make of it is left to the
file to say. It gets its name only when all of that was seen.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final

from host.errors import UserError
from host.model import Image
from host.parcels import canonical, shelf, tree
from host.parcels.archive import Contents, Layer, Walk
from host.parcels.rootfs import no_room
from host.parcels.shelf import Record
from host.parcels.streams import AlteredError, Copying, Percent, Progress, Xz
from host.parcels.tar import FILE, FOLDER, Member, Reader

GIB: Final = 1 << 30
MOST_COMPRESSED: Final = 4 * GIB
MOST_UNPACKED: Final = 16 * GIB
RUNNER: Final = "opt/nanoclaw"
"""Where the runner and what it imports lie. No other layer than ours may say anything there."""

KEYS: Final = frozenset({"architecture", "os", "created", "config", "history", "rootfs"})
BUILD_LABEL, EXTENDS_LABEL = "nanoclaw.build", "nanoclaw.extends"
PACKAGES_LABEL, DOCKERFILE_LABEL = "nanoclaw.packages", "nanoclaw.dockerfile"


def take_in(file: Path, cache: Path, ours: Contents, ours_as: Image, progress: Progress) -> Image:
    """The image in `file`, in the cache; `UserError` if it is none that this program could use. `ours` is what the
    image that NanoClaw brings says of itself."""
    with _opened(file) as source, shelf.workshop(cache, progress) as work:
        try:
            with (work / "image.tar.xz").open("xb") as out:
                untrusted = Copying(source, out)
                record = _judged(untrusted, os.fstat(source.fileno()).st_size, ours, ours_as, progress)
            return shelf.settle(cache, work / "image.tar.xz", record)
        except AlteredError as e:
            raise UserError(f"{file} is not taken in: {e}", "make it anew: nanoclaw image save FILE") from None
        except OSError as e:
            raise no_room(work.parent, e) from None


def _opened(file: Path) -> IO[bytes]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise UserError(f"cannot read {file}: {e.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_COMPRESSED:
        os.close(fd)
        raise UserError(f"{file} is no file of at most 4 GB")
    return os.fdopen(fd, "rb")


def _judged(untrusted: Any, size: int, ours: Contents, ours_as: Image, progress: Progress) -> Record:
    with closing(Xz(untrusted, size)) as stream:
        percent = Percent(progress, "checking the image")
        left = MOST_UNPACKED

        def read(wanted: int) -> bytes:
            nonlocal left
            percent(stream.portion())
            data = stream.read(wanted)
            left -= len(data)
            if left < 0:
                raise AlteredError("there is more than 16 GB in it")
            return data

        walk, layers, found = Walk(read, None), list[canonical.Part](), tree.Tree()
        for untrusted_layer in walk:
            if not layers:
                judge_config(walk.contents, ours)
            layers.append(canonical.Part(untrusted_layer.digest, untrusted_layer.size))
            judge_layer(untrusted_layer, found, of_ours=untrusted_layer.digest in ours.digests)
        judge_table(walk, layers)
    return record_of(walk.contents, layers, ours_as)


def judge_config(untrusted: Contents, ours: Contents) -> None:
    """An engine obeys an image's config: an entry point, a variable or a volume in it would come into the sandbox."""
    config = untrusted.config
    labels, settings = split_labels(config.get("config"))
    if untrusted.id != ours.id and untrusted.digests[-len(runner_layers(ours)) :] != runner_layers(ours):
        of = labels.get(BUILD_LABEL, "")
        raise AlteredError(f"its runner is of another version than this program{f' ({of[:12]})' if of else ''}")
    if not config.keys() <= KEYS or settings != split_labels(ours.config.get("config"))[1]:
        raise AlteredError("its settings are not those of the image that it extends")
    if any(config.get(key) != ours.config.get(key) for key in ("architecture", "os")):
        raise AlteredError(f"it is for {str(config.get('architecture'))[:40]!r} machines, which this is not")


def split_labels(untrusted_settings: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The labels, which mean nothing to an engine, and the rest."""
    if not isinstance(untrusted_settings, dict):
        return {}, {}
    labels = untrusted_settings.get("Labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise AlteredError("its labels are none")
    return labels, {key: value for key, value in untrusted_settings.items() if key != "Labels"}


def runner_layers(ours: Contents) -> tuple[str, ...]:
    """The digests of the layers above the first, which is the plain Debian: the runner and what it imports."""
    return ours.digests[1:] or ours.digests


def judge_layer(untrusted: Layer, found: tree.Tree, *, of_ours: bool) -> None:
    found.begin_layer()
    for member in Reader(untrusted.read):
        action, name = found.admit(member)
        if not of_ours:
            judge_member(member, action, name)


def judge_member(untrusted: Member, action: str, name: str) -> None:
    if name == RUNNER or name.startswith(f"{RUNNER}/") or (action == tree.REMOVE and RUNNER.startswith(f"{name}/")):
        raise AlteredError(f"it changes {name[:200]!r}, where the runner is")
    if untrusted.owner != (0, 0) or untrusted.mode & 0o6000:
        raise AlteredError(f"{name[:200]!r} does not belong to root, or takes on its owner's rights")
    open_to_all = untrusted.mode & 0o022 and untrusted.kind in (FILE, FOLDER)
    if open_to_all and not (untrusted.kind == FOLDER and untrusted.mode & 0o1000):
        raise AlteredError(f"{name[:200]!r} can be written by others than root")


def judge_table(walk: Walk, layers: Sequence[canonical.Part]) -> None:
    for tag in (canonical.CARRIED, canonical.EXTENDED):
        if walk.small == canonical.small_files(walk.contents.config_bytes, layers, tag):
            return
    raise AlteredError("its table of contents is not one that NanoClaw writes")


def record_of(contents: Contents, layers: Sequence[canonical.Part], ours_as: Image) -> Record:
    labels, _ = split_labels(contents.config.get("config"))
    record = Record(
        id=contents.id,
        build=ours_as.build,  # its runner layer is ours, byte for byte
        manifest=canonical.manifest_id(contents.config_bytes, layers),
        extends=labels.get(EXTENDS_LABEL, ""),
        packages=tuple(labels.get(PACKAGES_LABEL, "").split()),
        dockerfile=labels.get(DOCKERFILE_LABEL, ""),
    )
    try:
        return shelf.parse_record(shelf.record_bytes(record))  # labels are the file's: nothing unprintable
    except (ValueError, json.JSONDecodeError) as e:
        raise AlteredError(f"its labels are none ({e})") from None
