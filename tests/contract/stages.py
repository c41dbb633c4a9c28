"""What stands behind a channel in its contract's tests: a script, or the server that speaks WhatsApp's protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from channel import wire
from tests.fakes import whatsapp_server
from tests.fakes.channel_harness import ChannelProcess
from tests.fakes.whatsapp_server import ANN, FAMILY, ME

GROUP = FAMILY["id"]


class Stage(Protocol):
    """A world with an account, a friend (Ann) and a group (Family), and channels that are started in it."""

    group: str
    friend: str
    me: str

    def start(self, *, keeps: bool = True) -> ChannelProcess: ...
    def scan(self, code: str) -> None:
        """The person scans the QR code."""

    def online(self) -> None:
        """The channel connected as the account; from now on messages reach it."""

    def writes(self, chat: str, text: str) -> str:
        """Somebody writes in the group, the friend to us, or the person to themselves; the message's id."""

    def sends_file(self, chat: str, data: bytes, name: str) -> None: ...
    def reacts(self, chat: str, message: str, emoji: str) -> None: ...
    def edits(self, chat: str, message: str, text: str) -> None: ...
    def deletes(self, chat: str, message: str) -> None: ...
    def arrived(self, number: int) -> dict[str, Any]:
        """The n-th message that the channel sent, as it arrived: `to`, `text`, `quoted`, `file`, `emoji`, `on`."""

    def typing(self, number: int) -> tuple[str, bool]: ...
    def close(self) -> None: ...


class ScriptedStage:
    """Plays the service over the script's socket."""

    group, friend, me = GROUP, f"{ANN['pn']}@s.whatsapp.net", f"{ME['pn']}@s.whatsapp.net"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(folder / "stage"))
        self._listener.listen()
        self._heard: list[wire.Frame] = []
        self._news = threading.Condition()
        self._connection: socket.socket | None = None
        self._count = 0
        self._channels: list[ChannelProcess] = []
        self._files: dict[int, bytearray] = {}

    def start(self, *, keeps: bool = True) -> ChannelProcess:
        argv = [sys.executable, "-B", "-m", "channel.scripted", self._folder / "stage", self._folder / "data"]
        channel = ChannelProcess(argv, self._folder / "log", {}, keeps=keeps)
        self._channels.append(channel)
        self._listener.settimeout(30)
        if self._connection is not None:
            self._connection.close()
        self._connection, _ = self._listener.accept()
        threading.Thread(target=self._hear, args=(self._connection,), daemon=True).start()
        return channel

    def _hear(self, connection: socket.socket) -> None:
        decoder = wire.Decoder(wire.TO_CHANNEL)
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                with self._news:
                    for frame in decoder.feed(data):
                        if isinstance(frame, wire.Data):
                            self._files.setdefault(frame.id, bytearray()).extend(frame.data)
                        self._heard.append(frame)
                    self._news.notify_all()

    def _nth(self, kinds: tuple[type, ...], number: int) -> Any:
        with self._news:
            found: list[Any] = []

            def there() -> bool:
                found[:] = [frame for frame in self._heard if isinstance(frame, kinds)]
                return len(found) >= number

            assert self._news.wait_for(there, 30), self._heard
            return found[number - 1]

    def _script(self, **line: Any) -> None:
        assert self._connection is not None
        self._connection.sendall(json.dumps(line).encode() + b"\n")

    def _say(self, frame: wire.Frame) -> None:
        self._script(say=json.loads(wire.encode(frame)))

    def scan(self, code: str) -> None:
        request = self._nth((wire.Link,), 1)
        self._say(wire.Linked(wire.Person(self.me)))
        self._say(wire.Done(request.id))

    def online(self) -> None:
        self._say(wire.Connected(wire.Person(self.me)))

    def _chat(self, chat: str) -> tuple[wire.Chat, wire.Person, bool]:
        if chat == self.group:
            return wire.Chat(chat, "", "Family", "group"), wire.Person(self.friend, "", "Ann"), False
        if chat == self.me:
            return wire.Chat(chat, "", "", "self"), wire.Person(self.me), True
        return wire.Chat(chat, "", "Ann", "direct"), wire.Person(self.friend, "", "Ann"), False

    def writes(self, chat: str, text: str, **more: Any) -> str:
        where, who, own = self._chat(chat)
        self._count += 1
        self._say(wire.Message(0, where, f"M{self._count}", who, own, 1_700_000_000, text, **more))
        return f"M{self._count}"

    def sends_file(self, chat: str, data: bytes, name: str) -> None:
        self._script(file=name, data=base64.b64encode(data).decode())
        self.writes(
            chat, "", attachments=[wire.Attachment("document", name, "application/octet-stream", len(data), name)]
        )

    def reacts(self, chat: str, message: str, emoji: str) -> None:
        where, who, own = self._chat(chat)
        self._say(wire.Reaction(0, where, message, who, own, 1_700_000_000, emoji))

    def edits(self, chat: str, message: str, text: str) -> None:
        where, who, own = self._chat(chat)
        self._say(wire.Edited(0, where, message, who, own, 1_700_000_000, text))

    def deletes(self, chat: str, message: str) -> None:
        where, who, own = self._chat(chat)
        self._say(wire.Deleted(0, where, message, who, own, 1_700_000_000))

    def arrived(self, number: int) -> dict[str, Any]:
        frame = self._nth((wire.Send, wire.React), number)
        if isinstance(frame, wire.React):
            return {"to": frame.chat, "emoji": frame.emoji, "on": frame.message}
        quoted = frame.quote.id if frame.quote else None
        with self._news:
            size = frame.file.size if frame.file else 0
            assert self._news.wait_for(lambda: len(self._files.get(frame.id, b"")) == size, 30)
            data = bytes(self._files.get(frame.id, b""))
        return {"to": frame.chat, "text": frame.text, "quoted": quoted, "file": data}

    def typing(self, number: int) -> tuple[str, bool]:
        frame = self._nth((wire.Typing,), number)
        return frame.chat, frame.on

    def close(self) -> None:
        for channel in self._channels:
            channel.kill()
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


