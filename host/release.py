"""What is signed of a release: a few lines that name the one file and its digest, and an Ed25519 signature over them.

`FILE.sig` lies beside the file, and is text::

    nanoclaw release signature 1
    version 0.2.0
    arch x86_64
    build 6bd1…                    64 hex digits: the digest of all sources that went in
    size 43215872
    sha256 09f4…                   of the whole file
    key 71ac…                      16 hex digits: which key signed, so that a wrong one can be named
    signature 5e0b…                128 hex digits

Signed is the text up to and with the line of the key. Its first line is in no other text that these keys sign, so
that a signature made for one purpose serves no other. A key that can be told from the file's neighbourhood proves
nothing: those that count are in the program that runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from host.errors import UserError

PURPOSE: Final = "nanoclaw release signature 1"
MAX_SIGNATURE_FILE: Final = 4096
"""Bytes; a real one has some 450."""
MAX_FILE: Final = 1 << 30
"""Bytes of a program; with everything inside it has some 75 MB."""
MAX_INDEX: Final = 64 << 10
FORMAT: Final = 1
# Last of the file: magic, format, zero, where the index is and how long, its sha256; the rest is the launcher's.
TRAILER: Final = struct.Struct("<8sIIQQ32s")
TRAILER_BYTES: Final = 128
MAGIC: Final = b"NANOCLAW"
NOT_GENUINE: Final = "do not run it: get it anew from where you trust"

# Field → what it may be, in the order of the file. So a statement has one spelling, and to read one and to write it
# again gives the very bytes that were signed.
FIELDS: Final = {
    "version": r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(?:rc[0-9]{1,6})?",
    "arch": r"[a-z0-9_]{1,32}",
    "build": r"[0-9a-f]{64}",
    "size": r"[1-9][0-9]{0,11}",
    "sha256": r"[0-9a-f]{64}",
    "key": r"[0-9a-f]{16}",
}
_FILE: Final = re.compile(
    f"({PURPOSE}\n" + "".join(f"{name} (?P<{name}>{value})\n" for name, value in FIELDS.items()) + ")"
    r"signature (?P<signature>[0-9a-f]{128})\n",
    re.ASCII,
)


@dataclass(frozen=True)
class Statement:
    """What a signature says of a file."""

    version: str
    arch: str
    build: str
    size: int
    sha256: str
    key: str

    def text(self) -> bytes:
        """The bytes that are signed."""
        lines = (f"{name} {getattr(self, name)}\n" for name in FIELDS)
        return f"{PURPOSE}\n{''.join(lines)}".encode("ascii")


def key_id(public: str) -> str:
    """Of a public key in hex: what a signature names it by."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def written(statement: Statement, signature: bytes) -> bytes:
    """The signature file."""
    return statement.text() + f"signature {signature.hex()}\n".encode("ascii")


def verified(untrusted_signature: bytes, keys: Sequence[str]) -> Statement:
    """What the signature file says, once one of `keys` (hex) is known to have signed it; `UserError` if none has."""
    try:
        match = _FILE.fullmatch(untrusted_signature.decode("ascii"))
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise UserError("the signature file is damaged, or of another kind than this program knows", NOT_GENUINE)
    fields = match.groupdict()
    known = {key_id(key): key for key in keys}
    if fields["key"] not in known:
        knows = f"this program knows {', '.join(known)}"
        raise UserError(
            f"it is signed with a key that this program does not know ({fields['key']})", knows, NOT_GENUINE
        )
    if not _signed(known[fields["key"]], match[1].encode("ascii"), bytes.fromhex(fields["signature"])):
        raise UserError("the signature is wrong: this is not what was signed", NOT_GENUINE)
    return Statement(**{name: fields[name] for name in FIELDS if name != "size"}, size=int(fields["size"]))


def _signed(key: str, text: bytes, signature: bytes) -> bool:
    # Here and not above: twenty milliseconds that only an update has to pay.
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(bytes.fromhex(key)).verify(text, signature)
    except BadSignatureError:
        return False
    return True


def order(version: str) -> tuple[int, int, int, float]:
    """Of a version, for comparing: `0.9.0` < `0.10.0rc1` < `0.10.0`. `ValueError` for what is none."""
    if not re.fullmatch(FIELDS["version"], version, re.ASCII):
        raise ValueError(f"{version!r} is not a version")
    numbers, _, candidate = version.partition("rc")
    major, minor, patch = map(int, numbers.split("."))
    return major, minor, patch, float(candidate) if candidate else float("inf")


# --- the one file, one that does not run: of the running one, the program itself knows more ---------------


@dataclass(frozen=True)
class Program:
    """What a NanoClaw in one file says of itself."""

    version: str
    arch: str
    build: str


def program_in(fd: int) -> Program | None:
    """What is in this file; None if it is not a NanoClaw. `UserError` if it is one of a format that is not known here,
    or a damaged one."""
    size = os.fstat(fd).st_size
    trailer = os.pread(fd, TRAILER_BYTES, max(0, size - TRAILER_BYTES))
    if size < TRAILER_BYTES or not trailer.startswith(MAGIC):
        return None
    _, form, _, offset, length, digest = TRAILER.unpack_from(trailer)
    if form != FORMAT:
        raise UserError(f"it is a NanoClaw of format {form}, and this one knows format {FORMAT}", NOT_GENUINE)
    if not 0 < length <= MAX_INDEX or offset + length > size - TRAILER_BYTES:
        raise UserError("its end does not fit the rest: it was cut or altered", NOT_GENUINE)
    index = os.pread(fd, length, offset)
    if hashlib.sha256(index).digest() != digest:
        raise UserError("its index is damaged", NOT_GENUINE)
    try:
        said = json.loads(index)
        about = Program(said["version"], said["arch"], said["build"])
    except (ValueError, TypeError, KeyError, RecursionError):
        about = None
    if about is None or not all(
        re.fullmatch(FIELDS[name], str(value), re.ASCII) for name, value in vars(about).items()
    ):
        raise UserError("its index does not say what it is", NOT_GENUINE)
    return about
