"""Build the sandbox image into the cache, unless the one that belongs to these sources is there already.

    python3 build/image/build.py [--cache DIR] [--refresh]

Three layers: a small Debian, the runner's packages, the runner. A layer whose own inputs are unchanged is
taken from the image built before, so a change of the runner costs seconds. Needs mmdebstrap, pip, and as an
ordinary user uidmap. Two builds from the same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import archive
import base
import layers
import wheels

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = ROOT / "build" / "image"
LOCK: Final = ROOT / "requirements" / "image.txt"
RUNNER: Final = ROOT / "runner"

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
KEEP: Final = 3
"""Images in the cache: the current one, and those that a running host or another checkout may still use."""


def say(text: str) -> None:
    print(f"nanoclaw: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument("--refresh", action="store_true", help="make the Debian layer anew, with today's updates")
    parser.add_argument(
        "--machine", default=platform.machine(), help="another, whose programs run here emulated (default: %(default)s)"
    )
    options = parser.parse_args()
    # An ordinary user's PATH leaves out where Debian keeps chroot.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    try:
        with lock(options.cache / "image"):
            ensure(options.cache / "image", machine=options.machine, refresh=options.refresh)
    except FileNotFoundError as e:
        if e.filename not in ("mmdebstrap", "unshare", "chroot"):
            raise
        return _failed(f"{e.filename} is not installed", "apt-get install mmdebstrap uidmap")
    except (RuntimeError, ValueError, OSError) as e:
        return _failed(str(e), "it needs a network that reaches Debian and PyPI, and 600 MB of disk while it builds")
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(error: str, hint: str) -> int:
    print(f"nanoclaw: error: cannot build the sandbox image: {error}", file=sys.stderr)
    print(f"nanoclaw: hint: {hint}", file=sys.stderr)
    return 1


def default_cache() -> Path:
    if home := os.environ.get("NANOCLAW_HOME"):
        return Path(home) / "cache"
    return users_cache()


def users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanoclaw"


# --- what an image is made from ---------------------------------------------------------------------


def manifest_digest(root: Path, files: list[Path], *more: str) -> str:
    """SHA-256 over what `sha256sum FILE…` prints for the files in order of their names, and `more` lines.

    `scripts/run` computes the same with the command, to see whether anything changed without a Python.
    """
    names = sorted(files, key=os.fsencode)
    lines = [f"{layers.digest(path)}  {path.relative_to(root)}\n" for path in names]
    return layers.sha256("".join([*lines, *(f"{line}\n" for line in more)]).encode())


def sources(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def runner_digest(runner: Path = RUNNER) -> str:
    """What the runner says of itself in `hello` (BUILD), so that the host can refuse one of another build."""
    return manifest_digest(runner, [p for p in sources(runner) if p.suffix == ".py"])


def inputs_digest(machine: str) -> str:
    return manifest_digest(ROOT, [*sources(RECIPE), LOCK, *sources(RUNNER)], machine)


# --- the cache --------------------------------------------------------------------------------------


@contextmanager
def lock(images: Path) -> Iterator[None]:
    """One build at a time; the second waits, and then finds the work done."""
    images.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (images / "build.lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the sandbox image")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def ensure(images: Path, *, machine: str, refresh: bool) -> None:
    if machine not in ARCHITECTURES:
        raise RuntimeError(f"there is no sandbox image for {machine} machines (only {', '.join(ARCHITECTURES)})")
    inputs = inputs_digest(machine)
    found = None if refresh else next((p for p in built(images) if read(p / "inputs") == inputs), None)
    if found is None:
        with workspace(images) as work:
            found = build(Build(images, work, machine, inputs, refresh))
    replace(images / "current", f"sha256:{found.name}\n")
    prune(images, keep=found)


def built(images: Path) -> list[Path]:
    """The images that are there, newest first."""
    found = [p for p in images.glob("?" * 64) if (p / "image.tar").is_file()]
    return sorted(found, key=lambda p: (p / "image.tar").stat().st_mtime, reverse=True)


def prune(images: Path, keep: Path) -> None:
    for old in [p for p in built(images) if p != keep][KEEP - 1 :]:
        shutil.rmtree(old)


@contextmanager
def workspace(images: Path) -> Iterator[Path]:
    """A folder on the cache's own disk, so that the end is one rename. The lock is held: older ones are debris."""
    for debris in images.glob("work-*"):
        shutil.rmtree(debris)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=images))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


# --- the build --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    images: Path
    work: Path
    machine: str
    inputs: str
    refresh: bool


