"""Every kind of message as the real library's protobufs have it, by phone id and by LID."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from channel import wire
from tests.fakes import whatsapp_server
from whatsapp.events import Reader
from whatsapp.identity import Directory, Jid, Pair

ME = Pair("4915100000001", "990000000000001")
ANN = Pair("4915100000002", "990000000000002")
GROUP = "120363000000000001"
PERSON = wire.Person("4915100000002@s.whatsapp.net", "990000000000002@lid", "Ann")


@pytest.fixture(scope="module")
def proto() -> Iterator[Any]:
    """The library's protobuf modules, without the library: they import each other by their bare names."""
    if reason := whatsapp_server.missing():
        whatsapp_server.unavailable(reason)
    site = whatsapp_server.site_packages()
    added = [str(site / "neonize" / "proto"), str(site)]
    sys.path[:0] = added
    try:
        import Neonize_pb2

        yield Neonize_pb2
    except ImportError as e:
        whatsapp_server.unavailable(f"its protobufs do not load in this Python: {e}")
    finally:
        for folder in added:
            sys.path.remove(folder)


@pytest.fixture
def reader() -> Reader:
    known = {Jid(ANN.lid, "lid"): Jid(ANN.phone, "s.whatsapp.net")}
    return Reader(ME, Directory(known.get), {f"{GROUP}@g.us": "Family"})


def jid(proto: Any, user: str, server: str, device: int = 0) -> Any:
    return proto.JID(User=user, Server=server, Device=device, RawAgent=0, Integrator=0, IsEmpty=not user)


def by(proto: Any, who: Pair, form: str) -> dict[str, Any]:
    """Sender and his other id, as messages of this form carry them."""
    phone, lid = jid(proto, who.phone, "s.whatsapp.net", 3), jid(proto, who.lid, "lid", 3)
    return {
        "pn": {"Sender": phone, "SenderAlt": lid},
        "lid": {"Sender": lid, "SenderAlt": phone},
        "lid-only": {"Sender": lid},
    }[form]


def event(
    proto: Any, message: dict[str, Any], *, form: str = "lid", own: bool = False, chat: str = "", **more: Any
) -> Any:
    """A message event in the family's group, or (`chat`) in a direct one."""
    from waE2E.WAWebProtobufsE2E_pb2 import Message

    source: dict[str, Any] = {**by(proto, ME if own else ANN, form), "IsFromMe": own, "IsGroup": not chat}
    source["Chat"] = jid(proto, *chat.split("@")) if chat else jid(proto, GROUP, "g.us")
    info = proto.MessageInfo(
        MessageSource=proto.MessageSource(**source), ID="ABC1", Pushname="Ann", Timestamp=1_700_000_000_123
    )
    return proto.Message(Info=info, Message=Message(**message), **more)


@pytest.mark.parametrize("form", ["pn", "lid", "lid-only"])
def test_a_person_is_one_person_however_he_is_addressed(proto: Any, reader: Reader, form: str) -> None:
    frame = reader.read(7, event(proto, {"conversation": "hi"}, form=form))
    group = wire.Chat(f"{GROUP}@g.us", "", "Family", "group")
    assert frame == wire.Message(7, group, "ABC1", PERSON, False, 1_700_000_000, "hi")


@pytest.mark.parametrize("chat", [f"{ANN.phone}@s.whatsapp.net", f"{ANN.lid}@lid"])
def test_a_direct_chat_is_one_chat(proto: Any, reader: Reader, chat: str) -> None:
    frame = reader.read(1, event(proto, {"conversation": "hi"}, chat=chat, form="pn" if "s." in chat else "lid"))
    assert frame is not None
    assert (frame.chat.id, frame.chat.alt, frame.chat.kind) == (PERSON.id, PERSON.alt, "direct")


@pytest.mark.parametrize("chat", [f"{ME.phone}@s.whatsapp.net", f"{ME.lid}@lid"])
def test_the_talk_with_oneself(proto: Any, reader: Reader, chat: str) -> None:
    frame = reader.read(1, event(proto, {"conversation": "milk"}, chat=chat, own=True))
    assert frame is not None
    assert (frame.chat.id, frame.chat.kind, frame.own) == (ME.id, "self", True)


MEDIA = {"directPath": "/v/x?ccb=1", "mediaKey": b"k" * 32, "fileSHA256": b"p" * 32, "fileEncSHA256": b"s" * 32}
FILE = {**MEDIA, "fileLength": 999, "mimetype": "a/b"}


