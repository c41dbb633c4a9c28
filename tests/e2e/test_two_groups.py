"""Two groups at the same time, each with a canary of its own in all that it says, does and keeps: none of it on the
other side, in files, in prompts as the model's server received them, in transcripts or in replies.

The same search finds it where the other's folder is mounted, and where the conversation is shared.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from host import control
from host.config import Config
from host.drill.ground import Edited, Ground
from host.drill.house import House
from host.engines.choice import choose
from host.loop import Loop
from host.model import Endpoint, Image, Launch, Resources
from host.rehearsal.server import Handler, Server
from host.store import Store
from tests.conftest import require_engine
from tests.e2e.test_drill import bind

MARKS = {"left": "NCT-left-canary", "right": "NCT-right-canary"}
PLACES = ("files", "prompts", "transcript", "replies")
OTHER = {"left": "right", "right": "left"}
MARK = re.compile(rb"NCT-(left|right)-canary")
SEARCH = "grep -rhoE '[N]CT-(left|right)-canary' /workspace /srv /tmp -s | sort -u"
TURN_SECONDS = 60.0
Tamper = Callable[[Launch], Launch]


class RecordingHandler(Handler):
    """Keeps what the model was asked, by the model that was asked for: each group has one of its own."""

    def _answer(self, untrusted_body: bytes) -> None:
        server: Any = self.server
        with server.kept:
            server.asked.setdefault(json.loads(untrusted_body)["model"], []).append(untrusted_body)
        super()._answer(untrusted_body)


class RecordingServer(Server):
    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening)
        self.RequestHandlerClass = RecordingHandler
        self.asked: dict[str, list[bytes]] = {}
        self.kept = threading.Lock()


@pytest.fixture
def model() -> Iterator[RecordingServer]:
    server = RecordingServer(socket.create_server(("127.0.0.1", 0), backlog=64))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def prompts(mark: str, count: int) -> list[str]:
    """What a group's people say, turn by turn; together they touch all that a group has."""
    kinds = (
        f"remember that {mark} is number {{n}}\nrepeat {mark}",
        f"write notes-{{n}}.txt: {mark}\nrun {SEARCH}",
        "what do you remember?",
        f"run echo {mark} > /tmp/left-behind; echo {mark}\nsay {mark} first",
        f"read CLAUDE.md\nrun ls /workspace /workspace/inbox; {SEARCH}",
    )
    return [kinds[n % len(kinds)].format(n=n) for n in range(count)]


@dataclass
class Pair:
    """The house with both groups, and what became of their turns."""

    house: House
    ended: dict[str, list[str]] = field(default_factory=lambda: {"left": [], "right": []})
    together: int = 0
    running: set[str] = field(default_factory=set)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        group = str(event.get("group", ""))
        if event["event"] == "started":
            self.running.add(group)
            self.together += len(self.running) == 2
        elif event["event"] == "ended":
            self.running.discard(group)
            self.ended[group].append(event["outcome"])
        elif event["event"] in ("result", "refused"):
            self.answers.append(event)

    def person(self, method: str, **params: Any) -> None:
        self.answers.clear()
        self.house.request(control.Call("asked", method, params))
        self.house.until(lambda: self.answers, TURN_SECONDS)
        assert self.answers[0]["event"] == "result", self.answers

    def talk(self, turns: int) -> None:
        """Both groups have so many turns, each its next as soon as its last has ended."""
        waiting = {group: prompts(mark, turns) for group, mark in MARKS.items()}
        begun = dict.fromkeys(MARKS, 0)

        def go_on() -> bool:
            for group, texts in waiting.items():
                if begun[group] == len(self.ended[group]) and begun[group] < turns:
                    self.house.say(group, texts[begun[group]])
                    begun[group] += 1
            return all(len(ended) == turns for ended in self.ended.values())

        self.house.until(go_on, TURN_SECONDS + 5 * turns)
        assert self.ended == {group: ["done"] * turns for group in MARKS}


