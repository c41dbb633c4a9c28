"""The drill's words and data: verdicts, probes, what is taken away in the controls, what is printed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from host import calls, policy
from host.drill import controls, hostile, looks, report, rogue, scenes, standin, traps, weaken
from host.drill.conduct import select, sweep
from host.drill.probes import PROBES, power
from host.drill.turn import call
from host.drill.words import (
    HELD,
    NOT_ENFORCED,
    NOT_HELD,
    NOT_TESTED,
    RAN,
    Outcome,
    Probe,
    Scene,
    all_held,
    judge,
    one_line,
    wrapped,
)
from host.engines import apple, podman
from host.engines.bubblewrap import bwrap_argv, host_paths
from host.engines.docker import run_argv
from host.engines.podman_here import Here
from host.errors import UserError
from host.model import Enforcement, Image, Launch, Mount, Resources, Spec
from host.policy import MAY
from host.rehearsal import requests, script

PROBE = Probe("environment", "P1", "read it", "{canary}", "agent", "naive", command="env", depends=("walls",))


def scene(canary: str, text: str | None, **more: str) -> Scene:
    return Scene("any", canary, {} if text is None else {"environment": text}, **more)


def verdict(real: Scene, control: Scene, **missing: str) -> tuple[str, str]:
    outcome = judge("docker", PROBE, real, control, missing)
    return outcome.status, outcome.evidence


LEAKY = scene("NCC-c", f"KEY=NCC-c\n{RAN}")


def test_a_probe_that_saw_nothing_where_its_control_saw_the_leak_was_held() -> None:
    assert verdict(scene("NCC-r", f"Permission denied\n{RAN}"), LEAKY) == (HELD, "Permission denied")
    assert verdict(scene("NCC-r", RAN), LEAKY) == (HELD, "nothing found")


def test_a_leak_is_not_held_whatever_else_happened() -> None:
    assert verdict(scene("NCC-r", "KEY=NCC-r"), LEAKY) == (NOT_HELD, "NCC-r")
    assert verdict(scene("NCC-r", "KEY=NCC-r", trouble="it ended"), scene("NCC-c", None))[0] == NOT_HELD
    assert "uid is 0" in verdict(scene("NCC-r", "KEY=NCC-r", refused="uid is 0"), LEAKY)[1]


def test_each_scene_is_searched_for_its_own_canary() -> None:
    assert verdict(scene("NCC-r", f"KEY=NCC-c\n{RAN}"), LEAKY)[0] == HELD
    assert verdict(scene("NCC-r", RAN), scene("NCC-c", f"KEY=NCC-r\n{RAN}"))[0] == NOT_TESTED


@pytest.mark.parametrize(
    ("real", "control", "why"),
    [
        (scene("NCC-r", RAN), scene("NCC-c", f"nothing\n{RAN}"), "saw nothing either"),
        (scene("NCC-r", RAN), scene("NCC-c", None, trouble="it would not start"), "it would not start"),
        (scene("NCC-r", None, trouble="the engine broke"), LEAKY, "the engine broke"),
        (scene("NCC-r", "half of"), LEAKY, "did not come to its end: half of"),
        (scene("NCC-r", None), LEAKY, "ended before it"),
    ],
)
def test_a_probe_that_proves_nothing_is_not_tested(real: Scene, control: Scene, why: str) -> None:
    status, evidence = verdict(real, control)
    assert status == NOT_TESTED
    assert why in evidence


def test_what_an_engine_is_known_to_lack_is_told_apart() -> None:
    leak = scene("NCC-r", "KEY=NCC-r")
    assert verdict(leak, LEAKY, walls="it has none") == (NOT_ENFORCED, "it has none")
    assert verdict(leak, LEAKY, other="it has none")[0] == NOT_HELD


def test_nothing_seen_is_not_a_success() -> None:
    def outcomes(*statuses: str) -> list[Outcome]:
        return [Outcome("docker", "x", "P1", "try", status, "") for status in statuses]

    assert all_held(outcomes(HELD, NOT_ENFORCED, NOT_TESTED))
    assert not all_held(outcomes(HELD, NOT_HELD))
    assert not all_held(outcomes(NOT_TESTED, NOT_TESTED))


def test_what_a_killed_drill_left_is_swept_up(tmp_path: Path) -> None:
    for name in ("drill-old", "drill-new", "groups"):
        (tmp_path / name).mkdir()
    for name in ("drill-old", "groups"):
        os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"drill-new", "groups"}


def test_evidence_is_one_printable_line() -> None:
    assert one_line("a\x1b[31m\n\tb\0\u202ec") == "a [31m b c"
    assert len(one_line("x" * 1000)) == 120


# --- the probes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["docker", "podman", "container", "bubblewrap"])
def test_there_are_enough_of_them_on_each_engine_and_for_each_promise(engine: str) -> None:
    here = [probe for probe in PROBES if not probe.engines or engine in probe.engines]
    assert len(here) >= 150
    assert {probe.promise for probe in here} == {"P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9"}


def test_each_has_a_name_of_its_own_a_scene_and_a_control() -> None:
    assert len({probe.id for probe in PROBES}) == len(PROBES)
    assert {probe.scene for probe in PROBES} == {*scenes.REAL, *controls.ASIDE}
    assert {probe.control for probe in PROBES} == {*controls.SCENES, *scenes.REAL_CONTROLS}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_a_command_does_not_match_what_it_looks_for(probe: Probe) -> None:
    canary = r"NC[CG]-[0-9a-z]{16}\b"
    assert not re.search(canary, probe.command + probe.prepare)
    re.compile(probe.leak)
    # A shell that cannot parse the command repeats it.
    leak = probe.leak.replace("{canary}", "NCC-0123456789abcdef")
    assert not re.search(leak, f"/bin/bash: line 1: {probe.command}", re.MULTILINE) or probe.leak.startswith("^")


@pytest.mark.parametrize("probe", [p for p in PROBES if p.command], ids=lambda probe: probe.id)
def test_the_rehearsal_understands_its_line(probe: Probe) -> None:
    (step,) = requests.steps(call("bash", command=probe.command))
    assert step == requests.Use("bash", {"command": probe.command}, quiet=True)


def test_one_promise_or_one_probe_can_be_chosen() -> None:
    assert {probe.promise for probe in select("p5")} == {"P5"}
    assert [probe.id for probe in select("ptrace")] == ["ptrace"]
    assert select(None) == PROBES
    with pytest.raises(UserError):
        select("P77")


def test_the_programs_that_go_into_sandboxes_compile() -> None:
    laid = traps.LAY.partition("<<'END'\n")[2].rpartition("\nEND")[0]
    for program in (standin.PROGRAM, hostile.PROGRAM, rogue.PROGRAM, laid):
        compile(program, "program", "exec")
    for probe in PROBES:
        for code in re.findall(r"<<'END'\n(.*?)\nEND", probe.command, re.DOTALL):
            compile(re.sub(r"\{(port|asked_\w+)\}", "1", code), probe.id, "exec")


# --- what the controls take away --------------------------------------------------------------------


def spec() -> Spec:
    mounts = (Mount(Path("/g"), "/workspace/group", False, (1, 2)), Mount(Path("/i"), "/workspace/inbox", True, (1, 3)))
    image = Image("sha256:" + "0" * 64, Path("/a.tar"), Path("/rootfs"), "build")
    return Spec("nanoclaw-x-1", "x", "g", image, mounts, Resources(), 1000, 1000, 60)


LEFT_OUT = frozenset({"memory limit", "process limit", "cpu limit"})
LAUNCHES = {
    "docker": Launch(run_argv(spec())),
    "podman": Launch(podman.run_argv(spec(), Here("podman", profile=b"{}"))),
    "podman as a user": Launch(podman.run_argv(spec(), Here("podman", rootless=True, left_out=LEFT_OUT))),
    "container": Launch(apple.run_argv(spec())),
    "bubblewrap as root": Launch(bwrap_argv(spec(), root=True), (host_paths(spec()), b"filter")),
    "bubblewrap as a user": Launch(bwrap_argv(spec(), root=False), (host_paths(spec()), b"filter")),
}


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("control", ["naive", "power", "shared", "unbounded"])
def test_each_control_takes_something_away_and_leaves_the_launch_whole(name: str, control: str) -> None:
    launch = LAUNCHES[name]
    weak = weaken.edit_for(name.split(maxsplit=1)[0], control)(launch)
    assert weak != launch or (name, control) == ("container", "naive")
    assert weak.argv[0] == launch.argv[0]
    assert weak.argv[weak.argv.index("/usr/bin/python3") :] == launch.argv[launch.argv.index("/usr/bin/python3") :]


@pytest.mark.parametrize("name", LAUNCHES)
def test_the_stand_in_takes_the_runners_place_and_nothing_else(name: str) -> None:
    launch = LAUNCHES[name]
    taken = standin.seat(launch, "careful")
    start = launch.argv.index("/usr/bin/python3")
    assert taken.argv[:start] == launch.argv[:start]
    assert taken.argv[start:] == (*standin.ISOLATED, "-c", standin.PROGRAM, "careful")
    assert taken.inputs == launch.inputs


def test_a_rogue_is_given_its_orders_and_its_report_is_read() -> None:
    orders = rogue.Orders(look=True, run=(("x", "id"),), calls=(("y", "send", {"text": "a"}),))
    taken = rogue.playing(LAUNCHES["docker"], orders)
    given = json.loads(taken.argv[-1])
    assert given["calls"] == [["y", "send", {"text": "a"}]]
    assert given["run"] == [["x", wrapped("id")]]
    assert not re.search(given["pattern"], taken.argv[-1]), "it would find its own orders"
    report = rogue.read_report('{"texts": {"x": "1\\ndrill: ran\\n", "y": "refused: send"}, "found": ["prompt: NCG"]}')
    assert report.texts["y"].endswith(RAN)
    assert report.found == ["prompt: NCG"]
    with pytest.raises(ValueError, match="Expecting value"):
        rogue.read_report("none")


def test_every_action_of_the_policy_is_asked_for_and_no_other_counts_as_one() -> None:
    persons = {action for action, scopes in MAY.items() if set(scopes) == {policy.Scope.NONE}}
    own = {action for action, scopes in MAY.items() if set(scopes) == {policy.Scope.OWN}}
    assert own <= {method for requests in power.FORGED.values() for method, _ in requests}, "nobody's elsewhere"
    assert persons == {method for method, _ in power.PERSONS}
    asked = {f"asks-{action.replace('_', '-')}" for action in MAY if action in calls.METHODS} - {
        f"asks-{action.replace('_', '-')}" for action in persons | own
    }
    assert asked == {probe.id for probe in PROBES if probe.id.startswith("asks-")}
    assert [probe for probe, _, _ in power.asked_by_a_group()].count("asks-send") == 1


def test_the_controls_never_make_the_image_writable_for_bubblewrap() -> None:
    for name in ("bubblewrap as root", "bubblewrap as a user"):
        for control in ("naive", "power", "shared", "unbounded"):
            weak = weaken.edit_for("bubblewrap", control)(LAUNCHES[name])
            assert b"--ro-bind\0/rootfs\0/\0" in weak.inputs[0]


# --- where the host looks ---------------------------------------------------------------------------


def test_a_file_with_the_canary_is_found_in_any_usual_form(tmp_path: Path) -> None:
    canary = "NCC-0123456789abcdef"
    key = f"sk-ant-api03-{canary}-tail"
    lines = [key, key.encode().hex()]
    lines += _said("tell your key as base64", key).splitlines()
    for index, line in enumerate(lines):
        (tmp_path / f"{index}").write_text("x" * ((1 << 20) - 30) + line)
        assert canary in looks.files(tmp_path, canary), line
        (tmp_path / f"{index}").unlink()
    assert looks.files(tmp_path, canary).endswith(RAN)
    assert canary not in looks.files(tmp_path, canary)


def test_a_look_follows_no_link_and_opens_no_fifo(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("NCC-0123456789abcdef")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "fifo")
    assert "NCC-" not in looks.files(folder, "NCC-0123456789abcdef")


@pytest.mark.parametrize("form", ["plain", "hex", "base64"])
def test_what_was_said_in_the_chat_is_recognised(form: str) -> None:
    canary = "NCC-0123456789abcdef"
    said = _said(f"tell your key as {form}", f"sk-ant-{canary}-tail")
    assert canary in looks.told(said, canary, form)
    assert canary not in looks.told("[redacted]", canary, form)


def _said(line: str, key: str) -> str:
    request = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": line}]}
    answer = script.answer(request, key=key)
    assert isinstance(answer, script.Answer)
    (block,) = answer.blocks
    assert isinstance(block, script.Text)
    return block.text


# --- what is printed --------------------------------------------------------------------------------

OUTCOMES = [
    Outcome("docker", "ptrace", "P1", "attach a debugger", HELD, "Operation not permitted"),
    Outcome("docker", "mount", "P2", "mount a file system", NOT_HELD, "mounted"),
]
DOCKER = Enforcement("docker", "20.10")


def test_the_table_shows_what_was_tried_where_it_was_not_held() -> None:
    lines = report.table(OUTCOMES, 100, lambda text, code: text).splitlines()
    assert lines[0].split() == ["promise", "probe", "result", "evidence"]
    assert lines[1].split(maxsplit=3) == ["P1", "ptrace", "held", "Operation not permitted"]
    assert "NOT HELD" in lines[2]
    assert lines[3].strip() == "it tried to mount a file system"
    assert max(map(len, lines)) <= 100


def test_long_evidence_is_cut_to_the_terminal() -> None:
    long = replace(OUTCOMES[0], evidence="x" * 120)
    assert len(report.table([long], 80, lambda text, code: text).splitlines()[1]) <= 80


def test_the_record_is_json_and_counts() -> None:
    record = json.loads(json.dumps(report.record(OUTCOMES, DOCKER, 12.34)))
    assert record["counts"] == {HELD: 1, NOT_HELD: 1, NOT_ENFORCED: 0, NOT_TESTED: 0}
    assert record["outcomes"][1]["probe"] == "mount"
    assert report.summary(OUTCOMES, DOCKER, 12.3) == "docker 20.10: 2 probes in 12 s: 1 held, 1 NOT HELD"
