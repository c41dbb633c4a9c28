"""Extending the image: what an engine built becomes one layer beneath the runner's, and no more than that."""

from __future__ import annotations

import copy
import io
import os
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from host import extending, parcels
from host.engines import builder
from host.engines.bubblewrap import Bubblewrap
from host.engines.builder import Builder
from host.engines.docker import Docker
from host.errors import EngineError, UserError
from host.model import Image
from host.parcels import extension
from host.parcels.extension import Fact, Known, Made
from host.parcels.tar import FILE, FOLDER, LINK
from tests.fakes import images
from tests.fakes.images import BASE, LIB, OURS, RUNNER
from tests.unit.test_parcels import Entry, device, file, folder, link, tar

WHOLE: tuple[Entry, ...] = (*BASE, *LIB[2:], *RUNNER[1:])
"""The file system of our image, as an engine gives it out (names in any order, the folders first)."""


def quiet(text: str) -> None:
    pass


@pytest.fixture
def ours(tmp_path: Path) -> Image:
    return images.lay(tmp_path / "cache")


@pytest.fixture
def known(ours: Image) -> Known:
    return extension.known(ours, quiet)


def changes(known: Known, *entries: Entry, beside: bool = False) -> dict[str, extension.Change]:
    data = io.BytesIO(tar(*entries))
    with tarfile.open(fileobj=data, mode="r:") as export:
        return {change.name: change for change in extension.difference(export, known.facts, beside=beside)}


def test_our_image_is_known_by_all_that_is_in_it(known: Known) -> None:
    assert known.contents.id == OURS.id
    assert known.codename == "bookworm"
    assert known.facts["usr/bin"] == Fact(FOLDER)
    assert known.facts["bin"] == Fact(LINK, "usr/bin")
    assert known.facts["usr/bin/twin"] == known.facts["usr/bin/tool"]
    assert known.facts["usr/bin/tool"].runs
    assert known.facts["opt/nanoclaw/BUILD"].kind == FILE


def test_what_is_the_same_is_no_change_whatever_its_time_and_owner(known: Known) -> None:
    same = []
    for entry in WHOLE:
        member, content = entry if isinstance(entry, tuple) else (entry, b"")
        target = f"./{member.linkname}" if member.islnk() else member.linkname
        other = copy.copy(member)
        other.mtime, other.uid, other.name, other.linkname = 5, 77, f"./{member.name}", target
        same.append((other, content))
    assert changes(known, *same) == {}


def test_what_is_new_or_other_or_gone_is_a_change(known: Known) -> None:
    rest = [e for e in WHOLE if (e[0] if isinstance(e, tuple) else e).name not in ("usr/share", "usr/bin/twin", "bin")]
    found = changes(known, *rest, file("usr/bin/new", b"x", 0o4755), link("bin", "usr/other"), folder("srv"))
    assert set(found) == {"usr/bin/new", "bin", "srv", "usr/.wh.share", "usr/bin/.wh.twin"}
    assert found["usr/bin/new"].fact == Fact(FILE, found["usr/bin/new"].fact.said, True)  # type: ignore[union-attr]
    assert found["usr/.wh.share"].fact is None


def test_of_another_debian_only_what_it_has_more_counts(known: Known) -> None:
    found = changes(known, folder("usr"), folder("usr/bin"), file("usr/bin/ffmpeg", b"x"), beside=True)
    assert set(found) == {"usr/bin/ffmpeg"}


@pytest.mark.parametrize(
    "name",
    [".dockerenv", "etc/resolv.conf", "etc/hosts", "etc/shadow", "dev/null", "proc/1", "run/x", "tmp/x", "root/.bashrc",
     "var/cache/apt/x", "var/lib/dpkg/status", "usr/share/man/x", "usr/share/doc/a/readme", "workspace/group/x",
     "usr/lib/python3/__pycache__/x.pyc", "etc/apt/sources.list", "var/lib/apt/lists"],
)  # fmt: skip
def test_what_an_engine_or_installing_leaves_there_is_left_out(known: Known, name: str) -> None:
    parents = name.split("/")[:-1]
    above = [folder("/".join(parents[: n + 1])) for n in range(len(parents))]
    assert name not in changes(known, *above, file(name, b"x"), beside=True)


def test_copyright_notices_stay(known: Known) -> None:
    assert "usr/share/doc/a/copyright" in changes(known, file("usr/share/doc/a/copyright", b"x"), beside=True)


def test_devices_and_pipes_are_left_out(known: Known) -> None:
    assert changes(known, device("usr/null"), link("usr/pipe", "", tarfile.FIFOTYPE), beside=True) == {}


def test_bytecode_of_a_file_that_changed_goes(tmp_path: Path) -> None:
    base = (*BASE, file("usr/lib/os.py", b"old"), folder("usr/lib/__pycache__"),
            file("usr/lib/__pycache__/os.cpython-311.pyc", b"old"))  # fmt: skip
    image = images.lay(tmp_path / "cache", images.archive(tar(*base), tar(*LIB), tar(*RUNNER)))
    found = changes(extension.known(image, quiet), file("usr/lib/os.py", b"new"), beside=True)
    assert set(found) == {"usr/lib/os.py", "usr/lib/__pycache__/.wh.os.cpython-311.pyc"}


