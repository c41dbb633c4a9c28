"""The log: one line an event, no key in it, no end to it, and never the end of the host."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host import log as log_module
from host.log import Log, one_line, remove_keys

KEY = "sk-ant-api03-" + "aB3dE6gH9" * 10
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log" / "nanoclaw.log"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_line_has_time_level_text_and_values(path: Path) -> None:
    Log(path).warning("turn failed", group="home", why='it said "no"', empty="")
    (line,) = lines(path)
    assert line[:10].count("-") == 2
    assert line.partition(" ")[2] == 'warning turn failed group=home why="it said \\"no\\"" empty=""'


def test_the_file_and_its_folder_are_for_the_owner_only(path: Path) -> None:
    old = os.umask(0)
    try:
        Log(path).info("x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_open_to_others_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch(mode=0o666)
    path.chmod(0o666)
    Log(path).info("x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    Log(path).info("x")
    assert not (tmp_path / "elsewhere").exists()


HOSTILE = [
    "two\nlines",
    "2025-01-01T00:00:00Z error forged\r\n",
    "\x1b]0;title\x07\x1b[2J",
    "\x9b31m",
    "right\u202eto left",
    "\u2028\u2029\u0085\x0b\x0c",
    "\ud800",
    "\0",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_one_event_is_one_line_that_a_terminal_only_shows(path: Path, text: str) -> None:
    Log(path).info("said", text=text, other="x")
    (line,) = lines(path)
    assert line.isprintable()
    assert line.endswith("other=x")
    assert text not in line


@settings(deadline=None)
@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line
    assert line == text or not text.isprintable()


def test_keys_do_not_reach_the_file_not_even_cut_in_half(path: Path) -> None:
    log = Log(path, scrub=lambda text: text.replace("plain-secret", "[gone]"))
    log.info(f"with {KEY}", b="x" * (log_module.MAX_VALUE - 20) + KEY, c={"Authorization": f"Bearer {KEY[7:]}"})
    log.info("short", d="a" * (log_module.MAX_VALUE - 5) + "plain-secret")
    text = path.read_text()
    assert "api03" not in text
    assert "aB3dE6gH9" not in text
    assert "plain" not in text
    assert text.count("[secret removed]") == 3


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn is a name",
        "ask-me-anything-about-it-now",
        "the bearer of news",
        "api_key=",
        "gh_pages",
        "risk-averse-people",
    ],
)
def test_ordinary_words_are_no_keys(text: str) -> None:
    assert remove_keys(text) == text


def test_long_values_and_lines_are_cut_and_say_so(path: Path) -> None:
    Log(path).info("long", **{f"v{i}": "ä" * 5000 for i in range(20)})
    (line,) = lines(path)
    assert len(line.encode()) <= log_module.MAX_LINE
    assert "… (5000 characters)" in line
    assert line.endswith("…")


def test_what_it_keeps_has_an_end(path: Path) -> None:
    log = Log(path)
    for number in range(4000):
        log.info("event", number=number, text="x" * 900)
    files = sorted(path.parent.iterdir())
    assert [f.name for f in files] == ["nanoclaw.log", "nanoclaw.log.1", "nanoclaw.log.2"]
    assert all(f.stat().st_size <= log_module.MAX_FILE for f in files)
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert "number=3999 " in lines(path)[-1]
    numbers = [int(line.split("number=")[1].split()[0]) for f in reversed(files) for line in lines(f)]
    assert numbers == list(range(numbers[0], 4000))


def test_a_full_file_that_cannot_be_moved_does_not_grow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path)
    monkeypatch.setattr(log_module, "MAX_FILE", 500)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refuse)
    for _ in range(100):
        log.info("event")
    assert path.stat().st_size <= 500


def test_debug_is_written_only_when_asked_for(path: Path) -> None:
    Log(path).debug("a")
    Log(path, debug=True).debug("b")
    assert [line.rpartition(" ")[2] for line in lines(path)] == ["b"]


def test_a_disk_that_is_full_costs_lines_and_says_how_many(path: Path) -> None:
    """The kernel's own limit on the size of a file stands for the disk."""
    log = Log(path)
    log.info("first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        for _ in range(7):
            log.info("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    log.info("again")
    kept = lines(path)
    assert "first" in kept[0]
    assert "lost" not in "".join(kept)
    assert "7 lines could not be written" in kept[-2]
    assert kept[-1].endswith("again")


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Log(tmp_path / "file" / "nanoclaw.log").error("x")
    Log(Path("/proc/nowhere/nanoclaw.log")).error("x")
    os.mkfifo(tmp_path / "nanoclaw.log")
    Log(tmp_path / "nanoclaw.log").error("x")


def say(path: Path, code: str, **environ: str) -> str:
    """What a process with such a log writes on its standard error."""
    source = f"from pathlib import Path\nfrom host.log import Log\nlog = Log(Path({str(path)!r}), {code}"
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environ}
    done = subprocess.run(
        [sys.executable, "-c", source], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stderr


def test_standard_error_speaks_to_a_person_and_only_when_asked(path: Path) -> None:
    assert say(path, "); log.error('x')") == ""
    both = "); log.info('started', pid=1); log.warning('odd')"
    assert say(path, "to_stderr=True" + both) == "nanoclaw: started pid=1\nnanoclaw: warning: odd\n"
    assert say(path, "to_stderr=True, quiet=True" + both) == "nanoclaw: warning: odd\n"
    assert say(path, "to_stderr=True" + both, JOURNAL_STREAM="8:1") == "<6>started pid=1\n<4>warning: odd\n"
    assert "warning odd" in path.read_text()


def flood(path: Path, stderr: int) -> list[str]:
    """What reaches the file when a process logs 500 long lines, and shows them to somebody who does not look."""
    source = (
        f"from pathlib import Path\nfrom host.log import Log\nlog = Log(Path({str(path)!r}), to_stderr=True)\n"
        "for i in range(500): log.info('event', text='x' * 900)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", source], stderr=stderr, env={"PYTHONPATH": str(ROOT)})
    try:
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    return lines(path)


def test_a_reader_that_hangs_does_not_stop_the_host(path: Path) -> None:
    reading, writing = os.pipe()
    try:
        assert len(flood(path, writing)) == 500
    finally:
        os.close(reading)
        os.close(writing)


def test_a_terminal_that_was_stopped_does_not_stop_the_host(path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        assert len(flood(path, theirs)) == 500
    finally:
        os.close(ours)
        os.close(theirs)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=3000), st.text(max_size=3000))
def test_logging_any_text_never_fails(tmp_path_factory: pytest.TempPathFactory, text: str, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    log = Log(path)
    log.error(text, value=value)
    log.close()
    assert path.read_bytes().endswith(b"\n")
