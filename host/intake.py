"""From what people wrote to what the agent is shown. Pure: text in, text out."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from host.model import Attachment, Mention, Quoted, Stored, TaskRun
from host.zones import zone_of
from runner.protocol import MAX_TEXT

Entry = dict[str, Any]

# --- text at the edge -------------------------------------------------------------------------------


def check_size(text: str) -> str | None:
    """Why a message is too long to be accepted; None if it is not. It is never cut: half a message can
    mean the opposite."""
    size = len(text.encode())
    if size <= MAX_TEXT:
        return None
    return (
        f"the message has {-(-size // 1024)} KiB and the limit is {MAX_TEXT // 1024} KiB; "
        "put it into a file in the group's folder and ask about it"
    )


# --- the trigger ------------------------------------------------------------------------------------


def wants_agent(trigger: str, senders: Collection[str] | None, messages: Iterable[Stored]) -> bool:
    """Whether one of these messages calls the agent: it begins with `@` and the trigger word (an empty one asks
    for none), and its sender is among those who may (None: anyone). Their ids count; a name is whatever they like."""
    return any(
        stored.message.kind == "message"
        and not (stored.message.context_only or stored.deleted)
        and (senders is None or stored.message.sender in senders)
        and (not trigger or calls(stored.message.text, trigger))
        for stored in messages
    )


def calls(text: str, trigger: str) -> bool:
    """`@trigger` at the start, in any case, as a whole word of any script: `@Andy's` calls Andy, `@Andys`
    does not."""
    text, name = _fold(text), "@" + _fold(trigger)
    start = next((i for i, c in enumerate(text) if not _skipped(c)), 0)
    return text.startswith(name, start) and not _is_word(text[start + len(name) :][:1])


def _fold(text: str) -> str:
    # Decomposed, so that é is the same however it was typed; an accent then stands alone, and is part of
    # the word that it follows.
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def _skipped(c: str) -> bool:
    # Phones put invisible direction marks around a mention.
    return c.isspace() or unicodedata.category(c) == "Cf"


def _is_word(c: str) -> bool:
    return c.isalnum() or (c != "" and c in "_\u200c\u200d") or (c != "" and unicodedata.category(c)[0] == "M")


# --- the prompt -------------------------------------------------------------------------------------


def reference(channel: str, message_id: str) -> str:
    """What the agent calls a message by: the same in every turn, and nothing that tells of other chats."""
    return hashlib.sha256(f"{channel}\n{message_id}".encode()).hexdigest()[:8]


def render(messages: Sequence[Stored], timezone: str, left_out: int = 0, *, refs: bool = False) -> str:
    """The prompt: one element per message, everything that people chose escaped. A text or a name that
    looks like our markup stays text, so nobody can write in another's name or in ours. `refs`: with what a message
    can be named by."""
    zone = zone_of(timezone)
    lines = [f"<messages timezone={_attribute(timezone)}>"]
    if left_out:
        lines.append(f'<left_out count="{left_out}" why="older, and too many or too long to show"/>')
    return "\n".join([*lines, *(_element(stored, zone, refs) for stored in messages), "</messages>"])


def _element(stored: Stored, zone: Any, refs: bool) -> str:
    m = stored.message
    channel = m.channel if refs else ""
    ref = _ref(channel, m.id) if m.kind == "message" and not stored.deleted else ""
    # Anyone can choose any display name: the channel's id of the person stands beside it.
    identity = f" sender={_attribute(m.sender)}" if m.sender != m.sender_name else ""
    when = f" time={_attribute(_local(m.sent_at, zone))}"
    state = ' deleted="yes"' if stored.deleted else ' edited="yes"' if stored.edited else ""
    quoted = [] if m.quoted is None else [_quoted(m.quoted, channel)]
    inside = "".join([*quoted, *map(_attachment, m.attachments), *map(_mention, m.mentions), _escape(m.text)])
    return f"<{m.kind}{ref} from={_attribute(m.sender_name)}{identity}{when}{state}>{inside}</{m.kind}>"


def _ref(channel: str, message_id: str) -> str:
    return f' ref="{reference(channel, message_id)}"' if channel and message_id else ""


def _quoted(quoted: Quoted, channel: str) -> str:
    ref = _ref(channel, quoted.id)
    return f"<quoted{ref} sender={_attribute(quoted.sender)}>{_escape(quoted.text)}</quoted>"


def _mention(mention: Mention) -> str:
    """The text stays as it was written: who is named stands beside it, so that nobody's name becomes a text."""
    written = f" written={_attribute(mention.written)}" if mention.written else ""
    return f"<mentions person={_attribute(mention.person)} name={_attribute(mention.name)}{written}/>"


