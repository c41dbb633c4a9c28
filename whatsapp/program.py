"""The channel's program: the host's frames to those who carry them out, the library's events to the host.

A message's way in, and what a crash loses. The library decrypts it, tells WhatsApp that it arrived, and puts the event
into a queue of its own (at most 100); its one thread calls `_on_message`, which writes the frame into the spool before
anything else that takes time, and only then says it to the host. The host stores it (fsync) and says `kept`; then the
spool forgets it.

- Killed after the spool: the next run says it again, and the host knows it by its id. Nothing is lost.
- Killed before: what was still in the library's queue is lost. Either WhatsApp holds it for delivered, or it comes
  again and the library passes it over, since its key is spent. whatsmeow could wait with its receipt for the handler
  (SynchronousAck), keep what it decrypted until it is handled (EnableDecryptedEventBuffer) and ask the phone for its
  history (SendPeerMessage); neonize has a way to none of them. What is left to do is done: before the spool comes
  nothing that asks the network, only a look-up of an unknown person's other id in the session's own database; and
  where the host does not keep up, the handler waits, so that nothing is dropped here. WhatsApp's history, which comes
  when an account is linked, is stored as context.
- The machine loses its power before the host's fsync: the spool is written without one. With it, the handler would be
  as slow as the disk, the library's queue longer, and a kill, which is the likelier of the two, would lose more.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from channel import wire
from channel.spool import Kept, Spool
from whatsapp.account import Account, Ears, is_linked
from whatsapp.events import Reader, jid_of
from whatsapp.identity import Directory, Jid, Pair, pair_of
from whatsapp.library import VERSION, Client, LibraryError
from whatsapp.outgoing import Outgoing
from whatsapp.pace import Manners
from whatsapp.recent import Recent
from whatsapp.speech import Speech, leave
from whatsapp.worker import Worker, watch

DATABASE: Final = "session.db"
SPOOL: Final = "unkept"
MOST_UNKEPT: Final = 5000
"""Frames that the host may leave unkept before the library is made to wait."""
PART: Final = 100
"""Chats in one `Chats` frame."""
RECEIPTS: Final = {1: "delivered", 4: "read", 6: "read", 9: "delivered"}
"""The library's numbers: delivered, read, played, delivered to a device that is not in use."""
ALL: Final = sorted(wire.ABILITIES)


