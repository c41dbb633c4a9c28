"""The image out of a compressed stream: one pass, all or nothing, mended by itself, let go when it is old."""

from __future__ import annotations

import fcntl
import io
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from host import parcels
from host.engines import loading
from host.engines.loading import load_archive
from host.errors import EngineError, UserError
from host.model import Image
from host.parcels import AlteredError, Xz, locks
from host.parcels.tar import Reader
from tests.fakes import images
from tests.fakes.images import OURS, archive, carried
from tests.unit.test_parcels import ROOT, file, folder, link, tar, unpack


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return carried(tmp_path / "cache", tmp_path / "program")


def quiet(text: str) -> None:
    pass


# --- unpacking ----------------------------------------------------------------------------------------


def test_it_is_unpacked_from_the_stream_and_no_tar_is_written(image: Image) -> None:
    root = parcels.unpack_rootfs(image, quiet)
    assert (root / "usr/bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (root / "usr/bin/tool").samefile(root / "usr/bin/twin")
    assert (root / "opt/nanoclaw/BUILD").read_text() == images.BUILD
    assert not image.archive.exists()
    assert {p.name for p in image.archive.parent.iterdir()} == {"rootfs", "rootfs.json", "rootfs.lock", "in-use.lock"}
    parcels.check_rootfs(image)


def test_its_progress_is_told_in_percent(image: Image) -> None:
    said: list[str] = []
    parcels.unpack_rootfs(image, said.append)
    assert any(text.endswith(" %") for text in said)


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def grow(data: bytes) -> bytes:
    return data + b"x"


def another(data: bytes) -> bytes:
    return archive(tar(folder("usr"))).compressed


def altered_within(data: bytes) -> bytes:
    return lzma.compress(lzma.decompress(data).replace(b"#!/bin/sh\n", b"#!/bin/rm\n"))


@pytest.mark.parametrize("damage", [flip, cut, grow, another, altered_within, lambda data: b""])
def test_a_damaged_stream_leaves_nothing(tmp_path: Path, image: Image, damage: Callable[[bytes], bytes]) -> None:
    program = tmp_path / "program"
    program.write_bytes(damage(program.read_bytes()))
    with pytest.raises(UserError, match="within the program was altered or is damaged") as e:
        parcels.unpack_rootfs(image, quiet)
    assert e.value.status == 69
    assert not {"rootfs", "rootfs.json", "rootfs.part"} & {p.name for p in image.archive.parent.iterdir()}


def test_a_stream_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    greedy = tmp_path / "greedy.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 128 << 20}]
    greedy.write_bytes(lzma.compress(b"x" * 1000, filters=filters))
    with closing(Xz(greedy.open("rb"), 1)) as stream, pytest.raises(AlteredError, match="cannot be uncompressed"):
        stream.read(10)


PEAK = """
import resource, sys
from pathlib import Path
from host import parcels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file = Path(sys.argv[2])
record = parcels.Record(sys.argv[3], "b" * 64, sys.argv[4])
image = parcels.carried_image(Path(sys.argv[1]), record, lambda: (file.open("rb"), file.stat().st_size))
parcels.unpack_rootfs(image, lambda text: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    large = archive(tar(file("large", os.urandom(1 << 20) * 64)))
    stream = carried(tmp_path / "cache", tmp_path / "program", large)
    argv = (sys.executable, "-c", PEAK, str(tmp_path / "cache"), str(tmp_path / "program"), large.id, large.manifest)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 * 1024  # kilobytes
    assert (stream.rootfs / "large").stat().st_size == 64 << 20


# --- layers over each other -----------------------------------------------------------------------------


def test_a_later_layer_replaces_and_removes(tmp_path: Path) -> None:
    later = tar(
        file("usr/bin/tool", b"new"), link("bin", "usr/other"), file("usr/.wh.share"), file("usr/bin/.wh.twin"),
        folder("usr/lib"),
    )  # fmt: skip
    root = unpack(carried(tmp_path, tmp_path / "program", archive(tar(*images.BASE), later)))
    assert (root / "usr/bin/tool").read_bytes() == b"new"
    assert (root / "bin").readlink() == Path("usr/other")
    assert not (root / "usr/share").exists()
    assert not (root / "usr/bin/twin").exists()
    assert (root / "usr/lib/os-release").is_file()


def test_a_link_that_a_layer_left_is_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = tar(link("out", str(outside)), link("file", str(outside / "escaped")))
    second = tar(file("file", b"x"), folder("out"), file("out/escaped", b"x"))
    root = unpack(carried(tmp_path, tmp_path / "program", archive(first, second)))
    assert not list(outside.iterdir())
    assert (root / "out/escaped").is_file()


@pytest.mark.parametrize(
    "later",
    [
        (file("usr", b"a file over a folder"),),
        (file("usr/.wh.nothing"),),
        (file(".wh..wh..opq"),),
        (file(".wh..."),),
        (file("usr/new"), file("usr/.wh.new")),
        (file("nowhere/new"),),
        (file("./usr/new"),),
        (file("a", b"x"), file("a", b"y")),
    ],
)
def test_what_no_layer_of_ours_says_is_refused(tmp_path: Path, later: tuple[images.Entry, ...]) -> None:
    stream = carried(tmp_path, tmp_path / "program", archive(tar(*images.BASE), tar(*later)))
    with pytest.raises(UserError, match="altered"):
        unpack(stream)


def test_long_names_are_read_and_endless_ones_are_not() -> None:
    long = "d/" + "n" * 200
    data = tar(folder("d"), file(long, b"x"))
    assert [m.name for m in Reader(iter_read(data))] == ["d", long]
    with pytest.raises(AlteredError, match="too long"):
        list(Reader(iter_read(tar(file("n" * 5000, b"x")))))


def iter_read(data: bytes) -> Callable[[int], bytes]:
    return io.BytesIO(data).read


# --- altered later --------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["carried", "built"])
def test_an_altered_rootfs_is_unpacked_anew_and_said(tmp_path: Path, image: Image, of: str) -> None:
    if of == "built":
        image = images.lay(tmp_path / "cache")
    root = parcels.unpack_rootfs(image, quiet)
    (root / "usr/bin/tool").write_bytes(b"#!/bin/rm\n")
    (root / "usr/bin/evil").write_bytes(b"")
    said: list[str] = []
    parcels.whole_rootfs(image, quiet, said.append)
    assert len(said) == 1
    assert "altered (usr/bin/evil was added): it is unpacked anew" in said[0]
    assert (root / "usr/bin/tool").read_bytes() == b"#!/bin/sh\n"
    parcels.check_rootfs(image)


def test_a_whole_one_is_left_as_it_is(image: Image) -> None:
    before = parcels.unpack_rootfs(image, quiet).stat().st_ino
    said: list[str] = []
    parcels.whole_rootfs(image, quiet, said.append)
    assert not said
    assert image.rootfs.stat().st_ino == before


def test_lost_records_and_a_lost_file_are_mended(image: Image) -> None:
    root = parcels.unpack_rootfs(image, quiet)
    for damage in (
        image.rootfs.with_suffix(".json").unlink,
        (root / "usr/bin/twin").unlink,
        lambda: shutil.rmtree(root),
    ):
        damage()
        parcels.whole_rootfs(image, quiet, quiet)
        parcels.check_rootfs(image)


def test_an_altered_rootfs_with_a_damaged_archive_stays_an_error(tmp_path: Path) -> None:
    image = images.lay(tmp_path / "cache")
    (parcels.unpack_rootfs(image, quiet) / "usr/bin/tool").write_bytes(b"x")
    image.archive.write_bytes(image.archive.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"image.tar was altered or is damaged") as e:
        parcels.whole_rootfs(image, quiet, quiet)
    assert "build/image/build.py" in e.value.hints[-1]


# --- others at the same time, and a full disk -------------------------------------------------------------

WHOLE = """
import sys
from pathlib import Path
from host import parcels
cache, file = Path(sys.argv[1]), Path(sys.argv[2])
record = parcels.Record(sys.argv[3], "b" * 64, sys.argv[4])
image = parcels.carried_image(cache, record, lambda: (file.open("rb"), file.stat().st_size))
print("go", flush=True)
sys.stdin.readline()
try:
    parcels.whole_rootfs(image, lambda text: None, lambda text: None)
except parcels.rootfs.UserError as e:
    sys.exit("; ".join([str(e), *e.hints]))
print("whole", flush=True)
"""


def unpacker(cache: Path, program: Path, what: images.Archive, *before: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*before, sys.executable, "-c", WHOLE, str(cache), str(program), what.id, what.manifest],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "go\n"
    return process


def many() -> images.Archive:
    return archive(tar(folder("d"), *(file(f"d/{n}", os.urandom(200)) for n in range(2000))))


def test_three_that_find_it_altered_mend_it_once(tmp_path: Path) -> None:
    what = many()
    image = carried(tmp_path / "cache", tmp_path / "program", what)
    parcels.unpack_rootfs(image, quiet)
    (image.rootfs / "d/7").write_bytes(b"other")
    three = [unpacker(tmp_path / "cache", tmp_path / "program", what) for _ in range(3)]
    for process in three:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [p.communicate(timeout=60) for p in three] == [("whole\n", "")] * 3
    parcels.check_rootfs(image)


def test_killed_at_any_moment_the_next_start_has_it_whole(tmp_path: Path) -> None:
    what = many()
    image = carried(tmp_path / "cache", tmp_path / "program", what)
    for milliseconds in (0, 20, 60, 120, 200, 300, 450):
        process = unpacker(tmp_path / "cache", tmp_path / "program", what)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        if parcels.is_unpacked(image):
            parcels.check_rootfs(image)
            (image.rootfs / "d/3").unlink()
    parcels.whole_rootfs(image, quiet, quiet)
    assert len(list((image.rootfs / "d").iterdir())) == 2000
    assert not image.rootfs.with_suffix(".part").exists()


def on_a_small_disk(place: Path, size: str) -> tuple[str, ...]:
    """A command before another, which then finds `place` to be a disk of this size of its own."""
    mount = f"mount -t tmpfs -o size={size},mode=0700 none '{place}' && exec \"$@\""
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    what = archive(tar(file("large", os.urandom(3 << 20))))
    carried(tmp_path / "cache", tmp_path / "program", what)
    (tmp_path / "cache").mkdir()
    before = on_a_small_disk(tmp_path / "cache", "1m")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces with mounts here")
    process = unpacker(tmp_path / "cache", tmp_path / "program", what, *before)
    out, err = process.communicate("\n", timeout=60)
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "there is no room for the sandbox image" in err
    assert "make room" in err


# --- letting go -----------------------------------------------------------------------------------------


def old(cache: Path, number: int) -> Path:
    """An image of an earlier version, of which only the unpacked folder is there."""
    folder = cache / "image" / f"{number:064x}"
    (folder / "rootfs").mkdir(parents=True)
    os.utime(folder, (1_000_000 + number, 1_000_000 + number))
    return folder


def test_old_ones_go_but_the_newest_of_them(tmp_path: Path) -> None:
    folders = [old(tmp_path, number) for number in range(1, 5)]
    removed = parcels.prune(tmp_path, {f"sha256:{folders[0].name}"})
    assert set(removed) == {folders[1], folders[2]}
    assert [f for f in folders if f.exists()] == [folders[0], folders[3]]
    assert not list((tmp_path / "image").glob("gone-*"))


def test_none_goes_that_another_process_uses(tmp_path: Path) -> None:
    folders = [old(tmp_path, number) for number in range(1, 4)]
    with (folders[0] / locks.IN_USE).open("w") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        os.utime(folders[0], (1_000_001, 1_000_001))
        assert parcels.prune(tmp_path, ()) == [folders[1]]
    assert parcels.prune(tmp_path, ()) == [folders[0]]


def test_none_goes_that_this_process_uses(tmp_path: Path) -> None:
    folders = [old(tmp_path, number) for number in range(1, 4)]
    image = Image(f"sha256:{folders[0].name}", folders[0] / "image.tar", folders[0] / "rootfs", "")
    parcels.hold(image)
    os.utime(folders[0], (1_000_001, 1_000_001))
    assert parcels.prune(tmp_path, ()) == [folders[1]]


def test_what_was_built_from_source_is_left_to_the_build(tmp_path: Path) -> None:
    image = images.lay(tmp_path)
    for number in range(1, 4):
        old(tmp_path, number)
    parcels.prune(tmp_path, ())
    assert image.archive.is_file()


def test_debris_of_killed_processes_goes(tmp_path: Path) -> None:
    for name in ("gone-1", "taking-77"):
        (tmp_path / "image" / name / "deep").mkdir(parents=True)
    parcels.prune(tmp_path, ())
    assert {p.name for p in (tmp_path / "image").iterdir()} == {"work.lock"}


def test_a_folder_that_is_being_removed_is_made_anew_by_who_needs_it(tmp_path: Path) -> None:
    """The lock of a folder that was renamed away meanwhile is not taken for that of the new one."""
    folder = old(tmp_path, 1)
    lock = os.open(folder / locks.IN_USE, os.O_RDWR | os.O_CREAT)
    folder.rename(tmp_path / "image" / "gone-x")
    assert not locks._is_at(lock, folder / locks.IN_USE)
    image = Image(f"sha256:{folder.name}", folder / "image.tar", folder / "rootfs", "")
    parcels.hold(image)
    assert (folder / locks.IN_USE).is_file()
    os.close(lock)


# --- to an engine ---------------------------------------------------------------------------------------

TAKES = """#!/bin/sh
[ "$1" = load ] || exit 9
[ $# = 1 ] || exit 8
cat > "$(dirname "$0")/taken"
echo "Loaded image"
"""


def engine(tmp_path: Path, text: str) -> str:
    program = tmp_path / "engine"
    program.write_text(text)
    program.chmod(0o755)
    return str(program)


def test_an_engine_is_given_the_stream_uncompressed(tmp_path: Path, image: Image) -> None:
    assert load_archive("engine", (engine(tmp_path, TAKES),), image, quiet) == "Loaded image"
    assert (tmp_path / "taken").read_bytes() == OURS.data


def test_an_engine_that_takes_nothing_ends_in_its_own_words(tmp_path: Path) -> None:
    large = carried(tmp_path / "cache", tmp_path / "program", archive(tar(file("large", os.urandom(4 << 20)))))
    program = engine(tmp_path, "#!/bin/sh\necho no space left on device >&2\nexit 1\n")
    with pytest.raises(EngineError, match="no space left") as e:
        load_archive("engine", (program,), large, quiet)
    assert "make room" in e.value.hints[0]


def test_an_engine_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOAD_SECONDS", 0.3)
    monkeypatch.setattr(loading, "TELL_SECONDS", 0.1)
    large = carried(tmp_path / "cache", tmp_path / "program", archive(tar(file("large", os.urandom(4 << 20)))))
    with pytest.raises(EngineError, match="did not load"):
        loading.load_archive("engine", (engine(tmp_path, "#!/bin/sh\nsleep 600\n"),), large, quiet)


def test_a_stream_that_breaks_ends_the_engine(tmp_path: Path, image: Image) -> None:
    program = tmp_path / "program"
    program.write_bytes(cut(program.read_bytes()))
    with pytest.raises(AlteredError):
        load_archive("engine", (engine(tmp_path, TAKES + "sleep 600\n"),), image, quiet)
