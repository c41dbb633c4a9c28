"""The WhatsApp program with the real library, against the server that speaks the real protocol: how connections end,
what comes in and goes out in WhatsApp's own forms, and what the program does on the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from channel import wire
from tests.contract.stages import WhatsAppStage
from tests.contract.test_channel import linked
from tests.fakes import whatsapp_server
from tests.fakes.channel_harness import ChannelProcess
from tests.fakes.whatsapp_server import ANN, FAMILY, ME, ROOT

GROUP = FAMILY["id"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[WhatsAppStage]:
    stage = WhatsAppStage(tmp_path / "s")
    yield stage
    stage.close()


@pytest.fixture
def channel(stage: WhatsAppStage) -> ChannelProcess:
    """Linked and connected."""
    channel = stage.start()
    linked(stage, channel)
    return channel


def down(channel: ChannelProcess, reason: str, since: int) -> wire.Disconnected:
    return channel.wait(wire.Disconnected, lambda d: d.reason == reason, since=since)


def test_linking_by_a_typed_code(stage: WhatsAppStage) -> None:
    channel = stage.start()
    request = channel.ask(lambda n: wire.Link(n, phone="+" + ME["pn"]))
    code = channel.wait(wire.Code)
    assert len(code.code) == 9
    stage.server.do("type", code=code.code)
    assert isinstance(channel.answer(request), wire.Done)
    assert channel.wait(wire.Connected).account.id == stage.me
    assert not [f for f in channel.said if isinstance(f, wire.Qr)]


def test_linked_by_a_server_that_hangs_up_at_once_it_connects_all_the_same(stage: WhatsAppStage) -> None:
    stage.server.do("set", hasty=True)
    channel = stage.start()
    request = channel.ask(wire.Link)
    stage.scan(channel.wait(wire.Qr).code)
    assert isinstance(channel.answer(request), wire.Done)
    channel.wait(wire.Connected)


def test_linking_that_is_called_off_can_be_begun_again(stage: WhatsAppStage) -> None:
    channel = stage.start()
    first = channel.ask(wire.Link)
    channel.wait(wire.Qr)
    channel.done(wire.Unlink)
    failed = channel.answer(first)
    assert isinstance(failed, wire.Failed)
    assert failed.reason == "expired"
    linked(stage, channel)


def test_linking_without_a_network_says_so_and_can_be_tried_again(stage: WhatsAppStage) -> None:
    stage.server.do("set", down=True)
    channel = stage.start()
    assert channel.failed(wire.Link).reason == "offline"
    stage.server.do("set", down=False)
    linked(stage, channel)


def test_a_restart_needs_no_linking_and_without_a_network_it_comes_back_by_itself(
    stage: WhatsAppStage, channel: ChannelProcess
) -> None:
    channel.process.kill()
    channel.ended()
    stage.server.do("set", down=True)
    again = stage.start()
    assert again.wait(wire.Hello).linked
    offline = again.wait(wire.Disconnected)
    assert offline.reason == "offline"
    assert offline.retry > 0
    stage.server.do("set", down=False)
    again.wait(wire.Connected)


def test_after_a_drop_it_comes_back_by_itself(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    since = channel.now()
    stage.server.do("drop")
    down(channel, "lost", since)
    channel.wait(wire.Connected, since=since)
    message_id = stage.writes(GROUP, "still there?")
    channel.wait(wire.Message, lambda m: m.id == message_id)


def test_taken_off_the_account_it_can_be_linked_again_without_a_restart(
    stage: WhatsAppStage, channel: ChannelProcess
) -> None:
    since = channel.now()
    stage.server.do("unlink")
    stage.server.do("end", how="removed")
    assert down(channel, "logged_out", since).retry == wire.NEVER
    assert channel.failed(lambda n: wire.Send(n, GROUP, "x")).reason == "offline"
    since = channel.now()
    request = channel.ask(wire.Link)
    stage.scan(channel.wait(wire.Qr, lambda qr: qr.id == request, since=since).code)
    assert isinstance(channel.answer(request), wire.Done)
    channel.wait(wire.Connected, since=since)


@pytest.mark.parametrize(
    ("failure", "reason", "retries"),
    [
        ({"reason": "401", "location": "test"}, "logged_out", False),
        ({"reason": "405"}, "outdated", False),
        ({"reason": "402", "code": "101", "expire": "3600"}, "banned", True),
        ({"reason": "400"}, "lost", True),
    ],
)
def test_a_refused_connection_is_told_in_words(
    stage: WhatsAppStage, channel: ChannelProcess, failure: dict[str, str], reason: str, retries: bool
) -> None:
    since = channel.now()
    stage.server.do("set", failure=failure)
    stage.server.do("drop")
    said = down(channel, reason, since) if reason != "lost" else channel.wait(
        wire.Disconnected, lambda d: "refused" in d.text, since=since
    )  # fmt: skip
    assert (said.retry > 0) is retries
    if reason == "banned":
        assert 3000 < said.retry <= 3600
    channel.done(wire.Ping)


def test_replaced_by_another_program_it_does_not_fight(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    since = channel.now()
    stage.server.do("end", how="replaced")
    assert down(channel, "replaced", since).retry == wire.NEVER
    channel.done(wire.Stop)
    assert channel.ended() == 0


def test_what_was_said_while_it_was_down_comes_when_it_is_up(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    channel.process.kill()
    channel.ended()
    ids = [stage.writes(GROUP, f"number {n}") for n in range(20)]
    again = stage.start()
    again.wait(wire.Message, lambda m: m.id == ids[-1])
    assert [m.id for m in again.said if isinstance(m, wire.Message)] == ids


def test_history_comes_as_context(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    old = {
        "key": {"remoteJid": GROUP, "id": "OLD1", "participant": f"{ANN['lid']}@lid"},
        "messageTimestamp": 1_600_000_000,
    }
    message = {"message": {**old, "message": {"conversation": "long ago"}}}
    stage.server.do("history", history={"syncType": 0, "conversations": [{"id": GROUP, "messages": [message]}]})
    found = channel.wait(wire.Message, lambda m: m.id == "OLD1")
    assert (found.history, found.text, found.at) == (True, "long ago", 1_600_000_000)


@pytest.mark.parametrize("by", ["pn", "lid", "lid-only"])
def test_a_person_is_one_person_however_the_server_names_her(
    stage: WhatsAppStage, channel: ChannelProcess, by: str
) -> None:
    stage.writes(GROUP, "so that the library learns both names")
    message_id = stage.server.message(stage.friend, "hi", ANN["pn"], by=by)
    found = channel.wait(wire.Message, lambda m: m.id == message_id)
    assert (found.sender.id, found.chat.id) == (stage.friend, stage.friend)


def test_pictures_voices_and_vanishing_messages(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(500)
    image = {**stage.server.upload(png, "image", "image/png"), "caption": "look"}
    stage.say(GROUP, {"ephemeralMessage": {"message": {"imageMessage": image}}})
    found = channel.wait(wire.Message, lambda m: m.text == "look")
    assert found.ephemeral
    assert [a.kind for a in found.attachments] == ["image"]
    request = channel.ask(lambda n: wire.Fetch(n, found.attachments[0].ref, 1 << 20))
    assert isinstance(channel.answer(request), wire.Done)
    assert b"".join(f.data for f in channel.said if isinstance(f, wire.Data) and f.id == request) == png
    since = channel.now()
    stage.say(GROUP, {"audioMessage": {**stage.server.upload(b"OggS", "audio", "audio/ogg"), "ptt": True}})
    assert channel.wait(wire.Message, since=since).attachments[0].kind == "voice"
    stage.server.do("forget", path=image["directPath"])
    assert channel.failed(lambda n: wire.Fetch(n, found.attachments[0].ref, 1 << 20)).reason == "gone"


def test_a_picture_out_is_shown_as_one(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    data = b"\xff\xd8\xff\xe0" + zlib.compress(bytes(1000))
    channel.send_file(GROUP, wire.File("cat.jpg", "image/jpeg", len(data)), data, "**the** cat")
    message = stage.server.wait("sent")["message"]
    assert message["imageMessage"]["caption"] == "*the* cat"
    assert stage.server.download(message["imageMessage"], "image") == data


def test_long_replies_go_out_in_pieces_and_only_the_first_quotes(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    text = "\n\n".join(f"**Paragraph {n}** " + "word " * 300 for n in range(6))
    done = channel.done(lambda n: wire.Send(n, GROUP, text, quote=wire.Quote("Q1", stage.friend, "tell me all")))
    assert len(done.sent) > 1
    stage.server.wait("sent", times=len(done.sent))
    sent = [e["message"] for e in stage.server.seen("sent")]
    quotes = [m.get("extendedTextMessage", {}).get("contextInfo", {}).get("stanzaId") for m in sent]
    assert quotes == ["Q1"] + [None] * (len(sent) - 1)
    assert sent[0]["extendedTextMessage"]["text"].startswith("*Paragraph 0*")


def test_a_mention_is_one_in_the_form_of_the_group(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    question = stage.writes(GROUP, "who?")
    channel.wait(wire.Message, lambda m: m.id == question)
    channel.done(lambda n: wire.Send(n, GROUP, f"You, @{stage.friend}!", mentions=[stage.friend]))
    extended = stage.server.wait("sent")["message"]["extendedTextMessage"]
    assert extended["text"] == f"You, @{ANN['lid']}!"
    assert extended["contextInfo"]["mentionedJid"] == [f"{ANN['lid']}@lid"]


def test_a_direct_message_bears_no_mark_of_a_bot(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    channel.done(lambda n: wire.Send(n, stage.friend, "hello"))
    assert stage.server.wait("sent")["bot"] is False


def test_a_refused_message_says_so(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    stage.server.do("set", refuses="479")
    answer = channel.failed(lambda n: wire.Send(n, GROUP, "x"))
    assert (answer.reason, answer.retry) == ("refused", wire.NEVER)


def test_receipts_of_what_was_sent(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    done = channel.done(lambda n: wire.Send(n, GROUP, "seen?"))
    stage.server.do("receipt", chat=GROUP, sender=ANN["pn"], ids=done.sent, kind="read")
    receipt = channel.wait(wire.Receipt)
    assert (receipt.ids, receipt.kind, receipt.sender.id) == (done.sent, "read", stage.friend)


def test_chats_have_names_and_new_names_are_told(stage: WhatsAppStage, channel: ChannelProcess) -> None:
    request = channel.ask(wire.ListChats)
    channel.answer(request)
    chats = {c.id: c for f in channel.said if isinstance(f, wire.Chats) for c in f.chats}
    assert (chats[GROUP].name, chats[GROUP].kind, chats[stage.me].kind) == ("Family", "group", "self")
    stage.server.do("rename", group=GROUP, subject="Clan", by=ANN["pn"])
    assert channel.wait(wire.Chats, lambda f: f.id == 0).chats[0].name == "Clan"
    message_id = stage.writes(GROUP, "new name")
    assert channel.wait(wire.Message, lambda m: m.id == message_id).chat.name == "Clan"


# --- on the machine -------------------------------------------------------------------------------------------------


def test_the_session_is_nobody_elses_and_nothing_is_printed_but_to_the_log(
    stage: WhatsAppStage, channel: ChannelProcess
) -> None:
    assert stage.data.stat().st_mode & 0o077 == 0
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in stage.data.iterdir()}
    assert {"session.db", "unkept"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    proc = Path(f"/proc/{channel.process.pid}")
    assert (proc / "cwd").readlink() == stage.data
    assert (proc / "fd" / "1").readlink() == (proc / "fd" / "2").readlink()
    assert (proc / "fd" / "0").readlink() == Path("/dev/null")


def test_when_the_host_is_killed_it_ends(stage: WhatsAppStage, tmp_path: Path) -> None:
    """The host here is a shell that starts it and lives on: its death is what ends the program, not the socket's."""
    channel = stage.start()
    channel.wait(wire.Hello)
    status = Path(f"/proc/{channel.process.pid}/status").read_text()
    assert "Name:\tpython" in status
    os.kill(channel.process.pid, signal.SIGSTOP)  # a program that hangs is ended too
    channel.process.kill()
    assert channel.ended() == -signal.SIGKILL