class Program:
    """Made on the main thread, which then runs `run`."""

    def __init__(self, folder: Path, proxy: str, speech: Speech, manners: Manners) -> None:
        self._speech = speech
        self._database = folder / DATABASE
        self._spool = Spool(folder / SPOOL, time.time())
        self._room = threading.Condition()
        """Held while the spool is used; notified when it has room."""
        self._names: dict[str, str] = {}
        self._lid_chats: set[str] = set()
        self._seen = Recent(2_000)
        self._directory = Directory(self._look_up)
        self._reader = Reader(Pair(), self._directory, self._names)
        self._outgoing = Outgoing(speech.say, self._directory, self._lid_chats, manners)
        ears = Ears(speech.say, self._connected, self._on_event, lambda: leave(0))
        self._account = Account(self._database, proxy, ears)
        self._outgoing.client = lambda: self._account.client
        self._files: dict[int, tuple[wire.Send, bytearray]] = {}
        # Messages in their order; what is quick beside them; files; and what concerns the account.
        self._out, self._quick, self._fetching, self._control = map(Worker, ("out", "quick", "files", "control"))

    def run(self) -> None:
        """Until the host closes its end, or says stop."""
        self._speech.say(wire.Hello(wire.VERSION, f"neonize {VERSION}", is_linked(self._database), ALL))
        with self._room:
            for line in self._spool.resume():
                self._speech.say_line(line)
        watch(self._out, self._quick, self._fetching, self._control)
        self._control.add(self._account.start)
        for frame in self._speech.heard():
            self._handlers[type(frame)](self, frame)

    # --- from the host, on the main thread ---

    def _queue(self, worker: Worker, request: Any, job: Callable[[], None]) -> None:
        if not worker.add(job):
            self._speech.say(wire.Failed(request.id, "internal", "too many requests wait", 10))

    def _on_send(self, request: wire.Send) -> None:
        if request.file is None:
            self._queue(self._out, request, lambda: self._outgoing.send(request, b""))
        elif request.file.size > wire.MAX_FILE:
            self._speech.say(wire.Failed(request.id, "too_large", "over the limit for files", wire.NEVER))
        elif request.file.size == 0 or len(self._files) >= 8:
            self._speech.say(wire.Failed(request.id, "refused", "an empty file, or too many at once", wire.NEVER))
        else:
            self._files[request.id] = (request, bytearray())

    def _on_data(self, frame: wire.Data) -> None:
        request, data = self._files.get(frame.id, (None, bytearray()))
        if request is None or request.file is None:
            return  # of a file that was refused
        data += frame.data
        if len(data) > request.file.size:
            del self._files[frame.id]
            self._speech.say(wire.Failed(request.id, "too_large", "more bytes than were announced", wire.NEVER))
        elif len(data) == request.file.size:
            del self._files[frame.id]
            self._queue(self._out, request, lambda: self._outgoing.send(request, bytes(data)))

    def _on_kept(self, frame: wire.Kept) -> None:
        with self._room:
            self._spool.kept(frame.seq)
            self._room.notify_all()

    def _on_stop(self, request: wire.Stop) -> None:
        self._outgoing.stop_typing()
        self._account.stop()
        self._speech.say(wire.Done(request.id))
        leave(0)

    def _list_chats(self, request: wire.ListChats) -> None:
        client = self._account.client
        if client is None:
            return self._speech.say(wire.Failed(request.id, "offline", "not connected", 5))
        try:
            chats = self._chats(client)
        except LibraryError as e:
            return self._speech.say(wire.Failed(request.id, "refused", str(e), 10))
        for start in range(0, len(chats), PART):
            self._speech.say(wire.Chats(request.id, chats[start : start + PART]))
        return self._speech.say(wire.Done(request.id))

    def _chats(self, client: Client) -> list[wire.Chat]:
        """Every group, the account's talk with itself, and the people of its address book, each once."""
        groups = [self._reader.group(jid, name) for jid, name in client.groups()]
        people = {self._reader.me.id: self._reader.direct(self._reader.me)}
        for jid, name in client.contacts():
            pair = self._directory.person(jid_of(jid))
            if pair is not None:
                people.setdefault(pair.id, self._reader.direct(pair, name))
        return [*(group for group in groups if group is not None), *people.values()]

    _handlers: Final[dict[type, Callable[[Program, Any], None]]] = {
        wire.Send: _on_send,
        wire.Data: _on_data,
        wire.Kept: _on_kept,
        wire.Stop: _on_stop,
        wire.Ping: lambda self, f: self._speech.say(wire.Done(f.id)),
        wire.Link: lambda self, f: self._queue(self._control, f, lambda: self._account.link(f)),
        wire.Unlink: lambda self, f: self._queue(self._control, f, lambda: self._account.unlink(f)),
        wire.ListChats: lambda self, f: self._queue(self._control, f, lambda: self._list_chats(f)),
        wire.React: lambda self, f: self._queue(self._out, f, lambda: self._outgoing.react(f)),
        wire.Typing: lambda self, f: self._queue(self._quick, f, lambda: self._outgoing.typing(f)),
        wire.Read: lambda self, f: self._queue(self._quick, f, lambda: self._outgoing.read(f)),
        wire.Fetch: lambda self, f: self._queue(self._fetching, f, lambda: self._outgoing.fetch(f)),
    }

    # --- from the library, on its thread ---

    def _connected(self, client: Client, phone: Any, lid: Any) -> wire.Person:
        me = pair_of(jid_of(phone), jid_of(lid)) or Pair()
        self._reader.me = me
        self._control.add(lambda: self._learn_names(client))
        return me.person()

    def _learn_names(self, client: Client) -> None:
        try:
            for jid, name in client.groups():
                self._reader.group(jid, name)
        except LibraryError:
            return  # a name is a comfort; it comes with the next connection

    def _look_up(self, jid: Jid) -> Jid | None:
        client = self._account.client
        found = client.other_id(jid) if client is not None else None
        return jid_of(found) if found is not None else None

    def _on_event(self, name: str, event: Any) -> None:
        if name == "MessageEv":
            self._on_message(event)
        elif name == "HistorySyncEv":
            for frame in self._reader.history(event.Data):
                self._keep(functools.partial(_numbered, frame))
        elif name == "ReceiptEv":
            receipt = self._reader.receipt(event, RECEIPTS)
            if receipt is not None and any(one in self._outgoing.sent for one in receipt.ids):
                self._speech.say(receipt)
        elif name in ("JoinedGroupEv", "GroupInfoEv"):
            self._on_group(event.GroupInfo if name == "JoinedGroupEv" else event, name)

    def _on_group(self, group: Any, name: str) -> None:
        subject = group.GroupName.Name if name == "JoinedGroupEv" else group.Name.Name
        chat = self._reader.group(group.JID, subject) if subject else None
        if chat is not None:
            self._speech.say(wire.Chats(0, [chat]))

    def _on_message(self, event: Any) -> None:
        info = event.Info
        source = info.MessageSource
        if source.IsGroup and source.AddressingMode == 2:
            self._lid_chats.add(f"{source.Chat.User}@{source.Chat.Server}")
        if info.ID in self._outgoing.sent:
            return
        key = f"{source.Chat.User} {info.ID}"
        if key not in self._seen and self._keep(lambda seq: self._reader.read(seq, event)):
            self._seen.add(key)

    def _keep(self, make: Callable[[int], Kept | None]) -> bool:
        """Write a frame down and say it; whether there was one."""
        with self._room:
            # The library waits with us, and WhatsApp keeps what it could not hand over.
            self._room.wait_for(lambda: len(self._spool) < MOST_UNKEPT)
            seq = self._spool.next_seq()
            frame = make(seq)
            if frame is None:
                return False
            line = wire.encode(frame)
            self._spool.put(seq, line)
        self._speech.say_line(line)
        return True


def _numbered(frame: wire.Message, seq: int) -> wire.Message:
    return dataclasses.replace(frame, seq=seq)
