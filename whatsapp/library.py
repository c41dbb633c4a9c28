"""neonize, and nothing of it beyond this module: the one place where what is imported has no types.

Importing it sets up logging, adds to `sys.path` and loads the Go library, which lives as long as the process. It also
wants packages for stickers, link previews and vCards that are of no use here, and would download a library that is
missing or of another version from the internet, unverified. All of those are kept out: see `_Absent`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from channel import wire
from whatsapp import media
from whatsapp.identity import Jid

VERSION: Final = "0.5.2"
"""Of neonize and of its library, which must be the same."""

# Imported by neonize at its top, each for something that is not done here.
ABSENT: Final = ("PIL", "asyncio", "httpx", "linkpreview", "magic", "phonenumbers", "requests", "segno", "tqdm")


class LibraryError(Exception):
    """The library refused, or could not be loaded; the text says why."""


class _AbsentType(type):
    """Stands for anything that an absent package would hold: it can be named and called, and does nothing."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *_args: object, **_named: object) -> object:
        return cls


class _Absent(metaclass=_AbsentType):
    pass


def _absent_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__getattr__"] = lambda attribute: getattr(_Absent, attribute)
    return module


def _no_download() -> None:
    raise LibraryError(f"this is not neonize {VERSION} with its own library, and none is downloaded")


def load() -> types.ModuleType:
    """neonize, imported with everything kept out that could reach the network but the Go library itself.

    Raises `LibraryError` if it is missing, does not load here or is of another version.
    """
    for name in ABSENT:
        sys.modules[name] = _absent_module(name)
    # What `neonize.download` would be: the loader asks it for the version, and calls it if the library is another.
    stand_in = types.ModuleType("neonize.download")
    stand_in.__dict__.update(__GONEONIZE_VERSION__=VERSION, download=_no_download)
    sys.modules["neonize.download"] = stand_in
    try:
        import neonize  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except (ImportError, OSError, RuntimeError) as e:
        raise LibraryError(f"neonize {VERSION} does not load: {e}") from e
    module: types.ModuleType = neonize
    return module


@dataclass(frozen=True)
class Handlers:
    """Whom to tell. All are called on one thread of the library's, one after the other."""

    qr: Callable[[str], None]
    status: Callable[[str], None]
    """How linking ended: `success`, `timeout`, or an error."""
    event: Callable[[str, Any], None]
    """Name of the event and its protobuf."""


EVENTS: Final = (
    "PairStatusEv", "ConnectedEv", "DisconnectedEv", "LoggedOutEv", "StreamReplacedEv", "TemporaryBanEv",
    "ConnectFailureEv", "ClientOutdatedEv", "StreamErrorEv", "HistorySyncEv", "MessageEv", "ReceiptEv",
    "JoinedGroupEv", "GroupInfoEv", "UndecryptableMessageEv",
)  # fmt: skip


class Client:
    """One connection of the account, for one run: what failed once is left behind for a new one.

    Every call may block, for as long as a minute where the network is slow.
    """

    def __init__(self, database: Path, number: int, handlers: Handlers) -> None:
        from neonize import client, events, utils

        self._utils = utils
        self._proxy = client.ProxySettings
        # A name of its own for each run: Go keeps the old one's state under its name.
        self._client = client.NewClient(os.fspath(database), uuid=f"nanoclaw-{number}", props=_device())
        for name in EVENTS:
            self._client.event(getattr(events, name))(lambda _, event, name=name: handlers.event(name, event))
        self._client.event.qr(lambda _, code: handlers.qr(code.decode("ascii", "replace")))
        # There is no public way to learn this; without it the number of a pointer would be printed.
        self._client._NewClient__onLoginStatus = lambda _, status: handlers.status(
            ctypes.string_at(status).decode("utf-8", "replace")
        )

    def connect(self, proxy: str) -> None:
        """Blocks while the client lives, and often longer: run it on a thread that may be lost."""
        with _failing():
            self._client.connect(self._proxy(proxy) if proxy else None)

    def disconnect(self) -> None:
        """Hang up. What the library has decrypted is still handed over. May never return."""
        self._client.disconnect()

    def stop(self) -> None:
        """Hang up, and drop what was not handed over yet. May never return."""
        self._client.stop()

    def logout(self) -> None:
        with _failing():
            self._client.logout()

    def pair_phone(self, number: str) -> str:
        """The code to type on the phone. Only while unlinked and connected."""
        with _failing():
            return str(self._client.PairPhone(number, True))

    def me(self) -> tuple[Any, Any]:
        """The account's two ids. Before the client has connected this would abort the process."""
        with _failing():
            device = self._client.get_me()
            return device.JID, device.LID

    def other_id(self, jid: Jid) -> Any:
        """The LID of a phone id or the other way round, as the session's database knows it; None if it does not."""
        look_up = self._client.get_pn_from_lid if jid.server == "lid" else self._client.get_lid_from_pn
        try:
            with _failing():
                return look_up(self._jid(jid))
        except LibraryError:
            return None

    def groups(self) -> list[tuple[Any, str]]:
        """Every group of the account: its id and its name."""
        with _failing():
            return [(group.JID, group.GroupName.Name) for group in self._client.get_joined_groups()]

    def contacts(self) -> list[tuple[Any, str]]:
        """Everybody in the account's address book, by the name that it has there."""
        with _failing():
            found = self._client.contact.get_all_contacts()
            return [(one.JID, one.Info.FullName or one.Info.PushName) for one in found]

    def send(self, chat: Jid, message: Any) -> str:
        """Its id."""
        with _failing():
            return str(self._client.send_message(self._jid(chat), message).ID)

    def reaction(self, chat: Jid, sender: Jid, message: str, emoji: str) -> Any:
        with _failing():
            return self._client.build_reaction(self._jid(chat), self._jid(sender), message, emoji)

    def typing(self, chat: Jid, on: bool) -> None:
        enum = self._utils
        state = enum.ChatPresence.CHAT_PRESENCE_COMPOSING if on else enum.ChatPresence.CHAT_PRESENCE_PAUSED
        with _failing():
            self._client.send_chat_presence(self._jid(chat), state, enum.ChatPresenceMedia.CHAT_PRESENCE_MEDIA_TEXT)

    def read(self, chat: Jid, sender: Jid, ids: list[str]) -> None:
        with _failing():
            self._client.mark_read(
                *ids, chat=self._jid(chat), sender=self._jid(sender), receipt=self._utils.ReceiptType.READ
            )

    def upload(self, data: bytes, kind: str) -> Any:
        types_of = {"image": "MediaImage", "video": "MediaVideo", "document": "MediaDocument"}
        with _failing():
            return self._client.upload(data, getattr(self._utils.MediaType, types_of[kind]))

    def download(self, ref: media.Ref) -> bytes:
        with _failing():
            return bytes(self._client.download_any(file_message(ref)))

    def _jid(self, jid: Jid) -> Any:
        # All five fields must be there, or Go refuses the whole.
        return self._utils.build_jid(jid.user, jid.server)


