"""A whole house with several groups, each with a runner that was turned: they look for each other, ask for what is not
theirs, and take more than a turn may. What happens in it is told in `story`.

The story goes on with each event that the house's terminal is told of, so that it plays beside the other scenes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from host import control
from host.allowlist import FILE
from host.cli.session import Event
from host.config import Config
from host.drill.ground import Ground
from host.drill.house import House
from host.drill.rogue import Orders, Report, playing, read_report
from host.engines.base import Engine, sandbox_user
from host.errors import UserError
from host.loop import Loop, Timer
from host.model import AllowedHost, Endpoint, Launch, Spec
from host.pool import own_folder

STORY_SECONDS: Final = 300.0
NAME: Final = "village"
AT_ONCE: Final = 5
Texts = dict[str, str]
Step = Callable[[], object]
"""The story waits until it is true."""
Story = Generator[Step, None, None]


class Cast:
    """An engine that puts a rogue into every sandbox, with the orders of its group."""

    def __init__(self, ground: Ground, orders: Mapping[str, Orders]) -> None:
        self._ground, self._orders = ground, orders

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ground.engine, name)

    def launch(self, spec: Spec) -> Launch:
        launch = self._ground.tamper(self._ground.engine.launch(spec))
        return playing(launch, self._orders.get(spec.group, Orders()))


@dataclass
class Seen:
    """What came of it, by scene and probe."""

    village: Texts = field(default_factory=dict)
    own: Texts = field(default_factory=dict)
    """What a group sees of its own: the control for what it sees of others."""
    administrator: Texts = field(default_factory=dict)
    """What main does, of what others may not."""
    shelf: Texts = field(default_factory=dict)
    canary: str = ""
    trouble: str = ""


class Village:
    """`begin` a story, run the loop until it is `done`, then `close`."""

    def __init__(self, loop: Loop, ground: Ground, endpoint: Endpoint, granted_host: str) -> None:
        """`granted_host`: what main may grant."""
        self.loop, self.ground, self._endpoint = loop, ground, endpoint
        self._granted_host = granted_host
        self.seen = Seen()
        self.done = False
        self.orders: dict[str, Orders] = {}
        """Group → what its next runner is to do."""
        self.reports: dict[str, Report] = {}
        """Group → what its last turn's runner told."""
        self.outcomes: dict[str, list[str]] = {}
        """Group → how its turns ended."""
        self.told: dict[str, list[str]] = {}
        """Group → all that its terminal was told."""
        self.together: set[frozenset[str]] = set()
        """Which groups were seen to have turns at the same time."""
        self._errors: dict[str, str] = {}
        """Group → why its last turn failed."""
        self._running: set[str] = set()
        self._answers: dict[str, Event] = {}
        self._house: House | None = None
        self._late: Timer | None = None
        self._story: Story | None = None
        self._waiting: Step = lambda: True

    def begin(self, story: Story) -> None:
        self._story = story
        config = Config(
            resources=self.ground.resources,
            max_sandboxes=AT_ONCE,
            warm_sandboxes=0,
            grantable_hosts=(AllowedHost(self._granted_host),),
        )
        engine = cast(Engine, Cast(self.ground, self.orders))
        try:
            self._house = House(
                self.loop, self.ground, self._endpoint, NAME, config=config, engine=engine, on_event=self._take
            )
        except (UserError, OSError) as e:
            self._end(f"the house would not open: {e}")
            return
        self._late = self.loop.call_later(STORY_SECONDS, lambda: self._end("it did not come to its end in time"))
        self._go_on()

    def close(self) -> None:
        if self._house is not None:
            self.done = True
            self._house.close()
            self._house = None

    # --- what a story is told with ---------------------------------------------------------------------------

    @property
    def house(self) -> House:
        assert self._house is not None
        return self._house

    def tried(self, method: str, **params: Any) -> Generator[Step, None, Event]:
        """The person asks for something; the event that answers it."""
        asked = uuid.uuid4().hex
        self.house.request(control.Call(asked, method, params))
        yield lambda: asked in self._answers
        return self._answers[asked]

    def person(self, method: str, **params: Any) -> Generator[Step, None, dict[str, Any]]:
        """The same, and it has to be carried out."""
        answer = yield from self.tried(method, **params)
        if answer["event"] != "result":
            raise UserError(f"{method}: {answer['error']}")
        return cast("dict[str, Any]", answer["value"])

    def turns(self, **texts: str) -> Story:
        """A message for each group; waits until each has ended a turn more."""
        before = {group: len(self.outcomes.get(group, ())) for group in texts}
        for group, text in texts.items():
            self.reports.pop(group, None)
            self._errors.pop(group, None)
            self.house.say(group, text)
        yield lambda: all(len(self.outcomes.get(group, ())) > count for group, count in before.items())

    def pause(self, seconds: float) -> Story:
        over: list[bool] = []

        def end() -> None:
            over.append(True)
            self._go_on()

        self.loop.call_later(seconds, end)
        yield lambda: over

    def report(self, group: str) -> Report:
        if group not in self.reports:
            words = (self.outcomes.get(group, ["it never ran"])[-1], self._errors.get(group, ""))
            raise UserError(f"the turn of {group} told nothing: {' '.join(filter(None, words))}")
        return self.reports[group]

    def watch(self, group: str) -> None:
        self.house.request(control.Watch(group, 0))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is in the house's database, read beside it."""
        path = self.house.home.data / "nanoclaw.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def write_allowlist(self, text: str) -> None:
        file = self.house.home.config / FILE
        file.touch(mode=0o600)
        file.write_text(text)

    def put_into_inbox(self, group: str, text: str) -> None:
        """As the host does with what was sent to a group."""
        uid, gid = sandbox_user()
        inbox = own_folder(self.house.home.data / "inbox" / group, "/workspace/inbox", True, uid, gid).source
        (inbox / "letter.txt").write_text(text + "\n")
        os.chown(inbox / "letter.txt", uid, gid)

    # --- how it goes on ----------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        name, group = event["event"], str(event.get("group", ""))
        if name in ("result", "refused"):
            self._answers[str(event.get("id"))] = event
        elif name == "started":
            self._running.add(group)
            self.together |= {frozenset({group, other}) for other in self._running}
        elif name == "ended":
            self._running.discard(group)
            self.outcomes.setdefault(group, []).append(str(event["outcome"]))
        elif name == "error":
            self._errors[group] = str(event["text"])
        elif name == "reply":
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self.reports[group] = read_report(str(event["text"]))
        if group:
            self.told.setdefault(group, []).append(str(event))
        if not self.done:
            self._go_on()

    def _go_on(self) -> None:
        if self._story is None or self.done:
            return
        try:
            while self._waiting():
                self._waiting = next(self._story)
        except StopIteration:
            self._end("")
        except (UserError, OSError, KeyError, sqlite3.Error) as e:
            self._end(f"{type(e).__name__}: {e}")

    def _end(self, trouble: str) -> None:
        if self._late is not None:
            self._late.cancel()
        if not self.done:
            self.done, self.seen.trouble = True, trouble