def build(b: Build) -> Path:
    started = time.monotonic()
    recipe = [RECIPE / name for name in ("base.py", "customize", "layers.py")]
    made: dict[str, str] = {"base": manifest_digest(ROOT, recipe, b.machine)}
    stack = {"base": obtain(b, "base", made["base"], make_base, reuse=not b.refresh)}
    made["lib"] = manifest_digest(ROOT, [RECIPE / "wheels.py", RECIPE / "layers.py", LOCK], stack["base"].digest)
    stack["lib"] = obtain(b, "lib", made["lib"], lambda b, out: make_lib(b, stack["base"], out))
    build_id = make_runner(b, stack["base"], b.work / "runner.tar")
    stack["runner"] = archive.from_file(b.work / "runner.tar")

    config = archive.config(ARCHITECTURES[b.machine], stack)
    image = b.images / layers.sha256(config)
    new = b.work / "image"
    new.mkdir(mode=0o700)
    with (new / "image.tar").open("wb") as out:
        archive.write(out, config, stack)
        os.fsync(out.fileno())
    record = {name: {"inputs": made[name], "digest": stack[name].digest} for name in made}
    (new / "layers.json").write_text(json.dumps(record, indent=1))
    (new / "build").write_text(build_id + "\n")
    (new / "manifest").write_text(f"sha256:{layers.sha256(archive.manifest(config, stack))}\n")
    (new / "inputs").write_text(b.inputs + "\n")
    settle(new, image)
    say(f"the sandbox image is ready ({(image / 'image.tar').stat().st_size / 1e6:.0f} MB, "
        f"{time.monotonic() - started:.0f} s): sha256:{image.name[:12]}")  # fmt: skip
    return image


def settle(new: Path, image: Path) -> None:
    """Move a finished image to its place. Where the same content is there already (a comment in the recipe
    changed), only its records are renewed: a host may be using the rest."""
    if not (image / "image.tar").is_file():
        shutil.rmtree(image, ignore_errors=True)
        new.rename(image)
        return
    for name in ("image.tar", "layers.json", "build", "manifest", "inputs"):
        (new / name).replace(image / name)


def obtain(
    b: Build, name: str, inputs: str, make: Callable[[Build, Path], None], *, reuse: bool = True
) -> archive.Layer:
    # A second home (a USB stick, a test's) spares itself the download: the user's own cache may have the layer.
    for image in [*built(b.images), *built(users_cache() / "image")] if reuse else []:
        record = json.loads(read(image / "layers.json") or "{}").get(name, {})
        if record.get("inputs") == inputs and (layer := archive.find(image / "image.tar", record["digest"])):
            return layer
    out = b.work / f"{name}.tar"
    make(b, out)
    return archive.from_file(out)


def make_base(b: Build, out: Path) -> None:
    say(f"building the sandbox image: downloading and installing Debian {base.SUITE} (this takes minutes, once)")
    with out.open("wb") as layer:
        base.build(ARCHITECTURES[b.machine], layer, say)


def make_lib(b: Build, debian: archive.Layer, out: Path) -> None:
    with debian.open() as f:
        python = wheels.python_version(f)
    say(f"the model's SDK, for the sandbox's Python {python}")
    with python_root(b, debian) as root:
        wheels.install(LOCK, root / "opt/nanoclaw/lib", python, b.machine)
        say("compiling it")
        wheels.compile_inside(root, "/opt/nanoclaw/lib")
        with out.open("wb") as layer:
            layers.write(layer, layers.folder_entries(root / "opt/nanoclaw/lib", "opt/nanoclaw/lib"))


def make_runner(b: Build, debian: archive.Layer, out: Path) -> str:
    """Write the layer; the digest of the sources that went into it (of the copy: the originals may be being edited)."""
    say("the runner")
    with python_root(b, debian) as root:
        place = root / "opt/nanoclaw"
        shutil.copytree(RUNNER, place / "runner", ignore=shutil.ignore_patterns("__pycache__"))
        build_id = runner_digest(place / "runner")
        (place / "BUILD").write_text(build_id + "\n")
        wheels.compile_inside(root, "/opt/nanoclaw/runner")
        with out.open("wb") as layer:
            layers.write(layer, layers.folder_entries(place, "opt/nanoclaw"))
    return build_id


@contextmanager
def python_root(b: Build, debian: archive.Layer) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="root-", dir=b.work))
    (root / "opt/nanoclaw").mkdir(parents=True)
    with debian.open() as f:
        wheels.unpack_python(f, root)
    yield root
    shutil.rmtree(root)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
