"""WhatsApp out of the built file: an account is linked to the tests' own server, a question in a group is answered in
its sandbox, and the reply is readable at the other end.

The library in the file holds its server to WhatsApp's root key. So what is run is not the very file that was built, but
one put together of its parts (tests/fakes/builtfile.py) in which these bytes are others: the 32 of that key, the digest
and length of the parcel that the key lies in as `host.carried` has them, and what follows from both: how these two
parcels are compressed, their digests, and the index and trailer that name them. Nothing else is touched: launcher,
program, sandbox image, bubblewrap and the WhatsApp program with its Python are those that were built. Where the server
is, the program is told as any person would (`proxy` in config.toml), and whom to trust for TLS by SSL_CERT_FILE.

That the file as it was built refuses this server, and that a file is refused in which less was changed, is shown too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cli import command
from tests.fakes import builtfile, whatsapp_server
from tests.fakes.builtfile import Parts
from tests.fakes.whatsapp_server import ANN, FAMILY, ME, Server
from tests.fakes.whatsapp_town import GROUP, Make, Nanoclaw, Town, linking, said, text_of, town

pytestmark = pytest.mark.timeout(600)
OTHER_ROOT = bytes(range(32))


@pytest.fixture(scope="module")
def parts(built: Path) -> Parts:
    found = builtfile.apart(built)
    if "whatsapp" not in found.parcels:
        whatsapp_server.unavailable(f"{built} comes without it")
    return found


@pytest.fixture(scope="module")
def changed(parts: Parts) -> Parts:
    """With another library in it, which nothing else in it knows of."""
    return builtfile.with_root(parts, OTHER_ROOT)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Whatever it keeps and wherever it looks is in that folder."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(temporary)}
    return {**env, "LANG": "C.UTF-8", "NO_COLOR": "1", **more}


def run(file: Path, folder: Path, server: Server) -> Nanoclaw:
    return Nanoclaw((str(file),), environment(folder, SSL_CERT_FILE=str(server.ca)))


def trusting(parts: Parts) -> Make:
    """The built file with the server's key in it."""
    return lambda folder, server: run(builtfile.trusting(parts, server.root, folder / "nanoclaw"), folder, server)


def as_built(built: Path) -> Make:
    return lambda folder, server: run(built, folder, server)


def processes(folder: Path) -> list[int]:
    """That run a program from there."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(entry.path, "exe").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found


def link(place: Town) -> None:
    with linking(place) as process:
        place.server.do("scan", code=said(process)["code"])
        found = said(process)
        assert (found["connected"], found["linked"]["id"]) == (True, f"{ME['pn']}@s.whatsapp.net")
        assert process.wait(60) == 0


def answers(place: Town, question: str, words: str) -> None:
    """Ann's question in the group is answered to everyone there, as an answer to it."""
    since = place.server.now()
    asked = place.writes(question)
    found = place.sent(words, since)
    assert (found["to"], set(found["readers"])) == (GROUP, set(FAMILY["members"]))
    context = found["message"]["extendedTextMessage"]["contextInfo"]
    assert (context["stanzaId"], context["participant"]) == (asked, f"{ANN['lid']}@lid")
    made = place.home / "data" / "groups" / "family" / "here"
    assert made.read_text().strip() in text_of(found), "it ran in the folder that is the group's"
    made.unlink()


def test_an_account_is_linked_a_question_answered_and_it_is_connected_again_after_a_stop(
    parts: Parts, tmp_path: Path
) -> None:
    folder = tmp_path / "town"
    with town(folder, linked=False, make=trusting(parts)) as place:
        link(place)
        place.says("groups", "add", "family", "--channel", "whatsapp", "--chat", GROUP)
        answers(place, "@Andy run echo $((6 * 7)) from $(hostname) | tee here", "42 from")
        (program,) = (place.home / "cache" / "whatsapp").glob("*/whatsapp")
        assert processes(program.parent), "what speaks to WhatsApp came out of the file"
        place.stop()
        assert processes(folder) == []
        since = place.server.now()
        place.start()
        place.connected()
        place.server.wait("login", since=since)
        assert not any(event["registering"] for event in place.server.seen("began", since)), "it was linked anew"
        answers(place, "@Andy run echo $((6 * 9)) from $(hostname) | tee here", "54 from")
    assert processes(folder) == []
    assert {path.name for path in folder.iterdir()} == {"home", "host.stderr", "nanoclaw", "server", "tmp"}
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.usefixtures("parts")
def test_the_file_as_it_was_built_takes_the_server_for_a_false_one(built: Path, tmp_path: Path) -> None:
    with town(tmp_path / "town", linked=False, make=as_built(built)) as place:
        with linking(place) as process:
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (1, ""), err
        assert "cannot reach WhatsApp" in err
        assert "failed to verify server cert" in err
        assert place.server.seen("closed"), "it was not this server that it spoke to"
        assert place.server.seen("began") == []


# --- a file in which less was changed -------------------------------------------------------------------------------


def test_put_together_without_a_change_it_is_the_built_file(built: Path, tmp_path: Path) -> None:
    out = builtfile.together(builtfile.apart(built), tmp_path / "nanoclaw")
    assert out.read_bytes() == built.read_bytes()


def refused(out: Path, why: str) -> None:
    """Nothing of its WhatsApp program is left on the disk, and it says why in one line."""
    home = out.with_name("home")
    argv = command(home, "bubblewrap", "whatsapp", "link", program=[str(out)])
    env = environment(out.parent)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nanoclaw: error: ")]
    assert "damaged" in line
    assert why in line
    assert list(home.glob("cache/whatsapp/*/*")) == []


def test_a_file_with_another_byte_in_its_whatsapp_is_refused(parts: Parts, tmp_path: Path) -> None:
    data = bytearray(parts.parcels["whatsapp"])
    data[len(data) // 2] ^= 1
    digest = parts.sha256("whatsapp")
    out = builtfile.together(parts.having(whatsapp=bytes(data)), tmp_path / "nanoclaw", {"whatsapp": digest})
    refused(out, "its whatsapp cannot be unpacked")


def test_a_file_whose_program_does_not_know_its_library_is_refused(changed: Parts, tmp_path: Path) -> None:
    refused(builtfile.together(changed, tmp_path / "nanoclaw"), "its whatsapp is not that of this version")


def test_a_file_whose_launcher_does_not_know_its_program_is_refused(
    parts: Parts, changed: Parts, tmp_path: Path
) -> None:
    known = {"host": parts.sha256("host")}
    out = builtfile.together(builtfile.accounted(parts, changed), tmp_path / "nanoclaw", known)
    refused(out, "does not hold what was built")
