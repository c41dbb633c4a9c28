"""An agent's requests to the host, one turn's: carried out or refused, written down, answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from host import calls
from host.credentials import Scrubber
from host.errors import UserError
from host.house import House
from host.model import Group
from host.text import clean_text
from runner.protocol import MIB, Call, PeerError, Refused, Result

MAX_CALLS: Final = 200
"""Most requests of one turn; a loop that asks for more is told so."""
TOO_MANY: Final = 10 * MAX_CALLS
"""Who goes on asking after that is no model, and its sandbox is ended."""
MAX_NOTE: Final = 2000
"""Most characters of an audit row about a request."""
MAX_ANSWER: Final = MIB
"""Most bytes of an answer: the model would not read more."""


class Asking:
    """Who asks is the group whose sandbox this is, whatever the request says."""

    def __init__(self, house: House, group: Group, turn: str, send: Callable[[Refused | Result], None]) -> None:
        self._house, self._group, self._turn, self._send = house, group, turn, send
        self._count = 0

    def answer(self, untrusted_call: Call, scrub: Scrubber) -> None:
        """`scrub`: of the turn's key, which must not come to rest in a task's words or a group's name."""
        method, params = untrusted_call.method[:64], scrub.scrub_json(untrusted_call.params)
        self._count += 1
        if self._count > TOO_MANY:
            raise PeerError(f"more than {TOO_MANY} requests in one turn")
        try:
            value = self._value(method, params)
        except UserError as e:
            reason = clean_text(scrub.scrub(" ".join([str(e), *e.hints])))
            self._note("denied" if isinstance(e, calls.Denied) else "refused", f"{scrub.scrub(method)}: {reason}")
            self._send(Refused(untrusted_call.id, reason))
            return
        self._note("done", f"{method} {json.dumps(params, ensure_ascii=False)}")
        self._send(Result(untrusted_call.id, value))

    def _value(self, untrusted_method: str, untrusted_params: dict[str, Any]) -> dict[str, Any]:
        if self._count > MAX_CALLS:
            raise UserError(f"more than {MAX_CALLS} requests in one turn")
        value = self._house.asked(self._group, untrusted_method, untrusted_params)
        if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_ANSWER:
            raise UserError("the answer is too long", "ask for less of it")
        return value

    def _note(self, what: str, detail: str) -> None:
        if self._count > MAX_CALLS + 1:
            return  # the first one too many is on record: more rows would only fill the disk
        try:
            self._house.store.add_event(self._group.folder, self._turn, what, clean_text(detail)[:MAX_NOTE])
        except UserError as e:  # the deed is done or refused already, and the agent is to know
            self._house.log.warning("cannot note a request", group=self._group.folder, why=str(e))
