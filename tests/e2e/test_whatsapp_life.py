"""WhatsApp's account and its program, on a whole host: linked, restarted, killed, refused, and missing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.e2e.cli import command, environment, nanoclaw, rows, wait_for
from tests.fakes import whatsapp_server
from tests.fakes.whatsapp_server import ME
from tests.fakes.whatsapp_town import Town, ended, linking, pidfd, python_with, said, town

MESSAGES = 500
QUESTIONS = 5
ANSWERED_OTHERWISE = """
    SELECT m.text, count(t.id) FROM messages m
    LEFT JOIN turns t ON m.seq BETWEEN t.from_seq AND t.upto AND t.outcome = 'done'
    WHERE m.text LIKE '@Andy %' GROUP BY m.seq HAVING count(t.id) != 1
"""


@pytest.mark.parametrize("by", ["qr", "code"])
def test_an_account_is_linked_at_the_terminal_and_stays_linked(tmp_path: Path, by: str) -> None:
    with town(tmp_path / "town", linked=False) as place:
        with linking(place, *([] if by == "qr" else ["--phone", f"+{ME['pn']}"])) as process:
            shown = said(process)
            assert shown["kind"] == by
            place.server.do("scan" if by == "qr" else "type", code=shown["code"])
            found = said(process)
            assert (found["connected"], found["linked"]["id"]) == (True, f"{ME['pn']}@s.whatsapp.net")
            assert process.wait(60) == 0
        place.stop()
        place.start()
        place.connected()
        assert place.line["linking"]["code"] == ""
        place.register("family")
        written = place.writes("after the restart")
        place.until_stored(written)
        assert place.stored(written) == [("message", "after the restart", 0)]


def test_a_code_that_expires_is_followed_by_another_until_there_are_no_more(tmp_path: Path) -> None:
    with town(tmp_path / "town", linked=False) as place:
        place.server.do("set", codes=2)  # each of them is good for 20 seconds then
        with linking(place) as process:
            first, second = said(process), said(process)
            assert first["code"] != second["code"]
            assert second["until"] > time.time()
            _, stderr = process.communicate(timeout=90)
        assert process.returncode == 1
        assert "nanoclaw: error: no account was linked: " in stderr
        # It can be begun again.
        place.server.do("set", codes=6)
        place.link()


def test_why_there_is_no_connection_is_told_in_words(tmp_path: Path) -> None:
    with town(tmp_path / "town") as place:

        def why(reason: str) -> str:
            place.until(lambda: place.line["reason"] == reason)
            told: str = place.line["why"]
            assert told in place.says("whatsapp", "status")
            assert told in json.dumps(place.status(), ensure_ascii=False)
            assert told in (place.home / "data/log/nanoclaw.log").read_text()
            return told

        seen = {}
        place.server.do("end", how="replaced")
        seen["replaced"] = why("replaced")
        for reason, failure in (
            ("outdated", {"reason": "405"}),
            ("banned", {"reason": "402", "code": "101", "expire": "3600"}),
        ):
            place.kill_child()
            place.connected()
            place.server.do("set", failure=failure)
            place.server.do("drop")
            seen[reason] = why(reason)
            place.server.do("set", failure=None)
        place.kill_child()
        place.connected()
        place.server.do("unlink")
        place.server.do("end", how="removed")
        seen["logged_out"] = why("logged_out")
        assert len(set(seen.values())) == len(seen)
        assert all(" " in sentence for sentence in seen.values())
        # Each was told to main too, which is at the terminal here.
        told = [row[0] for row in rows(place.home, "SELECT text FROM outbox WHERE grp = 'main' ORDER BY id")]
        assert [next(r for r, s in seen.items() if s in text) for text in told] == list(seen)
        place.link()


def test_of_500_messages_none_is_lost_or_doubled_whatever_breaks(tmp_path: Path) -> None:
    """What the library has decrypted and not handed over is the one thing that a kill may lose (docs/whatsapp.md): the
    kills here come while it has nothing in hand, and the program, the host and the server have."""
    with town(tmp_path / "town") as place:
        place.register("family")
        # One that comes while a turn runs is shown to it, and the rehearsal has nothing to say to these.
        texts = [f"message {n}\nsay nothing" for n in range(MESSAGES)]
        for n in range(MESSAGES // (2 * QUESTIONS), MESSAGES, MESSAGES // QUESTIONS):
            texts[n] = f"@Andy repeat answer to {n}."
        writing, ids = iter(texts), list[str]()

        def write(count: int) -> list[str]:
            ids.extend(place.writes(text) for text in islice(writing, count))
            return ids[-count:]

        for upto, broken in (
            (60, dropped), (130, child_killed), (210, dropped), (280, host_killed), (350, child_killed), (430, dropped),
        ):  # fmt: skip
            write(upto - len(ids))
            broken(place, write)
        write(MESSAGES - len(ids))
        place.until(lambda: stored(place) >= MESSAGES)
        place.until(lambda: not rows(place.home, "SELECT 1 FROM outbox WHERE sent_at IS NULL AND given_up = ''"))
        place.until_idle()
        found = rows(place.home, "SELECT id, text FROM messages WHERE channel = 'whatsapp'")
        assert Counter(text for _, text in found) == Counter(texts)
        assert Counter(str(row[0]).rpartition(" ")[2] for row in found) == Counter(ids)
        # And each question was asked of the agent in one turn that came to its end, whatever was killed meanwhile.
        assert rows(place.home, ANSWERED_OTHERWISE) == []
        said = "\n".join(row[0] for row in rows(place.home, "SELECT text FROM outbox WHERE grp = 'family'"))
        assert [text for text in texts if text.startswith("@") and text.removeprefix("@Andy repeat ") not in said] == []
        questions = rows(place.home, "SELECT count(*) FROM messages WHERE text LIKE '@Andy %'")
        assert questions == [(QUESTIONS,)]


def test_a_host_that_is_stopped_while_people_write_loses_nothing(tmp_path: Path) -> None:
    """As a service manager stops it: the signal is for all its processes."""
    with town(tmp_path / "town") as place:
        place.register("family")
        ids: list[str] = []
        enough = threading.Event()

        def write() -> None:
            while not enough.is_set():
                ids.append(place.writes(f"message {len(ids)}"))

        writing = threading.Thread(target=write)
        writing.start()
        try:
            for _ in range(6):
                before = stored(place)
                place.until(lambda: stored(place) > before)  # noqa: B023 - it is used up in this round
                with pidfd(place.child) as child:
                    signal.pidfd_send_signal(child, signal.SIGTERM)
                    place.stop()
                place.start()
        finally:
            enough.set()
            writing.join()
        place.until(lambda: stored(place) == len(ids))
        found = rows(place.home, "SELECT id FROM messages WHERE channel = 'whatsapp'")
        assert Counter(str(row[0]).rpartition(" ")[2] for row in found) == Counter(ids)


def test_a_signal_to_all_of_the_hosts_processes_is_for_the_host(tmp_path: Path) -> None:
    with town(tmp_path / "town") as place:
        place.register("family")
        child = place.child
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child, number)
        place.until_stored(place.writes("are you there?"))
        assert place.child == child
        place.stop()


Write = Callable[[int], list[str]]


def dropped(place: Town, write: Write) -> None:
    """In the middle of what arrives: some of it is stored, and some is on its way."""
    online(place)
    before = stored(place)
    write(10)
    wait_for(lambda: stored(place) > before)
    place.server.do("drop")


def child_killed(place: Town, write: Write) -> None:
    with in_flight(place, write):
        place.kill_child()


def host_killed(place: Town, write: Write) -> None:
    with in_flight(place, write):
        place.kill()
    place.start()


@contextlib.contextmanager
def in_flight(place: Town, write: Write) -> Iterator[None]:
    """Twenty messages that the program has and the host has not, and twenty that wait at the server."""
    assert place.host is not None
    online(place)  # a host that stands still starts no program
    place.host.send_signal(signal.SIGSTOP)
    try:
        handed = write(20)
        spool = place.home / "data" / "whatsapp" / "unkept"
        wait_for(lambda: not set(handed) - spooled(spool) and not set(handed) & waiting(place))
        known = {str(row[0]).rpartition(" ")[2] for row in rows(place.home, "SELECT id FROM messages")}
        assert not set(handed) & known
        place.server.do("set", held=True)
        held = write(20)
        yield
        assert not set(held) - waiting(place)
        place.server.do("set", held=False)
    finally:
        place.host.send_signal(signal.SIGCONT)  # to one that was killed it does nothing


def online(place: Town) -> None:
    """Whatever broke before is over: there is a program, and the server has it."""
    place.until(lambda: place.server.do("session")["online"])


def spooled(path: Path) -> set[str]:
    return {json.loads(line)["id"] for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")}


def waiting(place: Town) -> set[str]:
    """What the server has and the library has not confirmed."""
    return set(place.server.do("waiting")["ids"])


def stored(place: Town) -> int:
    ((count,),) = rows(place.home, "SELECT count(*) FROM messages WHERE channel = 'whatsapp'")
    return int(count)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_host_that_is_killed_takes_its_child_along(tmp_path: Path, hangs: bool) -> None:
    with town(tmp_path / "town", linked=False) as place:
        place.call("link_channel", channel="whatsapp")
        place.code()
        with pidfd(place.child) as child:
            if hangs:  # it cannot read that its socket ended
                signal.pidfd_send_signal(child, signal.SIGSTOP)
            assert not ended(child, 0)
            place.kill()
            assert ended(child)


# --- where the library is not, or is broken --------------------------------------------------------------------------


@pytest.fixture(params=["missing", "broken"])
def without(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment whose Python has no library that works."""
    library = tmp_path / "library"
    library.mkdir()
    if request.param == "missing":
        return environment()
    if reason := whatsapp_server.missing():
        whatsapp_server.unavailable(reason)
    source, copy = whatsapp_server.site_packages() / "neonize", library / "neonize"
    copy.mkdir()
    for entry in source.iterdir():
        if entry.suffix == ".so":
            (copy / entry.name).write_bytes(b"\x7fELF" + bytes(1000))
        elif entry.name != "__pycache__":
            (copy / entry.name).symlink_to(entry)
    return environment(NANOCLAW_WHATSAPP_PYTHON=str(python_with(tmp_path, library)))