FAKE_REQUESTS = """
import os
def get(url, **more):
    open(os.environ["ASKED"], "a").write(url)
    raise SystemExit(7)
"""


STAND_IN = """
class Any(type):
    def __getattr__(cls, name): return cls
    def __call__(cls, *_, **__): return cls
class One(metaclass=Any): pass
def __getattr__(name): return One
"""


@pytest.mark.parametrize("damage", ["missing", "another version"])
def test_a_library_that_does_not_fit_is_never_downloaded(tmp_path: Path, damage: str) -> None:
    if reason := whatsapp_server.missing():
        whatsapp_server.unavailable(reason)
    site = tmp_path / "site"
    site.mkdir()
    for entry in whatsapp_server.site_packages().iterdir():
        if entry.name != "neonize":
            (site / entry.name).symlink_to(entry)
    shutil.copytree(whatsapp_server.site_packages() / "neonize", site / "neonize")
    (library,) = (site / "neonize").glob("neonize-linux-*.so")
    library.unlink()
    if damage == "another version":
        code = 'const char *GetVersion(void) { return "0.4.0"; }'
        build = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", os.fspath(library)]
        if shutil.which("cc") is None:
            pytest.skip("no C compiler to make a library of another version with")
        subprocess.run(build, input=code.encode(), check=True)
    (site / "requests.py").write_text(FAKE_REQUESTS)
    for name in ("tqdm", "magic", "linkpreview", "PIL", "segno", "phonenumbers", "httpx"):
        (site / f"{name}.py").write_text(STAND_IN)
    asked = tmp_path / "asked"
    argv = [whatsapp_server.PYTHON, "-S", "-B", "-c"]
    env = {"ASKED": str(asked), "PATH": os.environ["PATH"], "PYTHONPATH": f"{site}:{ROOT}"}

    ours = subprocess.run(
        [*argv, "from whatsapp import library; library.load()"], env=env, capture_output=True, text=True, check=False
    )
    assert ours.returncode == 1
    assert "LibraryError" in ours.stderr
    assert not asked.exists()

    # The control: neonize by itself would have fetched it.
    subprocess.run([*argv, "import neonize"], env=env, capture_output=True, check=False)
    assert asked.read_text().startswith("https://")


def test_started_by_a_person_it_says_who_starts_it() -> None:
    if reason := whatsapp_server.missing():
        whatsapp_server.unavailable(reason)
    argv = [whatsapp_server.PYTHON, "-B", "-m", "whatsapp", "somewhere"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.startswith("nanoclaw: error: this program is started by nanoclaw")
