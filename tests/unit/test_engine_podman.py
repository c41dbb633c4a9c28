"""podman as data: what is run, what is made of `podman info` and of a trial container, and what is refused."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host.engines import base, docker, podman, podman_here, profile, seccomp
from host.engines.base import Answer
from host.engines.podman_here import Here, Info
from host.errors import EngineError
from tests.unit.test_engines import IMAGE, Program, a_mount, a_spec, pairs

RECORDED = Path(__file__).parent.parent / "fakes" / "podman"
HERE = Here("podman", ("--runtime", "runc"), processes=32768, profile=b"{}")
CGROUPS_2 = {"cgroupVersion": "v2", "cgroupManager": "systemd"}
HELD = {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
TRIAL = podman.TRIAL
V1 = {
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(TRIAL.memory_bytes),
    "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": str(TRIAL.memory_bytes),
    "/sys/fs/cgroup/pids/pids.max": str(TRIAL.processes),
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
}
V2 = {
    "/sys/fs/cgroup/memory.max": str(TRIAL.memory_bytes),
    "/sys/fs/cgroup/memory.swap.max": "0",
    "/sys/fs/cgroup/pids.max": str(TRIAL.processes),
    "/sys/fs/cgroup/cpu.max": "50000 100000",
}


def said(name: str = "rootful", **host: Any) -> dict[str, Any]:
    """What podman 4.3.1 said on a Debian 12 with both versions of cgroups, changed as told."""
    info: dict[str, Any] = json.loads((RECORDED / f"info-{name}-4.3.1.json").read_text())
    info["host"] |= {"kernel": os.uname().release, **host}
    return info


def info(name: str = "rootful", **host: Any) -> Info:
    return podman_here.parse_info(Answer(0, json.dumps(said(name, **host)), ""))


# --- the command line --------------------------------------------------------------------------------------


def test_podman_s_command_line_is_docker_s_but_for_what_was_argued_for() -> None:
    spec = a_spec(a_mount(), a_mount("/a,b", readonly=True), proxy=True)
    ours, theirs = podman.run_argv(spec, HERE), docker.run_argv(spec)
    flags = ours[ours.index("run") + 1 :]
    own = [
        "--read-only-tmpfs=false", "--no-hosts", "--passwd=false", "--unsetenv-all", "--http-proxy=false",
        "--detach-keys=", "--ulimit", "nproc=32768", "--security-opt", "seccomp=/cache/podman-seccomp.json",
    ]  # fmt: skip
    at = flags.index(own[0])
    assert list(flags[at : at + len(own)]) == own
    hidden = [item for name in docker.PROXY_VARIABLES for item in ("-e", name, "-e", name.lower())]
    rest = [*flags[:at], *flags[at + len(own) :]]
    without_proxies = " ".join(theirs[2:]).replace(" " + " ".join(hidden), "")
    assert " ".join(rest) == without_proxies.replace(" " + " ".join(docker.NO_RESOLVER), "")


def test_no_settings_of_podman_s_are_read() -> None:
    argv = podman.run_argv(a_spec(), HERE)
    assert argv[: argv.index("run")] == (
        "/usr/bin/env", "CONTAINERS_CONF=/dev/null", "podman", "--default-mounts-file", "/dev/null",
        "--hooks-dir", "/proc/sys", "--runtime", "runc",
    )  # fmt: skip
    engine = podman.Podman("podman")
    for question in (engine.kill("x"), engine.remove("x")):
        assert question[:2] == podman.NO_SETTINGS
    assert not list(Path("/proc/sys").glob("*.json"))


def test_without_root_the_agent_is_the_user_and_what_no_cgroup_bounds_is_bounded_for_each_process() -> None:
    here = replace(HERE, rootless=True, processes=None, left_out=frozenset(podman_here.CONTROLLERS))
    argv = podman.run_argv(a_spec(), here)
    assert pairs(argv, "--userns") == ["keep-id"]
    assert pairs(argv, "--user") == ["1234:5678"]
    assert not {"--memory", "--memory-swap", "--pids-limit", "--cpus"} & set(argv)
    assert {"nproc=256", f"data={1 << 30}"} <= set(pairs(argv, "--ulimit"))
    bounded = podman.run_argv(a_spec(), replace(here, left_out=frozenset(), processes=99))
    assert {"--memory", "--memory-swap", "--pids-limit", "--cpus"} <= set(bounded)
    assert pairs(bounded, "--ulimit")[-1] == "nproc=99"


def test_where_labels_are_enforced_they_are_not_written_onto_the_user_s_folders() -> None:
    argv = podman.run_argv(a_spec(a_mount()), replace(HERE, selinux=True))
    assert "label=disable" in pairs(argv, "--security-opt")
    assert not any(item.endswith((",z", ",Z")) for item in argv)


def test_nothing_is_removed_politely() -> None:
    remove = podman.Podman("podman").remove("x")
    assert remove[-7:] == ("rm", "--force", "--time", "0", "--volumes", "--ignore", "x")


# --- the system call filter --------------------------------------------------------------------------------

OWN = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read", "unshare", "clone", "clone3", "keyctl"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}


def test_what_bubblewrap_s_filter_refuses_podman_s_refuses_too() -> None:
    made = json.loads(profile.strict(OWN))
    allowed = [rule for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    assert [rule["names"] for rule in allowed] == [["read"], ["clone"]]
    assert allowed[1]["args"] == [
        {"index": 0, "value": seccomp.NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    ]
    refused = {name for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO" for name in rule["names"]}
    assert refused == profile.JUDGED
    assert made["archMap"] == [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}]
    assert made["defaultAction"] == "SCMP_ACT_ERRNO"


def test_without_a_profile_of_podman_s_the_refused_are_named_alone() -> None:
    made = json.loads(profile.strict(None))
    assert made["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in made["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert sum(profile.NAMESPACES) == seccomp.NAMESPACE_FLAGS


def test_the_filter_lies_beside_the_image_and_is_renewed(tmp_path: Path) -> None:
    image = replace(IMAGE, archive=tmp_path / "image.tar")
    written = podman.filter_file(image)
    podman._write_filter(replace(HERE, profile=b"one"), image)
    podman._write_filter(replace(HERE, profile=b"two"), image)
    assert written.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [written]
    podman._write_filter(replace(HERE, profile=b""), image)  # none to be had: the flag is left out
    assert "seccomp=" not in " ".join(podman.run_argv(a_spec(), replace(HERE, profile=b"")))
    with pytest.raises(EngineError, match="cannot write"):
        podman._write_filter(HERE, replace(IMAGE, archive=tmp_path / "nowhere" / "image.tar"))


# --- what podman says of itself ------------------------------------------------------------------------------


def test_what_was_recorded_is_understood() -> None:
    rootful, rootless = info(), info("rootless")
    assert (rootful.rootless, rootful.cgroups, rootful.driver, rootful.user) == (False, "v1", "overlay", (1000, 1000))
    assert {"memory", "pids", "cpu"} <= rootful.controllers
    assert (rootless.rootless, rootless.controllers, rootless.driver) == (True, frozenset(), "vfs")
    assert (rootless.user, rootless.ids) == ((1001, 1001), 65537)
    for one in (rootful, rootless):
        podman_here.refuse_unusable(one)
        assert one.filters_calls


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(None, "", ""), "did not answer"),
        (Answer(125, "", "Error: cannot setup namespace using newuidmap: exec: not found"), "does not work: .*newuid"),
        (Answer(1, "", "Error: something else"), "does not work: Error: something else"),
        (Answer(0, "garbage", ""), "cannot be read"),
        (Answer(0, "[]", ""), "cannot be read"),
        (Answer(0, '{"host": {}}', ""), "cannot be read"),
        (Answer(0, json.dumps({**said("rootless"), "store": None}), ""), "cannot be read"),
        (Answer(0, json.dumps(said("rootless", idMappings={"uidmap": [{"size": 1}]})), ""), "cannot be read"),
        (Answer(0, json.dumps(said("rootless", idMappings={"uidmap": []})), ""), "cannot be read"),
    ],
)
def test_each_way_of_not_working_is_told_apart(answer: Answer, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        podman_here.parse_info(answer)
    assert caught.value.hints


ALONE = {"uidmap": [{"container_id": 0, "host_id": 1001, "size": 1}],
         "gidmap": [{"container_id": 0, "host_id": 1001, "size": 1}]}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (info(serviceIsRemote=True), "another machine"),
        (info(kernel="6.6-linuxkit"), "another machine"),
        (info("rootless", idMappings=ALONE), "no user numbers"),
        (replace(info(), version="4.2.9"), "too old"),
        (replace(info(), version="3.4.4"), "too old"),
        (replace(info(), version="what"), "too old"),
    ],
)
def test_podmans_that_cannot_keep_the_promises_are_refused(found: Info, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        podman_here.refuse_unusable(found)
    podman_here.refuse_unusable(replace(info(), version="10.0.0-rc1"))


def test_another_runtime_is_tried_after_podman_s_own() -> None:
    found = info()
    assert podman_here.runtimes(found, lambda name: f"/bin/{name}") == ["/usr/bin/runc", "/bin/crun"]
    assert podman_here.runtimes(found, lambda name: None) == ["/usr/bin/runc"]


def test_a_store_that_copies_is_not_used() -> None:
    assert podman_here.own_storage(info()) == ()
    assert podman_here.own_storage(info("rootless")) == (
        "--root", "/home/someone/.local/share/containers/nanoclaw", "--runroot", "/tmp/podman-run-1001/nanoclaw",
        "--storage-driver", "overlay",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "left_out"),
    [
        (info(), set()),
        (info(cgroupControllers=["cpu", "pids"]), {"memory limit"}),  # a Raspberry Pi
        (info("rootless"), {"memory limit", "process limit", "cpu limit"}),
        (info("rootless", cgroupControllers=["memory", "pids", "cpu"]), {"memory limit", "process limit", "cpu limit"}),
        (info("rootless", **CGROUPS_2, cgroupControllers=["memory", "pids"]), {"cpu limit"}),
        (info("rootless", **CGROUPS_2, cgroupControllers=None), {"memory limit", "process limit", "cpu limit"}),
    ],
)
def test_limits_that_podman_cannot_set_are_not_asked_for(found: Info, left_out: set[str]) -> None:
    assert podman_here.settle(found, "podman", (), "runc").left_out == left_out


def test_the_number_of_processes_is_the_user_s_where_no_cgroup_holds_it() -> None:
    new, old = info("rootless", kernel="6.1.0-18-amd64"), info("rootless", kernel="4.18.0-500.el8")
    assert podman_here.settle(new, "podman", (), "runc").processes is None
    # Counted for all that the user runs, it would stop the sandbox from starting anything.
    assert podman_here.settle(old, "podman", (), "runc").processes == podman_here.most_processes()
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    assert 0 < podman_here.most_processes() <= (1 << 22 if hard == resource.RLIM_INFINITY else hard)


def test_how_podman_is_told_what_its_settings_said() -> None:
    here = podman_here.settle(info(), "podman", ("--root", "/r"), "/usr/bin/crun")
    assert here.options == (
        "--root", "/r", "--runtime", "/usr/bin/crun", "--cgroup-manager", "cgroupfs", "--conmon", "/usr/bin/conmon",
    )  # fmt: skip


# --- what the trial container tells --------------------------------------------------------------------------


def shown(seen: dict[str, str]) -> str:
    return "".join(f"{'' if '/' in k else '/proc/self/status:'}{k}:{v}\n" for k, v in seen.items())


def test_the_trial_is_started_as_a_sandbox_is(tmp_path: Path) -> None:
    mounts = podman_here.furnish(tmp_path / "root")
    spec = a_spec(image=replace(IMAGE, id="IMAGE"))
    argv = podman.run_argv(spec, HERE)
    trial = podman_here.trial_argv(argv, "/trial/root", mounts)
    at = argv.index("IMAGE")
    assert trial[:at] == argv[:at]
    assert all("readonly" in value for value in pairs(mounts, "--mount"))
    assert trial[at + len(mounts) :][:2] == ("--rootfs", "/trial/root")
    assert (tmp_path / "root" / "usr").is_dir()


@pytest.mark.parametrize(("limits", "cgroups"), [(V1, "v1"), (V2, "v2")])
def test_what_is_read_back_is_what_holds(limits: dict[str, str], cgroups: str) -> None:
    seen = podman_here.read_back(Answer(2, shown({**HELD, **limits}), "grep: no such file"))
    found = info(cgroupVersion=cgroups)
    assert podman_here.missing_controls(found, HERE, seen, TRIAL) == {}
    order = ["memory limit", "swap limit", "process limit", "cpu limit"]
    for path, control in zip(limits, order, strict=True):
        unlimited = "-1" if path.endswith("quota_us") else "max"
        for told in ({**seen, path: unlimited}, {name: value for name, value in seen.items() if name != path}):
            missing = podman_here.missing_controls(found, HERE, told, TRIAL)
            assert list(missing) == [control]
            assert missing[control]


def test_a_sandbox_without_a_filter_is_told() -> None:
    seen = {**HELD, **V1, "Seccomp": "0"}
    assert list(podman_here.missing_controls(info(), HERE, seen, TRIAL)) == ["system call filter"]
    unable = info(security={**said()["host"]["security"], "seccompEnabled": False})
    assert list(podman_here.missing_controls(unable, HERE, {**HELD, **V1}, TRIAL)) == ["system call filter"]
    assert podman_here.settle(unable, "podman", (), "runc").profile == b""


def test_without_root_and_cgroups_it_is_said_what_is_left() -> None:
    found = info("rootless")
    here = podman_here.settle(found, "podman", (), "runc")
    missing = podman_here.missing_controls(found, replace(here, processes=None), HELD, TRIAL)
    assert list(missing) == ["memory limit", "cpu limit"]
    assert missing["memory limit"].startswith("only each process is bounded")
    missing = podman_here.missing_controls(found, replace(here, processes=99), HELD, TRIAL)
    assert list(missing) == ["memory limit", "process limit", "cpu limit"]
    newer = info("rootless", **CGROUPS_2, cgroupControllers=["memory", "pids"])
    here = podman_here.settle(newer, "podman", (), "crun")
    missing = podman_here.missing_controls(newer, here, {**HELD, **V2}, TRIAL)
    assert list(missing) == ["cpu limit"]
    assert "delegated" in missing["cpu limit"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(126, "", "Error: runc create failed: error setting rlimit type 6: operation not permitted"), "rlimit"),
        (Answer(0, "", ""), "do not hold: CapEff, CapBnd, NoNewPrivs"),
        (Answer(0, shown({**HELD, "NoNewPrivs": "0"}), ""), "do not hold: NoNewPrivs"),
        (Answer(0, shown({**HELD, "CapBnd": "00000000a80425fb"}), ""), "do not hold: CapBnd"),
    ],
)
def test_a_trial_that_is_not_held_is_no_sandbox(answer: Answer, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        podman_here.read_back(answer)


# --- a program that answers as podman does -------------------------------------------------------------------

RUN = [*podman.GLOBAL, "--runtime", "/usr/bin/runc", "--cgroup-manager", "cgroupfs", "--conmon", "/usr/bin/conmon"]
INFO = (["info"], 0, json.dumps(said()), "")


def test_probe_starts_a_container_and_says_what_holds_it(tmp_path: Path) -> None:
    program = Program(tmp_path, INFO, ([*RUN, "run"], 2, shown({**HELD, **V1}), ""))
    engine = podman.Podman(str(program.path))
    found = engine.probe()
    assert (found.engine, found.version, found.missing) == ("podman", "4.3.1", {})
    assert engine.claims(a_spec()) == {"fsize_limit": 1 << 30, "seccomp": 2}
    assert "CONTAINERS_CONF" not in program.calls[0]["env"]  # what the settings say is asked once, and then told
    assert "CONTAINERS_CONF" in program.calls[1]["env"]
    assert set(program.calls[1]["env"]) - {"CONTAINERS_CONF", "LC_CTYPE", "PWD", "SHLVL", "_"} <= base.PASSED_ON


def test_the_second_runtime_is_taken_where_the_first_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_here, "runtimes", lambda info, find: ["/usr/bin/runc", "/bin/other"])
    second = [*podman.GLOBAL, "--runtime", "/bin/other"]
    broken = ([*RUN, "run"], 126, "", "Error: crun: refuses this machine")
    program = Program(tmp_path, INFO, broken, (second, 0, shown({**HELD, **V1}), ""))
    engine = podman.Podman(str(program.path))
    engine.probe()
    assert "/bin/other" in engine.launch(a_spec()).argv
    program = Program(tmp_path, INFO, broken, (second, 126, "", "Error: this one too"))
    with pytest.raises(EngineError, match="crun: refuses this machine"):
        podman.Podman(str(program.path)).probe()


def test_a_trial_that_hangs_is_given_up_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "PROBE_SECONDS", 2.0)
    monkeypatch.setattr(podman_here, "runtimes", lambda info, find: ["/usr/bin/runc"])
    program = Program(tmp_path, INFO, ([*RUN, "rm"], 0, "", ""), hang=[*RUN, "run"])
    with pytest.raises(EngineError, match="did not start a sandbox within"):
        podman.Podman(str(program.path)).probe()
    started, removed = program.calls[1]["argv"], program.calls[2]["argv"]
    assert removed[len(RUN)] == "rm"
    assert removed[-1] == started[started.index("--name") + 1]


def test_podman_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not installed") as caught:
        podman.Podman(str(tmp_path / "nowhere")).probe()
    assert caught.value.hints


def test_an_image_is_known_by_its_id_alone(tmp_path: Path) -> None:
    image = replace(IMAGE, archive=tmp_path / "image.tar")
    bare = image.id.removeprefix("sha256:")
    program = Program(tmp_path, ([*podman.GLOBAL, "image", "inspect"], 0, bare + "\n", ""))
    podman.Podman(str(program.path)).load(image, lambda _: None)
    assert [call["argv"][-1] for call in program.calls] == [image.id]
    other = Program(tmp_path, ([*podman.GLOBAL, "image", "inspect"], 0, "b" * 64 + "\n", ""),
                    ([*podman.GLOBAL, "load"], 0, "Loaded image: another", ""))  # fmt: skip
    with pytest.raises(EngineError, match="Loaded image: another"):
        podman.Podman(str(other.path)).load(image, lambda _: None)
    failing = Program(tmp_path, ([*podman.GLOBAL, "load"], 125, "", "Error: no space left on device"))
    with pytest.raises(EngineError, match="no space left"):
        podman.Podman(str(failing.path)).load(image, lambda _: None)


def test_orphans_and_reaping(tmp_path: Path) -> None:
    ps = [*podman.GLOBAL, "ps", "--all", "--filter", "label=nanoclaw.install=x"]
    program = Program(tmp_path, (ps, 0, "one\ntwo\n", ""), ([*podman.GLOBAL, "rm"], 0, "", ""))
    engine = podman.Podman(str(program.path))
    assert engine.orphans("x") == ["one", "two"]
    assert engine.reap("x") == []  # the fake still lists them: they are not claimed to be gone
    (removal,) = [call["argv"] for call in program.calls if "rm" in call["argv"]]
    assert removal[len(podman.GLOBAL) :] == ["rm", "--force", "--time", "0", "--volumes", "--ignore", "one", "two"]
    with pytest.raises(EngineError, match="does not list"):
        podman.Podman(str(Program(tmp_path).path)).orphans("x")