@pytest.mark.parametrize(
    "entry",
    [
        file("opt/nanoclaw/BUILD", b"other"),
        file("opt/nanoclaw/runner.py", b"new"),
        link("opt/nanoclaw/lib", "/tmp"),
        file("usr/lib", b"no folder any more"),
        file("usr/.wh.share", b""),
    ],
)
def test_steps_that_touch_the_runner_or_undo_folders_are_refused(known: Known, entry: Entry) -> None:
    name = (entry[0] if isinstance(entry, tuple) else entry).name
    rest = [e for e in WHOLE if (e[0] if isinstance(e, tuple) else e).name != name]
    with pytest.raises(UserError):
        changes(known, *rest, entry)


def test_steps_that_remove_the_runner_are_refused(known: Known) -> None:
    rest = [e for e in WHOLE if (e[0] if isinstance(e, tuple) else e).name != "opt/nanoclaw/BUILD"]
    with pytest.raises(UserError, match="remove opt/nanoclaw/BUILD"):
        changes(known, *rest)


# --- the new image ------------------------------------------------------------------------------------


def made(ours: Image, known: Known, tmp_path: Path, *entries: Entry) -> tuple[Path, parcels.Record]:
    with (
        tarfile.open(fileobj=io.BytesIO(tar(*entries)), mode="r:") as export,
        (tmp_path / "layer").open("w+b") as layer,
    ):
        new = extension.write_layer(layer, export, extension.difference(export, known.facts, beside=True))
        path = tmp_path / "made.tar.xz"
        return path, extension.write(path, ours, known, layer, new, Made(("ffmpeg",)), quiet)


def test_it_is_one_that_would_be_taken_in_anywhere(ours: Image, known: Known, tmp_path: Path) -> None:
    path, record = made(
        ours,
        known,
        tmp_path,
        file("usr/bin/ffmpeg", b"x", 0o6755),
        link("usr/bin/two", "usr/bin/ffmpeg", tarfile.LNKTYPE),
    )
    image = parcels.take_in(path, tmp_path / "cache", known.contents, ours, quiet)
    assert image.id == record.id
    assert parcels.records(tmp_path / "cache") == [record]
    assert (record.build, record.extends, record.packages) == (images.BUILD, OURS.id, ("ffmpeg",))
    root = parcels.unpack_rootfs(image, quiet)
    assert (root / "usr/bin/two").read_bytes() == b"x"
    assert (root / "usr/bin/ffmpeg").stat().st_mode & 0o7777 == 0o755


def test_the_runners_layers_are_on_top_byte_for_byte(ours: Image, known: Known, tmp_path: Path) -> None:
    path, record = made(ours, known, tmp_path, file("usr/bin/ffmpeg", b"x"))
    with closing(parcels.Xz(path.open("rb"), 1)) as stream:
        walk = parcels.Walk(stream.read, record.id)
        layers = {layer.digest: b"".join(iter(lambda layer=layer: layer.read(1000), b"")) for layer in walk}  # type: ignore[misc]
    digests = walk.contents.digests
    assert len(digests) == 4
    assert (digests[0], *digests[2:]) == known.contents.digests
    assert [layers[d] for d in digests[2:]] == [tar(*LIB), tar(*RUNNER)]


def test_a_carried_image_is_extended_as_a_built_one_is(ours: Image, known: Known, tmp_path: Path) -> None:
    """Its stream gives as many bytes at a time as it likes."""
    big = images.archive(tar(*BASE, file("usr/big", os.urandom(3 << 20))), tar(*LIB), tar(*RUNNER))
    both = []
    for image in (images.lay(tmp_path / "built", big), images.carried(tmp_path / "carried", tmp_path / "program", big)):
        path, record = made(image, extension.known(image, quiet), tmp_path, file("usr/bin/ffmpeg", b"x"))
        both.append((record.id, path.read_bytes()))
    assert both[0] == both[1]


def test_the_same_gives_the_same(ours: Image, known: Known, tmp_path: Path) -> None:
    bytes_of = []
    for time in (1, 2):
        member, content = file("usr/bin/ffmpeg", b"x")
        member.mtime = time
        bytes_of.append(made(ours, known, tmp_path, (member, content))[0].read_bytes())
    assert bytes_of[0] == bytes_of[1]


# --- what is asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "ffmpeg;id", "-y", "FFMPEG", "a b", "$(id)", "ffmpeg=1", "a/b", "ffmpeg\n", "é1", ""]
)
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a Debian package"):
        extending.wanted([name], None, again=None, here=tmp_path)


