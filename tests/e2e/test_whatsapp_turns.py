"""WhatsApp from end to end: the real program with the real library, a server that speaks the real protocol, a host as a
person runs it, and turns in real sandboxes."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli import rows
from tests.e2e.test_secrets import files_with
from tests.fakes.whatsapp_server import ANN, BOB, CLUB, FAMILY, ME
from tests.fakes.whatsapp_town import GROUP, Town, text_of, town

SELF = f"{ME['pn']}@s.whatsapp.net"
PNG = b"\x89PNG\r\n\x1a\n" + hashlib.sha256(b"picture").digest() * 3000
DAY = 24 * 3600
TURNS = "SELECT count(*) FROM turns WHERE grp = 'family'"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One for all tests here: what one of them says, the others do not look at."""
    with town(tmp_path_factory.mktemp("whatsapp") / "town") as made:
        made.register("family")
        made.call("move_group", group="main", channel="whatsapp", chat="self")
        yield made


def answered(place: Town, text: str, words: str, chat: str = GROUP) -> dict[str, Any]:
    since = place.server.now()
    place.writes(text, chat)
    return place.sent(words, since)


def test_a_question_in_a_group_is_answered_in_its_sandbox_and_everyone_there_can_read_it(place: Town) -> None:
    since = place.server.now()
    question = place.writes("@Andy run echo $((6 * 7)) from $(hostname) | tee here")
    found = place.sent("42 from", since)
    assert found["to"] == GROUP
    assert set(found["readers"]) == set(FAMILY["members"])
    context = found["message"]["extendedTextMessage"]["contextInfo"]
    assert (context["stanzaId"], context["participant"]) == (question, f"{ANN['lid']}@lid")
    made = place.home / "data/groups/family/here"
    assert made.read_text().strip() in text_of(found), "it ran in the folder that is the group's"
    read = place.server.wait("receipt", lambda e: e["kind"] == "read" and question in e["ids"], since=since)
    assert read["to"] == GROUP


def test_what_does_not_call_the_assistant_is_context_for_what_does(place: Town) -> None:
    before = rows(place.home, TURNS)
    plain = place.writes("the password of the house is mellon")
    place.until_stored(plain)
    assert rows(place.home, TURNS) == before
    answered(place, "@Andy repeat now", "now")
    assert rows(place.home, TURNS) == [(before[0][0] + 1,)]


def test_in_the_talk_with_oneself_every_word_is_for_the_assistant_and_its_own_words_are_not(place: Town) -> None:
    found = answered(place, "repeat I heard you", "I heard you", "self")
    assert found["to"].split("@")[0] in {ME["pn"], ME["lid"]}
    place.until_idle()
    turns = "SELECT count(*) FROM turns WHERE grp = 'main'"
    before = rows(place.home, turns)
    # WhatsApp does not bring a device what it sent itself. If it did once, it would not be answered.
    place.server.message("self", "repeat this is an echo", id=found["id"])
    last = place.writes("say nothing", "self")
    place.until_stored(last)
    place.until_idle()
    assert rows(place.home, turns) == [(before[0][0] + 1,)]
    assert place.stored(found["id"]) == []
    # The control: the same words under another id are answered.
    answered(place, "repeat this is an echo", "this is an echo", "self")


def test_an_echo_is_known_by_a_host_and_a_child_that_did_not_send_it(place: Town) -> None:
    found = answered(place, "repeat before the restart", "before the restart", "self")
    place.until_idle()
    place.kill_child()
    place.connected()
    turns = "SELECT count(*) FROM turns WHERE grp = 'main'"
    before = rows(place.home, turns)
    place.server.message("self", "repeat an echo after it", id=found["id"])
    place.until_stored(place.writes("say nothing", "self"))
    place.until_idle()
    assert rows(place.home, turns) == [(before[0][0] + 1,)]


def test_a_picture_is_in_the_inbox_before_the_agent_looks_there(place: Town) -> None:
    since = place.server.now()
    image = place.server.upload(PNG, "image", "image/png")
    caption = "@Andy run sha256sum /workspace/inbox/*.png"
    place.server.say(GROUP, {"imageMessage": {**image, "caption": caption}}, ANN["pn"])
    found = place.sent("/workspace/inbox/", since)
    assert hashlib.sha256(PNG).hexdigest() in text_of(found)
    (kept,) = (place.home / "data/inbox/family").iterdir()
    assert kept.read_bytes() == PNG


def test_a_file_of_the_agent_arrives_whole(place: Town) -> None:
    since = place.server.now()
    place.writes("@Andy run head -c 300000 /dev/urandom > noise.bin; sha256sum noise.bin\nsend file noise.bin")
    found = place.server.wait("sent", lambda e: "documentMessage" in e["message"], since=since, timeout=60)
    document = found["message"]["documentMessage"]
    data = place.server.download(document, "document")
    assert document["fileName"] == "noise.bin"
    assert data == (place.home / "data/groups/family/noise.bin").read_bytes()
    assert hashlib.sha256(data).hexdigest() in text_of(place.sent("noise.bin", since))
    assert set(found["readers"]) == set(FAMILY["members"])


