"""Apple's `container`, on the stand-in in tests/fakes/container: the same contract as on every engine, and where this
one differs. The stand-in keeps to the command reference, and starts its containers for real, by bubblewrap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host.engines.apple import Apple, image_name
from host.engines.base import clean_environment, replacing, sandbox_user, without
from host.errors import EngineError
from host.loop import Loop
from host.model import Image, Launch, Mount, Resources
from runner.protocol import Done, Progress
from tests.conftest import require_engine
from tests.contract import test_limits, test_mounts, test_orphans
from tests.contract.house import INSTALL, House
from tests.contract.test_sandbox import TestSandbox as Contract

PROGRAM = Path(__file__).parent.parent / "fakes" / "container" / "container"
TARGET = "/workspace/extra/one"
CANARY = "NCC-4pp1e"


@pytest.fixture(scope="module")
def mac() -> Iterator[Path]:
    """The home folder of a Mac whose services run."""
    require_engine("bubblewrap")
    home = Path(tempfile.mkdtemp(prefix="nanoclaw-mac-", dir="/var/tmp"))
    subprocess.run([PROGRAM, "system", "start"], env={**os.environ, "HOME": str(home)}, check=True)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def services(mac: Path, image: Image, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the services, which know where the image is unpacked."""
    monkeypatch.setenv("HOME", str(mac))
    folder = mac / "Library" / "Application Support" / "com.apple.container"
    snapshot = folder / "snapshots" / image.manifest.removeprefix("sha256:")
    snapshot.parent.mkdir(exist_ok=True)
    if not snapshot.exists():
        snapshot.symlink_to(image.rootfs)
    return folder


@pytest.fixture
def house(services: Path, loop: Loop, place: Path, image: Image) -> Iterator[House]:
    engine = Apple(str(PROGRAM), macos="26.1")
    engine.load(image, lambda _: None)
    # A user of its own, as in a machine of its own: a process limit counts whatever else that user runs.
    user = (60_000 + os.getpid() % 5000, 60_000) if os.getuid() == 0 else sandbox_user()
    house = House(loop, engine, image, place, user)
    yield house
    house.close()


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )


# --- the contract of every engine -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shared",
    [
        Contract.test_a_turn_from_hello_to_done,
        Contract.test_input_reaches_the_runner_and_stop_ends_it,
        Contract.test_a_payload_of_several_megabytes_arrives_whole,
        Contract.test_a_runner_that_exits_is_reported_with_its_last_words_made_harmless,
        Contract.test_a_runner_that_cannot_start_is_the_engine_s_fault,
        Contract.test_a_flood_without_a_newline_is_cut_at_the_limit,
        Contract.test_of_stderr_only_the_end_is_kept,
        Contract.test_a_runner_that_ignores_everything_is_stopped_all_the_same,
        Contract.test_a_runner_that_does_not_read_cannot_make_the_host_hold_more_than_its_limit,
        Contract.test_the_end_is_reported_though_something_left_behind_holds_the_pipe,
        Contract.test_stop_before_hello,
        Contract.test_stop_while_it_waits,
        Contract.test_a_mount_that_was_not_asked_for_is_refused,
        Contract.test_a_payload_for_one_that_is_not_ready_is_a_bug,
    ],
    ids=lambda test: test.__name__,
)
def test_the_sandbox_s_contract(house: House, shared: Callable[[Contract, House], None]) -> None:
    shared(Contract(), house)


