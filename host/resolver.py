"""Names to addresses: look-ups that never block the loop, and which of the addresses may be connected to.

The system's resolver has no time limit of its own and no way to be called off, so it runs in a few threads,
the only ones of the host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from host.loop import Loop, Timer

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Answer = list[str] | str
"""Addresses in the order in which to try them, or why there are none."""

LOOKUP_SECONDS: Final = 10.0
MAX_WAITING: Final = 256
"""Look-ups that wait for a thread, in each lane."""
MAX_ADDRESSES: Final = 8

MAX_HOST: Final = 253
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")

_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
"""All that was ever given out for global unicast; what lies outside is special in some way."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# `is_global` has learnt of some ranges only in later Pythons, and calls multicast global.
_NEVER_GLOBAL: Final[tuple[Network, ...]] = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),  # the nearest 6to4 relay, whoever that is
    ipaddress.IPv4Network("224.0.0.0/3"),  # multicast and what is reserved
    ipaddress.IPv6Network("2001::/23"),  # Teredo, benchmarks and other special purposes
    ipaddress.IPv6Network("3fff::/20"),
)


# --- hosts ------------------------------------------------------------------------------------------


def normal_host(untrusted_host: str) -> str | None:
    """One spelling for each host: a name in lower case, ASCII (IDNA), without the root's dot; an address as
    Python writes it. None if it is neither."""
    host = untrusted_host
    if not 0 < len(host) <= MAX_HOST + 1:
        return None
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    host = host.lower().removesuffix(".")
    # After IDNA: it turns full-width digits and dots into plain ones, and so a name into an address.
    if (address := literal(host)) is not None:
        return str(address)
    return host if len(host) <= MAX_HOST and _HOST.fullmatch(host) else None


def literal(host: str) -> Address | None:
    """The address that `host` spells out, in brackets or not. One with a zone is none: it names an interface."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def matches(pattern: str, host: str) -> bool:
    """Whether a host, as `normal_host` gave it, is what an `AllowedHost` names: exactly, or beneath `*.suffix`."""
    if pattern.startswith("*."):
        suffix = normal_host(pattern[2:])
        # An address has no parent: `*.0.0.1` would otherwise hold for 127.0.0.1.
        return suffix is not None and literal(host) is None and host.endswith("." + suffix)
    return host == normal_host(pattern)


# --- addresses --------------------------------------------------------------------------------------


def permitted(untrusted_address: str, networks: Iterable[str]) -> str | None:
    """The address to connect to, or None where it is neither global nor within one of `networks` (CIDR).

    An IPv4 address inside an IPv6 one is what the packets will reach, so it is what is judged.
    """
    address = literal(untrusted_address)
    if address is None:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    judged = _embedded(address) or address
    ranges = [ipaddress.ip_network(network, strict=False) for network in networks]
    if is_global(judged) or any(judged in network or address in network for network in ranges):
        return str(address)
    return None


def is_global(address: Address) -> bool:
    if any(address in network for network in _NEVER_GLOBAL) or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_V6:
        return False
    return address.is_global


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


# --- look-ups ---------------------------------------------------------------------------------------


class Lookup:
    """One question; its callback is called once, from the loop, unless it was cancelled."""

    def __init__(self, callback: Callable[[Answer], None]) -> None:
        self._callback: Callable[[Answer], None] | None = callback
        self.limit = Timer(self.cancel)

    @property
    def wanted(self) -> bool:
        return self._callback is not None

    def answer(self, answer: Answer) -> None:
        callback = self._callback
        self.cancel()
        if callback is not None:
            callback(answer)

    def cancel(self) -> None:
        self._callback = None
        self.limit.cancel()


class Resolver:
    """Look-ups for all gates. One thread is kept for the model's endpoint: names that hang, which an agent
    can ask for as often as it likes, hold up only other agents' tools."""

    def __init__(
        self, loop: Loop, threads: int = 4, lookup: Callable[..., list[Any]] = socket.getaddrinfo, seconds: float = 0
    ) -> None:
        self._loop, self._lookup, self._seconds = loop, lookup, seconds or LOOKUP_SECONDS
        self._lanes = {"model": _Lane(1), "tool": _Lane(max(1, threads - 1))}
        self._closing = threading.Lock()
        self._closed = False

    def resolve(self, host: str, port: int, callback: Callable[[Answer], None], lane: str = "tool") -> Lookup:
        lookup = Lookup(callback)
        if (address := literal(host)) is not None:
            self._loop.call_soon(lambda: lookup.answer([str(address)]))
        elif self._lanes[lane].put(lambda: self._look_up(lookup, host, port)):
            late = f"{host}: no answer from the resolver in time"
            lookup.limit = self._loop.call_later(self._seconds, lambda: lookup.answer(late))
        else:
            self._loop.call_soon(lambda: lookup.answer("too many names are being looked up"))
        return lookup

    def close(self) -> None:
        """The loop goes away: what the threads still find is dropped."""
        with self._closing:
            self._closed = True
        for lane in self._lanes.values():
            lane.close()

    def _look_up(self, lookup: Lookup, host: str, port: int) -> None:
        """Runs in a thread."""
        if not lookup.wanted:
            return
        try:
            found = self._lookup(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            answer: Answer = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]
        except (OSError, UnicodeError) as e:
            answer = f"{host}: {getattr(e, 'strerror', None) or 'the name cannot be looked up'}"
        with self._closing:
            if not self._closed:
                self._loop.call_threadsafe(lambda: lookup.answer(answer))


class _Lane:
    """A bounded queue and the daemon threads that empty it, started as they are needed."""

    def __init__(self, threads: int) -> None:
        self._spare = threads
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._threads: list[threading.Thread] = []

    def put(self, job: Callable[[], None]) -> bool:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        if len(self._threads) < self._spare:
            # A daemon: one that hangs in the system's resolver must not keep the host from ending.
            thread = threading.Thread(target=self._work, name="resolver", daemon=True)
            self._threads.append(thread)
            thread.start()
        return True

    def close(self) -> None:
        for _ in self._threads:
            with contextlib.suppress(queue.Full):  # then it is hung anyway, and a daemon
                self._jobs.put_nowait(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
