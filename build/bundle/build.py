"""Build the one file: dist/nanoclaw-linux-ARCH, its digests, its list of components, and their licences.

    scripts/build [--arch x86_64|aarch64] [--without-whatsapp] [--key HEX…] [--twice]

Each step is made again only if what it is made from changed. The same tree gives the same bytes; Debian's part of the
sandbox image is that of the day on which it was fetched, and is kept in .build.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import components
import cyclonedx
import freeze
import parcels
from steps import ARCHES, ROOT, BuildError, as_json, digest, made, of_tree, run, say, sources

sys.path[:0] = [str(ROOT), str(ROOT / "build"), str(ROOT / "build" / "native")]

import pack  # noqa: E402
import sources as native_sources  # noqa: E402
import toolchain  # noqa: E402

from host import carried  # noqa: E402

DIST: Final = ROOT / "dist"
HERE: Final = Path(__file__).resolve().parent
KEY: Final = re.compile(r"[0-9a-f]{64}")
RECIPE: Final = ("build.py", "components.py", "freeze.py", "nanoclaw.spec", "parcels.py", "steps.py")


@dataclass(frozen=True)
class Wish:
    arch: str
    whatsapp: bool
    keys: tuple[str, ...]
    version: str

    @property
    def name(self) -> str:
        return f"nanoclaw-linux-{self.arch}{'' if self.whatsapp else '-slim'}"

    @property
    def folder(self) -> Path:
        return ROOT / ".build" / self.arch


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/build", description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--arch", choices=ARCHES, default=os.uname().machine)
    options.add_argument(
        "--without-whatsapp", action="store_true", help="the smaller one: dist/nanoclaw-linux-ARCH-slim"
    )
    options.add_argument("--key", metavar="HEX", action="append", default=[], help="a public key that signs releases")
    options.add_argument("--version", default=carried.VERSION, help="instead of %(default)s: to try an update")
    options.add_argument("--dist", type=Path, default=DIST, help="another folder for what is made")
    options.add_argument("--twice", action="store_true", help="from two copies of the tree, and compare")
    args = options.parse_args()
    try:
        if args.twice:
            import twice

            return twice.compare(sys.argv[1:])
        build(Wish(args.arch, not args.without_whatsapp, tuple(args.key), args.version), args.dist.resolve())
    except (BuildError, native_sources.BuildError, pack.PackError) as e:
        print(f"nanoclaw: error: {e}", file=sys.stderr)
        if hint := getattr(e, "hint", ""):
            print(f"nanoclaw: hint: {hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def build(wish: Wish, dist: Path) -> Path:
    if bad := [key for key in wish.keys if not KEY.fullmatch(key)]:
        raise BuildError(f"not a public key: {bad[0]}", "64 hex digits, as scripts/sign-release prints them")
    say(f"building {wish.name} {wish.version}")
    venv = native(wish)
    carries, image = carry(wish)
    listed = components.collect(wish.arch, venv, image, carries.get("whatsapp"))
    data = [written(wish, "licenses.json", listed.table()), listed.texts_file(wish.folder), zones(wish, venv)]
    identity = identify(wish, carries, data)
    host = program(wish, venv, identity, carries, image, data)
    dist.mkdir(parents=True, exist_ok=True)
    out = dist / wish.name
    say("putting it together")
    pack.pack(wish.folder / "launcher" / "launcher", host, carries, wish.version, identity, wish.arch, out)
    (dist / f"{wish.name}.cdx.json").write_text(
        as_json(cyclonedx.document(wish.name, wish.version, identity, listed.all))
    )
    listed.write_texts(dist / "licenses")
    sums(dist)
    say(f"{out.relative_to(ROOT) if out.is_relative_to(ROOT) else out} is ready: {out.stat().st_size / 1e6:.1f} MB")
    return out


def native(wish: Wish) -> Path:
    """The launcher, bubblewrap and CPython for that processor, and a CPython that runs here; the tools' environment."""
    venv: Path = toolchain.ensure_venv().parents[1]
    for arch, more in ((wish.arch, []), (os.uname().machine, ["--only", "python"])):
        run([sys.executable, "build/native/build.py", "--arch", arch, *more], os.environ, loud=True)
    return venv