class _failing:  # noqa: N801 - a context manager, used like a function
    """neonize has an exception class for each call; to us they are one."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, LibraryError):
            text = " ".join(str(error).split()) or type(error).__name__
            raise LibraryError(text[:500]) from error


def _device() -> Any:
    """How the account's list of linked devices shows this one."""
    from neonize.proto.waCompanionReg.WAWebProtobufsCompanionReg_pb2 import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
        DeviceProps,
    )

    return DeviceProps(os="NanoClaw", platformType=DeviceProps.DESKTOP)


# --- messages that go out ----------------------------------------------------------------------------


def _e2e() -> Any:
    from neonize.proto.waE2E import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
        WAWebProtobufsE2E_pb2,
    )

    return WAWebProtobufsE2E_pb2


def _context(quote: wire.Quote | None, mentions: list[str]) -> Any:
    e2e = _e2e()
    context = e2e.ContextInfo(mentionedJID=mentions)
    if quote is not None:
        context.stanzaID = quote.id
        if quote.sender:
            context.participant = quote.sender
        context.quotedMessage.conversation = quote.text
    return context


def text_message(text: str, quote: wire.Quote | None, mentions: list[str]) -> Any:
    e2e = _e2e()
    if quote is None and not mentions:
        return e2e.Message(conversation=text)
    return e2e.Message(extendedTextMessage=e2e.ExtendedTextMessage(text=text, contextInfo=_context(quote, mentions)))


def upload_message(
    kind: str, file: wire.File, uploaded: Any, caption: str, quote: wire.Quote | None, mentions: list[str]
) -> Any:
    """The message of a file that was uploaded."""
    e2e = _e2e()
    common = {
        "URL": uploaded.url,
        "directPath": uploaded.DirectPath,
        "mediaKey": uploaded.MediaKey,
        "fileEncSHA256": uploaded.FileEncSHA256,
        "fileSHA256": uploaded.FileSHA256,
        "fileLength": uploaded.FileLength,
        "mimetype": file.type,
        "caption": caption,
        "contextInfo": _context(quote, mentions),
    }
    if kind == "image":
        return e2e.Message(imageMessage=e2e.ImageMessage(**common))
    if kind == "video":
        return e2e.Message(videoMessage=e2e.VideoMessage(**common))
    return e2e.Message(documentMessage=e2e.DocumentMessage(**common, fileName=file.name, title=file.name))


def file_message(ref: media.Ref) -> Any:
    """The message that a file came with, as far as fetching it goes."""
    message = _e2e().Message()
    part = getattr(message, media.FIELDS[ref.kind])
    part.directPath, part.mediaKey, part.fileLength = ref.path, ref.key, ref.size
    part.fileSHA256, part.fileEncSHA256 = ref.plain, ref.sealed
    return message


def quiet() -> None:
    """Logging of our own before the library sets up its: to stderr, and what it says beneath a warning is dropped."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
