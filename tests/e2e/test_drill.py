"""The drill on the engines of this machine: everything is held, and what is taken away is seen to be gone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host import asking, mounts, policy, words
from host.allowlist import TARGET, Allowlist, Verdict
from host.drill import Outcome, Plan, run, traps
from host.drill.probes import PROBES
from host.drill.words import HELD, NOT_ENFORCED, NOT_HELD, NOT_TESTED
from host.engines.base import replacing, without
from host.engines.choice import choose
from host.model import Image, Launch, Resources
from host.pool import identity
from host.store import tasks
from tests.conftest import require_engine
from tests.e2e.cli import ROOT, SOURCE, nanoclaw

ENGINES = ("docker", "bubblewrap")
WHOLE = (*ENGINES, "podman")
"""The engines that the whole drill is held on."""
CANARY = "NCC-0123456789abcdef"
Tamper = Callable[[Launch], Launch]


def drill(name: str, image: Image, folder: Path, tamper: Tamper, *ids: str) -> dict[str, Outcome]:
    """The outcomes of some probes in an installation that was tampered with."""
    require_engine(name)
    probes = tuple(probe for probe in PROBES if probe.id in ids and (not probe.engines or name in probe.engines))
    plan = Plan(image, folder, Resources(), probes, tamper, CANARY)
    return {outcome.probe: outcome for outcome in run([choose(name)], plan)}


def not_held(outcomes: dict[str, Outcome]) -> set[str]:
    untested = {name: o.evidence for name, o in outcomes.items() if o.status == NOT_TESTED}
    assert not untested
    return {name for name, outcome in outcomes.items() if outcome.status == NOT_HELD}


# --- as it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_everything_is_held(name: str, image: Image, home: Path) -> None:
    require_engine(name)
    done = nanoclaw(home, name, "drill", "--json", seconds=300)
    assert done.stdout, done.stderr
    record = json.loads(done.stdout)
    outcomes = [Outcome(**outcome) for outcome in record["outcomes"]]
    assert not [o for o in outcomes if o.status == NOT_HELD], done.stderr
    assert done.returncode == 0
    assert record["engine"] == name
    assert sum(o.status == HELD for o in outcomes) >= 140
    assert {o.promise for o in outcomes if o.status == HELD} == {"P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9"}
    # A bomb needs room, one folder only root may see, only root can mount a file system, and without it nobody can be
    # given devices or folders by their number: nothing else is left out.
    excused = {"memory-bomb", "engine-files", "make-device", "file-handle", "mount-within"}
    # Not even root of a podman without root may change the kernel's settings, so that nothing is seen there either.
    excused |= {"sysctl"} if name == "podman" and os.getuid() != 0 else set()
    assert {o.probe for o in outcomes if o.status == NOT_TESTED} <= excused
    assert name != "docker" or not [o for o in outcomes if o.status == NOT_ENFORCED]
    assert not list((home / "data").glob("drill-*")), "the drill's own folder is left"


def test_one_promise_is_a_table_for_people(image: Image, home: Path) -> None:
    require_engine("bubblewrap")
    done = nanoclaw(home, "bubblewrap", "drill", "--only", "P9")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["promise", "probe", "result", "evidence"]
    assert [line.split()[:3] for line in lines if line.startswith("P9")] == [
        ["P9", probe.id, HELD] for probe in PROBES if probe.promise == "P9"
    ]
    assert "6 held" in lines[-1]
    assert "scene" in done.stderr
    assert done.returncode == 0


def test_a_promise_that_there_is_not(image: Image, home: Path) -> None:
    done = nanoclaw(home, "auto", "drill", "--only", "P77")
    assert done.returncode == 2
    assert "hint: promises: P1" in done.stderr


# --- with a control taken away: the probe must turn -----------------------------------------------------


def option(launch: Launch, *items: str) -> Launch:
    at = launch.argv.index("run") + 1
    return Launch((*launch.argv[:at], *items, *launch.argv[at:]), launch.inputs)


def without_item(launch: Launch, start: str) -> Launch:
    kept = tuple(item for item in launch.argv if not item.startswith(start))
    assert kept != launch.argv
    return Launch(kept, launch.inputs)


DOCKER: dict[str, tuple[Tamper, set[str]]] = {
    "json-file logs": (lambda x: replacing(x, ["--log-driver", "none"], ["--log-driver", "json-file"]), {"engine-log"}),
    "no bound on processes": (lambda x: without(x, "--pids-limit", 1), {"processes-bounded", "fork-bomb"}),
    "no bound on memory": (
        lambda x: without(without(x, "--memory", 1), "--memory-swap", 1),
        {"memory-bounded", "memory-bomb"},
    ),
    "programs in /tmp": (lambda x: Launch(tuple(i.replace("noexec,", "exec,") for i in x.argv)), {"run-from-tmp"}),
    "the key in the environment": (
        lambda x: option(x, "-e", f"API_KEY={CANARY}"),
        {"engine-metadata", "host-processes"},  # and not the shell's: the runner gives tools a clean one
    ),
    "root, and a root that can be written": (
        lambda x: option(without(without(x, "--user", 1), "--read-only"), "--user", "0:0"),
        {"uid", "write-system"},
    ),
    "the host's network": (
        lambda x: without(
            without(without(replacing(x, ["--network", "none"], ["--network", "host"]), "--hostname", 1), "--dns", 1),
            "--dns-search",
            1,
        ),
        {"interfaces", "host-tcp", "host-udp", "host-abstract-socket"},
    ),
    "an init": (lambda x: replacing(x, ["--init=false"], ["--init"]), {"steal-input", "forge-output"}),
    "no filter of system calls": (lambda x: option(x, "--security-opt", "seccomp=unconfined"), {"system-calls"}),
}

BUBBLEWRAP: dict[str, tuple[Tamper, set[str]]] = {
    "no bound on processes": (lambda x: without_item(x, "--nproc="), {"processes-bounded", "fork-bomb"}),
    "no bound on file size": (lambda x: without_item(x, "--fsize="), {"file-size-bounded", "big-file"}),
    "the host's network": (
        lambda x: without(x, "--unshare-net"),
        {"interfaces", "host-tcp", "host-udp", "host-abstract-socket"},
    ),
    "no filter of system calls": (lambda x: without(x, "--seccomp", 1), {"system-calls"}),
}
# Looked at in every case, and to be held in every case: a probe that always fails would prove nothing either.
STEADY = {"read-memory", "sysctl", "engine-socket"}

CASES = [("docker", what, *case) for what, case in DOCKER.items()]
CASES += [("bubblewrap", what, *case) for what, case in BUBBLEWRAP.items()]


@pytest.mark.parametrize(("name", "what", "tamper", "turned"), CASES, ids=[f"{n}: {w}" for n, w, _, _ in CASES])
def test_what_is_taken_away_is_missed(
    name: str, what: str, tamper: Tamper, turned: set[str], image: Image, tmp_path: Path
) -> None:
    outcomes = drill(name, image, tmp_path / "drill", tamper, *turned, *STEADY)
    assert not_held(outcomes) == turned & outcomes.keys()


def bind(launch: Launch, source: Path, target: str) -> Launch:
    """The launch with one more folder mounted."""
    if not launch.inputs:
        return option(launch, "--mount", f'type=bind,"source={source}",target={target},readonly')
    more = b"".join(os.fsencode(item) + b"\0" for item in ("--ro-bind", str(source), target))
    return Launch(launch.argv, (launch.inputs[0] + more, *launch.inputs[1:]))


@pytest.mark.parametrize("name", ENGINES)
def test_a_folder_too_many_is_seen(name: str, image: Image, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes").write_text("NCG-0123456789abcdef\n")
    outcomes = drill(
        name, image, tmp_path / "drill", lambda x: bind(x, tmp_path, "/srv"), "other-group", "other-mounts"
    )
    assert not_held(outcomes) == {"other-group", "other-mounts"}


@pytest.mark.parametrize("name", ENGINES)
def test_a_runner_that_left_itself_open_and_lies_about_it_is_found_out(name: str, image: Image, tmp_path: Path) -> None:
    runner = copy_of_runner(tmp_path)
    patch(runner / "__main__.py", "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)", "pass")
    patch(runner / "seal.py", '"dumpable": ctypes', '"dumpable": 0 and ctypes')
    ids = ("read-memory", "forge-output", "steal-input", "sysctl")
    outcomes = drill(name, image, tmp_path / "drill", lambda x: bind(x, runner, "/opt/nanoclaw/runner"), *ids)
    assert "read-memory" in not_held(outcomes)
    assert outcomes["sysctl"].status == HELD


def test_a_python_that_looks_into_the_groups_folder_is_found_out(image: Image, tmp_path: Path) -> None:
    def tamper(launch: Launch) -> Launch:
        return option(without(launch, "-I"), "-e", "PYTHONPATH=/workspace/group")

    outcomes = drill("docker", image, tmp_path / "drill", tamper, "planted-modules", "left-in-tmp")
    assert "planted-modules" in {n for n, o in outcomes.items() if o.status == NOT_HELD}


# --- with a decision taken away ---------------------------------------------------------------------------

POWERS = {probe.id for probe in PROBES if probe.id.startswith("asks-")}
VILLAGE = "bubblewrap"
"""The decisions are the host's: which engine asks for them makes no difference."""