def test_packages_become_one_line(tmp_path: Path) -> None:
    wanted = extending.wanted(["ffmpeg", "g++", "ffmpeg", "libstdc++6"], None, again=None, here=tmp_path)
    assert wanted.packages == ("ffmpeg", "g++", "libstdc++6")
    assert extending.packages_steps("bookworm", wanted.packages).endswith("-- ffmpeg g++ libstdc++6\n")


@pytest.mark.parametrize("given", [([], None), (["jq"], "Dockerfile")])
def test_either_packages_or_steps(tmp_path: Path, given: tuple[list[str], str | None]) -> None:
    with pytest.raises(UserError, match="either which packages, or which steps"):
        extending.wanted(*given, again=None, here=tmp_path)


def test_again_is_what_it_was(tmp_path: Path) -> None:
    record = parcels.Record(OURS.id, images.BUILD, OURS.manifest, packages=("jq", "xz-utils"))
    assert extending.wanted([], None, again=record, here=tmp_path) == Made(("jq", "xz-utils"))
    steps = parcels.Record(OURS.id, images.BUILD, OURS.manifest, dockerfile="/a/Dockerfile")
    assert extending.wanted([], None, again=steps, here=tmp_path) == Made(dockerfile="/a/Dockerfile")


def test_steps_are_built_on_ours_alone_and_as_root() -> None:
    text = "# FROM nanoclaw\nfrom nanoclaw:latest AS one\nRUN x\nFROM nanoclaw-other\nFROM --platform=x debian\n"
    changed = extending.own_steps(text, "work:tag")
    assert "from work:tag AS one\nUSER 0:0\nWORKDIR /\nRUN x\nFROM nanoclaw-other\n" in changed
    assert changed.startswith("# FROM nanoclaw\n")
    assert builder.labelled("FROM a\nRUN x\nFROM b AS c\n", "t") == (
        f"FROM a\nLABEL {builder.LABEL}=t\nRUN x\nFROM b AS c\nLABEL {builder.LABEL}=t\n"
    )


def test_steps_that_do_not_extend_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM debian\nRUN x\n")
    with pytest.raises(UserError, match="does not extend our image"):
        extending._steps(Made(dockerfile=str(path)))
    with pytest.raises(UserError, match="cannot read"):
        extending._steps(Made(dockerfile=str(tmp_path / "none")))


# --- the engine ---------------------------------------------------------------------------------------


def test_an_engine_that_builds_nothing_says_where_to_do_it() -> None:
    with pytest.raises(UserError, match="bubblewrap cannot extend an image") as e:
        builder.builder(Bubblewrap("bwrap"))
    assert e.value.status == 69
    assert "nanoclaw image save" in e.value.hints[0]
    assert "--accept" in e.value.hints[1]
    assert builder.builder(Docker("docker")) == Builder("docker", ("docker",))


def engine(tmp_path: Path, text: str) -> Builder:
    program = tmp_path / "engine"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{text}')
    program.chmod(0o755)
    return Builder("engine", (str(program),))


def test_a_build_has_the_machines_network_and_nothing_else_special(tmp_path: Path) -> None:
    maker = engine(tmp_path, "exit 0\n")
    maker.build(tmp_path / "Dockerfile", tmp_path, "tag:work", quiet)
    maker.forget("tag:work")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [
        f"build --network host --force-rm --tag tag:work --file {tmp_path}/Dockerfile {tmp_path}",
        "rmi tag:work",
        "image prune --force --filter label=nanoclaw.work=tag:work",
    ]


def test_a_failing_build_is_told_in_its_own_words(tmp_path: Path) -> None:
    text = "printf 'Step 1/2\\n\\033[91mE: Unable to locate package x\\033[0m\\nreturned 100\\n' >&2\nexit 1\n"
    with pytest.raises(EngineError, match="could not build it: returned 100") as e:
        engine(tmp_path, text).build(tmp_path / "Dockerfile", tmp_path, "tag", quiet)
    assert e.value.hints[0] == "before that it said: E: Unable to locate package x"


def test_a_build_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "BUILD_SECONDS", 0.3)
    monkeypatch.setattr(builder, "TELL_SECONDS", 0.1)
    with pytest.raises(EngineError, match="could not build it"):
        engine(tmp_path, "sleep 600\n").build(tmp_path / "Dockerfile", tmp_path, "tag", quiet)


def test_what_it_made_is_taken_out_and_its_container_removed(tmp_path: Path) -> None:
    maker = engine(tmp_path, '[ "$1" = export ] && printf content\nexit 0\n')
    with (tmp_path / "out").open("w+b") as out:
        maker.export("tag", out, quiet)
    assert (tmp_path / "out").read_bytes() == b"content"
    assert [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()] == ["create", "export", "rm"]


def test_a_name_for_ours_lasts_for_the_build_only(tmp_path: Path, ours: Image) -> None:
    maker = engine(tmp_path, "exit 0\n")
    with maker.tagged(ours) as tag:
        assert (tmp_path / "asked").read_text().splitlines()[-1] == f"tag {OURS.id} {tag}"
    assert f"rmi {tag}" in (tmp_path / "asked").read_text()
