"""The post: what channels that are programs bring in, in order, and what is in the outbox for them, until they have it.

A message is on disk before its channel is told that it was kept; a crash of either brings it again, and the store
knows it by its id. A reply leaves in order, and is S4 when the channel says that its service has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from channel import wire
from channel.wire import Deleted, Done, Edited, Failed, Frame, PeerError, Reaction
from host import intake
from host.channels.program import Answer, Command, Program
from host.config.channels import ChannelSettings
from host.errors import UserError
from host.inbox import Inbox
from host.log import Log
from host.loop import Loop, Timer
from host.model import Attachment, Group, Message, Outgoing, Quoted
from host.sending import sweep
from host.store import Store

MAX_WAITING: Final = 20_000
"""Most arrivals that wait for an earlier one's files. A channel that brings more is started again: it keeps what it
was not told is kept."""
STORE_RETRY_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 300.0
SEND_SECONDS: Final = 600.0
"""A channel paces what it sends, so that its service does not take the account for a machine's."""
LINK_SECONDS: Final = 900.0
TYPING_SECONDS: Final = 15.0
"""How often a channel is told again that an answer is being written: services forget it after some 25."""
TRIES: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0, 3600.0)
"""Seconds before the next try of what failed; after the last one it is given up."""
MAX_ATTACHMENTS: Final = 10
EXCERPT: Final = 200

Arrival = wire.Message | Edited | Deleted | Reaction


@dataclass
class Linking:
    """A link that is being made: what to show the person."""

    kind: str = ""
    """`qr`, `code`; or `unlink`, which shows nothing."""
    code: str = ""
    until: float = 0.0
    """Seconds since the epoch."""
    outcome: str = ""
    """Empty while it goes on; `linked` or `unlinked`, or why not."""


@dataclass(frozen=True)
class Desk:
    """What the post works with."""

    loop: Loop
    store: Store
    settings: ChannelSettings
    inbox: Inbox
    outbox: Path
    log: Log
    receive: Callable[[Message], object]
    """S1, and a turn if it calls the agent. `UserError` if it could not be stored."""