def text_cases() -> dict[str, tuple[dict[str, Any], str]]:
    return {
        "conversation": ({"conversation": "x"}, "x"),
        "extended": ({"extendedTextMessage": {"text": "x"}}, "x"),
        "image": ({"imageMessage": {**FILE, "caption": "x"}}, "x"),
        "video": ({"videoMessage": {**FILE, "caption": "x"}}, "x"),
        "document": ({"documentMessage": {**FILE, "caption": "x"}}, "x"),
        "round video": ({"ptvMessage": {**FILE, "caption": "x"}}, "x"),
        "contacts": (
            {"contactsArrayMessage": {"contacts": [{"displayName": "A"}, {"displayName": "B"}]}},
            "[contact] A\n[contact] B",
        ),
        "invitation": ({"groupInviteMessage": {"groupName": "Club", "caption": "come"}}, "[invitation] Club\ncome"),
        "event": ({"eventMessage": {"name": "Party", "description": "at nine"}}, "[event] Party\nat nine"),
        "button": ({"buttonsResponseMessage": {"selectedDisplayText": "Yes"}}, "Yes"),
        "template button": ({"templateButtonReplyMessage": {"selectedDisplayText": "Yes"}}, "Yes"),
        "list": ({"listResponseMessage": {"title": "Soup"}}, "Soup"),
        "poll 2": ({"pollCreationMessageV2": {"name": "When?"}}, "[poll] When?"),
        "poll 3": ({"pollCreationMessageV3": {"name": "When?"}}, "[poll] When?"),
        "poll 4": ({"pollCreationMessageV4": {"message": {"pollCreationMessage": {"name": "When?"}}}}, "[poll] When?"),
        "poll 5": ({"pollCreationMessageV5": {"name": "When?"}}, "[poll] When?"),
        "live place": (
            {"liveLocationMessage": {"degreesLatitude": 1, "degreesLongitude": 2}},
            "[location 1.00000, 2.00000]",
        ),
        "contact": ({"contactMessage": {"displayName": "Bob"}}, "[contact] Bob"),
        "poll": ({"pollCreationMessage": {"name": "When?", "options": [{"optionName": "now"}]}}, "[poll] When?\n- now"),
        "place": (
            {"locationMessage": {"degreesLatitude": 1.5, "degreesLongitude": -2, "name": "Home"}},
            "[location 1.50000, -2.00000] Home",
        ),
    }


@pytest.mark.parametrize("kind", text_cases())
@pytest.mark.parametrize(
    "wrapper",
    ["", "ephemeralMessage", "documentWithCaptionMessage", "deviceSentMessage", "groupMentionedMessage",
     "associatedChildMessage", "viewOnceMessage", "viewOnceMessageV2", "viewOnceMessageV2Extension"],
)  # fmt: skip
def test_each_kind_has_its_text_in_any_wrapper(proto: Any, reader: Reader, kind: str, wrapper: str) -> None:
    message, text = text_cases()[kind]
    frame = reader.read(1, event(proto, {wrapper: {"message": message}} if wrapper else message))
    assert isinstance(frame, wire.Message)
    assert frame.text == text
    assert frame.ephemeral is (wrapper == "ephemeralMessage")
    assert frame.view_once is wrapper.startswith("viewOnce")


@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [
        ("imageMessage", {}, "image"),
        ("videoMessage", {}, "video"),
        ("ptvMessage", {}, "video"),
        ("audioMessage", {}, "audio"),
        ("audioMessage", {"PTT": True}, "voice"),
        ("documentMessage", {"fileName": "a.pdf"}, "document"),
        ("stickerMessage", {}, "sticker"),
    ],
)
def test_files(proto: Any, reader: Reader, name: str, part: dict[str, Any], kind: str) -> None:
    frame = reader.read(1, event(proto, {name: {**FILE, **part}}))
    assert isinstance(frame, wire.Message)
    (found,) = frame.attachments
    assert (found.kind, found.type, found.size, found.name) == (kind, "a/b", 999, part.get("fileName", ""))


def test_a_view_once_message_that_only_the_phone_may_open_is_told_all_the_same(proto: Any, reader: Reader) -> None:
    frame = reader.read(1, event(proto, {}, IsViewOnce=True))
    assert isinstance(frame, wire.Message)
    assert (frame.text, frame.attachments, frame.view_once) == ("", [], True)


def test_a_quote_and_mentions(proto: Any, reader: Reader) -> None:
    context = {
        "stanzaID": "Q1",
        "participant": f"{ANN.lid}@lid",
        "quotedMessage": {"imageMessage": {**FILE, "caption": ""}},
        "mentionedJID": [f"{ME.lid}@lid", "rubbish", f"{ANN.phone}@s.whatsapp.net"],
        "expiration": 86400,
    }
    frame = reader.read(1, event(proto, {"extendedTextMessage": {"text": "@x", "contextInfo": context}}))
    assert isinstance(frame, wire.Message)
    assert frame.quoted == wire.Quoted("Q1", PERSON.id, "[image]")
    assert [one.id for one in frame.mentions][-1] == PERSON.id
    assert frame.ephemeral


