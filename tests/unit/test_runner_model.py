"""One request to the model: what each way of failing is taken for, and what of it is said."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from runner import model, pipe_http, protocol
from runner.errors import TurnError
from runner.model import ATTEMPTS, Answer, Model
from tests.fakes.agent_host import KEY, turn

SSE = {"content-type": "text/event-stream"}


def stream(*events: tuple[str, dict[str, Any]]) -> httpx2.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events)
    return httpx2.Response(200, headers=SSE, text=text)


START = (
    "message_start",
    {"message": {"id": "m", "type": "message", "role": "assistant", "model": "x", "content": [], "stop_reason": None,
                 "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 0}}},
)  # fmt: skip
STOP = ("message_stop", {})


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("content_block_start", {"index": index, "content_block": start}),
        *(("content_block_delta", {"index": index, "delta": delta}) for delta in deltas),
        ("content_block_stop", {"index": index}),
    ]


def ending(reason: str = "end_turn", **usage: Any) -> tuple[str, dict[str, Any]]:
    return "message_delta", {
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 3, **usage},
    }


HELLO = stream(START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hello"}), ending(), STOP)


def error(status: int, kind: str, message: str = "why", **headers: str) -> httpx2.Response:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return httpx2.Response(status, headers=headers, json=body)


class Desk:
    """A model behind a handler that answers from a list; the last answer is for all that follow."""

    def __init__(self, *answers: httpx2.Response | Exception, **changes: Any) -> None:
        self.requests: list[httpx2.Request] = []
        self.sent: list[protocol.Frame] = []
        self._answers = list(answers)
        the_turn = turn(**changes)
        http = pipe_http.client(httpx2.MockTransport(self._handle), 5)
        client = model.client(the_turn.secrets, the_turn.base_url, http)
        self.model = Model(the_turn, client, self.sent.append)

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        # A fresh one each time: a stream is read once.
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def ask(self) -> Answer:
        return self.model.ask(["be brief"], [{"role": "user", "content": "hi"}], [])

    def fail(self) -> TurnError:
        with pytest.raises(TurnError) as caught:
            self.ask()
        return caught.value

    def statuses(self) -> list[str]:
        return [f.text for f in self.sent if isinstance(f, protocol.Progress) and f.kind == "status"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(model.time, "sleep", waits.append)
    return waits


def test_an_answer() -> None:
    desk = Desk(HELLO)
    answer = desk.ask()
    assert answer.content == [{"type": "text", "text": "hello"}]
    assert answer.stop_reason == "end_turn"
    assert desk.sent == [protocol.Progress("text", "hello"), protocol.Usage(7, 3)]


def test_the_request() -> None:
    desk = Desk(HELLO, secrets={"auth_token": KEY}, base_url="http://local.test/prefix")
    desk.ask()
    (request,) = desk.requests
    assert str(request.url) == "http://local.test/prefix/v1/messages"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    body = json.loads(request.content)
    assert body["system"] == [{"type": "text", "text": "be brief"}]
    assert body["stream"] is True
    assert body.keys() == {"max_tokens", "messages", "model", "stream", "system", "tools"}


def test_only_anthropic_s_own_endpoint_is_asked_to_cache() -> None:
    desk = Desk(HELLO, base_url="https://api.anthropic.com")
    desk.ask()
    assert json.loads(desk.requests[0].content)["cache_control"] == {"type": "ephemeral"}


def test_a_server_without_a_key_is_sent_a_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "NCC-from-the-environment")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://evil.test")
    desk = Desk(HELLO, secrets={})
    desk.ask()
    assert desk.requests[0].url.host == "model.test"
    assert "NCC" not in str(desk.requests[0].headers)


@pytest.mark.parametrize(
    ("answer", "kind", "words", "tries"),
    [
        (error(400, "invalid_request_error"), "request", "refused the request (400): why.", 1),
        (error(400, "invalid_request_error", "prompt is too long: 9 > 8"), "request", "too long for the model", 1),
        (error(401, "authentication_error"), "auth", "refused the key (401): check ANTHROPIC_API_KEY", 1),
        (error(402, "billing_error"), "auth", "asks for payment", 1),
        (error(403, "permission_error"), "auth", "refused the key (403)", 1),
        (error(404, "not_found_error"), "request", "does not know this model or this address", 1),
        (error(413, "request_too_large"), "request", "too long for the model", 1),
        (error(422, "invalid_request_error"), "request", "refused the request (422)", 1),
        (error(307, "x"), "request", "redirects elsewhere (307)", 1),
        (error(429, "rate_limit_error"), "overloaded", "limits how often it may be asked (429)", ATTEMPTS),
        (error(500, "api_error"), "endpoint", "failed (500): why.", ATTEMPTS),
        (error(503, "x"), "overloaded", "is overloaded (503)", ATTEMPTS),
        (error(529, "overloaded_error"), "overloaded", "is overloaded (529)", ATTEMPTS),
        (httpx2.Response(502, html="<html>nginx</html>"), "endpoint", "failed (502)", ATTEMPTS),
        (httpx2.Response(400, content=b"\xff\0"), "request", "refused the request (400)", 1),
        (httpx2.ConnectError("failed: Connection refused"), "endpoint", "reached: Connection refused.", ATTEMPTS),
        (httpx2.ConnectError("refused: not allowed"), "endpoint", "reached: refused: not allowed.", 1),
        (httpx2.ConnectError("TLS: the certificate is not trusted: x"), "endpoint", "not trusted", 1),
        (httpx2.ConnectTimeout("x"), "endpoint", "did not answer in time", ATTEMPTS),
        (httpx2.ReadTimeout("x"), "endpoint", "did not answer in time", ATTEMPTS),
        (httpx2.RemoteProtocolError("x"), "endpoint", "broke the connection", ATTEMPTS),
        # In the middle of a stream, or instead of one.
        (stream(START, ("error", {"error": {"type": "overloaded_error", "message": "x"}})), "overloaded", "(529)", 4),
        (stream(START, ("error", {"error": {"type": "rate_limit_error", "message": "x"}})), "overloaded", "(429)", 4),
        (stream(START, ("error", {"error": {"type": "api_error", "message": "x"}})), "endpoint", "(500)", 4),
        (stream(START, ("error", {"error": {"type": "authentication_error", "message": KEY}})), "auth", "(401)", 1),
        (stream(START, ("error", {"error": {"type": "invalid_request_error", "message": "x"}})), "request", "x", 1),
        (stream(START, ("error", {"error": {"type": "news", "message": "x"}})), "endpoint", "failed (500)", 4),
        (stream(START), "endpoint", "broke off before its end", ATTEMPTS),
        (stream(), "endpoint", "broke off before its end", ATTEMPTS),
        (stream(ending(), STOP), "endpoint", "broke off before its end", ATTEMPTS),
        (stream(START, ("content_block_delta", {"index": 9, "delta": {"type": "text_delta", "text": "x"}})),
         "endpoint", "broke off before its end", ATTEMPTS),
        (httpx2.Response(200, headers=SSE, text="event: message_start\ndata: {no\n\n"),
         "endpoint", "broke off before its end", ATTEMPTS),
        (httpx2.Response(200, json={"type": "message", "content": []}), "endpoint", "broke off", ATTEMPTS),
        (httpx2.Response(200, text="<html>a portal</html>"), "endpoint", "broke off", ATTEMPTS),
    ],
)  # fmt: skip
def test_failures(answer: httpx2.Response | Exception, kind: str, words: str, tries: int) -> None:
    desk = Desk(answer)
    failed = desk.fail()
    assert failed.kind == kind
    assert failed.kind in protocol.FAILURES
    assert words in failed.message
    assert KEY not in failed.message
    assert len(desk.requests) == tries
    assert len(desk.statuses()) == tries - 1
    assert failed.message.endswith(f"Tried {tries} times.") == (tries > 1)


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_key_that_the_endpoint_repeats_is_taken_out(status: int) -> None:
    failed = Desk(error(status, "x", f"the key {KEY} is no good" + "!" * 1000)).fail()
    assert "the key [key] is no good" in failed.message
    assert len(failed.message) < 500


@pytest.mark.parametrize("key", ["NCC-a\nb", "NCC-ä", "NCC a", "NCC\0"])
def test_a_key_that_no_header_can_carry_is_told_without_it(key: str) -> None:
    with pytest.raises(TurnError) as caught:
        Desk(HELLO, secrets={"api_key": key})
    assert caught.value.kind == "auth"
    assert "NCC" not in caught.value.message


def test_words_about_a_header_are_never_repeated() -> None:
    failed = Desk(httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'")).fail()
    assert failed.kind == "request"
    assert "Bearer" not in failed.message


def test_it_gets_better() -> None:
    desk = Desk(error(529, "overloaded_error"), httpx2.ReadTimeout("x"), stream(START), HELLO)
    assert desk.ask().content[0]["text"] == "hello"
    assert len(desk.statuses()) == 3


def test_waits_grow_and_the_endpoint_s_own_wish_counts(no_waiting: list[float]) -> None:
    Desk(error(529, "x"), error(529, "x"), error(429, "x", **{"retry-after": "7"}), HELLO).ask()
    assert [int(wait) for wait in no_waiting[:2]] == [1, 2]
    assert 7 <= no_waiting[2] < 9


@pytest.mark.parametrize("wish", ["soon", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_wish_that_is_no_number_is_not_followed(no_waiting: list[float], wish: str) -> None:
    Desk(error(429, "x", **{"retry-after": wish}), HELLO).ask()
    assert 1 <= no_waiting[0] < 2


def test_a_wish_beyond_the_turn_ends_it(no_waiting: list[float]) -> None:
    failed = Desk(error(429, "x", **{"retry-after": "3000"})).fail()
    assert failed.kind == "overloaded"
    assert "wait 3000 seconds" in failed.message
    assert no_waiting == []


def test_a_call_s_input_is_made_fit_for_the_pipe() -> None:
    odd = '{"a": 1e999, "b": 99999999999999999999999999, "c": "x\\u0000", "d": NaN}'
    call = {"type": "tool_use", "id": "t", "name": "bash", "input": {}}
    desk = Desk(stream(START, *block(0, call, {"type": "input_json_delta", "partial_json": odd}), ending("tool_use")))
    content = desk.ask().content
    frame = protocol.Entries([{"role": "assistant", "content": content}])
    assert protocol.decode(protocol.encode(frame)[:-1], protocol.TO_HOST) == frame
    assert content[0]["input"].keys() == {"a", "b", "c", "d"}


def test_a_call_whose_input_is_no_json_is_asked_for_again() -> None:
    call = {"type": "tool_use", "id": "t", "name": "bash", "input": {}}
    broken = stream(START, *block(0, call, {"type": "input_json_delta", "partial_json": "{]"}), ending("tool_use"))
    assert Desk(broken, HELLO).ask().content[0]["text"] == "hello"


def test_thinking_keeps_its_signature() -> None:
    deltas = {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "c2ln"}
    thinking = block(0, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)
    hidden = block(1, {"type": "redacted_thinking", "data": "eHg="})
    content = Desk(stream(START, *thinking, *hidden, ending(), STOP)).ask().content
    assert content == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHg="},
    ]


@pytest.mark.parametrize("odd", [-5, None, "many", 2**70, True])
def test_odd_counts_of_tokens(odd: Any) -> None:
    desk = Desk(stream(START, ending(input_tokens=odd, cache_read_input_tokens=odd), STOP))
    usage = desk.ask().usage
    assert protocol.decode(protocol.encode(usage)[:-1], protocol.TO_HOST) == usage
    assert usage.cache_read_tokens >= 0
