"""What the library reports, as the wire's frames. Pure: protobufs in, frames out.

The library's protobufs have no types that we could check against, so this module and `library` are where `Any` is.
Whatever a field holds was written by somebody else: texts and lists are cut to the wire's limits here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from channel import wire
from whatsapp.identity import GROUP, LID, PHONE, Directory, Jid, Pair, parse
from whatsapp.media import FIELDS, attachment, cut

WRAPPERS: Final = (
    "deviceSentMessage",
    "ephemeralMessage",
    "viewOnceMessage",
    "viewOnceMessageV2",
    "viewOnceMessageV2Extension",
    "documentWithCaptionMessage",
    "editedMessage",
    "groupMentionedMessage",
    "lottieStickerMessage",
    "associatedChildMessage",
    "botForwardedMessage",
    "spoilerMessage",
    "pollCreationMessageV4",
)
VIEW_ONCE: Final = frozenset({"viewOnceMessage", "viewOnceMessageV2", "viewOnceMessageV2Extension"})
MOST_WRAPPERS: Final = 8
REVOKE: Final = 0
EDIT: Final = 14
_ID = re.compile(r"[!-~]{1,256}\Z")


@dataclasses.dataclass(frozen=True)
class Unwrapped:
    """A message without what was around it."""

    message: Any
    ephemeral: bool = False
    view_once: bool = False


def unwrap(message: Any) -> Unwrapped:
    """The message itself, out of up to `MOST_WRAPPERS` wrappers."""
    ephemeral = view_once = False
    for _ in range(MOST_WRAPPERS):
        wrapper = next((name for name in WRAPPERS if message.HasField(name)), None)
        if wrapper is None:
            break
        ephemeral |= wrapper == "ephemeralMessage"
        view_once |= wrapper in VIEW_ONCE
        message = getattr(message, wrapper).message
    return Unwrapped(message, ephemeral, view_once)


def text_of(message: Any) -> str:
    """What there is to read in an unwrapped message; empty if nothing."""
    for name, read in _TEXTS.items():
        if message.HasField(name):
            return str(read(getattr(message, name)))
    return ""


def _caption(part: Any) -> str:
    return str(part.caption)


def _place(part: Any) -> str:
    label = " ".join(filter(None, (getattr(part, "name", ""), getattr(part, "address", ""))))
    return f"[location {part.degreesLatitude:.5f}, {part.degreesLongitude:.5f}]{' ' + label if label else ''}"


def _poll(part: Any) -> str:
    return "\n".join([f"[poll] {part.name}", *(f"- {option.optionName}" for option in part.options[:50])])


_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    "conversation": str,
    "extendedTextMessage": lambda part: str(part.text),
    "imageMessage": _caption,
    "videoMessage": _caption,
    "documentMessage": _caption,
    "locationMessage": _place,
    "liveLocationMessage": _place,
    "ptvMessage": _caption,
    "contactMessage": lambda part: f"[contact] {part.displayName}",
    "contactsArrayMessage": lambda part: "\n".join(f"[contact] {one.displayName}" for one in part.contacts[:50]),
    "groupInviteMessage": lambda part: "\n".join(filter(None, (f"[invitation] {part.groupName}", part.caption))),
    "eventMessage": lambda part: "\n".join(filter(None, (f"[event] {part.name}", part.description))),
    "listResponseMessage": lambda part: str(part.title),
    "buttonsResponseMessage": lambda part: str(part.selectedDisplayText),
    "templateButtonReplyMessage": lambda part: str(part.selectedDisplayText),
    "pollCreationMessage": _poll,
    "pollCreationMessageV2": _poll,
    "pollCreationMessageV3": _poll,
    "pollCreationMessageV5": _poll,
}


def attachments_of(message: Any) -> list[wire.Attachment]:
    """The files that hang on an unwrapped message."""
    found = []
    for kind, name in [*FIELDS.items(), ("video", "ptvMessage")]:
        if kind != "voice" and message.HasField(name):
            part = getattr(message, name)
            real = "voice" if kind == "audio" and part.PTT else kind
            # Without a path and a key it cannot be fetched: a view-once message that only the phone may open.
            if part.directPath and part.mediaKey:
                found.append(attachment(real, part))
    return [a for a in found if len(a.ref.encode()) <= wire.MAX_SHORT]


def context_of(message: Any) -> Any:
    """The context of an unwrapped message (what it quotes and whom it mentions); None if it has none."""
    for descriptor, part in message.ListFields():
        if descriptor.message_type is not None and "contextInfo" in descriptor.message_type.fields_by_name:
            return part.contextInfo if part.HasField("contextInfo") else None
    return None


class Reader:
    """Frames from what the library reports, for one account. `names`: group id → its subject, kept up by the caller."""

    def __init__(self, me: Pair, directory: Directory, names: dict[str, str]) -> None:
        self.me = me
        self._directory = directory
        self._names = names

    # --- who and where ---

    def _person(self, *ids: Any) -> Pair | None:
        return self._directory.person(*(jid_of(one) if not isinstance(one, str) else parse(one) for one in ids))

    def chat(self, source: Any) -> wire.Chat | None:
        """Where it was said; None for what is no talk: a status, a broadcast, a newsletter."""
        where = jid_of(source.Chat)
        if where is None:
            return None
        if where.server == GROUP:
            return wire.Chat(str(where), "", self._names.get(str(where), ""), "group")
        other = self._person(source.Chat, source.RecipientAlt if source.IsFromMe else source.SenderAlt)
        return self.direct(other) if other and where.server in (PHONE, LID) else None

    def direct(self, other: Pair, name: str = "") -> wire.Chat:
        mine = other.is_same(self.me)
        who = self.me if mine else other
        return wire.Chat(who.id, who.alt, cut(name), "self" if mine else "direct")

    def sender(self, source: Any, name: str) -> wire.Person | None:
        pair = self.me if source.IsFromMe else self._person(source.Sender, source.SenderAlt)
        return pair.person(cut(name)) if pair else None

    def mentions(self, context: Any) -> list[wire.Person]:
        pairs = [self._person(text) for text in (context.mentionedJID[: wire.MAX_ITEMS] if context is not None else ())]
        return [pair.person() for pair in pairs if pair is not None]

    def quoted(self, context: Any) -> wire.Quoted | None:
        if context is None or not _ID.match(context.stanzaID):
            return None
        writer = self._person(context.participant)
        inner = unwrap(context.quotedMessage).message
        text = text_of(inner) or next((f"[{a.kind}]" for a in attachments_of(inner)), "")
        return wire.Quoted(context.stanzaID, writer.id if writer else "", cut(text))

    # --- what was said ---

    def read(self, seq: int, event: Any) -> wire.Message | wire.Edited | wire.Deleted | wire.Reaction | None:
        """The frame of a message event; None for what is not for people: keys, receipts of calls, polls' votes."""
        info, source = event.Info, event.Info.MessageSource
        chat, sender = self.chat(source), self.sender(source, info.Pushname)
        if chat is None or sender is None or not _ID.match(info.ID):
            return None
        at = max(0, info.Timestamp // 1000)  # milliseconds here, unlike in all else
        found = unwrap(event.Message)
        found = dataclasses.replace(
            found,
            ephemeral=found.ephemeral or event.IsEphemeral,
            view_once=found.view_once or event.IsViewOnce or event.IsViewOnceV2 or event.IsViewOnceV2Extension,
        )
        about = _About(seq, chat, info.ID, sender, source.IsFromMe, at)
        return self._frame(about, found)

    def _frame(
        self, about: _About, found: Unwrapped
    ) -> wire.Message | wire.Edited | wire.Deleted | wire.Reaction | None:
        message = found.message
        if message.HasField("protocolMessage"):
            return self._change(about, message.protocolMessage)
        if message.HasField("reactionMessage"):
            on = message.reactionMessage.key.ID
            emoji = cut(message.reactionMessage.text, 64)
            known = _ID.match(on)
            return wire.Reaction(about.seq, about.chat, on, about.sender, about.own, about.at, emoji) if known else None
        return self._message(about, found)

    def _change(self, about: _About, protocol: Any) -> wire.Edited | wire.Deleted | None:
        target = protocol.key.ID
        if not _ID.match(target):
            return None
        if protocol.type == REVOKE:
            return wire.Deleted(about.seq, about.chat, target, about.sender, about.own, about.at)
        if protocol.type == EDIT:
            text = cut(text_of(unwrap(protocol.editedMessage).message), wire.MAX_TEXT)
            return wire.Edited(about.seq, about.chat, target, about.sender, about.own, about.at, text)
        return None

    def _message(self, about: _About, found: Unwrapped) -> wire.Message | None:
        text, attachments = text_of(found.message), attachments_of(found.message)
        if not text and not attachments and not found.view_once:
            return None
        context = context_of(found.message)
        return wire.Message(
            about.seq,
            about.chat,
            about.id,
            about.sender,
            about.own,
            about.at,
            cut(text, wire.MAX_TEXT),
            quoted=self.quoted(context),
            mentions=self.mentions(context),
            attachments=attachments,
            history=about.history,
            ephemeral=found.ephemeral or bool(context is not None and context.expiration),
            view_once=found.view_once,
        )

    # --- history ---

    def history(self, sync: Any, most: int = 200) -> Iterator[wire.Message]:
        """The last messages of each chat of a history sync, oldest first, with `seq` 0."""
        for conversation in sync.conversations:
            where = parse(conversation.ID)
            name = conversation.name or conversation.displayName
            if where is not None and where.server == GROUP and name:
                self._names[str(where)] = cut(name)
            frames = (self._old(conversation, where, one.message) for one in conversation.messages[:most])
            yield from sorted((frame for frame in frames if frame is not None), key=lambda frame: frame.at)

    def _old(self, conversation: Any, where: Jid | None, one: Any) -> wire.Message | None:
        if where is None or not _ID.match(one.key.ID):
            return None
        is_group = where.server == GROUP
        if is_group:
            chat: wire.Chat | None = wire.Chat(str(where), "", self._names.get(str(where), ""), "group")
            writer = self._person(one.key.participant or one.participant)
        else:
            writer = self._person(conversation.ID, conversation.pnJID, conversation.lidJID)
            chat = self.direct(writer) if writer and where.server in (PHONE, LID) else None
        if one.key.fromMe:
            writer = self.me
        if chat is None or writer is None:
            return None
        about = _About(
            0, chat, one.key.ID, writer.person(cut(one.pushName)), one.key.fromMe, one.messageTimestamp, history=True
        )
        found = unwrap(one.message)
        frame = self._frame(about, found)
        return frame if isinstance(frame, wire.Message) else None

    # --- receipts and groups ---

    def receipt(self, event: Any, kinds: dict[int, str]) -> wire.Receipt | None:
        """`kinds`: the library's numbers of the kinds that the wire knows."""
        source, kind = event.MessageSource, kinds.get(event.Type)
        chat, sender = self.chat(source), self.sender(source, "")
        ids = [one for one in event.MessageIDs[: wire.MAX_ITEMS] if _ID.match(one)]
        if kind is None or chat is None or sender is None or source.IsFromMe or not ids:
            return None
        return wire.Receipt(chat, ids, sender, kind, max(0, seconds(event.Timestamp)))

    def group(self, jid: Any, name: str) -> wire.Chat | None:
        """A group by its new name, which is remembered; None if it is no group."""
        where = jid_of(jid)
        if where is None or where.server != GROUP:
            return None
        self._names[str(where)] = cut(name)
        return wire.Chat(str(where), "", cut(name), "group")


@dataclasses.dataclass(frozen=True)
class _About:
    """What all frames about a message share."""

    seq: int
    chat: wire.Chat
    id: str
    sender: wire.Person
    own: bool
    at: int
    history: bool = False


def jid_of(proto: Any) -> Jid | None:
    """The library's own form of an id; None if it is empty, or none that the wire could carry."""
    return parse(f"{proto.User}@{proto.Server}") if proto.User else None


def seconds(stamp: int) -> int:
    """A time that is in milliseconds in one version and in seconds in another."""
    return stamp // 1000 if stamp > 10**11 else stamp