def test_wrappers_in_wrappers(proto: Any, reader: Reader) -> None:
    inner = {"documentWithCaptionMessage": {"message": {"documentMessage": {**FILE, "fileName": "a", "caption": "x"}}}}
    frame = reader.read(1, event(proto, {"ephemeralMessage": {"message": inner}}, form="pn"))
    assert isinstance(frame, wire.Message)
    assert (frame.text, frame.attachments[0].name, frame.ephemeral) == ("x", "a", True)


@pytest.mark.parametrize("form", ["pn", "lid", "lid-only"])
def test_what_the_person_writes_on_the_phone_is_own_wherever_it_is(proto: Any, reader: Reader, form: str) -> None:
    for chat in ("", f"{ANN.phone}@s.whatsapp.net", f"{ANN.lid}@lid"):
        frame = reader.read(1, event(proto, {"conversation": "x"}, own=True, chat=chat, form=form))
        assert frame is not None
        assert (frame.own, frame.sender.id, frame.sender.alt) == (True, ME.id, ME.alt)
        assert frame.chat.id == (PERSON.id if chat.endswith("@lid") else chat or f"{GROUP}@g.us")


@pytest.mark.parametrize("form", ["pn", "lid", "lid-only"])
@pytest.mark.parametrize("quoted", [f"{ANN.phone}@s.whatsapp.net", f"{ANN.lid}@lid", f"{ANN.lid}:7@lid"])
def test_quotes_in_every_kind_by_either_id(proto: Any, reader: Reader, form: str, quoted: str) -> None:
    context = {"stanzaID": "Q1", "participant": quoted, "quotedMessage": {"conversation": "why?"}}
    context["mentionedJID"] = [quoted]
    for name in ("imageMessage", "videoMessage", "documentMessage", "audioMessage", "stickerMessage"):
        frame = reader.read(1, event(proto, {name: {**FILE, "contextInfo": context}}, form=form))
        assert isinstance(frame, wire.Message)
        assert frame.quoted == wire.Quoted("Q1", PERSON.id, "why?")
        assert [one.id for one in frame.mentions] == [PERSON.id]


@pytest.mark.parametrize("form", ["pn", "lid", "lid-only"])
@pytest.mark.parametrize(
    "after",
    [
        {"conversation": "new"},
        {"extendedTextMessage": {"text": "new"}},
        {"imageMessage": {"caption": "new"}},
        {"videoMessage": {"caption": "new"}},
        {"ephemeralMessage": {"message": {"conversation": "new"}}},
        {"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "new"}}}},
    ],
)
def test_every_kind_of_text_can_be_edited(proto: Any, reader: Reader, after: dict[str, Any], form: str) -> None:
    edit = {"protocolMessage": {"type": 14, "key": {"ID": "OLD"}, "editedMessage": after}}
    for message in (edit, {"editedMessage": {"message": edit}}, {"ephemeralMessage": {"message": edit}}):
        frame = reader.read(1, event(proto, message, form=form))
        assert isinstance(frame, wire.Edited)
        assert (frame.id, frame.text, frame.sender) == ("OLD", "new", PERSON)


def test_edits_deletions_reactions(proto: Any, reader: Reader) -> None:
    key = {"ID": "OLD", "remoteJID": f"{GROUP}@g.us"}
    edit = {"protocolMessage": {"type": 14, "key": key, "editedMessage": {"conversation": "new"}}}
    place = (3, wire.Chat(f"{GROUP}@g.us", "", "Family", "group"), "OLD", PERSON, False, 1_700_000_000)
    assert reader.read(3, event(proto, edit)) == wire.Edited(*place, "new")
    assert reader.read(3, event(proto, {"editedMessage": {"message": edit}})) == wire.Edited(*place, "new")
    assert reader.read(3, event(proto, {"protocolMessage": {"type": 0, "key": key}})) == wire.Deleted(*place)
    assert reader.read(3, event(proto, {"reactionMessage": {"key": key, "text": "👍"}})) == wire.Reaction(*place, "👍")
    assert reader.read(3, event(proto, {"reactionMessage": {"key": key, "text": ""}})) == wire.Reaction(*place, "")


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"senderKeyDistributionMessage": {"groupID": "g"}},
        {"protocolMessage": {"type": 5}},
        {"protocolMessage": {"type": 14}},
        {"reactionMessage": {"text": "x"}},
        {"pollUpdateMessage": {}},
    ],
)
def test_what_is_not_for_people_is_nothing(proto: Any, reader: Reader, message: dict[str, Any]) -> None:
    assert reader.read(1, event(proto, message)) is None


