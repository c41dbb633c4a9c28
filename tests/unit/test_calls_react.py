"""An emoji on a message: of the agent's own chat, on one that it was shown, and only an emoji."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.calls import Caller, Denied, Desk, carry_out, offered
from host.calls.chat import REACTIONS_A_MINUTE
from host.config import Config, Home
from host.errors import UserError
from host.intake import reference, render
from host.model import Group, Message, Outgoing, Quoted
from host.store import Store

NOW = 1_772_366_400.0
MAIN = Group("main", "whatsapp", "me@s", "main", is_main=True)
FAMILY = Group("family", "whatsapp", "1@g", "Family")
DESK = Group("desk", "console", "desk", "Desk")
GROUPS = {group.folder: group for group in (MAIN, FAMILY, DESK)}


class Scene:
    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.store = Store(folder / "nanoclaw.db", clock=lambda: self.now)
        for group in GROUPS.values():
            self.store.add_group(group)
        self.said: list[Outgoing] = []
        line: Any = SimpleNamespace(takes_reactions=True)
        home = Home(folder, folder, folder)
        self.desk = Desk(
            self.store, Config(), home, lambda: self.now, deliver=self.said.append, lines=lambda: {"whatsapp": line}
        )
        self.line = line

    def hears(self, group: str, number: str, **more: Any) -> str:
        """A message; what the agent calls it by."""
        chat = GROUPS[group].chat
        name = f"{chat}/{number}"
        plain = Message(GROUPS[group].channel, name, chat, "ann@x", "Ann", "hello", NOW)
        self.store.add_message(replace(plain, **more))
        return reference(plain.channel, name)

    def react(self, group: str, message: str, emoji: str = "👍") -> Outgoing:
        carry_out(self.desk, Caller(GROUPS[group]), "react", {"message": message, "emoji": emoji})
        return self.said[-1]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.store.close()


def test_a_message_is_named_by_what_the_prompt_shows_and_the_reaction_is_in_the_outbox(scene: Scene) -> None:
    scene.hears("family", "A")
    ref = scene.hears("family", "B")
    shown = render(scene.store.context("family").messages, "UTC", refs=True)
    assert f'<message ref="{ref}" from="Ann"' in shown
    made = scene.react("family", ref)
    assert scene.store.outbox.pending("whatsapp") == [made]
    about = scene.store.messages.get(made.quote)
    assert about is not None
    assert (made.text, made.reaction, made.chat, about.message.id) == ("👍", True, "1@g", "1@g/B")


def test_a_message_of_another_chat_is_none_even_for_main(scene: Scene) -> None:
    ref = scene.hears("family", "A")
    with pytest.raises(UserError, match="no such message"):
        scene.react("main", ref)
    with pytest.raises(Denied, match=r"own chat only$"):
        carry_out(scene.desk, Caller(MAIN), "react", {"message": ref, "emoji": "👍", "group": "family"})
    assert scene.said == []
    scene.react("family", ref)  # the very same, by whom it was written to


@pytest.mark.parametrize("kind", ["reaction", "edit", "deletion"])
def test_what_is_no_message_any_more_or_never_was_takes_none(scene: Scene, kind: str) -> None:
    first = scene.hears("family", "A")
    other = scene.hears("family", "A/x", kind=kind, quoted=Quoted("1@g/A", "", ""), sender="ann@x")
    for ref in (other, "", "00000000", *([first] if kind == "deletion" else [])):
        with pytest.raises(UserError, match="no such message"):
            scene.react("family", ref)


@pytest.mark.parametrize("emoji", ["", "👍", "❤️", "👨‍👩‍👧‍👦", "🇪🇺", "1️⃣", "#️⃣", "👍🏽", "\u2705"])
def test_emojis(scene: Scene, emoji: str) -> None:
    assert scene.react("family", scene.hears("family", "A"), emoji).text == emoji


@pytest.mark.parametrize(
    "text", ["ok", "👍 yes", "👍\n", "5", "äö", "\x1b", "👍" * 17, "55️⃣", "是", "\u202e👍a", "https://x"]
)
def test_words_are_no_emoji(scene: Scene, text: str) -> None:
    with pytest.raises(UserError, match="emoji"):
        scene.react("family", scene.hears("family", "A"), text)


def test_so_many_a_minute(scene: Scene) -> None:
    ref = scene.hears("family", "A")
    for _ in range(REACTIONS_A_MINUTE):
        scene.react("family", ref)
    with pytest.raises(UserError, match="in a minute"):
        scene.react("family", ref)
    scene.now += 61
    scene.react("family", ref)


def test_where_the_chat_takes_none_the_tool_is_not_shown_and_not_carried_out(scene: Scene) -> None:
    assert "react" in {tool["name"] for tool in offered(FAMILY, reacts=True)}
    assert "react" not in {tool["name"] for tool in offered(FAMILY)}
    for tool in offered(MAIN, reacts=True):
        assert tool["name"] != "react" or "group" not in tool["input_schema"]["properties"]
    with pytest.raises(UserError, match="takes no reactions"):
        scene.react("desk", scene.hears("desk", "A"))
    scene.line.takes_reactions = False
    with pytest.raises(UserError, match="takes no reactions"):
        scene.react("family", scene.hears("family", "A"))


def test_what_people_do_with_messages_names_the_message(scene: Scene) -> None:
    ref = scene.hears("family", "A")
    scene.hears("family", "A/r", kind="reaction", text="🎉", quoted=Quoted("1@g/A", "", ""), sender="bob@x")
    shown = render(scene.store.context("family").messages, "UTC", refs=True)
    assert f'><quoted ref="{ref}" sender="ann@x">hello</quoted>🎉</reaction>' in shown
    assert "ref=" not in render(scene.store.context("family").messages, "UTC")