class WhatsAppStage:
    """The real library in the real program, and the server that speaks its protocol."""

    group, friend, me = GROUP, f"{ANN['pn']}@s.whatsapp.net", f"{ME['pn']}@s.whatsapp.net"

    def __init__(self, folder: Path) -> None:
        if reason := whatsapp_server.missing():
            whatsapp_server.unavailable(reason)
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._channels: list[ChannelProcess] = []
        self.server = whatsapp_server.Server(folder / "server")
        self._library = whatsapp_server.library_copy(folder / "library", self.server.root)

    def start(self, *, keeps: bool = True) -> ChannelProcess:
        argv = [whatsapp_server.PYTHON, "-B", Path(whatsapp_server.__file__).with_name("whatsapp_child.py")]
        env = {"NEONIZE_FROM": str(self._library), "SSL_CERT_FILE": str(self.server.ca), "HASTY": "1"}
        options = [self._folder / "data", "--proxy", self.server.proxy]
        self._channels.append(ChannelProcess([*argv, *options], self._folder / "log", env, keeps=keeps))
        return self._channels[-1]

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def scan(self, code: str) -> None:
        self.server.do("scan", code=code)

    def online(self) -> None:
        self.server.wait("keys")

    def _sender(self, chat: str) -> dict[str, Any]:
        return {"chat": "self"} if chat == self.me else {"chat": chat, "sender": ANN["pn"]}

    def say(self, chat: str, message: dict[str, Any], **more: Any) -> str:
        return self.server.say(message=message, **self._sender(chat), **more)

    def writes(self, chat: str, text: str) -> str:
        return self.say(chat, {"conversation": text})

    def sends_file(self, chat: str, data: bytes, name: str) -> None:
        part = self.server.upload(data, "document", "application/octet-stream")
        self.say(chat, {"documentMessage": {**part, "fileName": name}})

    def _key(self, chat: str, message: str) -> dict[str, Any]:
        return {"remoteJid": chat, "id": message, "fromMe": chat == self.me, "participant": f"{ANN['lid']}@lid"}

    def reacts(self, chat: str, message: str, emoji: str) -> None:
        self.say(chat, {"reactionMessage": {"key": self._key(chat, message), "text": emoji}})

    def edits(self, chat: str, message: str, text: str) -> None:
        edited = {"type": 14, "key": self._key(chat, message), "editedMessage": {"conversation": text}}
        self.say(chat, {"protocolMessage": edited}, edit="1")

    def deletes(self, chat: str, message: str) -> None:
        self.say(chat, {"protocolMessage": {"type": 0, "key": self._key(chat, message)}}, edit="7")

    def arrived(self, number: int) -> dict[str, Any]:
        event = self.server.wait("sent", times=number)
        message = event["message"]
        to = event["to"]
        chat = to if to.endswith("@g.us") else next(p for p in self._people() if p[1] == to or p[0] == to)[0]
        if "reactionMessage" in message:
            reaction = message["reactionMessage"]
            return {"to": chat, "emoji": reaction["text"], "on": reaction["key"]["id"]}
        document = message.get("documentMessage")
        extended = message.get("extendedTextMessage", {})
        text = message.get("conversation") or extended.get("text") or (document or {}).get("caption", "")
        context = (document or extended).get("contextInfo", {})
        data = self.server.download(document, "document") if document else b""
        return {"to": chat, "text": text, "quoted": context.get("stanzaId") or None, "file": data}

    def _people(self) -> list[tuple[str, str]]:
        return [(f"{one['pn']}@s.whatsapp.net", f"{one['lid']}@lid") for one in (ME, ANN)]

    def typing(self, number: int) -> tuple[str, bool]:
        event = self.server.wait("chatstate", times=number)
        return event["to"], event["kind"] == "composing"

    def close(self) -> None:
        for channel in self._channels:
            channel.kill()
        self.server.close()