def untampered(launch: Launch) -> Launch:
    return launch


def test_a_policy_that_lets_everyone_is_found_out(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAY", dict.fromkeys(policy.MAY, (policy.Scope.ANY, policy.Scope.ANY)))
    wanted = {*POWERS, "changed-by-asking", "neighbour-tasks", "unknown-requests"}
    outcomes = drill(VILLAGE, image, tmp_path / "drill", untampered, *wanted)
    turned = {name for name, outcome in outcomes.items() if outcome.status == NOT_HELD}
    assert turned == wanted - {"unknown-requests"}


def test_an_allowlist_that_nobody_asks_is_found_out(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = mounts.judge

    def trusting(allowlist: Allowlist, path: str, *, name: str, rw: bool, **rest: Any) -> Verdict:
        # Where a name leads elsewhere, and where more is mounted than the folder itself, the comparison finds out.
        if "/" in name or path == "/proc" or name == "within":
            return judge(allowlist, path, name=name, rw=rw, **rest)
        real = Path(path).resolve()
        return Verdict(True, "why not", str(real), TARGET + name, not rw, identity(real))

    monkeypatch.setattr(mounts, "judge", trusting)
    kept = {"mount-odd-name", "mount-odd-target", "mount-kernel", "mount-not-asked", "mount-within"}
    wanted = {probe.id for probe in PROBES if probe.scene == "shelf"}
    outcomes = drill(VILLAGE, image, tmp_path / "drill", untampered, *wanted)
    assert {name for name, outcome in outcomes.items() if outcome.status == NOT_HELD} == wanted - kept


def test_no_bound_on_processes_is_seen_where_the_system_has_one_for_every_user(image: Image, home: Path) -> None:
    """As with 1 GB of memory: the control is a sandbox with no other bound than that."""
    require_engine("bubblewrap")
    small = ("prlimit", "--nproc=3000:3000", *SOURCE)
    done = nanoclaw(home, "bubblewrap", "drill", "--only", "processes-bounded", "--json", program=small)
    assert [outcome["status"] for outcome in json.loads(done.stdout)["outcomes"]] == [HELD], done.stdout


@pytest.mark.parametrize("name", ENGINES)
def test_a_neighbours_folder_is_seen(name: str, image: Image, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    def shared(launch: Launch) -> Launch:
        """The sandboxes of `left` get the folder of `right`, once there is one, at a place that no hello is compared
        for."""
        told = " ".join([*launch.argv, *(os.fsdecode(data).replace("\0", " ") for data in launch.inputs[:1])])
        found = re.search(r"[^ \"=]*/village/data/groups/(?=left\b)", told)
        right = Path(found[0] if found else "", "right")
        return bind(launch, right, "/srv") if found and right.is_dir() else launch

    wanted = ("neighbour-files", "neighbour-memory", "neighbour-inbox", "neighbour-messages", "two-at-once")
    outcomes = drill(name, image, tmp_path / "drill", shared, *wanted)
    assert not_held(outcomes) == {"neighbour-files", "neighbour-memory", "two-at-once"}


def test_a_host_without_caps_is_found_out(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, cap in ((words, "MAX_SAYS"), (asking, "MAX_CALLS"), (words, "MAX_TRANSCRIPT_BYTES"),
                        (tasks, "MAX_PER_GROUP")):  # fmt: skip
        monkeypatch.setattr(module, cap, 1 << 40)
    wanted = {"says-bounded", "calls-bounded", "entries-bounded", "tasks-bounded"}
    outcomes = drill(VILLAGE, image, tmp_path / "drill", untampered, *wanted, "asks-list-groups")
    assert not_held(outcomes) == wanted


def test_a_host_that_reads_as_one_reads_any_file_is_found_out(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traps, "CAREFUL", traps.CARELESS)
    wanted = {probe.id for probe in PROBES if probe.control == "careless"}
    outcomes = drill(VILLAGE, image, tmp_path / "drill", untampered, *wanted, "sysctl")
    assert not_held(outcomes) == wanted


def copy_of_runner(folder: Path) -> Path:
    copy = folder / "runner"
    shutil.copytree(ROOT / "runner", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for place in (folder, copy):
        place.chmod(0o755)
    for file in copy.iterdir():
        file.chmod(0o644)
    return copy


def patch(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
