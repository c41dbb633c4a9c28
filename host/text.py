"""Text of anyone's, so that it is only text: apart from `intake`, since what shows it is often quick and small."""

from __future__ import annotations

import unicodedata
from typing import Final

# Controls would act on terminals, logs and C strings. The C0 ones have pictures in Unicode; DEL too. The C1
# ones (a single U+009B starts an escape sequence) and lone surrogates, which have no UTF-8, have none.
_VISIBLE: Final = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)
)


def clean_text(untrusted_text: str) -> str:
    """The text with every control but newline and tab made visible. Cleaning twice changes nothing more."""
    return untrusted_text.replace("\r\n", "\n").translate(_VISIBLE)


def columns(text: str) -> int:
    """Terminal columns of `text`: two for wide East Asian characters and emoji, none for combining marks."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
