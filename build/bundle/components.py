"""Every component that is carried: its version, its licence, where its source is, and the licence's own words.

Nothing here is kept by hand that a lock, an archive or a package tells by itself. A component without a licence, or
without its words, stops the build.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import freeze
from parcels import Image
from steps import ROOT, BuildError, as_json, filters

PROGRAM: Final = "in the program"
APART: Final = "a program of its own"
SANDBOX: Final = "in the sandbox image"
PYPI: Final = "PyPI: {name} {version}"
DEBIAN: Final = "Debian source package: {name} {version}"
LICENCE_FILES: Final = re.compile(r"[^/]+/(LICEN[CS]E|COPYING|License)(\.(txt|md|0BSD|GPLv2|LGPL\S*))?")
MOST_TEXT: Final = 1 << 20
PUBLIC_DOMAIN: Final = {
    "sqlite": "The author disclaims copyright to this source code. In place of a legal notice, here is a blessing:\n\n"
    "  May you do good and not evil.\n  May you find forgiveness for yourself and forgive others.\n"
    "  May you share freely, never taking more than you give.\n"
}
# What trove classifiers and free words of package records mean.
SPDX: Final = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "MIT No Attribution": "MIT-0",
    "BSD": "BSD-3-Clause",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "MIT license": "MIT",
}


@dataclass(frozen=True)
class Component:
    name: str
    version: str
    licence: str
    """SPDX's names; of a Debian package, those that its copyright file uses."""
    kind: str
    part: str
    """Where: the program, launcher, bubblewrap, sandbox image, WhatsApp program."""
    source: str
    texts: tuple[str, ...] = ()
    """Which of the texts are its licence's words."""


@dataclass
class Listed:
    all: list[Component] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, version: str, licence: str, kind: str, part: str, source: str, *texts: str) -> None:
        if not licence or not texts:
            raise BuildError(f"{name} {version} comes without {'the words of its licence' if licence else 'a licence'}")
        ids = tuple(sorted({self._keep(text) for text in texts}))
        self.all.append(Component(name, version, licence, kind, part, source, ids))

    def _keep(self, text: str) -> str:
        text = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.texts[name] = text
        return name

    def table(self) -> str:
        return as_json({"components": [asdict(each) for each in self.all]})

    def texts_file(self, folder: Path) -> Path:
        path = folder / "license-texts.json.xz"
        path.write_bytes(lzma.compress(as_json(self.texts).encode(), filters=filters()))
        return path

    def write_texts(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for each in self.all:
            parts = "".join(self.texts[name] + "\n" for name in each.texts)
            name = re.sub(r"[^\w.+-]", "_", f"{each.part}-{each.name}")
            (folder / f"{name}.txt").write_text(f"{each.name} {each.version}: {each.licence}\n{each.source}\n\n{parts}")


def collect(arch: str, venv: Path, image: Image, whatsapp: Path | None) -> Listed:
    listed = Listed()
    own = (ROOT / "LICENSE").read_text()
    from host.carried import VERSION

    listed.add("NanoClaw", VERSION, "MIT", PROGRAM, "the program", "nanoclaw source DIR", own)
    native(listed, arch)
    tools(listed, venv, arch)
    packages(listed, freeze.packages(venv, arch))
    sandbox(listed, image)
    if whatsapp is not None:
        apart(listed, whatsapp)
    judge(listed)
    return listed


def judge(listed: Listed) -> None:
    """Nothing under the GPL or its relatives is linked into the program; what is, is started as a program of its own.

    PyInstaller's boot loader is, with an exception that allows just what is done here.
    """
    for each in listed.all:
        allowed = each.licence.endswith(" WITH Bootloader-exception")
        if each.kind == PROGRAM and re.search(r"GPL|SSPL|EUPL", each.licence) and not allowed:
            raise BuildError(
                f"{each.name} {each.version} is under {each.licence}, and would be linked into the program"
            )


# --- compiled here -----------------------------------------------------------------------------------------------

PARTS: Final = {
    "python": (PROGRAM, "the program"),
    "launcher": (PROGRAM, "the launcher"),
    "bubblewrap": (APART, "bubblewrap"),
}


def native(listed: Listed, arch: str) -> None:
    """What `build/native` made, of the sources in its lock."""
    names = {"python": "CPython", "openssl": "OpenSSL", "sqlite": "SQLite", "xz": "liblzma (XZ Utils)"}
    for each in json.loads((ROOT / ".build" / arch / "components.json").read_text()):
        text = PUBLIC_DOMAIN.get(each["name"]) or _of_archive(ROOT / ".build" / "sources" / each["file"])
        for part in each["parts"]:
            kind, where = PARTS[part]
            source = DEBIAN.format(name=each["package"], version=each["version"])
            listed.add(
                names.get(each["name"], each["name"]), each["version"], each["licence"], kind, where, source, text
            )


def _of_archive(path: Path) -> str:
    found = []
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isreg() and LICENCE_FILES.fullmatch(member.name) and member.size < MOST_TEXT:
                found.append((member.name, _read(tar, member)))
    return "\n".join(text for _, text in sorted(found))


def tools(listed: Listed, venv: Path, arch: str) -> None:
    """Of what builds, that which ends up in what is built: the C library, the compiler's help, the boot loader."""
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    zig, frozen = (
        _version(ROOT / "requirements" / f"{lock}.txt", name)
        for lock, name in (("build", "ziglang"), ("freeze", "pyinstaller"))
    )
    musl = (site / "ziglang" / "lib" / "libc" / "musl" / "COPYRIGHT").read_text()
    # compiler-rt is that of zig, which is under zig's licence.
    rest = (site / "ziglang" / "LICENSE").read_text()
    for kind, part in (PARTS["launcher"], PARTS["bubblewrap"]):
        listed.add("musl", f"of zig {zig}", "MIT", kind, part, PYPI.format(name="ziglang", version=zig), musl)
        listed.add("compiler-rt", f"of zig {zig}", "MIT", kind, part, PYPI.format(name="ziglang", version=zig), rest)
    (words,) = freeze.freezer(venv, arch).glob("pyinstaller-*.dist-info/licenses/COPYING.txt")
    listed.add(
        "PyInstaller's boot loader", frozen, "GPL-2.0-or-later WITH Bootloader-exception", PROGRAM, "the program",
        PYPI.format(name="pyinstaller", version=frozen), words.read_text(),
    )  # fmt: skip


def _version(lock: Path, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}==([^ \\;]+)", lock.read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{lock} names no {name}")
    return found[1]