@pytest.mark.parametrize(
    "shared",
    [
        test_mounts.test_a_missing_source_is_refused_and_not_made,
        test_mounts.test_read_only_is_read_only,
        test_mounts.test_links_in_a_folder_lead_nowhere_outside,
        test_limits.test_processes,
        test_limits.test_file_size,
        test_limits.test_tmp,
        test_limits.test_nothing_else_is_memory_to_fill,
        test_orphans.test_the_engine_s_program_killed_ends_the_sandbox,
        test_orphans.test_a_stopped_sandbox_leaves_no_process_of_the_agent_s,
    ],
    ids=lambda test: test.__name__,
)
def test_what_holds_on_every_engine(
    house: House, shared: Callable[[House], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_limits, "SMALL", replace(test_limits.SMALL, cpus=1))  # half of one is refused
    shared(house)


def test_the_image_s_own_runner_is_process_1_and_gains_no_privileges(house: House) -> None:
    w = house.start_with(house.spec(), house.engine, house.image.build)
    w.wait_ready()
    assert w.sandbox.hello is not None
    checks, mounts = w.sandbox.hello.checks, w.sandbox.hello.mounts
    assert (checks["pid"], checks["no_new_privs"], checks["dumpable"], checks["nproc_limit"]) == (1, 1, 0, 256)
    assert mounts.keys() == {"/workspace/group", "/workspace/extra/fakes"}
    w.sandbox.stop("over", 5)
    assert w.wait_gone().kind == "stopped"


@pytest.mark.parametrize(
    "edit",
    [
        lambda launch: replacing(launch, ("--network", "none"), ()),
        lambda launch: replacing(launch, ("--cap-drop", "ALL"), ()),
        lambda launch: without(launch, "--gid", values=1),
        lambda launch: replacing(launch, ("--ulimit", "core=0"), ("--ulimit", "core=1048576")),
        lambda launch: _without_limit(launch, "nproc"),
        lambda launch: _without_limit(launch, "fsize"),
    ],
    ids=["network", "capabilities", "group", "core", "nproc", "fsize"],
)
def test_a_control_that_was_left_out_is_noticed_at_hello(house: House, edit: Callable[[Launch], Launch]) -> None:
    # Unsealed: the runner would see to its core limit itself.
    assert house.start("shell", edit=edit, seal=False, checks={"dumpable": 0}).wait_gone().kind == "hello"
    with_all: dict[str, Any] = {"seal": False, "checks": {"dumpable": 0}}
    assert "fine" in house.start("shell", **with_all).run("echo fine")


def _without_limit(launch: Launch, name: str) -> Launch:
    (value,) = [item for item in launch.argv if item.startswith(f"{name}=")]
    return replacing(launch, ("--ulimit", value), ())


def test_its_environment_holds_three_values_and_none_of_the_host_s(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", CANARY)  # one that the engine's program is given
    unsealed: dict[str, Any] = {"seal": False, "checks": {"dumpable": 0, "core_limit": 0}}
    show = "tr '\\0' '\\n' < /proc/1/environ"
    names = {line.partition("=")[0] for line in house.start("shell", **unsealed).run(show).splitlines()}
    assert {"PATH", "LANG", "HOME"} <= names <= {"PATH", "LANG", "HOME", "PWD"}

    def leaky(launch: Launch) -> Launch:
        return replacing(launch, ("--read-only",), ("--read-only", "--env", "LOGNAME"))

    assert CANARY in house.start("shell", edit=leaky, **unsealed).run(show)


# --- mounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "sp ace", 'say "hi"', "co:lon", "new\nline", "ünï", "-dash", "back\\slash"])
def test_a_folder_of_any_other_name_is_mounted(house: House, name: str) -> None:
    mount = house.mount(name, TARGET)
    (mount.source / "file").write_text(CANARY)
    (mount.source / "file").chmod(0o644)
    assert CANARY in house.start("shell", house.spec(mount)).run(f"cat {TARGET}/file")


def test_a_comma_would_mount_another_folder_and_is_refused(house: House) -> None:
    other = house.mount("other", TARGET)
    (other.source / "file").write_text(CANARY)
    (other.source / "file").chmod(0o644)
    evil = Mount(Path(f"{house.folder}/x,source={other.source}"), TARGET, False, (1, 1))
    evil.source.mkdir(parents=True)
    gone = house.start("shell", house.spec(evil)).wait_gone()
    assert gone.kind == "engine"
    assert "a comma" in gone.message

    def careless(launch: Launch) -> Launch:
        good = f"type=bind,source={other.source},target={TARGET}"
        return replacing(launch, (good,), (f"type=bind,source={evil.source},target={TARGET}",))

    seen = house.start("shell", house.spec(other), careless).run(f"cat {TARGET}/file")
    assert CANARY in seen  # not what was named, but what the second field said


def test_the_numbers_of_another_kernel_are_no_fault_and_a_missing_folder_is(house: House) -> None:
    spec = house.spec()
    elsewhere = {mount.target: "42:4242" for mount in spec.mounts}
    w = house.start("polite", spec, hello={"mounts": elsewhere})
    w.hand_over("hi")
    w.until(lambda: len(w.frames) == 2)
    assert w.frames == [Progress("status", "working"), Done("you said hi", 0)]
    gone = house.start("polite", hello={"mounts": {"/workspace/group": "42:4242"}}).wait_gone()
    assert gone.kind == "hello"
    assert "mount comparison" in house.missing


# --- its log --------------------------------------------------------------------------------------------


def test_what_the_runner_says_is_in_a_file_for_as_long_as_it_lives(house: House, services: Path) -> None:
    w = house.start("echo")
    w.hand_over("the payload " + CANARY)
    log = services / "containers" / w.sandbox.spec.name / "stdio.log"
    house.until(lambda: b"hello" in log.read_bytes())
    assert CANARY not in log.read_text()  # what it is told, the key above all, is not
    assert log.stat().st_mode & 0o777 == 0o644
    assert "no log on disk" in house.missing
    w.sandbox.stop("over", 5)
    w.wait_gone()
    house.until(lambda: not log.exists())


# --- what outlives us -----------------------------------------------------------------------------------


def test_a_killed_host_leaves_no_sandbox(house: House) -> None:
    host = test_orphans.start_in_a_host_of_its_own(house, "shell")
    assert house.processes()
    test_orphans.end(host)
    house.until(lambda: not house.processes(), 10)
    house.until(lambda: house.engine.orphans(INSTALL) == [], 10)


def test_one_that_will_not_leave_is_found_and_reaped(house: House) -> None:
    test_orphans.end(test_orphans.start_in_a_host_of_its_own(house, "ignores_everything"))
    orphans = house.engine.orphans(INSTALL)
    assert len(orphans) == 1
    assert "and can not be deleted" in ask("delete", orphans[0]).stderr  # so it is killed first
    assert house.engine.orphans("another") == []
    assert house.engine.reap("another") == []
    assert house.engine.reap(INSTALL) == orphans
    assert house.engine.orphans(INSTALL) == []
    house.until(lambda: not house.processes(), 5)


def test_created_and_never_started_is_an_orphan_too(house: House) -> None:
    spec = house.spec()
    argv = list(house.engine.launch(spec).argv)
    argv[argv.index("run")] = "create"
    made = ask(*argv[1:])
    assert made.returncode == 0, made.stderr
    assert house.engine.orphans(INSTALL) == [spec.name]
    assert house.engine.reap(INSTALL) == [spec.name]


# --- the image ------------------------------------------------------------------------------------------


def test_the_image_is_kept_under_a_name_that_no_registry_has(house: House, services: Path, image: Image) -> None:
    (answer,) = json.loads(ask("image", "inspect", image_name(image)).stdout)
    assert [each["digest"] for each in answer["variants"]] == [image.manifest]
    gone = replace(image, manifest="sha256:" + "0" * 64)
    refused = house.start("polite", house.spec(image=gone)).wait_gone()
    assert refused.kind == "engine"
    assert "nanoclaw.invalid" in refused.message  # it asks there, and nowhere else


def test_another_image_of_that_name_is_not_taken_for_ours(house: House, image: Image, tmp_path: Path) -> None:
    other = replace(image, manifest="sha256:" + "1" * 64)
    ask("image", "tag", image_name(image), image_name(other))
    with pytest.raises(EngineError, match="has no sha256:1111"):
        house.engine.load(other, lambda _: None)


def test_services_that_do_not_run_are_told_with_what_starts_them(house: House) -> None:
    ask("system", "stop")
    try:
        with pytest.raises(EngineError) as caught:
            house.engine.probe()
        assert caught.value.hints == ("start them: container system start",)
        with pytest.raises(EngineError):
            house.engine.orphans(INSTALL)
    finally:
        ask("system", "start")
    assert house.engine.probe().version == "1.2.2"


# --- the stand-in itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("run", "--pull", "never", "image"), 64),
        (("run", "--pids-limit", "5", "image"), 64),
        (("run", "--security-opt", "no-new-privileges", "image"), 64),
        (("run", "--log-driver", "none", "image"), 64),
        (("run", "--cpus", "0.5", "nanoclaw.invalid/none"), 1),
        (("run", "-v", "/a:/b", "image"), 70),
        (("run", "--interactive=yes", "image"), 64),
        (("run", "--name"), 64),
        (("ps",), 64),
        (("list", "--filter", "label=a"), 64),
        (("system", "info"), 64),
        (("--debug", "list"), 64),
        (("kill",), 1),
        (("delete", "nothing"), 1),
        (("image", "inspect", "nothing"), 1),
        (("image", "load", "--input", "/nowhere"), 1),
    ],
)
def test_the_stand_in_refuses_what_the_reference_does_not_have(
    services: Path, arguments: tuple[str, ...], status: int
) -> None:
    answer = ask(*arguments)
    assert answer.returncode == status
    assert answer.stderr.startswith("Error: ")


def test_options_behind_the_image_are_the_container_s_own(house: House) -> None:
    def moved(launch: Launch) -> Launch:
        launch = replacing(launch, ("--network", "none"), ())
        at = launch.argv.index(image_name(house.image)) + 1
        return replace(launch, argv=(*launch.argv[:at], "--network", "none", *launch.argv[at:]))

    assert house.start("shell", edit=moved).wait_gone().kind == "engine"


def test_half_a_processor_is_refused(house: House) -> None:
    gone = house.start("shell", house.spec(resources=Resources(cpus=0.5))).wait_gone()
    assert gone.kind == "engine"
    assert "whole processors" in gone.message
