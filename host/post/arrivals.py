"""What one channel brings in, in order: stored with its files, and only then told to the channel as kept."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from channel import wire
from channel.wire import Deleted, Edited, Failed, Frame, PeerError, Reaction
from host import naming
from host.channels.program import Answer, Program
from host.errors import UserError
from host.loop import Timer
from host.model import Attachment, Group, Mention, Message, Quoted
from host.post.desk import Desk, one_line, stored_id
from host.text import clean_text

MAX_WAITING: Final = 20_000
"""Most arrivals that wait for an earlier one's files. A channel that brings more is started again: it keeps what it
was not told is kept."""
STORE_RETRY_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 300.0
MAX_ATTACHMENTS: Final = 10
EXCERPT: Final = 200

Arrival = wire.Message | Edited | Deleted | Reaction


class Arrivals:
    """The queue of one channel, in memory only: what is not kept is brought again by the channel's next run."""

    def __init__(self, desk: Desk, program: Program) -> None:
        self._desk, self._program, self.channel = desk, program, program.name
        self._waiting: deque[Arrival] = deque()
        self._busy = False
        """The first of them waits for its files, or for room on the disk."""
        self._timer: Timer | None = None

    def take(self, untrusted: Arrival) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise PeerError("more at once than can be taken in")
        self._waiting.append(untrusted)
        self._take_in()

    def clear(self) -> None:
        """The channel ended: it brings again what it was not told is kept."""
        self._waiting.clear()
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()

    def name_chats(self, untrusted_chats: list[wire.Chat]) -> None:
        with contextlib.suppress(UserError):  # only names: the next list has them again
            found = {self._person(chat.id, chat.alt): (one_line(chat.name), chat.kind) for chat in untrusted_chats}
            self._desk.store.messages.name_chats(self.channel, found)

    def _take_in(self) -> None:
        """In the order of arrival: the files of one are there before the next is looked at."""
        while self._waiting and not self._busy:
            arrival = self._waiting[0]
            try:
                message = self._message(arrival)
                files = self._wanted_files(arrival, message)
                if files:
                    self._busy = True
                    self._fetch(message, files, [])
                    return
                self._store(message, arrival)
            except UserError as e:
                self._try_again(e, self._take_in)
                return

    def _store(self, message: Message, arrival: Arrival) -> None:
        if message.kind == "deletion":
            self._remove_files(message)
        if message.kind != "message" or not self._desk.store.outbox.was_sent(self.channel, message.id):
            if self._desk.store.group_of(message.channel, message.chat) is None:
                self.name_chats([arrival.chat])  # of an unknown chat, what it is called and not what was said
            self._desk.receive(message)
        self._waiting.popleft()
        self._program.kept(arrival.seq)

    def _remove_files(self, deletion: Message) -> None:
        """What its own writer takes back goes from the inbox too. First the files: a crash in between repeats it."""
        about = self._desk.store.messages.by_id(self.channel, deletion.quoted.id if deletion.quoted else "")
        group = self._desk.store.group_of(deletion.channel, deletion.chat)
        if about is not None and group is not None and about.message.sender == deletion.sender:
            for attachment in about.message.attachments:
                self._desk.inbox.remove(group.folder, attachment.path)

    def _try_again(self, e: UserError, what: Callable[[], None]) -> None:
        """Nothing is dropped: a full disk may have room later."""
        self._desk.log.warning("cannot store a message", channel=self.channel, why=str(e))
        self._busy = True

        def again() -> None:
            self._busy = False
            what()

        self._timer = self._desk.loop.call_later(STORE_RETRY_SECONDS, again)

    # --- a frame as a message -----------------------------------------------------------------------------

    def _message(self, untrusted: Arrival) -> Message:
        chat = self._person(untrusted.chat.id, untrusted.chat.alt)
        sender = self._person(untrusted.sender.id, untrusted.sender.alt)
        name = one_line(untrusted.sender.name) or sender
        plain = Message(self.channel, stored_id(chat, untrusted.id), chat, sender, name, "", float(untrusted.at))
        about = Quoted(plain.id, "", "")
        match untrusted:
            case Edited():
                text = clean_text(untrusted.text)
                mark = hashlib.sha256(text.encode()).hexdigest()[:16]
                number = stored_id(chat, untrusted.id, "edit", str(untrusted.at), mark)
                return replace(plain, id=number, kind="edit", text=text, quoted=about)
            case Deleted():
                return replace(plain, id=stored_id(chat, untrusted.id, "deletion"), kind="deletion", quoted=about)
            case Reaction():
                number = stored_id(chat, untrusted.id, "reaction", sender, str(untrusted.at))
                emoji = clean_text(untrusted.emoji)[:32]
                return replace(plain, id=number, kind="reaction", text=emoji, quoted=about)
            case _:
                old = time.time() - untrusted.at > self._desk.settings.max_age_seconds
                quoted = None
                if (q := untrusted.quoted) is not None:
                    text = clean_text(q.text)[:EXCERPT]
                    quoted = Quoted(stored_id(chat, q.id), self._person(q.sender) if q.sender else "", text)
                text = clean_text(untrusted.text)
                mentions = self._mentions(plain, text, untrusted.mentions)
                context_only = untrusted.history or old
                return replace(plain, text=text, context_only=context_only, quoted=quoted, mentions=mentions)

    def _mentions(self, message: Message, text: str, untrusted: list[wire.Person]) -> tuple[Mention, ...]:
        if not untrusted or self._desk.store.group_of(message.channel, message.chat) is None:
            return ()
        named = [(self._person(each.id, each.alt), each.id, each.alt) for each in untrusted[: naming.MAX_MENTIONS]]
        names = self._desk.store.messages.people(message.channel, message.chat)
        return tuple(naming.people_named(text, named, names))

    def _person(self, untrusted_id: str, untrusted_alt: str = "") -> str:
        return self._desk.store.messages.person(self.channel, untrusted_id, untrusted_alt)

    # --- files that hang on it ----------------------------------------------------------------------------

    def _wanted_files(self, untrusted: Arrival, message: Message) -> list[wire.Attachment]:
        """Those of a registered chat; what is only context brings none."""
        if not isinstance(untrusted, wire.Message) or not untrusted.attachments:
            return []
        if self._desk.store.group_of(message.channel, message.chat) is None:
            return []
        return untrusted.attachments[:MAX_ATTACHMENTS]

    def _fetch(self, message: Message, files: list[wire.Attachment], had: list[Attachment]) -> None:
        """One after the other; then the message is stored with what came of them."""
        if len(had) == len(files):
            self._busy = False
            try:
                self._store(replace(message, attachments=tuple(had)), self._waiting[0])
            except UserError as e:  # its files are there: they are not fetched once more
                self._try_again(e, lambda: self._fetch(message, files, had))
                return
            self._take_in()
            return
        untrusted = files[len(had)]
        named = Attachment(one_line(untrusted.name) or untrusted.kind, one_line(untrusted.type), untrusted.size)
        group = self._desk.store.group_of(message.channel, message.chat)
        if group is None or (why := self._refusal(group, message, untrusted)):
            had.append(replace(named, why=why if group else "the group is gone"))
            self._fetch(message, files, had)
            return
        data = bytearray()
        most = self._desk.settings.attachment_bytes

        def more(untrusted_frame: Frame) -> None:
            if not isinstance(untrusted_frame, wire.Data):
                raise PeerError("a code in the place of a file")
            data.extend(untrusted_frame.data)
            if len(data) > most:
                raise PeerError("more of a file than was asked for")

        def answered(answer: Answer) -> None:
            if self._waiting and self._program.hello is not None:  # else it ended meanwhile, and brings it again
                had.append(self._keep(group, message, named, bytes(data), answer, len(had)))
                self._fetch(message, files, had)

        self._program.request(
            lambda number: wire.Fetch(number, untrusted.ref, most), answered, seconds=FETCH_SECONDS, on_more=more
        )

    def _refusal(self, group: Group, message: Message, untrusted: wire.Attachment) -> str:
        if message.context_only:
            return "it came with a message of long ago"
        if untrusted.size > self._desk.settings.attachment_bytes:
            return f"larger than {self._desk.settings.attachment_bytes // 2**20} MB"
        if untrusted.size > self._desk.inbox.room(group.folder):
            return "the group's inbox is full"
        return ""

    def _keep(
        self, group: Group, message: Message, named: Attachment, data: bytes, answer: Answer, position: int
    ) -> Attachment:
        if isinstance(answer, Failed):
            return replace(named, why=f"it could not be fetched: {clean_text(answer.text)[:EXCERPT]}")
        try:
            kept = self._desk.inbox.keep(group.folder, named.name, message.sent_at, data, f"{message.id} {position}")
        except UserError as e:
            return replace(named, why=str(e))
        return replace(named, type=kept.type, bytes=kept.bytes, path=kept.name)