def _attachment(attachment: Attachment) -> str:
    a = attachment
    where = f" path={_attribute(f'/workspace/inbox/{a.path}')}" if a.path else f" not_taken={_attribute(a.why)}"
    return f'<attachment name={_attribute(a.name)} type={_attribute(a.type)} bytes="{a.bytes:d}"{where}/>'


def render_task(run: TaskRun, timezone: str, check_output: str | None = None) -> str:
    """The prompt of a task's run, in the same markup, so that the two are never taken for one another."""
    zone = zone_of(timezone)
    due = f" due={_attribute(_local(run.due, zone))}"
    found = [] if check_output is None else [f"<check_output>{_escape(check_output)}</check_output>"]
    opening = f"<task id={_attribute(run.task.id)}{due} timezone={_attribute(timezone)}>"
    return "\n".join([opening + _escape(run.task.prompt) + "</task>", *found])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# A name with a line break in it must not look like the start of something else: an attribute is one line.
_ONE_LINE: Final = {ord(c): f"&#{ord(c)};" for c in '"\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029'}


def _attribute(text: str) -> str:
    return f'"{_escape(text).translate(_ONE_LINE)}"'


def _local(sent_at: float, zone: Any) -> str:
    try:
        return datetime.fromtimestamp(sent_at, zone).strftime("%a %Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # the sender's clock says what it likes
        return "unknown"


# --- the conversation so far ------------------------------------------------------------------------


def fit_history(turns_newest_first: Iterable[tuple[list[Entry], int]], budget: int) -> list[Entry]:
    """Whole turns, the newest ones that fit into `budget` bytes, oldest entry first.

    A turn that the model's API would not take is left out: one malformed turn must not spoil every later
    one. Of the turn that is too long to fit, what was asked and what was answered at the end is kept.
    """
    chosen: list[list[Entry]] = []
    for entries, size in turns_newest_first:
        if not well_formed(entries):
            continue
        if size > budget:
            short = outline(entries)
            if _size(short) <= budget:
                chosen.append(short)
            break
        budget -= size
        chosen.append(entries)
    return list(itertools.chain.from_iterable(reversed(chosen)))


def well_formed(entries: list[Entry]) -> bool:
    """Whether a turn begins with a person's message, has what the API demands of each entry, and answers
    each use of a tool in the entry after it, and nothing else."""
    if not entries or entries[0]["role"] != "user":
        return False
    asked: list[str] = []
    for entry in entries:
        if entry["role"] not in ("user", "assistant") or not _has_content(entry["content"]):
            return False
        if sorted(_ids(entry, "tool_result", "tool_use_id")) != sorted(asked):
            return False
        asked = _ids(entry, "tool_use", "id")
        if asked and entry["role"] != "assistant":
            return False
    return not asked


def outline(entries: list[Entry]) -> list[Entry]:
    """A turn without its work: the first entry, and the text of the last."""
    last = entries[-1]
    text = last["content"]
    if not isinstance(text, str):
        text = "\n".join(b["text"] for b in text if b["type"] == "text" and isinstance(b.get("text"), str))
    if last["role"] != "assistant" or not text.strip():
        text = "(I worked on this; what I did no longer fits here.)"
    return [entries[0], {"role": "assistant", "content": text}]


def _has_content(content: Any) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content)
    )


def _ids(entry: Entry, kind: str, key: str) -> list[str]:
    blocks = entry["content"] if isinstance(entry["content"], list) else []
    return [str(block.get(key)) for block in blocks if block["type"] == kind]


def _size(entries: list[Entry]) -> int:
    return sum(len(json.dumps(entry["content"], ensure_ascii=False).encode()) for entry in entries)