# --- Python packages ---------------------------------------------------------------------------------------------


def packages(listed: Listed, site: Path) -> None:
    """Of the host. pycparser is locked with the others, and not carried."""
    for info in sorted(site.glob("*.dist-info")):
        files = {str(path.relative_to(info)): path.read_text(errors="replace") for path in _words(info)}
        name = _package(listed, (info / "METADATA").read_text(), files, PROGRAM, "the program")
        if name.lower() == "pynacl":
            words = next(text for path, text in files.items() if "libsodium" in path)
            version = listed.all[-1].version
            listed.add(
                "libsodium",
                f"of PyNaCl {version}",
                "ISC",
                PROGRAM,
                "the program",
                PYPI.format(name="pynacl", version=version),
                words,
            )


def _words(info: Path) -> list[Path]:
    return [path for path in sorted(info.rglob("*")) if path.is_file() and _is_licence(str(path.relative_to(info)))]


def _is_licence(name: str) -> bool:
    return name.startswith("licenses/") or re.match(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", name) is not None


def _package(listed: Listed, metadata: str, files: dict[str, str], kind: str, part: str) -> str:
    record = email.parser.Parser().parsestr(metadata)
    name, version = str(record["Name"]), str(record["Version"])
    if name == "pycparser" and kind == PROGRAM:
        return name
    classifiers = [str(each).rpartition(" :: ")[2] for each in record.get_all("Classifier", []) if "License ::" in each]
    said = str(record.get("License-Expression") or "")
    said = said or next((SPDX.get(each, each) for each in classifiers if each != "OSI Approved"), "")
    said = said or SPDX.get(str(record.get("License", "")), str(record.get("License", "")).split("\n")[0])
    texts = [text for _, text in sorted(files.items())] or [f"{name}: {said}\n"]
    listed.add(name, version, said, kind, part, PYPI.format(name=name, version=version), *texts)
    return name


# --- the sandbox image -------------------------------------------------------------------------------------------


def sandbox(listed: Listed, image: Image) -> None:
    """Debian's packages as its own record has them, and the Python packages beside the runner."""
    with tarfile.open(image.folder / "image.tar") as archive:
        contents = json.loads(_read(archive, archive.getmember("manifest.json")))
        base, lib = (_texts_of(archive, name) for name in contents[0]["Layers"][:2])
    _debian(listed, base)
    infos: dict[str, dict[str, str]] = {}
    for path, text in lib.items():
        folder, _, rest = path.partition(".dist-info/")
        infos.setdefault(folder, {})[rest] = text
    for _, files in sorted(infos.items()):
        words = {name: text for name, text in files.items() if _is_licence(name)}
        _package(listed, files["METADATA"], words, SANDBOX, "the sandbox image")


def _texts_of(archive: tarfile.TarFile, name: str) -> dict[str, str]:
    """Of a layer, what tells about packages and licences."""
    found = {}
    layer = archive.extractfile(name)
    assert layer is not None
    wanted = re.compile(
        r"var/lib/dpkg/status|usr/share/doc/[^/]+/copyright|usr/share/common-licenses/[^/]+"
        r"|opt/nanoclaw/lib/[^/]+\.dist-info/(METADATA|licenses/.+|(LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*)"
    )
    with tarfile.open(fileobj=layer, mode="r:") as tar:
        for member in tar:
            if wanted.fullmatch(member.name) and member.isreg():
                found[member.name] = _read(tar, member)
            elif wanted.fullmatch(member.name) and member.issym():
                found[member.name] = f"-> {member.linkname}"
    return found


def _debian(listed: Listed, files: dict[str, str]) -> None:
    common = {name: files[f"usr/share/common-licenses/{name}"] for name in _common(files)}
    for record in _records(files["var/lib/dpkg/status"]):
        name, version = record["Package"], record["Version"]
        words = _copyright(files, name)
        source = record.get("Source", name)
        own, _, of = source.partition(" (")
        where = DEBIAN.format(name=own, version=of.rstrip(")") or version)
        referred = sorted(
            {each for each in common if re.search(rf"common-licenses/{re.escape(each)}(?![\w.-]*\w)", words)}
        )
        texts = [words, *(common[each] for each in referred)]
        listed.add(name, version, _licences(words), SANDBOX, "the sandbox image", where, *texts)


def _common(files: dict[str, str]) -> Iterator[str]:
    for path, text in files.items():
        if path.startswith("usr/share/common-licenses/") and not text.startswith("-> "):
            yield path.rpartition("/")[2]


def _copyright(files: dict[str, str], name: str) -> str:
    """A package's notice; several packages of one source may share one, by a link to the folder of another."""
    words = files.get(f"usr/share/doc/{name}/copyright", "")
    if words.startswith("-> "):
        words = files.get(f"usr/share/doc/{words.split('/')[-2]}/copyright", "")
    return words or files.get(f"usr/share/doc/{_SHARED.get(name, name)}/copyright", "")


# Packages whose documentation is a link to another's folder, which is no part of a layer's own files.
_SHARED: Final = {"libgcc-s1": "gcc-12-base", "libstdc++6": "gcc-12-base", "libgomp1": "gcc-12-base"}


def _licences(words: str) -> str:
    found = re.findall(r"^License:[ \t]*(\S[^\n]*)", words, re.MULTILINE)
    return ", ".join(dict.fromkeys(" ".join(each.split()) for each in found)) or "see its copyright file"


def _records(status: str) -> Iterator[dict[str, str]]:
    for stanza in status.strip().split("\n\n"):
        yield dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))


