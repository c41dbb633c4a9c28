"""Files that hang on messages: what they are called here, and the reference by which one is fetched later. Pure."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from channel import wire

FIELDS: Final = {
    "image": "imageMessage",
    "video": "videoMessage",
    "audio": "audioMessage",
    "voice": "audioMessage",
    "document": "documentMessage",
    "sticker": "stickerMessage",
}
"""Kind → the protocol's name of such a message."""


@dataclass(frozen=True)
class Ref:
    """What it takes to download and decrypt one file, in this run or a later one."""

    kind: str
    path: str
    key: bytes
    plain: bytes
    """Digest of the file."""
    sealed: bytes
    """Digest of what the server has."""
    size: int


def write_ref(ref: Ref) -> str:
    parts = [base64.b64encode(part).decode() for part in (ref.key, ref.plain, ref.sealed)]
    return json.dumps([ref.kind, ref.path, *parts, ref.size], separators=(",", ":"))


def read_ref(text: str) -> Ref | None:
    """None if `write_ref` did not write it."""
    try:
        kind, path, key, plain, sealed, size = json.loads(text)
        known = kind in FIELDS and isinstance(path, str) and type(size) is int
        key, plain, sealed = (base64.b64decode(part, validate=True) for part in (key, plain, sealed))
    except (ValueError, TypeError):
        return None
    return Ref(kind, path, key, plain, sealed, size) if known else None


def attachment(kind: str, part: Any) -> wire.Attachment:
    """The attachment of an image, video, audio, document or sticker message (a protobuf)."""
    ref = Ref(kind, part.directPath, part.mediaKey, part.fileSHA256, part.fileEncSHA256, part.fileLength)
    name = part.fileName or part.title if kind == "document" else ""
    return wire.Attachment(kind, cut(name), cut(part.mimetype), min(part.fileLength, 2**53 - 1), write_ref(ref))


def cut(text: str, limit: int = wire.MAX_SHORT) -> str:
    """The longest beginning of `text` that has at most `limit` bytes in UTF-8."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore")


def kind_of(mimetype: str) -> str:
    """How WhatsApp shows a file of this type. What it could not show goes as a document."""
    if mimetype in ("image/jpeg", "image/png"):
        return "image"
    if mimetype in ("video/mp4", "video/3gpp"):
        return "video"
    return "document"
