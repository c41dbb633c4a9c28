"""One channel that is a program: what it brings and takes, its signs of life, and the account that it is linked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from channel import wire
from channel.wire import Deleted, Done, Edited, Frame, PeerError, Reaction
from host.channels.program import Answer, Command, Program
from host.loop import Timer
from host.model import Message, Outgoing
from host.post.arrivals import Arrivals
from host.post.delivery import Delivery
from host.post.desk import Desk, channels_id
from host.text import clean_text

LINK_SECONDS: Final = 900.0
TYPING_SECONDS: Final = 15.0
"""How often a channel is told again that an answer is being written: services forget it after some 25."""
OUT_OF_SERVICE: Final = frozenset({"logged_out", "replaced", "outdated", "banned"})
"""Reasons that no waiting mends."""


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


class Line:
    """A `Channel` as the rest of the host knows them, and the owner of its program."""

    def __init__(self, desk: Desk, name: str, command: Command) -> None:
        self.name = name
        self.linking = Linking()
        self._desk = desk
        self._typing: dict[str, Timer] = {}
        self._to_link: str | None = None
        """For which phone an account is to be linked, as soon as the program says hello; empty: by QR code."""
        self._told = ""
        """The trouble that was told of, until it is over."""
        self._stopping = False
        self.program = Program(desk.loop, name, command, self)
        self._arrivals = Arrivals(desk, self.program)
        self._delivery = Delivery(desk, self.program)

    def start(self) -> None:
        self.program.start()

    def stop(self, then: Callable[[], None]) -> None:
        self._stopping = True
        self._delivery.stop()
        self._arrivals.clear()
        for timer in self._typing.values():
            timer.cancel()
        self.program.stop(then)

    # --- of the program -------------------------------------------------------------------------------------

    def channel_changed(self, name: str) -> None:
        program = self.program
        self._desk.log.info("channel", channel=name, state=program.state, why=program.why)
        match program.state:
            case "up" if self._to_link is not None:
                self._ask_to_link(self._to_link)
            case "connected":
                self._told = ""
                self._delivery.flush()
                self._list_chats()
            case "disconnected" if program.reason in OUT_OF_SERVICE:
                self._tell_trouble(program.why)
            case "down" | "stopped":
                self._arrivals.clear()
                if self._to_link is not None:
                    self._to_link, self.linking.outcome = None, program.why or "the channel does not run"

    def channel_frame(self, name: str, untrusted_frame: Frame) -> None:
        match untrusted_frame:
            case _ if self._stopping:
                pass  # the store closes soon, and no turn begins any more: its next run brings it again
            case wire.Message() | Edited() | Deleted() | Reaction():
                self._arrivals.take(untrusted_frame)
            case wire.Chats(_, chats):
                self._arrivals.name_chats(chats)

    def _list_chats(self) -> None:
        """What they are called, so that one can be registered by its name. The channel says it in `Chats`."""
        if self._can("chats"):
            self.program.request(wire.ListChats, lambda _: None)

    def _tell_trouble(self, untrusted_why: str) -> None:
        """Once for each change, however often the channel repeats it."""
        why = " ".join(clean_text(untrusted_why).split())
        if why != self._told:
            self._told = why
            self._desk.log.warning("channel out of service", channel=self.name, why=why)
            self._desk.trouble(self.name, why)

    # As far as is known: one that has not said hello yet may.

    @property
    def takes_files(self) -> bool:
        return self.program.hello is None or self.program.can("files")

    @property
    def takes_reactions(self) -> bool:
        return self.program.hello is None or self.program.can("react")

    # --- out ------------------------------------------------------------------------------------------------

    def deliver(self, outgoing: Outgoing) -> None:
        self._delivery.flush()

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
            ids = [channels_id(message)]
            self.program.request(lambda number: wire.Read(number, message.chat, message.sender, ids), lambda _: None)

    def _can(self, ability: str) -> bool:
        return self.program.state == "connected" and self.program.can(ability)

    # --- the account ----------------------------------------------------------------------------------------

    def link(self, phone: str) -> None:
        """Begin to link an account; `linking` tells how far it is. One that starts just now is waited for."""
        self.linking = Linking()
        if self.program.hello is not None:
            self._ask_to_link(phone)
        elif self.program.state == "starting":
            self._to_link = phone
        else:
            self.linking.outcome = self.program.why or "the channel does not run"

    def _ask_to_link(self, phone: str) -> None:
        self._to_link = None
        linking = self.linking

        def more(untrusted_frame: Frame) -> None:
            if not isinstance(untrusted_frame, wire.Qr | wire.Code):
                raise PeerError("a piece of a file in the place of a code")
            linking.kind = "qr" if isinstance(untrusted_frame, wire.Qr) else "code"
            linking.code, linking.until = untrusted_frame.code, time.time() + untrusted_frame.seconds

        def answered(answer: Answer) -> None:
            linking.code = ""
            linking.outcome = "linked" if isinstance(answer, Done) else _why(answer)

        self.program.request(lambda n: wire.Link(n, phone), answered, seconds=LINK_SECONDS, on_more=more)

    def unlink(self) -> None:
        """Begin to take the account off; `linking` tells how it ended."""
        linking = self.linking = Linking("unlink")

        def answered(answer: Answer) -> None:
            linking.outcome = "unlinked" if isinstance(answer, Done) else _why(answer)

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


def _why(answer: Answer) -> str:
    assert isinstance(answer, wire.Failed)
    return clean_text(answer.text) or answer.reason