# --- WhatsApp ----------------------------------------------------------------------------------------------------


def apart(listed: Listed, parcel: Path) -> None:
    """The WhatsApp program brings its own list."""
    with tarfile.open(parcel) as tar:
        found = json.loads(_read(tar, tar.getmember("components.json")))["components"]
        texts = {m.name: _read(tar, m) for m in tar.getmembers() if m.isreg() and m.name.startswith("licenses/")}
        notice = _read(tar, tar.getmember("NOTICE"))
    for each in found:
        where = f"{WHERE[each['type']]}: {each['name']} {each['version']}"
        words = _chosen(texts, each)
        listed.add(each["name"], each["version"], each["license"], APART, "the WhatsApp program", where, notice, *words)


WHERE: Final = {"pypi": "PyPI", "golang": "Go module", "generic": "Debian source package"}


def _chosen(texts: dict[str, str], component: dict[str, Any]) -> list[str]:
    """The words of a component's own licence file, or else those of the licence by its name."""
    own = [
        text
        for name, text in sorted(texts.items())
        if name.removeprefix("licenses/").lower().startswith(component["name"].lower())
    ]
    by_name = [text for name, text in texts.items() if component["license"].startswith(Path(name).stem)]
    shared = [texts["licenses/go-modules.txt"]] if component["type"] == "golang" else []
    return own or by_name or shared


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    if content is None or member.size > 16 * MOST_TEXT:
        raise BuildError(f"{member.name} is not a text")
    return content.read().decode(errors="replace")