@contextlib.contextmanager
def pair(
    name: str, loop: Loop, image: Image, folder: Path, model: RecordingServer, tamper: Tamper | None = None
) -> Iterator[Pair]:
    """`tamper`: what is changed in every sandbox; none of them is then made before it is needed."""
    require_engine(name)
    engine, enforcement = choose(name)
    engine.load(image, lambda text: None)
    ground = Ground(engine, enforcement, image, Resources(), folder / "ground", lambda launch: launch)
    ground.open()
    port = model.server_address[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port, tls=False)
    made: list[Pair] = []
    house = House(
        loop, ground, endpoint, "house",
        config=Config(resources=Resources(), warm_sandboxes=0 if tamper else 2),
        engine=Edited(engine, tamper or (lambda launch: launch)),  # type: ignore[arg-type]
        on_event=lambda event: made[0].take(event) if made else None,
    )  # fmt: skip
    made.append(Pair(house))
    try:
        for group in MARKS:
            made[0].person("register_group", folder=group, channel="console", chat=group, needs_trigger=False)
            made[0].person("update_group", group=group, settings={"model": f"model-{group}"})
            house.request(control.Watch(group, 0))
        yield made[0]
    finally:
        house.close()
        ground.close()


def rows(data: Path, query: str, group: str) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(f"file:{data}/nanoclaw.db?mode=ro", uri=True)) as db:
        return [str(row).encode() for row in db.execute(query, (group,))]


def marks_of(pieces: list[bytes]) -> set[str]:
    return {found.decode() for piece in pieces for found in MARK.findall(piece)}


def found(home: Path, model: RecordingServer, group: str) -> dict[str, set[str]]:
    """Whose canaries are where, on one group's side."""
    data = home / "data"
    places = (data / "groups" / group, data / "inbox" / group)
    files = [file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()]
    return {
        "files": marks_of(files),
        "prompts": marks_of(model.asked[f"model-{group}"]),
        "transcript": marks_of(rows(data, "SELECT content FROM transcript WHERE grp = ?", group)),
        "replies": marks_of(rows(data, "SELECT text FROM outbox WHERE grp = ?", group)),
    }


@pytest.mark.parametrize(("name", "turns"), [("docker", 15), ("bubblewrap", 50)])
def test_nothing_of_one_group_is_ever_on_the_others_side(
    name: str, turns: int, image: Image, tmp_path: Path, loop: Loop, model: RecordingServer
) -> None:
    with pair(name, loop, image, tmp_path, model) as both:
        both.talk(turns)
        for group in MARKS:
            # Its own canary is everywhere: so the search finds what is there.
            assert found(both.house.folder, model, group) == {place: {group} for place in PLACES}
        assert both.together > turns // 2, "their turns were hardly ever at the same time"
        assert set(model.asked) == {"model-left", "model-right"}


@pytest.mark.parametrize("name", ["docker", "bubblewrap"])
def test_the_others_folder_would_be_seen(
    name: str, image: Image, tmp_path: Path, loop: Loop, model: RecordingServer
) -> None:
    tmp_path.chmod(0o755)
    shared = tmp_path / "ground" / "house" / "data" / "groups" / "right"

    def mounted(launch: Launch) -> Launch:
        return bind(launch, shared, "/srv") if shared.is_dir() else launch

    with pair(name, loop, image, tmp_path, model, mounted) as both:
        both.house.say("right", f"write notes.txt: {MARKS['right']}")
        both.house.until(lambda: both.ended["right"], TURN_SECONDS)
        both.house.say("left", f"run {SEARCH}\nrun echo so")
        both.house.until(lambda: both.ended["left"], TURN_SECONDS)
        assert both.ended == {"left": ["done"], "right": ["done"]}
        seen = found(both.house.folder, model, "left")
    assert seen == {"files": set(), "prompts": {"right"}, "transcript": {"right"}, "replies": {"right"}}


def test_a_conversation_that_is_shared_would_be_seen(
    image: Image, tmp_path: Path, loop: Loop, model: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = Store.history
    monkeypatch.setattr(Store, "history", lambda self, folder, budget: history(self, OTHER.get(folder, folder), budget))
    with pair("bubblewrap", loop, image, tmp_path, model) as both:
        both.house.say("right", f"repeat {MARKS['right']}")
        both.house.until(lambda: both.ended["right"], TURN_SECONDS)
        both.house.say("left", "repeat nothing")
        both.house.until(lambda: both.ended["left"], TURN_SECONDS)
        assert found(both.house.folder, model, "left")["prompts"] == {"right"}
