"""Who somebody is on WhatsApp: two ids of one person, and which of them NanoClaw goes by. Pure.

A person has a phone id (`4915…@s.whatsapp.net`) and a LID (`9900…@lid`), and a message may carry either or both. The
phone id is who they are where it is known: it is what people know of each other, and what a config names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from channel import wire

PHONE: Final = "s.whatsapp.net"
LID: Final = "lid"
GROUP: Final = "g.us"

_JID = re.compile(r"(?P<user>[0-9A-Za-z-]{1,64})(?:[.:_][0-9]{1,5}){0,2}@(?P<server>[a-z.]{1,32})\Z")


@dataclass(frozen=True)
class Jid:
    """One id, of a person or a group; never of one device of theirs."""

    user: str
    server: str

    def __str__(self) -> str:
        return f"{self.user}@{self.server}"


def parse(text: str) -> Jid | None:
    """`4915…:3@s.whatsapp.net` → the person's id, without the device; None if it is none."""
    found = _JID.match(text)
    return Jid(found["user"], found["server"]) if found else None


@dataclass(frozen=True)
class Pair:
    """Both ids of one person, as far as they are known; at least one is."""

    phone: str = ""
    lid: str = ""

    @property
    def id(self) -> str:
        return f"{self.phone}@{PHONE}" if self.phone else f"{self.lid}@{LID}"

    @property
    def alt(self) -> str:
        return f"{self.lid}@{LID}" if self.phone and self.lid else ""

    def person(self, name: str = "") -> wire.Person:
        return wire.Person(self.id, self.alt, name)

    def is_same(self, other: Pair) -> bool:
        return bool((self.phone and self.phone == other.phone) or (self.lid and self.lid == other.lid))


def pair_of(*jids: Jid | None) -> Pair | None:
    """The person whom these ids name; None if none of them is a person's."""
    users = {jid.server: jid.user for jid in jids if jid is not None and jid.user}
    phone, lid = users.get(PHONE, ""), users.get(LID, "")
    return Pair(phone, lid) if phone or lid else None


class Directory:
    """Which LID is whose phone id: remembered as messages tell, else looked up in the library's own store.

    Holds at most `limit` pairs.
    """

    def __init__(self, look_up: Callable[[Jid], Jid | None], limit: int = 10_000) -> None:
        self._look_up = look_up
        self._limit = limit
        self._pairs: dict[Jid, Pair] = {}

    def person(self, *jids: Jid | None) -> Pair | None:
        """Like `pair_of`, completed with what is known."""
        pair = pair_of(*jids)
        if pair is None:
            return None
        if pair.phone and pair.lid:
            self._learn(pair)
            return pair
        known = Jid(pair.phone, PHONE) if pair.phone else Jid(pair.lid, LID)
        if known in self._pairs:
            return self._pairs[known]
        found = pair_of(known, self._look_up(known)) or pair
        if found.phone and found.lid:
            self._learn(found)
        return found

    def _learn(self, pair: Pair) -> None:
        for jid in (Jid(pair.phone, PHONE), Jid(pair.lid, LID)):
            self._pairs.pop(jid, None)
            self._pairs[jid] = pair
        while len(self._pairs) > self._limit:
            del self._pairs[next(iter(self._pairs))]
