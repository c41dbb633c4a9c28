"""What the host may rely on of every channel, shown on the scripted one and on WhatsApp's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from channel import wire
from tests.contract.stages import ScriptedStage, Stage, WhatsAppStage
from tests.fakes.channel_harness import ChannelProcess

STAGES: dict[str, type[ScriptedStage] | type[WhatsAppStage]] = {"scripted": ScriptedStage, "whatsapp": WhatsAppStage}


@pytest.fixture(params=STAGES, scope="class")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = STAGES[request.param](tmp_path_factory.mktemp("stage") / "s")
    yield stage
    stage.close()


def linked(stage: Stage, channel: ChannelProcess) -> None:
    request = channel.ask(wire.Link)
    stage.scan(channel.wait(wire.Qr, lambda qr: qr.id == request).code)
    assert isinstance(channel.answer(request), wire.Done)
    stage.online()
    channel.wait(wire.Connected)


@pytest.fixture(scope="class")
def channel(stage: Stage) -> Iterator[ChannelProcess]:
    """Linked and connected, for all tests of a class."""
    channel = stage.start()
    linked(stage, channel)
    yield channel
    channel.close()


class TestTalk:
    def test_the_first_frame_is_hello_and_one_without_an_account_says_so(self, channel: ChannelProcess) -> None:
        hello = channel.said[0]
        assert isinstance(hello, wire.Hello)
        assert (hello.version, hello.linked) == (wire.VERSION, False)
        assert isinstance(channel.said[1], wire.Disconnected)
        assert (channel.said[1].reason, channel.said[1].retry) == ("unlinked", wire.NEVER)

    def test_the_account_is_named_once_it_is_linked_and_once_it_is_connected(
        self, stage: Stage, channel: ChannelProcess
    ) -> None:
        assert channel.wait(wire.Linked).account.id == stage.me
        assert channel.wait(wire.Connected).account.id == stage.me

    def test_a_second_account_is_refused(self, channel: ChannelProcess) -> None:
        assert channel.failed(wire.Link).reason == "refused"

    def test_a_message_in_a_group(self, stage: Stage, channel: ChannelProcess) -> None:
        message_id = stage.writes(stage.group, "Hello *all*, ünïcode 👍")
        message = channel.wait(wire.Message, lambda m: m.id == message_id)
        assert (message.chat.id, message.chat.kind) == (stage.group, "group")
        assert (message.sender.id, message.sender.name, message.own) == (stage.friend, "Ann", False)
        assert message.text == "Hello *all*, ünïcode 👍"
        assert not message.history

    def test_a_direct_message(self, stage: Stage, channel: ChannelProcess) -> None:
        message_id = stage.writes(stage.friend, "psst")
        message = channel.wait(wire.Message, lambda m: m.id == message_id)
        assert (message.chat.id, message.chat.kind, message.sender.id) == (stage.friend, "direct", stage.friend)

    def test_a_note_to_oneself_is_own_and_in_the_self_chat(self, stage: Stage, channel: ChannelProcess) -> None:
        message_id = stage.writes(stage.me, "milk")
        message = channel.wait(wire.Message, lambda m: m.id == message_id)
        assert (message.chat.id, message.chat.kind, message.own) == (stage.me, "self", True)
        assert message.sender.id == stage.me

    def test_the_numbers_grow(self, stage: Stage, channel: ChannelProcess) -> None:
        for text in "abc":
            last = stage.writes(stage.group, text)
        channel.wait(wire.Message, lambda m: m.id == last)
        numbers = [m.seq for m in channel.said if isinstance(m, wire.Message)]
        assert numbers == sorted(set(numbers))

    def test_edits_deletions_and_reactions_name_their_message(self, stage: Stage, channel: ChannelProcess) -> None:
        first = stage.writes(stage.group, "see yuo")
        stage.edits(stage.group, first, "see you")
        edited = channel.wait(wire.Edited, lambda e: e.id == first)
        assert (edited.text, edited.chat.id, edited.sender.id) == ("see you", stage.group, stage.friend)
        stage.reacts(stage.group, first, "👍")
        reaction = channel.wait(wire.Reaction, lambda r: r.id == first)
        assert (reaction.emoji, reaction.sender.id) == ("👍", stage.friend)
        stage.deletes(stage.group, first)
        assert channel.wait(wire.Deleted, lambda d: d.id == first).sender.id == stage.friend

    def test_a_file_in(self, stage: Stage, channel: ChannelProcess) -> None:
        data = bytes(range(256)) * 1000
        since = channel.now()
        stage.sends_file(stage.group, data, "numbers.bin")
        (found,) = channel.wait(wire.Message, lambda m: bool(m.attachments), since=since).attachments
        assert (found.kind, found.name, found.size) == ("document", "numbers.bin", len(data))
        request = channel.ask(lambda n: wire.Fetch(n, found.ref, wire.MAX_FILE))
        assert isinstance(channel.answer(request), wire.Done)
        assert b"".join(f.data for f in channel.said if isinstance(f, wire.Data) and f.id == request) == data
        assert channel.failed(lambda n: wire.Fetch(n, found.ref, 10)).reason == "too_large"

    def test_a_file_that_never_was(self, channel: ChannelProcess) -> None:
        assert channel.failed(lambda n: wire.Fetch(n, "nonsense", 1000)).reason == "unknown"

    def test_chats_are_listed(self, channel: ChannelProcess, stage: Stage) -> None:
        channel.done(wire.ListChats)

    def test_a_ping_is_answered(self, channel: ChannelProcess) -> None:
        assert channel.done(wire.Ping).sent == []


class TestAnswers:
    """In order: what arrives is counted."""

    def test_a_text_arrives_and_never_comes_back(self, stage: Stage, channel: ChannelProcess) -> None:
        done = channel.done(lambda n: wire.Send(n, stage.group, "It is five."))
        assert len(done.sent) == 1
        assert stage.arrived(1) == {"to": stage.group, "text": "It is five.", "quoted": None, "file": b""}
        done = channel.done(lambda n: wire.Send(n, stage.me, "noted"))
        assert stage.arrived(2)["to"] == stage.me
        later = stage.writes(stage.me, "later")
        channel.wait(wire.Message, lambda m: m.id == later)
        assert [m.text for m in channel.said if isinstance(m, wire.Message)] == ["later"]

    def test_a_reply_quotes(self, stage: Stage, channel: ChannelProcess) -> None:
        quote = wire.Quote("QUESTION1", stage.friend, "What time is it?")
        channel.done(lambda n: wire.Send(n, stage.group, "Six.", quote=quote))
        assert stage.arrived(3)["quoted"] == "QUESTION1"

    def test_a_reaction(self, stage: Stage, channel: ChannelProcess) -> None:
        channel.done(lambda n: wire.React(n, stage.group, "QUESTION1", stage.friend, "👀"))
        assert stage.arrived(4) == {"to": stage.group, "emoji": "👀", "on": "QUESTION1"}

    def test_a_file_out(self, stage: Stage, channel: ChannelProcess) -> None:
        data = b"%PDF" + bytes(150_000)
        file = wire.File("report.pdf", "application/pdf", len(data))
        answer = channel.send_file(stage.group, file, data, "the report")
        assert isinstance(answer, wire.Done)
        assert stage.arrived(5) == {"to": stage.group, "text": "the report", "quoted": None, "file": data}

    def test_typing_is_shown_and_cleared(self, stage: Stage, channel: ChannelProcess) -> None:
        channel.done(lambda n: wire.Typing(n, stage.group, True))
        channel.done(lambda n: wire.Typing(n, stage.group, False))
        assert [stage.typing(1), stage.typing(2)] == [(stage.group, True), (stage.group, False)]

    def test_messages_are_marked_as_read(self, stage: Stage, channel: ChannelProcess) -> None:
        message_id = stage.writes(stage.group, "read me")
        channel.wait(wire.Message, lambda m: m.id == message_id)
        channel.done(lambda n: wire.Read(n, stage.group, stage.friend, [message_id]))


class TestLife:
    """In order: one account's life, over several runs of the channel."""

    def test_what_was_not_kept_is_said_again_by_the_next_run_and_what_was_is_not(self, stage: Stage) -> None:
        first = stage.start()
        linked(stage, first)
        kept = stage.writes(stage.group, "kept")
        first.wait(wire.Message, lambda m: m.id == kept)
        first.done(wire.Ping)  # by then it has heard `kept`
        first.keeps = False
        lost = [stage.writes(stage.group, text) for text in ("one", "two")]
        first.wait(wire.Message, lambda m: m.id == lost[-1])
        first.process.kill()
        first.ended()
        first.socket.close()
        second = stage.start()
        hello = second.wait(wire.Hello)
        assert hello.linked
        second.wait(wire.Message, lambda m: m.id == lost[-1])
        second.done(wire.Ping)
        assert [m.id for m in second.said if isinstance(m, wire.Message)] == lost
        second.close()

    def test_the_end_of_the_socket_ends_it(self, stage: Stage) -> None:
        channel = stage.start()
        channel.wait(wire.Hello)
        channel.socket.close()
        assert channel.ended() == 0

    def test_stop_is_answered_and_ends_it(self, stage: Stage) -> None:
        channel = stage.start()
        channel.wait(wire.Hello)
        channel.done(wire.Stop)
        assert channel.ended() == 0
        channel.close()

    def test_a_ctrl_c_in_the_hosts_terminal_is_not_for_it(self, stage: Stage) -> None:
        channel = stage.start()
        channel.wait(wire.Hello)
        channel.process.send_signal(signal.SIGINT)
        channel.done(wire.Ping)
        channel.close()

    def test_a_line_that_is_none_ends_it(self, stage: Stage) -> None:
        channel = stage.start()
        channel.wait(wire.Hello)
        channel.socket.sendall(b'{"frame":"send"}\n')
        assert channel.ended() == 1
        channel.close()

    def test_unlinked_it_is_as_at_first(self, stage: Stage) -> None:
        channel = stage.start()
        stage.online()
        channel.wait(wire.Connected)
        channel.done(wire.Unlink)
        assert channel.wait(wire.Disconnected, lambda d: d.reason == "unlinked").retry == wire.NEVER
        channel.close()
        again = stage.start()
        assert not again.wait(wire.Hello).linked
        again.close()


def test_the_scripted_channel_plays_a_file(tmp_path: Path) -> None:
    import sys

    script = tmp_path / "script"
    script.write_text('{"await": "ping"}\n{"raw": "rubbish"}\n{"await": "ping"}\n{"exit": 3}\n')
    argv = [sys.executable, "-B", "-m", "channel.scripted", script, tmp_path / "data"]
    channel = ChannelProcess(argv, tmp_path / "log", {})
    channel.wait(wire.Hello)
    channel.tell(wire.Ping(1))
    with pytest.raises(wire.PeerError):
        channel.wait(wire.Message)
    channel.tell(wire.Ping(99))
    assert channel.ended() == 3
    channel.close()