class Line:
    """One channel: a `Channel` as the rest of the host knows them, and the owner of its program."""

    takes_files = True

    def __init__(self, desk: Desk, name: str, command: Command) -> None:
        self.name = name
        self.linking = Linking()
        self._desk = desk
        self._waiting: deque[Arrival] = deque()
        self._busy = False
        """The first of them waits for its files, or for room on the disk."""
        self._sending = False
        self._timer: Timer | None = None
        self._typing: dict[str, Timer] = {}
        self.program = Program(desk.loop, name, command, self)

    def start(self) -> None:
        self.program.start()

    def stop(self, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._typing.values():
            timer.cancel()
        self.program.stop(then)

    # --- in ---------------------------------------------------------------------------------------------

    def channel_changed(self, name: str) -> None:
        program = self.program
        self._desk.log.info("channel", channel=name, state=program.state, why=program.why)
        if program.state == "connected":
            self._flush()
        elif program.state in {"down", "stopped"}:
            self._waiting.clear()  # it brings again what it was not told is kept
            self._busy = False

    def channel_frame(self, name: str, untrusted_frame: Frame) -> None:
        match untrusted_frame:
            case wire.Message() | Edited() | Deleted() | Reaction():
                if len(self._waiting) >= MAX_WAITING:
                    raise PeerError("more at once than can be taken in")
                self._waiting.append(untrusted_frame)
                self._take_in()
            case wire.Chats(_, chats):
                names = {self._person(chat.id, chat.alt): _name(chat.name) for chat in chats}
                with contextlib.suppress(UserError):  # only names: the next list has them again
                    self._desk.store.messages.name_chats(self.name, names)

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
                self._store(message, arrival.seq)
            except UserError as e:
                self._try_again(e)
                return

    def _store(self, message: Message, seq: int) -> None:
        if message.kind == "deletion":
            self._remove_files(message)
        if message.kind != "message" or not self._desk.store.outbox.was_sent(self.name, message.id):
            self._desk.receive(message)
        self._waiting.popleft()
        self.program.kept(seq)

    def _remove_files(self, deletion: Message) -> None:
        """What its own writer takes back goes from the inbox too. First the files: a crash in between repeats it."""
        about = self._desk.store.messages.by_id(self.name, deletion.quoted.id if deletion.quoted else "")
        group = self._desk.store.group_of(deletion.channel, deletion.chat)
        if about is not None and group is not None and about.message.sender == deletion.sender:
            for attachment in about.message.attachments:
                self._desk.inbox.remove(group.folder, attachment.path)

    def _try_again(self, e: UserError) -> None:
        """Nothing is dropped: a full disk may have room later."""
        self._desk.log.warning("cannot store a message", channel=self.name, why=str(e))
        self._busy = True

        def again() -> None:
            self._busy = False
            self._take_in()

        self._desk.loop.call_later(STORE_RETRY_SECONDS, again)

    # --- a frame as a message -----------------------------------------------------------------------------

    def _message(self, untrusted: Arrival) -> Message:
        chat = self._person(untrusted.chat.id, untrusted.chat.alt)
        sender = self._person(untrusted.sender.id, untrusted.sender.alt)
        name = _name(untrusted.sender.name) or sender
        plain = Message(self.name, f"{chat}/{untrusted.id}", chat, sender, name, "", float(untrusted.at))
        about = Quoted(plain.id, "", "")
        match untrusted:
            case Edited():
                text = intake.clean_text(untrusted.text)
                mark = hashlib.sha256(text.encode()).hexdigest()[:16]
                return replace(plain, id=f"{plain.id}/edit/{untrusted.at}/{mark}", kind="edit", text=text, quoted=about)
            case Deleted():
                return replace(plain, id=f"{plain.id}/deletion", kind="deletion", quoted=about)
            case Reaction():
                mark = f"{plain.id}/reaction/{sender}/{untrusted.at}"
                emoji = intake.clean_text(untrusted.emoji)[:32]
                return replace(plain, id=mark, kind="reaction", text=emoji, quoted=about)
            case _:
                old = time.time() - untrusted.at > self._desk.settings.max_age_seconds
                quoted = None
                if (q := untrusted.quoted) is not None:
                    text = intake.clean_text(q.text)[:EXCERPT]
                    quoted = Quoted(f"{chat}/{q.id}", self._person(q.sender) if q.sender else "", text)
                text = intake.clean_text(untrusted.text)
                return replace(plain, text=text, context_only=untrusted.history or old, quoted=quoted)

    def _person(self, untrusted_id: str, untrusted_alt: str = "") -> str:
        return self._desk.store.messages.person(self.name, untrusted_id, untrusted_alt)

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
            seq = self._waiting[0].seq
            try:
                self._store(replace(message, attachments=tuple(had)), seq)
            except UserError as e:
                self._try_again(e)
                return
            self._take_in()
            return
        untrusted = files[len(had)]
        named = Attachment(_name(untrusted.name) or untrusted.kind, _name(untrusted.type), untrusted.size)
        group = self._desk.store.group_of(message.channel, message.chat)
        if group is None or (why := self._refusal(group, message, untrusted)):
            had.append(replace(named, why=why if group else "the group is gone"))
            self._fetch(message, files, had)
            return
        data = bytearray()
        most = self._desk.settings.attachment_bytes

        def more(frame: Frame) -> None:
            assert isinstance(frame, wire.Data)
            data.extend(frame.data)
            if len(data) > most:
                raise PeerError("more of a file than was asked for")

        def answered(answer: Answer) -> None:
            if self._waiting and self.program.hello is not None:  # else it ended meanwhile, and brings it again
                had.append(self._keep(group, message, named, bytes(data), answer))
                self._fetch(message, files, had)

        self.program.request(
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

    def _keep(self, group: Group, message: Message, named: Attachment, data: bytes, answer: Answer) -> Attachment:
        if isinstance(answer, Failed):
            return replace(named, why=f"it could not be fetched: {intake.clean_text(answer.text)[:EXCERPT]}")
        try:
            kept = self._desk.inbox.keep(group.folder, named.name, message.sent_at, data)
        except UserError as e:
            return replace(named, why=str(e))
        return replace(named, type=kept.type, bytes=kept.bytes, path=kept.name)

    # --- out ----------------------------------------------------------------------------------------------

    def deliver(self, outgoing: Outgoing) -> None:
        self._flush()

    def _flush(self) -> None:
        """The oldest first, one at a time; what failed holds up its own chat, and no other."""
        if self._sending or self.program.state != "connected":
            return
        now, held, soonest = time.time(), set[str](), None
        for outgoing in self._desk.store.outbox.pending(self.name):
            if outgoing.chat in held:
                continue
            due = self._desk.store.outbox.next_try(outgoing)
            if due <= now:
                self._send(outgoing)
                return
            held.add(outgoing.chat)
            soonest = due if soonest is None else min(soonest, due)
        if soonest is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._desk.loop.call_later(soonest - now, self._flush)

    def _send(self, outgoing: Outgoing) -> None:
        self._sending = True
        path = self._desk.outbox / outgoing.file if outgoing.file else None
        file = None
        if path is not None:
            with contextlib.suppress(OSError):
                file = wire.File(outgoing.file_name, "", path.stat().st_size)
            if file is None:
                self._give_up(outgoing, "its file is gone")
                return
        quote = self._quote(outgoing)

        def build(number: int) -> Frame:
            return wire.Send(number, outgoing.chat, outgoing.text, quote, [], file)

        def answered(answer: Answer) -> None:
            self._sent(outgoing, answer)

        if path is None:
            self.program.request(build, answered, seconds=SEND_SECONDS)
        else:
            self.program.request_with_file(build, path, answered)

    def _quote(self, outgoing: Outgoing) -> wire.Quote | None:
        """Where several write, a reply shows what it answers."""
        found = self._desk.store.messages.get(outgoing.quote) if outgoing.quote else None
        group = self._desk.store.group(outgoing.group)
        if found is None or found.deleted or group is None or group.is_main or found.message.kind != "message":
            return None
        message = found.message
        return wire.Quote(message.id.partition("/")[2], message.sender, message.text[:EXCERPT])

    def _sent(self, outgoing: Outgoing, answer: Answer) -> None:
        store = self._desk.store.outbox
        try:
            if isinstance(answer, Done):
                ids = [f"{outgoing.chat}/{each}" for each in answer.sent]
                store.mark_sent(outgoing.id, [(self.name, each) for each in ids])
                self._drop_file(outgoing)
            elif answer.reason in {"offline", "unlinked", "internal"}:
                store.mark_attempt(outgoing, time.time() + TRIES[0])
            elif answer.retry == wire.NEVER or outgoing.attempts >= len(TRIES):
                self._give_up(outgoing, intake.clean_text(answer.text) or answer.reason)
                return
            else:
                wait = max(float(answer.retry), TRIES[min(outgoing.attempts, len(TRIES) - 1)])
                store.mark_attempt(outgoing, time.time() + wait)
        except UserError as e:
            self._desk.log.warning("cannot note what became of a reply", channel=self.name, why=str(e))
        self._sending = False
        self._flush()

    def _give_up(self, outgoing: Outgoing, why: str) -> None:
        self._desk.log.warning("a reply could not be sent", channel=self.name, group=outgoing.group, why=why)
        with contextlib.suppress(UserError):  # then it is tried again, after the next start
            self._desk.store.outbox.give_up(outgoing, why)
            self._drop_file(outgoing)
        self._sending = False
        self._desk.loop.call_soon(self._flush)

    def _drop_file(self, outgoing: Outgoing) -> None:
        if outgoing.file:
            (self._desk.outbox / outgoing.file).unlink(missing_ok=True)

    # --- signs of life --------------------------------------------------------------------------------------

    def typing(self, chat: str, on: bool) -> None:
        """Show that an answer is being written, until told otherwise."""
        timer = self._typing.pop(chat, None)
        if timer is not None:
            timer.cancel()
        if not self._can("typing"):
            return
        self.program.request(lambda number: wire.Typing(number, chat, on), lambda _: None)
        if on:
            self._typing[chat] = self._desk.loop.call_later(TYPING_SECONDS, lambda: self.typing(chat, on))

    def mark_read(self, message: Message) -> None:
        if self._can("read"):
            raw = message.id.partition("/")[2]
            self.program.request(lambda number: wire.Read(number, message.chat, message.sender, [raw]), lambda _: None)

    def _can(self, ability: str) -> bool:
        hello = self.program.hello
        return self.program.state == "connected" and hello is not None and ability in hello.can

    # --- the account ----------------------------------------------------------------------------------------

    def link(self, phone: str) -> None:
        """Begin to link an account; `linking` tells how far it is."""
        linking = self.linking = Linking()

        def more(frame: Frame) -> None:
            assert isinstance(frame, wire.Qr | wire.Code)
            linking.kind = "qr" if isinstance(frame, wire.Qr) else "code"
            linking.code, linking.until = frame.code, time.time() + frame.seconds

        def answered(answer: Answer) -> None:
            linking.outcome = "linked" if isinstance(answer, Done) else intake.clean_text(answer.text) or answer.reason

        self.program.request(lambda n: wire.Link(n, phone), answered, seconds=LINK_SECONDS, on_more=more)

    def unlink(self) -> None:
        """Begin to take the account off; `linking` tells how it ended."""
        linking = self.linking = Linking("unlink")

        def answered(answer: Answer) -> None:
            linking.outcome = (
                "unlinked" if isinstance(answer, Done) else intake.clean_text(answer.text) or answer.reason
            )

        self.program.request(wire.Unlink, answered)

    def status(self) -> dict[str, Any]:
        program, account = self.program, self.program.account
        return {
            "state": program.state,
            "why": program.why,
            "reason": program.reason,
            "program": program.hello.program if program.hello else "",
            "account": vars(account) if account else None,
            "restarts": program.restarts,
        }


class Post:
    """All lines of this host."""

    def __init__(self, desk: Desk, commands: Mapping[str, Command]) -> None:
        self._desk = desk
        self.lines = {name: Line(desk, name, command) for name, command in commands.items()}

    def open(self) -> None:
        unsent = (row.file for name in self.lines for row in self._desk.store.outbox.pending(name))
        sweep(self._desk.outbox, {file for file in unsent if file})
        for line in self.lines.values():
            line.start()

    def close(self, then: Callable[[], None]) -> None:
        """`then` is called when all are gone."""
        left = set(self.lines)

        def gone(name: str) -> None:
            left.discard(name)
            if not left:
                then()

        for name, line in self.lines.items():
            line.stop(lambda name=name: gone(name))  # type: ignore[misc]  # a default binds it now
        if not self.lines:
            self._desk.loop.call_soon(then)

    def typing(self, group: Group, on: bool) -> None:
        if line := self.lines.get(group.channel):
            line.typing(group.chat, on)

    def mark_read(self, message: Message) -> None:
        if line := self.lines.get(message.channel):
            line.mark_read(message)

    def status(self) -> dict[str, Any]:
        return {name: line.status() for name, line in self.lines.items()}


def _name(untrusted_name: str) -> str:
    """One line, short: a name is for reading, and never identity."""
    return " ".join(intake.clean_text(untrusted_name).split())[:100]
