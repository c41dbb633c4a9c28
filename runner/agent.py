"""One turn: the model is asked, its calls are carried out, until it has answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runner import conversation, protocol, text, tools
from runner.conversation import Block, Entry
from runner.errors import TurnError
from runner.model import Answer, Model
from runner.tools import Tools

MAX_CUTS: Final = 3
"""How often in a row an answer may be cut before there is anything in it."""

CUT_CALL: Final = (
    "[Your answer reached its length limit inside a tool call, and that call was discarded. Continue in smaller steps.]"
)
CUT_REPLY: Final = "\n\n[The answer was cut here: it reached its length limit.]"


class Agent:
    def __init__(
        self,
        turn: protocol.Turn,
        model: Model,
        tools: Tools,
        send: Callable[[protocol.Frame], None],
        take_inputs: Callable[[], list[str]],
        system: list[str],
    ) -> None:
        self._turn = turn
        self._model = model
        self._tools = tools
        self._send = send
        self._take_inputs = take_inputs
        self._system = system
        self._messages = conversation.mend(turn.history)
        self._tokens = 0
        self._cuts = 0
        self._inputs = 0
        self._last_words = ""

    def run(self) -> protocol.Done:
        """The reply, or `TurnError`."""
        self._add(conversation.user(text.clean(self._turn.prompt).strip() or "(an empty message)"))
        for _ in range(self._turn.limits.rounds):
            answer = self._ask()
            if (reply := self._next(answer)) is not None:
                return protocol.Done(text.clip(reply, protocol.MAX_TEXT), self._inputs)
        raise TurnError("limit", f"The turn used up its {self._turn.limits.rounds} requests to the model.")

    def _ask(self) -> Answer:
        if self._tokens > self._turn.limits.tokens:
            used = f"{self._tokens} of {self._turn.limits.tokens}"
            raise TurnError("limit", f"The turn used up its tokens ({used}).")
        answer = self._model.ask(self._system, self._messages, tools.schemas(self._turn.tools))
        usage = answer.usage
        self._tokens += usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        return answer

    def _next(self, answer: Answer) -> str | None:
        """Take up one answer: the reply if the turn is over, None if the model is to be asked again."""
        content = conversation.sendable(answer.content)
        match answer.stop_reason:
            case "refusal":
                raise TurnError("refusal", _refusal(answer))
            case "model_context_window_exceeded":
                raise TurnError("request", "The conversation no longer fits the model's context window.")
            case "max_tokens":
                return self._cut(content)
            case "pause_turn":
                # The endpoint's own tools take their time: it wants its words back, and goes on from there.
                self._add_answer(content)
                return None
        self._cuts = 0
        if conversation.calls(content):  # some servers call this `end_turn`
            self._add_answer(content)
            self._answer_calls(content)
            return None
        return self._end(content)

    def _cut(self, content: list[Block]) -> str | None:
        whole = conversation.without_cut_call(content)
        if whole == content and not conversation.calls(content) and (said := conversation.text(content)):
            return self._end([*content, {"type": "text", "text": CUT_REPLY}], shown=said + CUT_REPLY)
        self._cuts += 1
        if self._cuts > MAX_CUTS:
            raise TurnError("limit", "The model's answer was cut at its length limit again and again.")
        self._add_answer(whole)
        if conversation.calls(whole):
            self._answer_calls(whole, CUT_CALL)
        else:
            self._add(conversation.user(CUT_CALL, *self._follow_ups()))
        return None

    def _end(self, content: list[Block], shown: str = "") -> str | None:
        self._add_answer(content)
        words = shown or conversation.text(content)
        if follow_ups := self._follow_ups():
            if words:
                self._say(words)  # an answer to what came before: it must not get lost
            self._add(conversation.user(*follow_ups))
            return None
        # Some models say all they have to say beside their last call, and then end without a word.
        return words or ("" if self._tools.said else self._last_words)

    def _answer_calls(self, content: list[Block], *notes: str) -> None:
        self._last_words = conversation.text(content) or self._last_words
        answers = self._tools.carry_out(conversation.calls(content))
        self._add(conversation.results(answers, [*notes, *self._follow_ups()]))

    def _follow_ups(self) -> list[str]:
        texts = [text.clean(words) for words in self._take_inputs()]
        self._inputs += len(texts)
        return [words for words in texts if words.strip()]

    def _say(self, words: str) -> None:
        self._send(protocol.Say(text.clip(words, protocol.MAX_TEXT)))
        self._tools.said = True

    def _add_answer(self, content: list[Block]) -> None:
        if content:  # the API refuses an empty message
            self._add({"role": "assistant", "content": content})

    def _add(self, entry: Entry) -> None:
        self._messages.append(entry)
        self._send(protocol.Entries([entry]))


def _refusal(answer: Answer) -> str:
    details = answer.stop_details
    why = details.get("explanation") or details.get("category") or ""
    return "The model declined to answer" + (f": {text.shorten(str(why), 300)}" if why else ".")
