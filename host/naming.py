"""Who is named in a text, both ways: what people wrote, and what the agent writes. Pure: texts in, texts out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from host.model import Mention

MAX_MENTIONS: Final = 20
"""Most people that one message names; a phone buzzes for each."""
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)


def people_named(
    untrusted_text: str, people: Iterable[tuple[str, str, str]], names: Mapping[str, str]
) -> list[Mention]:
    """Whom a message names. `people`: person, and the one or two ids that the channel gave; `names`: what those who
    wrote in this chat call themselves. The text is left alone: put into it, a name could call the agent."""
    found: dict[str, Mention] = {}
    for person, one, other in people:
        ways = ["@" + way for whole in (one, other) if whole for way in (whole, whole.partition("@")[0]) if way]
        written = next((way for way in ways if way in untrusted_text), "")
        found.setdefault(person, Mention(person, names.get(person, ""), written))
    return list(found.values())[:MAX_MENTIONS]


def name_people(text: str, people: Mapping[str, str]) -> tuple[str, list[str]]:
    """The agent's text with each `@Name` and `@id` of `people` (id → name) as `@id`, and the ids. A name that two
    people bear names nobody: anyone may choose any name. Code is left as it is."""
    ways = _ways(people)
    if not ways or "@" not in text:
        return text, []
    # The longest first: @Ann Lee is not Ann with a word behind it. Names as written too: ß and ss are one by
    # casefold, and two to a pattern.
    longest_first = sorted({*ways, *(name.strip() for name in people.values() if name.strip())}, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w@.])@({'|'.join(map(re.escape, longest_first))})(?![\w@])", re.IGNORECASE)
    named: dict[str, None] = {}

    def replaced(match: re.Match[str]) -> str:
        person = ways.get(match[1].casefold(), "")
        if not person or (person not in named and len(named) >= MAX_MENTIONS):
            return match[0]
        named[person] = None
        return f"@{person}"

    pieces = _CODE.split(text)  # text, code, text, …
    return "".join(piece if i % 2 else pattern.sub(replaced, piece) for i, piece in enumerate(pieces)), list(named)


def _ways(people: Mapping[str, str]) -> dict[str, str]:
    """What each of them can be called, in one case, → the id."""
    ways: dict[str, str] = {}
    for person, name in people.items():
        key = name.strip().casefold()
        if key:
            ways[key] = "" if key in ways else person  # two of that name: neither
    for person in people:
        short = person.partition("@")[0].casefold()
        ways[short] = "" if ways.get(short, person) != person else person
    # Whole ids last: whoever calls himself by another's id does not become him.
    ways |= {person.casefold(): person for person in people}
    return {way: person for way, person in ways.items() if person and way}


_BLOCK = re.compile(r"\s*(?:[-*+>|#]|```|~~~|\d+[.)] )")


def signed(text: str, name: str) -> str:
    """The text under the assistant's name: for an account that a person writes with too."""
    if not text:
        return f"**{name}**"
    # What begins with a list, a quote or code would not be one any more on the line of the name.
    return f"**{name}:**{chr(10) if _BLOCK.match(text) and not text.startswith('**') else ' '}{text}"