def carry(wish: Wish) -> tuple[dict[str, Path], parcels.Image]:
    image = parcels.image(wish.arch)
    found = {
        "bubblewrap": parcels.of_bubblewrap(wish.arch),
        "image": parcels.of_image(wish.arch, image),
        "source": parcels.of_source(wish.arch),
    }
    if wish.whatsapp:
        found["whatsapp"] = parcels.of_whatsapp(wish.arch)
    return found, image


def zones(wish: Wish, venv: Path) -> Path:
    """The time zones, for machines that have none: a zip that is opened only if one is asked for there."""
    lock = ROOT / "requirements" / "zones.txt"

    def make(out: Path) -> None:
        import zipfile

        site = freeze.packages(venv, wish.arch)
        files = [path for path in (site / "tzdata").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as to:
            for path in sorted(files, key=os.fsencode):
                to.writestr(zipfile.ZipInfo(str(path.relative_to(site))), path.read_bytes(), zipfile.ZIP_DEFLATED)

    return made(wish.folder / "tzdata.zip", digest(lock, HERE / "build.py"), make, "time zones")


def written(wish: Wish, name: str, text: str) -> Path:
    path = wish.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def host_sources() -> list[Path]:
    """What is frozen: `host.carried` is written anew."""
    packages = (sources(ROOT / name, ".py") for name in ("host", "runner", "channel"))
    return [ROOT / "nanoclaw.py", *(path for package in packages for path in package)]


def identify(wish: Wish, carries: dict[str, Path], data: list[Path]) -> str:
    """BUILD: a digest of all that goes in."""
    native = [wish.folder / f"{name}.inputs" for name in ("launcher", "python")]
    locks = [ROOT / "requirements" / name for name in (*freeze.LOCKS, "freeze.txt", "build.txt")]
    recipe = [*(HERE / name for name in RECIPE), ROOT / "build" / "pack.py"]
    files = of_tree(ROOT, [*host_sources(), *locks, *recipe])
    said = json.dumps([wish.arch, wish.version, wish.keys, sorted(carries)])
    return digest(files, said, *native, *data, *(carries[name] for name in sorted(carries)))


def program(
    wish: Wish, venv: Path, identity: str, carries: dict[str, Path], image: parcels.Image, data: list[Path]
) -> Path:
    """The parcel `host`, as a folder."""
    stage = wish.folder / "stage"
    kind = "full" if wish.whatsapp else "slim"

    def make(out: Path) -> None:
        staged(stage, wish, identity, carries, image)
        freeze.freeze(venv, wish.arch, stage, data, out)

    return made(wish.folder / f"host-{kind}", identity, make, "the program")


def staged(stage: Path, wish: Wish, identity: str, carries: dict[str, Path], image: parcels.Image) -> None:
    """A copy of the sources, and in it what this build carries."""
    shutil.rmtree(stage, ignore_errors=True)
    for path in host_sources():
        target = stage / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    listed = {
        name: (digest_of(path), path.stat().st_size, pack.unpacked_length(path)) for name, path in carries.items()
    }
    said = {"id": image.id, "build": image.build, "manifest": image.manifest}
    lines = {"VERSION": wish.version, "BUILD": identity, "PARCELS": listed, "IMAGE": said, "KEYS": wish.keys}
    text = "".join(f"{name} = {value!r}\n" for name, value in lines.items())
    (stage / "host" / "carried.py").write_text(text)


def digest_of(path: Path) -> str:
    import hashlib

    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sums(dist: Path) -> None:
    files = sorted(path for path in dist.glob("nanoclaw-linux-*") if path.is_file() and path.suffix in ("", ".json"))
    (dist / "SHA256SUMS").write_text("".join(f"{digest_of(path)}  {path.name}\n" for path in files))


if __name__ == "__main__":
    sys.exit(main())