@pytest.mark.parametrize("chat", ["status@broadcast", "123@newsletter", "5@broadcast"])
def test_what_is_no_talk_is_nothing(proto: Any, reader: Reader, chat: str) -> None:
    assert reader.read(1, event(proto, {"conversation": "x"}, chat=chat)) is None


def test_whatever_is_too_long_is_cut_to_what_the_wire_takes(proto: Any, reader: Reader) -> None:
    context = {
        "mentionedJID": [f"{n}@lid" for n in range(1000)],
        "stanzaID": "Q",
        "quotedMessage": {"conversation": "ü" * 9999},
    }
    huge = event(proto, {"extendedTextMessage": {"text": "ü" * 100_000, "contextInfo": context}})
    huge.Info.Pushname = "n" * 9999
    frame = reader.read(1, huge)
    assert frame is not None
    assert wire.decode(wire.encode(frame)[:-1], wire.TO_HOST) == frame


def test_wrappers_without_end_are_no_trouble(proto: Any, reader: Reader) -> None:
    message: dict[str, Any] = {"conversation": "deep"}
    for _ in range(40):
        message = {"ephemeralMessage": {"message": message}}
    assert reader.read(1, event(proto, message)) is None


def test_history_is_context(proto: Any, reader: Reader) -> None:
    from waHistorySync.WAWebProtobufsHistorySync_pb2 import HistorySync

    def old(message_id: str, at: int, **key: Any) -> dict[str, Any]:
        message = {"conversation": message_id.lower()}
        return {"message": {"key": {"ID": message_id, **key}, "messageTimestamp": at, "message": message}}

    group = {
        "ID": f"{GROUP}@g.us",
        "name": "Family!",
        "messages": [old("B", 20, participant=f"{ANN.lid}@lid"), old("A", 10, fromMe=True)],
    }
    direct = {"ID": f"{ANN.lid}@lid", "pnJID": f"{ANN.phone}@s.whatsapp.net", "messages": [old("C", 5)]}
    frames = list(reader.history(HistorySync(syncType=0, conversations=[group, direct])))
    assert [(f.id, f.at, f.own, f.history, f.chat.name) for f in frames] == [
        ("A", 10, True, True, "Family!"),
        ("B", 20, False, True, "Family!"),
        ("C", 5, False, True, ""),
    ]
    assert [f.sender.id for f in frames] == [ME.id, PERSON.id, PERSON.id]


def test_history_of_every_kind_that_is_a_message_and_of_no_other(proto: Any, reader: Reader) -> None:
    from waHistorySync.WAWebProtobufsHistorySync_pb2 import HistorySync

    def old(message_id: str, message: dict[str, Any], **key: Any) -> dict[str, Any]:
        return {"message": {"key": {"ID": message_id, **key}, "messageTimestamp": 9, "message": message}}

    kinds = [
        old("1", {"imageMessage": {**FILE, "caption": "x"}}),
        old("2", {"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "y"}}}}, fromMe=True),
        old("3", {"reactionMessage": {"key": {"ID": "1"}, "text": "👍"}}),
        old("4", {"protocolMessage": {"type": 0, "key": {"ID": "1"}}}),
        old("b b", {"conversation": "no id"}),
        old("5", {}),
    ]
    chats = [
        {"ID": f"{ANN.phone}@s.whatsapp.net", "lidJID": f"{ANN.lid}@lid", "messages": kinds},
        {"ID": f"{ME.lid}@lid", "pnJID": f"{ME.phone}@s.whatsapp.net", "messages": [old("6", {"conversation": "z"})]},
        {"ID": "status@broadcast", "messages": [old("7", {"conversation": "story"})]},
        {"ID": "rubbish", "messages": [old("8", {"conversation": "no chat"})]},
    ]
    frames = list(reader.history(HistorySync(syncType=0, conversations=chats)))
    assert [(f.id, f.text, len(f.attachments), f.ephemeral, f.own, f.chat.id, f.chat.kind) for f in frames] == [
        ("1", "x", 1, False, False, PERSON.id, "direct"),
        ("2", "y", 0, True, True, PERSON.id, "direct"),
        ("6", "z", 0, False, False, ME.id, "self"),
    ]
    assert all(f.history for f in frames)


def test_receipts(proto: Any, reader: Reader) -> None:
    source = proto.MessageSource(Chat=jid(proto, GROUP, "g.us"), IsGroup=True, IsFromMe=False, **by(proto, ANN, "lid"))
    receipt = proto.Receipt(MessageSource=source, MessageIDs=["A", "b b"], Timestamp=1_700_000_000, Type=4)
    frame = reader.receipt(receipt, {4: "read"})
    assert frame is not None
    assert (frame.ids, frame.kind, frame.sender.id, frame.at) == (["A"], "read", PERSON.id, 1_700_000_000)
    assert reader.receipt(receipt, {}) is None
