"""HTTP and TLS over the pipe: a transport for the SDK's client that needs no network.

TLS ends here, in the runner: the host carries bytes that it cannot read.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import httpcore2
import httpx2

from runner.streams import Stream, StreamError, Streams

CA_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
TLS_READ: Final = 64 * 1024
KEEP_ALIVE_SECONDS: Final = 4.0
"""Many servers close an idle connection after five seconds, and a request that crosses such a close is lost.
A new connection is cheap beside a model's answer."""

T = TypeVar("T")


def client(transport: httpx2.BaseTransport, read_seconds: float) -> httpx2.Client:
    """A client that looks at no environment variable and follows no redirect (the key would go along)."""
    return httpx2.Client(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        # A local model may think for minutes before its first word; the turn's own limit ends it.
        timeout=httpx2.Timeout(read_seconds, connect=30.0, write=60.0),
    )


def tls_context() -> ssl.SSLContext:
    """With the image's own authorities. Built by hand: the convenient constructors read SSL_CERT_FILE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # On by default where Python stands on OpenSSL 3: a line that somebody cut would read as the answer's end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if CA_BUNDLE.exists():
        context.load_verify_locations(cafile=str(CA_BUNDLE))
    return context


class PipeTransport(httpx2.HTTPTransport):
    def __init__(self, streams: Streams, context: ssl.SSLContext) -> None:
        # The parent's own constructor has no way to name a network backend; all that it does is this.
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=4,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=PipeBackend(streams),
        )


class PipeBackend(httpcore2.NetworkBackend):
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            return PlainStream(self._streams.open("model", host, port, timeout))
        except TimeoutError as e:
            raise httpcore2.ConnectTimeout("no connection in time") from e
        except StreamError as e:
            raise httpcore2.ConnectError(str(e)) from e


class PlainStream(httpcore2.NetworkStream):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._stream.read(max_bytes, timeout)
        except TimeoutError as e:
            raise httpcore2.ReadTimeout("nothing came in time") from e
        except StreamError as e:
            raise httpcore2.ReadError(str(e)) from e

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._stream.write(buffer, timeout)
        except TimeoutError as e:
            raise httpcore2.WriteTimeout("nothing was taken in time") from e
        except StreamError as e:
            raise httpcore2.WriteError(str(e)) from e

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            return TlsStream(self, ssl_context, server_hostname, timeout)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.readable if info == "is_readable" else None


class TlsStream(httpcore2.NetworkStream):
    """TLS between two memory buffers, with the plain stream on the far side of them."""

    def __init__(
        self, plain: PlainStream, context: ssl.SSLContext, server_hostname: str | None, timeout: float | None
    ) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            self._drive(self._tls.do_handshake, timeout)
        except ssl.SSLError as e:
            raise httpcore2.ConnectError(f"TLS: {_reason(e)}") from e
        except (httpcore2.NetworkError, httpcore2.TimeoutException) as e:
            raise httpcore2.ConnectError(f"the TLS handshake broke off: {e}") from e

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._drive(lambda: self._tls.read(max_bytes), timeout)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as e:
            # Also an end without TLS's own farewell: a cut answer must not pass for a whole one.
            raise httpcore2.ReadError(f"TLS: {_reason(e)}") from e

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        try:
            while view:
                piece = view[:TLS_READ]
                view = view[self._drive(functools.partial(self._tls.write, piece), timeout) :]
        except ssl.SSLError as e:
            raise httpcore2.WriteError(f"TLS: {_reason(e)}") from e

    def close(self) -> None:
        self._plain.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._tls
        if info == "is_readable":
            return bool(self._tls.pending() or self._incoming.pending) or self._plain.get_extra_info(info)
        return None

    def _drive(self, step: Callable[[], T], timeout: float | None) -> T:
        """Repeat one TLS operation, carrying its bytes to and fro, until it is through."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush(timeout)
                data = self._plain.read(TLS_READ, timeout)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush(timeout)
                return result

    def _flush(self, timeout: float | None) -> None:
        if data := self._outgoing.read():
            self._plain.write(data, timeout)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    return error.reason or "the connection broke"
