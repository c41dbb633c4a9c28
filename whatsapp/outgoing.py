"""What the host wants done, done through the library: messages, reactions, typing, read marks, files."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from channel import wire
from whatsapp import library, media
from whatsapp.identity import GROUP, LID, Directory, Jid, parse
from whatsapp.library import Client, LibraryError
from whatsapp.markdown import to_whatsapp
from whatsapp.pace import Manners, Pace
from whatsapp.recent import Recent
from whatsapp.split import split

TYPING_AGAIN: Final = 8.0
"""Seconds after which WhatsApp would let it lapse."""
TYPING_MOST: Final = 900.0
"""Seconds after which nobody believes it any more: a host that forgot to turn it off."""


class Outgoing:
    """Each method carries out one request and answers it, on a worker's thread."""

    def __init__(
        self, say: Callable[[wire.Frame], None], directory: Directory, lid_chats: set[str], manners: Manners
    ) -> None:
        self._say = say
        self._directory = directory
        self._lid_chats = lid_chats
        """Groups whose members go by LID, as their messages showed."""
        self.sent = Recent(5000)
        self._pace = Pace(manners, time.monotonic())
        self._typing: dict[str, float] = {}
        self._lock = threading.Lock()
        self.client: Callable[[], Client | None] = lambda: None
        threading.Thread(target=self._keep_typing, name="typing", daemon=True).start()

    def send(self, request: wire.Send, data: bytes) -> None:
        found = self._ready(request.id, request.chat)
        if found is None:
            return
        client, chat = found
        sent: list[str] = []
        try:
            for message in self._messages(client, chat, request, data):
                self._wait()
                sent.append(client.send(chat, message))
                self.sent.add(sent[-1])
        except LibraryError as e:
            self._failed(request.id, e, sent)
        else:
            self._say(wire.Done(request.id, sent))

    def _messages(self, client: Client, chat: Jid, request: wire.Send, data: bytes) -> list[object]:
        text, mentions = self._mentions(chat, request)
        pieces = split(to_whatsapp(text))[: wire.MAX_ITEMS]
        quote = self._quote(chat, request.quote)
        messages: list[object] = []
        if request.file is not None:
            kind = media.kind_of(request.file.type)
            uploaded = client.upload(data, kind)
            caption = pieces.pop(0) if len(pieces) == 1 else ""
            messages.append(library.upload_message(kind, request.file, uploaded, caption, quote, mentions))
            quote = None
        for piece in pieces:
            named = [one for one in mentions if "@" + one.partition("@")[0] in piece]
            messages.append(library.text_message(piece, quote, named))
            quote = None  # the first piece answers; the rest goes on
        if not messages:
            raise LibraryError("there is nothing to send")
        return messages

    def react(self, request: wire.React) -> None:
        found = self._ready(request.id, request.chat)
        if found is None:
            return None
        client, chat = found
        try:
            sender = self._writer(chat, request.sender) if request.sender else self._me(client)
            self._wait()
            sent = client.send(chat, client.reaction(chat, sender, request.message, request.emoji))
            self.sent.add(sent)
        except LibraryError as e:
            return self._failed(request.id, e, [])
        return self._say(wire.Done(request.id, [sent]))

    def typing(self, request: wire.Typing) -> None:
        with self._lock:
            if request.on:
                self._typing[request.chat] = time.monotonic() + TYPING_MOST
            else:
                self._typing.pop(request.chat, None)
        found = self._ready(request.id, request.chat)
        if found is None:
            return None
        try:
            found[0].typing(found[1], request.on)
        except LibraryError as e:
            return self._failed(request.id, e, [])
        return self._say(wire.Done(request.id))

    def stop_typing(self) -> None:
        """Clear it everywhere, as well as that can be done."""
        with self._lock:
            chats, self._typing = list(self._typing), {}
        self._show_typing(chats, on=False)

    def read(self, request: wire.Read) -> None:
        found = self._ready(request.id, request.chat)
        if found is None:
            return None
        client, chat = found
        try:
            client.read(chat, self._writer(chat, request.sender), request.messages)
        except LibraryError as e:
            return self._failed(request.id, e, [])
        return self._say(wire.Done(request.id))

    def fetch(self, request: wire.Fetch) -> None:
        ref = media.read_ref(request.ref)
        limit = min(request.limit, wire.MAX_FILE)
        if ref is None:
            return self._say(wire.Failed(request.id, "unknown", "not a file of this channel", wire.NEVER))
        if ref.size > limit:
            return self._say(wire.Failed(request.id, "too_large", f"{ref.size} bytes", wire.NEVER))
        client = self.client()
        if client is None:
            return self._say(wire.Failed(request.id, "offline", "not connected", 5))
        try:
            data = client.download(ref)
        except LibraryError as e:
            gone = re.search(r"\b(403|404|410)\b", str(e)) is not None
            reason, retry = ("gone", wire.NEVER) if gone else ("offline", 10)
            return self._say(wire.Failed(request.id, reason, f"the file could not be fetched: {e}", retry))
        if len(data) > limit:
            return self._say(wire.Failed(request.id, "too_large", f"{len(data)} bytes", wire.NEVER))
        for start in range(0, len(data), wire.CHUNK):
            self._say(wire.Data(request.id, data[start : start + wire.CHUNK]))
        return self._say(wire.Done(request.id))

    # --- names, as the chat has them ---

    def _participant(self, chat: Jid, person: str) -> str:
        """A person's id in the form that the members of this chat go by."""
        pair = self._directory.person(parse(person))
        if pair is not None and pair.lid and chat.server == GROUP and str(chat) in self._lid_chats:
            return f"{pair.lid}@{LID}"
        return pair.id if pair is not None else person

    def _quote(self, chat: Jid, quote: wire.Quote | None) -> wire.Quote | None:
        if quote is None or not quote.sender:
            return quote
        return wire.Quote(quote.id, self._participant(chat, quote.sender), quote.text)

    def _mentions(self, chat: Jid, request: wire.Send) -> tuple[str, list[str]]:
        """The text with each `@id` in the form that phones show as a name, and the ids in that form."""
        text, ids = request.text, []
        for one in request.mentions:
            shown = self._participant(chat, one)
            user = one.partition("@")[0]
            text = text.replace(f"@{one}", f"@{user}")
            text = re.sub(rf"@{re.escape(user)}(?![0-9])", f"@{shown.partition('@')[0]}", text)
            ids.append(shown)
        return text, ids

    def _writer(self, chat: Jid, person: str) -> Jid:
        jid = parse(self._participant(chat, person))
        if jid is None:
            raise LibraryError("no such person")
        return jid

    def _me(self, client: Client) -> Jid:
        me = client.me()[0]
        return Jid(me.User, me.Server)

    # --- answers ---

    def _ready(self, request: int, chat: str) -> tuple[Client, Jid] | None:
        """What it takes to do something in a chat; None if that was answered already."""
        client, jid = self.client(), parse(chat)
        if jid is None:
            self._say(wire.Failed(request, "unknown", "not an id of a chat on WhatsApp", wire.NEVER))
        elif client is None:
            self._say(wire.Failed(request, "offline", "not connected", 5))
        else:
            return client, jid
        return None

    def _failed(self, request: int, error: LibraryError, sent: list[str]) -> None:
        reason, retry = classify(str(error))
        self._say(wire.Failed(request, reason, str(error), retry, sent))

    def _wait(self) -> None:
        pause = self._pace.wait(time.monotonic(), random.random())  # noqa: S311 - manners, not secrets
        if pause:
            time.sleep(pause)

    # --- typing ---

    def _keep_typing(self) -> None:
        never = threading.Event()
        while not never.wait(TYPING_AGAIN):
            now = time.monotonic()
            with self._lock:
                self._typing = {chat: until for chat, until in self._typing.items() if until > now}
                chats = list(self._typing)
            self._show_typing(chats, on=True)
            with self._lock:
                over = [chat for chat in chats if chat not in self._typing]
            self._show_typing(over, on=False)  # else what was said last of it is that it goes on

    def _show_typing(self, chats: list[str], *, on: bool) -> None:
        client = self.client()
        for chat in chats:
            jid = parse(chat)
            if client is not None and jid is not None:
                try:
                    client.typing(jid, on)
                except LibraryError:
                    return  # not connected: then nobody is shown anything either


def classify(error: str) -> tuple[str, int]:
    """Reason and seconds until a retry, from the library's words."""
    text = error.lower()
    if "timed out" in text or "timeout" in text or "deadline" in text:
        return "timeout", 30
    if any(
        word in text for word in ("not connected", "websocket", "disconnected", "connection", "eof", "reset by peer")
    ):
        return "offline", 5
    if "not logged in" in text or "not paired" in text:
        return "unlinked", wire.NEVER
    return "refused", wire.NEVER
