"""The account's connection: linking, connecting, and what each of its ends means.

The library reconnects by itself after a connection broke off. All other ends leave its client in a state that it does
not come out of, and mostly its `connect` never returns (nor does `stop`): then the client and its thread are left
behind, and a new one is made when there is a reason to.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from channel import wire
from whatsapp.events import jid_of
from whatsapp.identity import pair_of
from whatsapp.library import Client, Handlers, LibraryError
from whatsapp.pace import backoff

FIRST_CODE: Final = 60
NEXT_CODES: Final = 20
"""Seconds that a QR code is good for; there are six in all."""
PHONE_CODE: Final = 160
SETTLE: Final = 15.0
"""Seconds from being linked to being connected: it takes two."""
FORGOTTEN: Final = 5.0
"""Seconds that the library may take to remove an account that logged us out."""
STOPPING: Final = 3.0
"""Seconds that hanging up may take: the library's own way of it may never return."""
QUIET: Final = 0.5
"""Seconds without an event after which the library has handed over what it had decrypted when it hung up. One message
takes it some milliseconds, and on a slow card a tenth of a second."""
MOST_RUNS: Final = 50
"""Clients that may be left behind before the process is worth starting anew."""


@dataclass
class Run:
    """One client, from its making to whatever ended it."""

    number: int
    client: Client | None = None
    linking: wire.Link | None = None
    codes: int = 0
    heard: bool = False
    connected: bool = False


@dataclass(frozen=True)
class Ears:
    """Who hears of it."""

    say: Callable[[wire.Frame], None]
    connected: Callable[[Client, Any, Any], wire.Person]
    """The client and the account's two ids; who that is."""
    event: Callable[[str, Any], None]
    """Messages and the like."""
    worn_out: Callable[[], None]
    """Too many clients were left behind."""


def is_linked(database: Path) -> bool:
    """Whether the session's database knows an account. Not opened read-only: a program that was killed leaves a journal
    there, and SQLite reads nothing before it may roll that back."""
    if not database.exists():
        return False
    try:
        connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=5)
        with contextlib.closing(connection):
            return bool(connection.execute("SELECT count(*) FROM whatsmeow_device").fetchone()[0])
    except sqlite3.Error as e:
        return "no such table" not in str(e)  # what else is wrong with it the library says, and nobody links anew


