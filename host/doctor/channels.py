"""WhatsApp, where it is used: that its library loads here, that nobody else can read its session, and how it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from host.channels import whatsapp as channel
from host.doctor.subject import Subject
from host.doctor.words import Finding, failure, ok, warning
from host.errors import UserError

NAME: Final = "whatsapp"
# Where the library, which is Go, looks for the authorities that it trusts (crypto/x509/root_linux.go).
AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
)  # fmt: skip
AUTHORITY_FOLDERS: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")
MENDING: Final = {
    "logged_out": "nanoclaw whatsapp link",
    "unlinked": "nanoclaw whatsapp link",
    "replaced": "end the other program, and start the host again",
    "outdated": "a newer NanoClaw is needed: nanoclaw update",
    "banned": "wait, and look at the account on your phone",
}


def whatsapp(subject: Subject) -> Iterator[Finding]:
    """Nothing is said where nobody uses it."""
    if not channel.in_use(subject.home):
        return
    fault, mending = channel.fault(subject.home)
    if fault:
        yield failure(NAME, fault, mending)
    account = channel.account(subject.home)
    if account is None:
        yield warning(
            NAME, "no account is linked", "nanoclaw whatsapp link; or no more of it: nanoclaw whatsapp unlink"
        )
    else:
        yield ok(NAME, f"an account is linked, its session in {channel.folder(subject.home)}")
    if not trusted(os.environ):
        yield failure(NAME, "this machine trusts no authority for TLS, so WhatsApp cannot be reached",
                      "install ca-certificates")  # fmt: skip
    yield _library(subject)
    if subject.status is not None and account is not None:
        yield _state(subject.status.get("channels", {}).get(channel.NAME))


def _library(subject: Subject) -> Finding:
    try:
        return ok(NAME, f"its library loads here ({channel.check(subject.progress)})")
    except UserError as e:
        return failure(NAME, str(e), "; ".join(e.hints))


def trusted(environ: Mapping[str, str]) -> bool:
    """Whether there is any certificate of an authority that the library would find."""
    file, folder = environ.get("SSL_CERT_FILE", ""), environ.get("SSL_CERT_DIR", "")
    if any(Path(each).is_file() for each in ([file] if file else AUTHORITIES)):
        return True
    for each in folder.split(":") if folder else AUTHORITY_FOLDERS:
        with contextlib.suppress(OSError):
            if any(Path(each).iterdir()):
                return True
    return False


def _state(line: dict[str, Any] | None) -> Finding:
    if line is None:
        return warning(NAME, "the host that runs has not taken it up", "start the host again")
    shown = f"{line['state']}{': ' if line['why'] else ''}{line['why']}"
    if line["state"] == "connected":
        return ok(NAME, "connected")
    if line["reason"] in MENDING:
        return failure(NAME, shown, MENDING[line["reason"]])
    return warning(NAME, shown, "it tries again by itself; is there a network?")
