"""What the outbox holds for one channel, said in order; what fails is tried again, and in the end given up and told."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from channel import wire
from channel.wire import Done, Frame
from host import naming
from host.channels.program import Answer, Program
from host.errors import UserError
from host.loop import Timer
from host.model import Outgoing
from host.post.desk import Desk, channels_id, stored_id
from host.text import clean_text

SEND_SECONDS: Final = 600.0
"""A channel paces what it sends, so that its service does not take the account for a machine's."""
TRIES: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0, 3600.0)
"""Seconds before the next try of what failed; after the last one it is given up."""
STORE_RETRY_SECONDS: Final = 10.0
MAX_ENDS: Final = 20
"""A reply at which its channel dies that often is given up: others wait behind it."""
MAX_REACTIONS: Final = 2
"""Tries of a reaction after the first: what is said after it waits for it, and an old one says nothing any more."""
EXCERPT: Final = 200


class Delivery:
    """S3 to S4, for one channel."""

    def __init__(self, desk: Desk, program: Program) -> None:
        self._desk, self._program, self.channel = desk, program, program.name
        self._sending = False
        self._timer: Timer | None = None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def flush(self) -> None:
        """The oldest first, one at a time; what failed holds up its own chat, and no other."""
        if self._sending or self._program.state != "connected":
            return
        try:
            self._send_next()
        except UserError as e:  # a full disk, say: what is to be said stays where it is
            self._desk.log.warning("replies wait", channel=self.channel, why=str(e))
            self._sending = False
            self._flush_in(STORE_RETRY_SECONDS)

    def _flush_in(self, seconds: float) -> None:
        self.stop()
        self._timer = self._desk.loop.call_later(seconds, self.flush)

    def _send_next(self) -> None:
        now, held, soonest = time.time(), set[str](), None
        for outgoing in self._desk.store.outbox.pending(self.channel):
            if outgoing.chat in held:
                continue
            due = self._desk.store.outbox.next_try(outgoing)
            if due <= now:
                self._send(outgoing)
                return
            held.add(outgoing.chat)
            soonest = due if soonest is None else min(soonest, due)
        if soonest is not None:
            self._flush_in(soonest - now)

    def _send(self, outgoing: Outgoing) -> None:
        self._sending = True
        if outgoing.reaction:
            self._react(outgoing)
            return
        path = self._desk.outbox / outgoing.file if outgoing.file else None
        file = None
        if path is not None:
            with contextlib.suppress(OSError):
                file = wire.File(outgoing.file_name, "", path.stat().st_size)
            if file is None:
                self._give_up(outgoing, "its file is gone")
                return
        quote = self._quote(outgoing)
        text, mentions = self._text(outgoing)

        def build(number: int) -> Frame:
            return wire.Send(number, outgoing.chat, text, quote, mentions, file)

        def answered(answer: Answer) -> None:
            self._sent(outgoing, answer)

        if path is None:
            self._program.request(build, answered, seconds=SEND_SECONDS)
        else:
            self._program.request_with_file(build, path, answered, SEND_SECONDS)

    def _react(self, outgoing: Outgoing) -> None:
        found = self._desk.store.messages.get(outgoing.quote)
        if not self._program.can("react"):
            self._give_up(outgoing, "the channel takes no reactions")
            return
        if found is None or found.deleted:
            self._give_up(outgoing, "its message is gone")
            return
        message = found.message
        self._program.request(
            lambda number: wire.React(number, outgoing.chat, channels_id(message), message.sender, outgoing.text),
            lambda answer: self._sent(outgoing, answer),
            seconds=SEND_SECONDS,
        )

    def _text(self, outgoing: Outgoing) -> tuple[str, list[str]]:
        """As it goes out, and the people that it names. What would grow over the wire's limit goes out as it is."""
        text, mentions = outgoing.text, list[str]()
        if self._desk.assistant and self._is_a_persons(outgoing):
            text = naming.signed(text, self._desk.assistant)
        if "@" in text and self._program.can("mentions"):
            people = self._desk.store.messages.people(self.channel, outgoing.chat)
            text, mentions = naming.name_people(text, people)
        return (text, mentions) if len(text.encode()) <= wire.MAX_TEXT else (outgoing.text, [])

    def _is_a_persons(self, outgoing: Outgoing) -> bool:
        """Whether whoever reads it would take it for the words of the person whose account this is: in that person's
        talk with themselves, and in every chat where such a talk is main, for then the assistant has no account of
        its own."""
        account = self._program.account
        if account is None:
            return False
        own = self._desk.store.messages.person(self.channel, account.id, account.alt)
        mains = (group.chat for group in self._desk.store.groups() if group.is_main and group.channel == self.channel)
        return own in {outgoing.chat, *mains}

    def _quote(self, outgoing: Outgoing) -> wire.Quote | None:
        """Where several write, a reply shows what it answers."""
        found = self._desk.store.messages.get(outgoing.quote) if outgoing.quote else None
        group = self._desk.store.group(outgoing.group)
        if found is None or found.deleted or group is None or group.is_main or found.message.kind != "message":
            return None
        message = found.message
        return wire.Quote(channels_id(message), message.sender, message.text[:EXCERPT])

    def _sent(self, outgoing: Outgoing, answer: Answer) -> None:
        store = self._desk.store.outbox
        try:
            if isinstance(answer, Done):
                ids = [stored_id(outgoing.chat, each) for each in answer.sent]
                store.mark_sent(outgoing.id, [(self.channel, each) for each in ids])
                self._drop_file(outgoing)
            elif answer.reason in {"offline", "unlinked"} or (
                answer.reason == "internal" and outgoing.attempts < MAX_ENDS
            ):
                store.mark_attempt(outgoing, time.time() + TRIES[0])
            elif answer.retry == wire.NEVER or outgoing.attempts >= (
                MAX_REACTIONS if outgoing.reaction else len(TRIES)
            ):
                self._give_up(outgoing, clean_text(answer.text) or answer.reason)
                return
            else:
                wait = max(float(answer.retry), TRIES[min(outgoing.attempts, len(TRIES) - 1)])
                store.mark_attempt(outgoing, time.time() + wait)
        except UserError as e:
            self._desk.log.warning("cannot note what became of a reply", channel=self.channel, why=str(e))
        self._sending = False
        self.flush()

    def _give_up(self, outgoing: Outgoing, why: str) -> None:
        self._desk.log.warning("a reply could not be sent", channel=self.channel, group=outgoing.group, why=why)
        with contextlib.suppress(UserError):  # then it is tried again, after the next start
            self._desk.store.outbox.give_up(outgoing, why)
            self._drop_file(outgoing)
        self._sending = False
        self._desk.loop.call_soon(self.flush)

    def _drop_file(self, outgoing: Outgoing) -> None:
        if outgoing.file:
            (self._desk.outbox / outgoing.file).unlink(missing_ok=True)
