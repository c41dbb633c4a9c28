"""Saying something in another chat."""

from __future__ import annotations

from typing import Any, Final

from host import intake
from host.calls.base import Caller, Desk, Method, Param
from host.errors import UserError
from runner.protocol import MAX_TEXT


def send(desk: Desk, caller: Caller, target: str, params: dict[str, Any]) -> dict[str, Any]:
    text = intake.clean_text(params["text"]).strip()
    if not text:
        raise UserError("the text is empty", status=2)
    desk.deliver(desk.store.add_say(target, "", text))
    return {"sent_to": target}


METHODS: Final[dict[str, Method]] = {
    "send": Method(
        "Say something in the chat of another registered group, in the assistant's name.",
        {
            "text": Param("string", "What to say there.", required=True, most=MAX_TEXT),
        },
        send,
        offered="main",
    ),
}
