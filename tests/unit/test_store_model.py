"""The store beside a model of it that is a few lists: any order of messages, turns, failures, stops and restarts."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from host.model import Group, Message, Outgoing
from host.store import Store

GROUPS = [Group(name, "console", f"chat of {name}", name) for name in ("one", "two")]
ENTRIES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

groups = st.sampled_from(GROUPS)


@dataclass
class Chat:
    """One group as it ought to be."""

    seqs: list[int] = field(default_factory=list)
    answered: int = 0
    seen: int = 0
    turn: str = ""
    """The one that runs; empty if none does."""
    entries: int = 0


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "nanoclaw.db")
        self.chats = {group.folder: Chat() for group in GROUPS}
        self.ids: dict[str, int] = {}
        self.unsent: list[Outgoing] = []
        self.turns = 0
        for group in GROUPS:
            self.store.add_group(group)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(group=groups, number=st.integers(0, 30))
    def message(self, group: Group, number: int) -> None:
        name = f"{group.folder}-{number}"
        stored = self.store.add_message(Message("console", name, group.chat, "a", "A", name, 1.0))
        if name in self.ids:
            assert stored is None
            assert self.store.messages.seq_of("console", name) == self.ids[name]
            return
        assert stored is not None
        assert stored.seq > max(self.ids.values(), default=0)
        self.ids[name] = stored.seq
        self.chats[group.folder].seqs.append(stored.seq)

    @rule(group=groups)
    def begin(self, group: Group) -> None:
        chat = self.chats[group.folder]
        if not chat.turn:
            self.turns += 1
            chat.turn = f"t{self.turns}"
            self.store.begin_turn(group.folder, chat.turn)

    @rule(group=groups)
    def say(self, group: Group) -> None:
        if turn := self.chats[group.folder].turn:
            self.unsent.append(self.store.add_say(group.folder, turn, "moment"))

    @rule(group=groups, how=st.sampled_from(["done", "silent", "fail", "stop"]), data=st.data(), again=st.booleans())
    def end(self, group: Group, how: str, data: st.DataObject, again: bool) -> None:
        chat = self.chats[group.folder]
        if not chat.turn:
            return
        upto = data.draw(st.sampled_from([chat.seen, *(seq for seq in chat.seqs if seq > chat.seen)]))
        unseen = [seq for seq in chat.seqs if chat.seen < seq <= upto]
        outgoing = self.end_in_store(group.folder, chat.turn, how, upto)
        if again:  # the commit's outcome was not known
            assert self.end_in_store(group.folder, chat.turn, how, upto) == outgoing
        assert (outgoing is not None) == (how in ("done", "fail"))
        if outgoing is not None:
            assert outgoing.upto == upto
            self.unsent.append(outgoing)
        chat.answered = max(chat.answered, upto)
        chat.seen = chat.seen if how == "fail" else max(chat.seen, upto)
        chat.entries += 2 if how in ("done", "silent") or (how == "stop" and unseen) else 0
        chat.turn = ""

    def end_in_store(self, folder: str, turn: str, how: str, upto: int) -> Outgoing | None:
        if how == "fail":
            return self.store.fail_turn(folder, turn, upto, "auth", "why")
        if how == "stop":
            self.store.stop_turn(folder, turn, upto)
            return None
        return self.store.finish_turn(folder, turn, upto, "reply" if how == "done" else "", ENTRIES, (1, 1))

    @precondition(lambda self: self.unsent)
    @rule(data=st.data())
    def sent(self, data: st.DataObject) -> None:
        outgoing = data.draw(st.sampled_from(self.unsent))
        self.store.outbox.mark_sent(outgoing.id)
        self.unsent.remove(outgoing)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "nanoclaw.db")
        assert self.store.recover() == sum(bool(chat.turn) for chat in self.chats.values())
        self.store.prune()
        for chat in self.chats.values():
            chat.turn = ""

    @invariant()
    def nothing_is_lost_and_nothing_is_double(self) -> None:
        waiting = []
        for folder, chat in self.chats.items():
            pending = [seq for seq in chat.seqs if seq > chat.answered]
            assert [stored.seq for stored in self.store.pending(folder)] == pending
            assert [s.seq for s in self.store.context(folder).messages] == [n for n in chat.seqs if n > chat.seen]
            assert len(self.store.history(folder, 10**6)) == chat.entries
            waiting += [(pending[0], folder)] if pending else []
        assert self.store.groups_with_pending() == [folder for _, folder in sorted(waiting)]
        assert self.store.outbox.pending("console") == self.unsent
        assert self.store.stats()["messages"] == len(self.ids)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
