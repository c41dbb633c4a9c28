"""The doctor's looks into image, engine and sandbox, and how all looks stand beside each other."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from host import parcels
from host.cli.doctor import as_text
from host.config import Home, prepare
from host.doctor import FAILURE, OK, WARNING, Finding, Subject, examine, look, record
from host.doctor import engine as engines
from host.doctor.program import program, runner_digest
from host.doctor.readback import FILTERED, NO_EXECUTION, READ_ONLY, facts, judged
from host.engines.base import Engine
from host.errors import EngineError, UserError
from host.house import registered
from host.model import Enforcement, Image, Launch, Resources, Spec
from host.store import Store
from tests.fakes.engine_subprocess import SubprocessEngine
from tests.unit.test_parcels import USUAL, put, tar

KEY = "sk-ant-doctor-0123456789abcdef"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    home = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    prepare(home)
    return Subject(home, "0.0.0")


def found(findings: Any, name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def states(findings: Any) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


# --- the program and its image -------------------------------------------------------------------------------


def test_the_program_is_told_of(subject: Subject) -> None:
    assert "NanoClaw 0.0.0" in found(program(subject), "program").found


@pytest.fixture
def unpacked(subject: Subject) -> Image:
    """An image with, by its records, the runner that is beside us."""
    image = put(subject.home.cache, tar(*USUAL))
    (image.archive.parent / "build").write_text(runner_digest())
    parcels.unpack_rootfs(image, lambda text: None)
    return image


def test_no_image_is_a_failure(subject: Subject) -> None:
    with pytest.raises(UserError, match="no sandbox image"):
        list(engines.image(subject))


def test_an_image_that_is_whole_is_well(subject: Subject, unpacked: Image) -> None:
    assert "unaltered" in found(engines.image(subject), "sandbox image").found
    assert subject.image is not None


def test_an_image_that_was_altered_is_a_failure_and_not_started(subject: Subject, unpacked: Image) -> None:
    (unpacked.rootfs / "usr/bin/tool").write_text("another")
    with pytest.raises(UserError, match=r"altered: usr/bin/t.* was changed"):
        list(engines.image(subject))
    assert subject.image is None


def test_an_image_of_another_version_is_doubtful(subject: Subject, unpacked: Image) -> None:
    (unpacked.archive.parent / "build").write_text("0" * 64)
    assert [finding.state for finding in engines.image(subject)] == [WARNING, OK]


def test_the_runner_in_the_built_image_is_told_by_the_same_digest(image: Image) -> None:
    """The image of the tests is built of these sources."""
    assert runner_digest() == image.build


def test_where_there_are_no_sources_there_is_no_digest(tmp_path: Path) -> None:
    assert runner_digest(tmp_path) == ""


# --- which engine -----------------------------------------------------------------------------------------------


class Fake(SubprocessEngine):
    """An engine whose sandboxes are this program."""

    def __init__(self, *argv: str, left: list[str] | None = None, missing: dict[str, str] | None = None) -> None:
        super().__init__()
        self._argv, self._left, self._missing = argv, left or [], missing or {}

    def probe(self) -> Enforcement:
        return Enforcement("fake", "1", self._missing)

    def launch(self, spec: Spec) -> Launch:
        return Launch(self._argv)

    def orphans(self, install: str) -> list[str]:
        return self._left


def absent() -> Engine:
    raise EngineError("it is not installed", "install it")


def give(subject: Subject, engine: SubprocessEngine) -> None:
    subject.engine, subject.enforcement = cast(Engine, engine), engine.probe()


def test_the_engines_that_are_there_are_told_of_also_where_the_one_asked_for_is_not(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: dict[str, Callable[[], Any]] = {"docker": absent, "fake": Fake}
    monkeypatch.setattr(engines, "ENGINES", table)
    monkeypatch.setattr("host.engines.choice.ENGINES", table)
    subject.engine_flag = "docker"
    with pytest.raises(EngineError, match="not installed"):
        list(engines.engine(subject))
    assert "1 would work: --engine fake" in found(engines.others(subject), "also: fake").found
    subject.engine_flag = "fake"
    assert found(engines.engine(subject), "engine").found == "fake 1"


def test_without_an_engine_or_an_image_the_sandbox_is_not_looked_into(subject: Subject) -> None:
    assert states(engines.sandbox(subject)) == {"sandbox": WARNING}
    give(subject, Fake())
    assert "no image" in found(engines.sandbox(subject), "sandbox").found


def test_what_was_found_before_a_look_broke_off_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(subject: Subject) -> Iterator[Finding]:
        yield Finding("first", OK, "well")
        raise EngineError("no")

    monkeypatch.setattr(look, "LOOKS", {"engine": breaks, "threaded": breaks})
    assert [finding.name for finding in examine(subject, lambda text: None)] == ["first", "engine", "first", "threaded"]


# --- what it keeps to -------------------------------------------------------------------------------------------------

ASKED = Resources()
CONTAINER: dict[str, int] = {
    "memory": ASKED.memory_bytes, "swap": 0, "processes": ASKED.processes, "cpu": 200, "file": ASKED.file_bytes,
    "open_files": 4096, "core": 0, "tmp": ASKED.tmp_bytes, "tmp_flags": NO_EXECUTION, "root_flags": READ_ONLY,
    "seccomp": FILTERED,
}  # fmt: skip


def judge(told: dict[str, int], *missing: str, same_kernel: bool = True) -> dict[str, Finding]:
    return {each.name: each for each in judged(told, ASKED, 2.0, missing, same_kernel=same_kernel)}


def test_bounds_that_are_as_asked_are_well() -> None:
    assert {finding.state for finding in judge(CONTAINER).values()} == {OK}


@pytest.mark.parametrize(
    ("name", "lie", "control"),
    [("memory", {"memory": None}, "memory limit"), ("memory", {"memory": ASKED.memory_bytes + 1}, "memory limit"),
     ("swap", {"swap": None}, "swap limit"), ("swap", {"swap": 4096}, "swap limit"),
     ("swap", {"swap": None, "memory_and_swap": 2 * ASKED.memory_bytes}, "swap limit"),
     ("processes", {"processes": None}, "process limit"), ("processes", {"processes": 257}, "process limit"),
     ("processes", {"processes": None, "processes_of_user": 100_000}, "process limit"),
     ("cpu", {"cpu": None}, "cpu limit"), ("cpu", {"cpu": 400}, "cpu limit"),
     ("system calls", {"seccomp": 0}, "system call filter"), ("programs in /tmp", {"tmp_flags": 0}, "noexec /tmp")],
)  # fmt: skip
def test_a_bound_that_is_not_kept_is_a_failure_unless_the_engine_is_known_for_it(
    name: str, lie: dict[str, int | None], control: str
) -> None:
    told = {key: value for key, value in {**CONTAINER, **lie}.items() if value is not None}
    assert [each.name for each in judge(told).values() if each.state == FAILURE] == [f"sandbox: {name}"]
    assert f"sandbox: {name}" not in judge(told, control)  # told among what is enforced


@pytest.mark.parametrize(
    ("name", "lie"),
    [("file size", {"file": None}), ("open files", {"open_files": 1 << 20}), ("core files", {"core": 1}),
     ("/tmp", {"tmp": 1 << 40}), ("root folder", {"root_flags": 0})],
)  # fmt: skip
def test_what_every_engine_must_keep_to(name: str, lie: dict[str, int | None]) -> None:
    told = {key: value for key, value in {**CONTAINER, **lie}.items() if value is not None}
    assert [each.name for each in judge(told).values() if each.state == FAILURE] == [f"sandbox: {name}"]


def test_a_bound_of_each_process_is_one_where_the_engine_says_that_it_has_no_other() -> None:
    told = {key: value for key, value in CONTAINER.items() if key not in {"memory", "swap"}}
    told["memory_of_each"] = ASKED.memory_bytes
    assert judge(told)["sandbox: memory"].state == FAILURE
    assert "for each process" in judge(told, "memory limit")["sandbox: memory"].found
    told["memory_of_each"] *= 2
    assert "sandbox: memory" not in judge(told, "memory limit")


def test_what_a_virtual_machine_has_is_its_bound() -> None:
    told = {key: value for key, value in CONTAINER.items() if key not in {"memory", "swap", "cpu"}}
    told |= {"memory_of_machine": ASKED.memory_bytes, "swap_of_machine": 0, "cpu_of_machine": 200}
    assert {finding.state for finding in judge(told, same_kernel=False).values()} == {OK}
    assert judge(told)["sandbox: memory"].state == FAILURE
    assert judge({**told, "cpu_of_machine": 800}, same_kernel=False)["sandbox: cpu"].state == FAILURE


@pytest.mark.parametrize("told", ["", "no", "[1]", '"x"', "[" * 100_000, '{"memory": "7", "cpu": true, "swap": null}'])
def test_what_a_sandbox_tells_is_numbers_or_nothing(told: str) -> None:
    assert facts(told) == {}


@pytest.mark.parametrize("argv", [("false",), ("echo", "hello"), ("/nonexistent/program",)])
def test_a_sandbox_that_does_not_come_up_is_a_failure(subject: Subject, unpacked: Image, argv: tuple[str, ...]) -> None:
    give(subject, Fake(*argv))
    subject.image = unpacked
    assert states(engines.sandbox(subject)) == {"sandbox": FAILURE}
    assert not list(subject.home.data.glob("doctor-*"))


def test_a_sandbox_that_hangs_is_a_failure_and_ended(
    subject: Subject, unpacked: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SECONDS", 0.3)
    give(subject, Fake("sleep", "600"))
    subject.image = unpacked
    assert "no answer from it" in found(engines.sandbox(subject), "sandbox").found


# --- what it does not, and who minds --------------------------------------------------------------------------------


def test_a_missing_control_is_a_failure_where_a_group_depends_on_it(subject: Subject) -> None:
    give(subject, Fake(missing={"memory limit": "the cgroup is off"}))
    name = "enforces memory limit"
    finding = found(engines.enforced(subject), name)
    assert (finding.state, "not enforced by this engine: the cgroup is off" in finding.found) == (WARNING, True)
    store = Store(subject.home.data / "nanoclaw.db")
    registered(store)
    store.registry.change("main", name="main", needs_trigger=False, settings={"memory": "512 MB"})
    store.close()
    finding = found(engines.enforced(subject), name)
    assert (finding.state, "the group main has set memory" in finding.found) == (FAILURE, True)
    subject.config = replace(subject.settings, accept_not_enforced=("memory limit",))
    assert found(engines.enforced(subject), name).state == OK


def test_what_is_not_enforced_is_told_beside_a_database_that_is_damaged(subject: Subject) -> None:
    (subject.home.data / "nanoclaw.db").write_text("not a database" * 100)
    give(subject, Fake(missing={"cpu limit": "no quota"}))
    assert states(engines.enforced(subject)) == {"enforces cpu limit": WARNING}


def test_what_was_left_behind_is_doubtful_unless_a_host_runs(subject: Subject) -> None:
    give(subject, Fake(left=["nanoclaw-1"]))
    assert states(engines.left_behind(subject)) == {"left behind": OK}  # no installation yet, so none of its
    (subject.home.data / "install-id").write_text("abc\n")
    finding = found(engines.left_behind(subject), "left behind")
    assert (finding.state, "the next start removes" in finding.next) == (WARNING, True)
    subject.host_runs = True
    assert states(engines.left_behind(subject)) == {"left behind": OK}


# --- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError("no", "hint"), EngineError("no", "hint"), PermissionError(13, "no")])
@pytest.mark.parametrize("first", ["sandbox", "clock"])
def test_one_look_that_fails_is_a_line_and_the_others_go_on(
    subject: Subject, error: Exception, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(subject: Subject) -> Iterator[Finding]:
        raise error
        yield

    monkeypatch.setattr(look, "LOOKS", {first: fails, "b": lambda subject: iter([Finding("b", OK, "well")])})
    findings = examine(subject, lambda text: None)
    assert states(findings) == {first: FAILURE, "b": OK}
    assert not record(findings)["ok"]


def test_a_home_that_cannot_be_looked_into_is_lines_each_with_what_to_do(tmp_path: Path) -> None:
    """Too long a name stops everyone; a folder's mode would not stop root."""
    home = Home(*(tmp_path / ("x" * 300) / kind for kind in ("config", "data", "cache")))
    findings = examine(Subject(home, engine_flag="container"), lambda text: None)
    failed = {finding.name for finding in findings if finding.state == FAILURE}
    assert {"data folder", "settings", "key", "database", "groups", "room for data", "sandbox image"} <= failed
    assert all(finding.next for finding in findings if finding.state == FAILURE)
    assert found(findings, "clock").state == OK


