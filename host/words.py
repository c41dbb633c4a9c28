"""What the runner of one turn said, made fit for others: without the key, bounded, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from host.credentials import Scrubber, StreamScrubber
from host.text import clean_text
from runner.protocol import MAX_TEXT, PeerError, Usage

MAX_TRANSCRIPT_BYTES: Final = 16 * 1024 * 1024
"""Most that one turn may add to its group's transcript."""
MAX_SAYS: Final = 50
"""Most texts said during one turn; a loop that says more is told to stop."""


class Words:
    """`show` is given what a terminal sees of the turn while it runs."""

    def __init__(self, show: Callable[[str, str], None]) -> None:
        self._show = show
        self.scrub = Scrubber({})
        self._stream = StreamScrubber(self.scrub)
        self.entries: list[dict[str, Any]] = []
        self._entry_bytes = self._says = 0
        self._tokens_in = self._tokens_out = 0

    def hide(self, secrets: Mapping[str, str]) -> None:
        """From here on the runner knows these."""
        self.scrub = Scrubber(secrets)
        self._stream = StreamScrubber(self.scrub)

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens in and out."""
        return self._tokens_in, self._tokens_out

    def count(self, usage: Usage) -> None:
        self._tokens_in += usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        self._tokens_out += usage.output_tokens

    def progress(self, kind: str, untrusted_text: str) -> None:
        if kind == "text":
            self._tell("text", self._stream.feed(untrusted_text))
        else:
            self.flush()
            self._tell(kind, self.scrub.scrub(untrusted_text))

    def flush(self) -> None:
        """What might have been the beginning of a secret was none."""
        self._tell("text", self._stream.flush())

    def _tell(self, kind: str, text: str) -> None:
        if text:
            self._show(kind, clean_text(text))

    def said(self, untrusted_text: str) -> str:
        """A text for the chat; there may be no more than so many."""
        self._says += 1
        if self._says > MAX_SAYS:
            raise PeerError(f"more than {MAX_SAYS} messages in one turn")
        return self.checked(untrusted_text)

    def keep(self, untrusted_entries: list[dict[str, Any]]) -> None:
        """For the transcript."""
        clean = [self.scrub.scrub_json(entry) for entry in untrusted_entries]
        self._entry_bytes += sum(len(str(entry)) for entry in clean)
        if self._entry_bytes > MAX_TRANSCRIPT_BYTES:
            raise PeerError("the turn's transcript is too long")
        self.entries.extend(clean)

    def checked(self, untrusted_text: str) -> str:
        if len(untrusted_text.encode()) > MAX_TEXT:
            raise PeerError("a text over the limit")
        return clean_text(self.scrub.scrub(untrusted_text)).strip()
