"""A channel that knows nothing of this code: a shell script, written from docs/channels.md, against a whole host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.channels import program as programs
from host.channels.program import Command
from tests.fakes.home import FakeHome

SCRIPT = Path(__file__).resolve().parents[1] / "fakes" / "channel.sh"


def hears(folder: Path) -> list[str]:
    path = folder / "hears"
    return [json.loads(line)["text"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHome]:
    monkeypatch.setattr(programs, "BACK_OFF", (0.01,))
    (tmp_path / "line").mkdir()
    (tmp_path / "line/says").write_text("what is for dinner?\n")
    made = FakeHome(tmp_path, channels={"shell": Command(("/bin/sh", str(SCRIPT)), tmp_path / "line")})
    yield made
    made.close()
    assert made.app._post.lines["shell"].program.state == "stopped"


def test_a_shell_script_is_a_channel(home: FakeHome, tmp_path: Path) -> None:
    folder = tmp_path / "line"
    home.register("kitchen", chat="kitchen@sh", channel="shell")
    home.until(lambda: len(hears(folder)) == 1)
    assert "what is for dinner?" in hears(folder)[0]
    home.until(lambda: (folder / "kept").exists() and home.store.outbox.pending("shell") == [])
    assert home.app.status()["channels"]["shell"]["program"] == "channel.sh"

    with (folder / "says").open("a") as says:
        says.write("and tomorrow?\n")
    line = home.app._post.lines["shell"]
    assert line.program._process is not None
    line.program._process.kill()  # its next run says what was not kept, and nothing else
    home.until(lambda: len(hears(folder)) == 2)
    assert "and tomorrow?" in hears(folder)[1]
    assert "what is for dinner?" not in hears(folder)[1]

    assert not line.takes_files, "it did not say that it can"
    wish = {"message": "00000000", "emoji": "👍"}
    answer = home.ask("react", group="kitchen", **wish)
    assert "takes no reactions" in answer["error"]