def test_a_look_that_hangs_is_a_failure_and_the_others_go_on(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    comes = threading.Event()

    def hangs(subject: Subject) -> Iterator[Finding]:
        yield Finding("before", OK, "well")
        comes.wait(60)

    monkeypatch.setattr(look, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(look, "LOOKS", {"a": hangs, "b": lambda subject: iter([Finding("b", OK, "well")])})
    findings = examine(subject, lambda text: None)
    comes.set()
    assert states(findings) == {"before": OK, "a": FAILURE, "b": OK}


@pytest.mark.parametrize("name", ["sandbox", "clock"])
def test_a_bug_is_no_finding(subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "LOOKS", {name: lambda subject: iter([1 // 0])})
    with pytest.raises(ZeroDivisionError):
        examine(subject, lambda text: None)


def test_a_line_each_and_the_next_step_beneath() -> None:
    text = as_text([Finding("clock", OK, "noon"), Finding("key", WARNING, "none", "put one there")])
    assert [line.split() for line in text.splitlines()] == [
        ["clock", "ok", "noon"], ["key", "warning", "none"], ["→", "put", "one", "there"], [],
        ["1", "ok,", "1", "warning"],
    ]  # fmt: skip


def test_nothing_that_was_found_acts_on_the_terminal() -> None:
    assert "\x1b" not in as_text([Finding("a\x1b[2J", OK, "b\x1b[2J\nc", "d\x1b[2J")])


def leaks(text: str) -> bool:
    """Whether any eight characters of the key are in it."""
    return any(KEY[i : i + 8] in text for i in range(len(KEY) - 7))


@pytest.mark.parametrize(
    ("line", "mode"),
    [(f"ANTHROPIC_API_KEY={KEY}", 0o600), (f"ANTHROPIC_API_KEY={KEY}", 0o644),
     (f"ANTHROPIC_API_KEY={KEY} {KEY}", 0o600), (f"{KEY}", 0o600),
     (f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_AUTH_TOKEN={KEY}", 0o600),
     (f"ANTHROPIC_BASE_URL=http://me:{KEY}@127.0.0.1:9", 0o600), (f"ANTHROPIC_BASE_URL={KEY}", 0o600)],
)  # fmt: skip
def test_nothing_of_the_key_is_ever_shown(
    subject: Subject, line: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = subject.home.config / ".env"
    env.touch()
    env.chmod(mode)
    env.write_text(line + "\n")
    monkeypatch.setattr(look, "LOOKS", {k: v for k, v in look.LOOKS.items() if k in {"settings", "key", "model"}})
    subject.offline = True
    findings = examine(subject, lambda text: None)
    assert {"key", "model"} & states(findings).keys()
    assert not leaks(as_text(findings) + json.dumps(record(findings)))
    # The control: the same search finds the key where the doctor does repeat what it read.
    (subject.home.config / "config.toml").write_text(f"{KEY} = 1\n")
    (subject.home.config / "config.toml").chmod(0o600)
    findings = examine(subject, lambda text: None)
    assert leaks(as_text(findings))
    assert leaks(json.dumps(record(findings)))


def test_the_looks_that_wait_for_programs_are_looks() -> None:
    assert look.SELF_BOUNDED.issubset(look.LOOKS)


def test_the_program_that_a_sandbox_runs_tells_its_bounds() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -c 0; ulimit -n 512; {engines.PROGRAM}"], capture_output=True, text=True, check=True
    )
    told = facts(done.stdout)
    assert (told["core"], told["open_files"]) == (0, 512)
    assert told["memory_of_machine"] > 0