@pytest.mark.parametrize("ending", ["repeat all went well", "fail 400", "fail break"])
def test_that_an_answer_is_written_shows_until_it_is_there_or_is_not_to_be(place: Town, ending: str) -> None:
    since = place.server.now()
    place.writes(f"@Andy {ending}")
    place.server.wait("chatstate", lambda e: e["to"] == GROUP and e["kind"] == "composing", since=since)
    place.until_idle()
    place.until(lambda: place.server.seen("chatstate", since)[-1]["kind"] == "paused")
    ((outcome,),) = rows(place.home, "SELECT outcome FROM turns WHERE grp = 'family' ORDER BY started_at DESC LIMIT 1")
    assert outcome.startswith("done" if ending.startswith("repeat") else "failed")


def test_what_is_changed_or_taken_back_in_the_chat_is_in_the_store_too(place: Town) -> None:
    edited, deleted = place.writes("the meal is at six"), place.writes("the cake is a surprise")
    mine = {"remoteJid": GROUP, "participant": f"{ANN['lid']}@lid", "fromMe": False}
    change = {"type": 14, "key": {**mine, "id": edited}, "editedMessage": {"conversation": "the meal is at seven"}}
    place.server.say(GROUP, {"protocolMessage": change}, ANN["pn"], edit="1")
    place.server.say(GROUP, {"protocolMessage": {"type": 0, "key": {**mine, "id": deleted}}}, ANN["pn"], edit="7")
    last = place.writes("that is all")
    place.until_stored(last)
    assert place.stored(edited) == [("message", "the meal is at seven", 0)]
    assert "surprise" not in str(place.stored(deleted))
    found = rows(place.home, "SELECT id FROM messages WHERE edited_at IS NOT NULL UNION ALL "
                             "SELECT id FROM messages WHERE deleted_at IS NOT NULL")  # fmt: skip
    assert [str(row[0]).rpartition(" ")[2] for row in found] == [edited, deleted]


def test_nobody_takes_back_or_changes_what_another_wrote(place: Town) -> None:
    message = place.writes("Ann said this")
    key = {"remoteJid": GROUP, "participant": f"{ANN['lid']}@lid", "fromMe": False, "id": message}
    place.server.say(GROUP, {"protocolMessage": {"type": 0, "key": key}}, BOB["pn"], edit="7")
    change = {"type": 14, "key": key, "editedMessage": {"conversation": "Ann said that"}}
    place.server.say(GROUP, {"protocolMessage": change}, BOB["pn"], edit="1")
    place.until_stored(place.server.message(GROUP, "and now?", BOB["pn"]))
    assert place.stored(message) == [("message", "Ann said this", 0)]


def test_old_messages_and_history_are_context_and_call_nobody(place: Town) -> None:
    before = rows(place.home, TURNS)
    old = place.writes("@Andy repeat yesterday's news", t=int(time.time()) - DAY - 60)
    key = {"remoteJid": GROUP, "id": "LONGAGO1", "participant": f"{ANN['lid']}@lid"}
    message = {"key": key, "messageTimestamp": 1_600_000_000, "message": {"conversation": "@Andy repeat long ago"}}
    history = {"syncType": 0, "conversations": [{"id": GROUP, "messages": [{"message": message}]}]}
    place.server.do("history", history=history)
    place.until_stored("LONGAGO1")
    place.until_stored(old)
    place.until_idle()
    assert rows(place.home, TURNS) == before
    assert [row[2] for row in (*place.stored(old), *place.stored("LONGAGO1"))] == [1, 1]
    # The control: the same words, an hour old, call the assistant.
    since = place.server.now()
    place.writes("@Andy repeat fresh news", t=int(time.time()) - 3600)
    place.sent("fresh news", since)


def test_of_a_chat_that_is_not_registered_no_text_is_kept(place: Town) -> None:
    known, unknown, direct = "canary-tweets-4711", "canary-silent-4712", "canary-silent-4713"
    for text, chat in ((known, GROUP), (unknown, CLUB["id"]), (direct, f"{ANN['pn']}@s.whatsapp.net")):
        place.writes(text, chat)
    place.server.say(
        CLUB["id"], {"imageMessage": {**place.server.upload(PNG, "image", "image/png"), "caption": unknown}}
    )
    place.until_stored(place.writes("after them"))
    place.until(lambda: (place.home / "data/whatsapp/unkept").stat().st_size == 0)
    with closing(sqlite3.connect(place.home / "data/nanoclaw.db", timeout=10)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert str(place.home / "data/nanoclaw.db") in files_with(known.encode(), place.home)
    for canary in (unknown, direct):
        for form in (canary.encode(), base64.b64encode(canary.encode())):
            assert files_with(form, place.home) == []
    listed = place.says("chats")
    assert "Club" in listed
    assert f"{ANN['pn']}@s.whatsapp.net" in listed


def test_a_turn_of_whatsapp_in_docker(tmp_path: Path) -> None:
    with town(tmp_path / "town", "docker") as place:
        place.register("family")
        since = place.server.now()
        place.writes("@Andy run echo from $(cat /proc/1/comm) > made; cat made\nsend file made")
        assert "from" in text_of(place.sent("from", since))
        place.server.wait("sent", lambda e: "documentMessage" in e["message"], since=since, timeout=60)
        assert (place.home / "data/groups/family/made").exists()