class Account:
    """Its methods may be called on any thread; none blocks for long but `unlink`."""

    def __init__(self, database: Path, proxy: str, ears: Ears) -> None:
        self._database = database
        self._proxy = proxy
        self._ears = ears
        self._lock = threading.RLock()
        self._run: Run | None = None
        self._logged_out = False
        self._runs = 0
        self._failures = 0
        self._timer: threading.Timer | None = None
        self._heard = 0.0
        """When the library last told anything."""

    @property
    def client(self) -> Client | None:
        """The client, while it is connected."""
        run = self._run
        return run.client if run is not None and run.connected else None

    def start(self) -> None:
        """Connect, if there is an account to connect as."""
        if is_linked(self._database):
            self._begin(None)
        else:
            self._say_down("unlinked", "no account is linked: nanoclaw whatsapp link", wire.NEVER)

    def link(self, request: wire.Link) -> None:
        with self._lock:
            if not self._is_free():
                return self._fail(request.id, "refused", "an account is linked already; unlink it first")
            self._give_up_linking("another request to link came")
            self._begin(request)
        return None

    def _is_free(self) -> bool:
        """Whether no account is linked. Once logged out, the library removes it a moment later, and tells nobody."""
        until = time.monotonic() + (FORGOTTEN if self._logged_out else 0)
        while is_linked(self._database):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        self._logged_out = False
        return True

    def unlink(self, request: wire.Unlink) -> None:
        """Blocks while the server is told. While linking goes on: ends that."""
        if not is_linked(self._database):
            with self._lock:
                self._give_up_linking("it was called off")
            return self._ears.say(wire.Done(request.id))
        client = self.client
        if client is None:
            return self._fail(request.id, "offline", "not connected: the account cannot be told", retry=10)
        try:
            client.logout()
        except LibraryError as e:
            return self._fail(request.id, "refused", f"WhatsApp did not unlink: {e}")
        self._abandon()
        self._ears.say(wire.Done(request.id))
        return self._say_down("unlinked", "the account was unlinked", wire.NEVER)

    def stop(self) -> None:
        """Hang up, and hear out what the library has in hand; the process ends after this. At most a moment, whatever
        the library does."""
        run = self._run
        # Messages come before the library says that it is connected; before it says anything, it is not there to ask.
        if run is not None and run.client is not None and run.heard:
            stopping = threading.Thread(target=self._hang_up, args=(run.client,), daemon=True)
            stopping.start()
            stopping.join(STOPPING)

    def _hang_up(self, client: Client) -> None:
        client.disconnect()
        self._heard = time.monotonic()
        while (left := self._heard + QUIET - time.monotonic()) > 0:
            time.sleep(left)

    # --- runs ---

    def _begin(self, linking: wire.Link | None) -> None:
        with self._lock:
            self._abandon()
            self._runs += 1
            if self._runs > MOST_RUNS:
                return self._ears.worn_out()
            run = self._run = Run(self._runs, linking=linking)
            handlers = Handlers(
                lambda code: self._on_code(run, code),
                lambda status: self._on_status(run, status),
                lambda name, event: self._on_event(run, name, event),
            )
            run.client = Client(self._database, run.number, handlers)
            threading.Thread(target=self._connect, args=(run, run.client), name="connect", daemon=True).start()
        return None

    def _connect(self, run: Run, client: Client) -> None:
        try:
            client.connect(self._proxy)
            why = "the connection ended"
        except LibraryError as e:
            why = str(e)
        with self._lock:
            if run is not self._run:
                return None
            self._run = None
            if run.linking is not None:
                return self._fail(run.linking.id, "offline", f"cannot reach WhatsApp: {why}", retry=10)
        self._retry("offline", f"cannot reach WhatsApp: {why}")
        return None

    def _abandon(self) -> None:
        """Leave the client behind."""
        with self._lock:
            run, self._run = self._run, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if run is not None and run.client is not None:
            threading.Thread(target=run.client.stop, name="stop", daemon=True).start()

    def _retry(self, reason: str, text: str, seconds: int = 0) -> None:
        """Say that it is down, and begin anew in a while."""
        with self._lock:
            self._failures += 1
            wait = seconds or backoff(self._failures, random.random())  # noqa: S311 - so that not all come at once
            self._timer = threading.Timer(wait, self._begin, (None,))
            self._timer.daemon = True
            self._timer.start()
        self._say_down(reason, text, wait)

    def _say_down(self, reason: str, text: str, retry: int) -> None:
        self._ears.say(wire.Disconnected(reason, text, retry))

    def _fail(self, request: int, reason: str, text: str, retry: int = wire.NEVER) -> None:
        self._ears.say(wire.Failed(request, reason, text[:500], retry))

    # --- linking ---

    def _give_up_linking(self, why: str) -> None:
        run = self._run
        if run is not None and run.linking is not None:
            self._fail(run.linking.id, "expired", why)
            self._abandon()

    def _on_code(self, run: Run, code: str) -> None:
        with self._lock:
            if run is not self._run or run.linking is None:
                return
            run.codes += 1
            request, first = run.linking, run.codes == 1
        if not request.phone:
            self._ears.say(wire.Qr(request.id, code, FIRST_CODE if first else NEXT_CODES))
        elif first:
            # Not here: the library calls back on the thread that the answer would come on.
            threading.Thread(target=self._pair_phone, args=(run, request), name="pair", daemon=True).start()

    def _pair_phone(self, run: Run, request: wire.Link) -> None:
        assert run.client is not None
        try:
            code = run.client.pair_phone(request.phone)
        except LibraryError as e:
            with self._lock:
                if run is self._run:
                    self._abandon()
                    self._fail(request.id, "refused", f"WhatsApp gave no code for this number: {e}")
            return
        self._ears.say(wire.Code(request.id, code, PHONE_CODE))

    def _on_status(self, run: Run, status: str) -> None:
        with self._lock:
            if run is not self._run or run.linking is None or status == "success":
                return
            if status == "timeout":
                self._give_up_linking("nobody used the code in time")
            else:
                self._fail(run.linking.id, "refused", f"WhatsApp did not link: {status}")
                self._abandon()

    def _on_paired(self, run: Run, event: Any) -> None:
        request, run.linking = run.linking, None
        pair = pair_of(jid_of(event.ID))
        if request is None:
            return None
        if pair is None or event.Error:
            self._fail(request.id, "refused", f"WhatsApp did not link: {event.Error or 'no account'}")
            return self._abandon()
        self._ears.say(wire.Linked(pair.person()))
        self._ears.say(wire.Done(request.id))
        # The server hangs up now and the library comes back. If it hears of that too early it never does.
        patience = threading.Timer(SETTLE, self._settle, (run,))
        patience.daemon = True
        return patience.start()

    def _settle(self, run: Run) -> None:
        with self._lock:
            if run is self._run and not run.connected:
                self._begin(None)

    # --- what becomes of a connection ---

    def _on_event(self, run: Run, name: str, event: Any) -> None:
        run.heard = True
        handle = self._ends.get(name)
        if handle is None:
            # Also of a client that was left behind, as long as there is no other: what it decrypted nobody sends again.
            if run.number == self._runs:
                self._ears.event(name, event)
        else:
            with self._lock:
                if run is self._run:
                    handle(self, run, event)
        self._heard = time.monotonic()

    def _on_connected(self, run: Run, _event: Any) -> None:
        assert run.client is not None
        self._failures = 0
        try:
            phone, lid = run.client.me()
        except LibraryError as e:
            self._abandon()
            return self._retry("internal", f"the library does not know the account: {e}")
        run.connected = True
        return self._ears.say(wire.Connected(self._ears.connected(run.client, phone, lid)))

    def _on_disconnected(self, run: Run, _event: Any) -> None:
        run.connected = False
        if run.linking is None:
            self._say_down("lost", "the connection to WhatsApp broke off", 2)

    def _on_logged_out(self, run: Run, _event: Any) -> None:
        if run.linking is not None:
            return
        self._logged_out = True
        self._abandon()
        text = "the account took this device off its list of linked devices: nanoclaw whatsapp link"
        self._say_down("logged_out", text, wire.NEVER)

    def _on_replaced(self, _run: Run, _event: Any) -> None:
        self._abandon()
        text = "another program connected with this session: stop that one, then start nanoclaw again"
        self._say_down("replaced", text, wire.NEVER)

    def _on_outdated(self, _run: Run, _event: Any) -> None:
        self._abandon()
        text = "WhatsApp no longer takes this version of the program: nanoclaw update"
        self._say_down("outdated", text, wire.NEVER)

    def _on_ban(self, _run: Run, event: Any) -> None:
        self._abandon()
        wait = ban_seconds(event.Expire)
        self._retry("banned", f"WhatsApp banned this account for {wait // 60} minutes (code {event.Code})", wait)

    def _on_failure(self, run: Run, event: Any) -> None:
        self._abandon()
        text = f"WhatsApp refused the connection (reason {event.Reason})"
        if run.linking is not None:
            return self._fail(run.linking.id, "refused", text)
        return self._retry("lost", text)

    _ends: Final[dict[str, Callable[[Account, Run, Any], None]]] = {
        "PairStatusEv": _on_paired,
        "ConnectedEv": _on_connected,
        "DisconnectedEv": _on_disconnected,
        "LoggedOutEv": _on_logged_out,
        "StreamReplacedEv": _on_replaced,
        "ClientOutdatedEv": _on_outdated,
        "TemporaryBanEv": _on_ban,
        "ConnectFailureEv": _on_failure,
    }


def ban_seconds(expire: int) -> int:
    """The library hands on Go's nanoseconds. Not less than a minute, not more than a month."""
    value = expire // 10**9 if expire > 10**8 else expire
    return max(60, min(value, 31 * 24 * 3600))