def test_without_the_library_the_host_works_and_says_what_is_missing(hosted: Path, without: dict[str, str]) -> None:
    asked = nanoclaw(hosted, "bubblewrap", "whatsapp", "link", env=without)
    assert asked.returncode in (1, 69)
    assert "nanoclaw: error: " in asked.stderr
    assert "neonize" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert "said so" in nanoclaw(hosted, "bubblewrap", "ask", "repeat said so").stdout


def test_an_account_whose_library_went_away_stops_nothing_else(
    tmp_path: Path, home: Path, without: dict[str, str]
) -> None:
    (home / "data" / "whatsapp").mkdir(parents=True, mode=0o700)
    (home / "data").chmod(0o700)
    with host_with(home, without):
        wait_for(lambda: "neonize" in nanoclaw(home, "bubblewrap", "whatsapp", "status", env=without).stdout)
        assert "said so" in nanoclaw(home, "bubblewrap", "ask", "repeat said so").stdout


@contextlib.contextmanager
def host_with(home: Path, env: dict[str, str]) -> Iterator[None]:
    host = subprocess.Popen(
        command(home, "bubblewrap", "run"), env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: (home / "data/host.sock").exists() or host.poll() is not None)
        assert host.poll() is None
        yield
    finally:
        host.terminate()
        host.wait(30)
