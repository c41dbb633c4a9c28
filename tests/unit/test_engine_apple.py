"""Apple's `container` as data: what it would be told, what is made of its answers, and what it cannot be told."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host import hello
from host.engines import apple, base
from host.engines.base import Answer
from host.engines.bubblewrap import Bubblewrap
from host.engines.docker import Docker
from host.errors import EngineError
from host.model import Mount, Resources
from runner.protocol import VERSION, Hello
from tests.fakes.home import FakeHome
from tests.unit.test_engines import IMAGE, Program, a_mount, a_spec, pairs

RUNNING = {"status": "running", "apiServerVersion": "container-apiserver version 1.2.2 (build: release, commit: abc)"}
STATUS = ["system", "status", "--format", "json"]
LIST = ["list", "--all", "--format", "json"]


def status(**changes: Any) -> tuple[list[str], int, str, str]:
    return (STATUS, 0, json.dumps({**RUNNING, **changes}), "")


def a_container(name: str, install: str = "x") -> dict[str, Any]:
    return {"configuration": {"id": name, "labels": {base.LABEL: install}}, "status": {"state": "running"}}


# --- what it is told --------------------------------------------------------------------------------------


def test_the_command_line_is_the_one_that_was_argued_for() -> None:
    spec = a_spec(a_mount(readonly=True), proxy=True)
    argv = apple.run_argv(spec, processors=8)
    assert argv[:3] == ("container", "run", "--interactive")
    for flag, value in {
        "--name": "nanoclaw-x-1", "--label": "nanoclaw.install=x", "--uid": "1234", "--gid": "5678",
        "--cap-drop": "ALL", "--network": "none", "--memory": "1024M", "--cpus": "2", "--progress": "none",
        "--workdir": "/workspace/group",
    }.items():  # fmt: skip
        assert pairs(argv, flag) == [value], flag
    assert pairs(argv, "--ulimit") == ["nproc=256", "core=0", f"fsize={1 << 30}", "nofile=4096"]
    assert pairs(argv, "--mount") == [
        "type=tmpfs,target=/tmp,size=256M,mode=1777",
        "type=bind,source=/data/groups/main,target=/workspace/group,readonly",
    ]
    assert {"--rm", "--read-only", "--no-dns"} <= set(argv)
    assert not {"-v", "--volume", "--tty", "-t", "--init", "--ssh", "--publish", "--entrypoint", "--user"} & set(argv)
    at = argv.index(f"nanoclaw.invalid/sandbox:{'c' * 64}")
    assert argv[at + 1 :] == ("/usr/bin/setpriv", "--no-new-privs", *base.start_command(spec))


def test_its_environment_holds_three_variables_each_with_its_value() -> None:
    values = pairs(apple.run_argv(a_spec()), "--env")
    assert [value.partition("=")[0] for value in values] == ["PATH", "LANG", "HOME"]
    assert all("=" in value for value in values)  # a name alone would be inherited


@pytest.mark.parametrize(("wanted", "there", "given"), [(2.0, 8, "2"), (1.9, 8, "1"), (1.0, 1, "1"), (64.0, 8, "8")])
def test_processors_are_whole_and_no_more_than_there_are(wanted: float, there: int, given: str) -> None:
    assert pairs(apple.bounds(Resources(cpus=wanted), there), "--cpus") == [given]


def test_less_than_a_processor_is_refused_and_not_rounded_up() -> None:
    with pytest.raises(EngineError, match=r"whole processors.* 0\.99 of one"):
        apple.run_argv(a_spec(resources=Resources(cpus=0.99)))


def test_memory_is_rounded_downwards() -> None:
    r = Resources(memory_bytes=(300 << 20) + 1000, tmp_bytes=100)
    assert pairs(apple.bounds(r, 4), "--memory") == ["300M"]
    assert "size=1M" in pairs(apple.run_argv(a_spec(resources=r)), "--mount")[0]


@pytest.mark.parametrize(
    "source", ["/plain", '/say "hi"', "/new\nline", "/co:lon", "/sp ace", "/ü", "/'", "/a;b", "/\\"]
)
def test_a_mount_says_its_path_as_it_is(source: str) -> None:
    value = apple.mount_value(a_mount(source))
    assert value == f"type=bind,source={source},target=/workspace/group"
    assert dict(part.split("=") for part in value.split(","))["source"] == source


@pytest.mark.parametrize(
    "source",
    ["/a,b", "/a,source=/etc", "/a=b", "/,", "/a,readonly", "/a,", "/a\0b", "/broken-\udcff", "relative", ""],
)
def test_a_path_that_cannot_be_said_is_refused(source: str) -> None:
    mount = replace(a_mount(), source=Path(source))
    with pytest.raises(EngineError, match="cannot be told to mount"):
        apple.run_argv(a_spec(mount))


def test_a_place_inside_that_cannot_be_said_is_refused() -> None:
    with pytest.raises(EngineError, match="cannot be told to mount"):
        apple.mount_value(Mount(Path("/fine"), "/workspace/extra/a,b", True, (1, 2)))


def test_the_log_of_a_refused_path_holds_no_raw_line() -> None:
    with pytest.raises(EngineError) as caught:
        apple.mount_value(a_mount("/a,\n\x1b[31m"))
    assert str(caught.value).isprintable()


# --- probing ----------------------------------------------------------------------------------------------


def an_engine(folder: Path, *answers: tuple[list[str], int, str, str]) -> tuple[apple.Apple, Program]:
    program = Program(folder, *answers)
    return apple.Apple(str(program.path), macos="26.1"), program


def test_a_probe_tells_the_version_and_what_is_not_enforced(tmp_path: Path) -> None:
    engine, program = an_engine(tmp_path, status())
    found = engine.probe()
    assert (found.engine, found.version) == ("container", "1.2.2")
    assert set(found.missing) == {"mount comparison", "no log on disk", "system call filter", "noexec /tmp"}
    assert [call["argv"] for call in program.calls] == [STATUS]


@pytest.mark.parametrize(
    ("macos", "here"), [("", "this is no Mac"), ("15.7.1", "this is macOS 15.7.1"), ("x", "macOS x")]
)
def test_elsewhere_nothing_of_that_name_is_run(tmp_path: Path, macos: str, here: str) -> None:
    program = Program(tmp_path, status())
    with pytest.raises(EngineError, match="Apple's container runs on macOS 26 or newer") as caught:
        apple.Apple(str(program.path), macos=macos).probe()
    assert here in str(caught.value)
    assert not program.log.exists()


def test_a_mac_without_it_is_told_where_it_comes_from() -> None:
    with pytest.raises(EngineError, match="not installed") as caught:
        apple.Apple("/nowhere/container", macos="26.0").probe()
    assert caught.value.hints


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer(None, "", ""), "did not answer within"),
        (Answer(1, json.dumps({"status": "unregistered"}), ""), "its services are unregistered"),
        (Answer(1, json.dumps({"status": "not running"}), ""), "its services are not running"),
        (Answer(1, json.dumps(RUNNING), ""), "its services are running"),
        (Answer(64, "", "Error: Unknown option '--format'"), "Unknown option"),
        (Answer(0, "not json", ""), "as NanoClaw knows it"),
        (Answer(0, "[]", ""), "as NanoClaw knows it"),
        (Answer(0, '{"status": 5}', ""), "as NanoClaw knows it"),
        (Answer(0, "[" * 100_000, ""), "as NanoClaw knows it"),
        (Answer(0, json.dumps({"status": "running"}), ""), "do not tell their version"),
        (Answer(0, json.dumps({**RUNNING, "apiServerVersion": None}), ""), "do not tell their version"),
        (Answer(0, json.dumps({**RUNNING, "apiServerVersion": "0.12.3"}), ""), "0.12.3 is too old"),
        (Answer(0, json.dumps({"status": "x" * 10_000}), ""), "its services are xxx"),
    ],
)
def test_each_way_of_not_answering_is_told_apart(answer: Answer, word: str) -> None:
    with pytest.raises(EngineError) as caught:
        apple.service_version(answer)
    assert word in str(caught.value)
    assert len(str(caught.value)) < 1000


# --- lists ------------------------------------------------------------------------------------------------


def test_of_all_containers_those_of_this_installation_are_found() -> None:
    mine, yours = a_container("nanoclaw-x-1"), a_container("nanoclaw-y-1", "y")
    plain = {"configuration": {"id": "web", "labels": {}}, "status": {"state": "stopped"}}
    unlabelled = {"configuration": {"id": "nanoclaw-x-2"}, "status": "running", "networks": []}
    assert apple.names_of(json.dumps([yours, mine, plain, unlabelled]), "x") == ["nanoclaw-x-1"]
    assert apple.names_of("[]", "x") == []


@pytest.mark.parametrize(
    "said",
    [
        "", "garbage", "null", "{}", '{"items": []}', "[null]", "[[]]", '["name"]', "[{}]", '[{"configuration": null}]',
        '[{"configuration": {"labels": {}}}]', '[{"configuration": {"id": 5, "labels": {}}}]',
        '[{"configuration": {"id": "a", "labels": []}}]', '[{"configuration": {"id": "a", "labels": null}}]',
        "[" * 100_000, '[{"configuration": {"id": "a", "labels": {}}}',
    ],
)  # fmt: skip
def test_a_list_of_another_shape_is_an_error_and_not_an_empty_one(said: str) -> None:
    with pytest.raises(EngineError, match="in a way that NanoClaw does not know"):
        apple.names_of(said, "x")


@pytest.mark.parametrize("name", ["--all", "-f", "a b", "", "../x", "x" * 200, "a\n"])
def test_a_name_that_would_be_an_option_is_never_said(name: str) -> None:
    assert apple.names_of(json.dumps([a_container(name)]), "x") == []


def test_a_long_list_is_read() -> None:
    others = [a_container(f"nanoclaw-{number}-1", str(number)) for number in range(20_000)]
    assert apple.names_of(json.dumps([*others, a_container("nanoclaw-x-1")]), "x") == ["nanoclaw-x-1"]


def test_orphans_are_killed_before_they_are_removed(tmp_path: Path) -> None:
    both = json.dumps([a_container("a1"), a_container("b2"), a_container("c3", "another")])
    engine, program = an_engine(
        tmp_path, (LIST, 0, both, ""), (["kill"], 1, "", "not running"), (["delete"], 0, "", "")
    )
    assert engine.reap("x") == []  # they are still listed
    assert [call["argv"] for call in program.calls] == [
        LIST, ["kill", "--signal", "KILL", "a1", "b2"], ["delete", "--force", "a1", "b2"], LIST,
    ]  # fmt: skip


def test_where_nothing_was_left_nothing_is_killed(tmp_path: Path) -> None:
    engine, program = an_engine(tmp_path, (LIST, 0, "[]", ""))
    assert engine.reap("x") == []
    assert [call["argv"] for call in program.calls] == [LIST]


def test_services_that_do_not_list_are_an_error(tmp_path: Path) -> None:
    engine, _ = an_engine(tmp_path, (LIST, 1, "", "XPC connection error"))
    with pytest.raises(EngineError, match="XPC connection error"):
        engine.orphans("x")


def test_what_kills_and_removes_one() -> None:
    engine = apple.Apple("/usr/local/bin/container", macos="26.0")
    assert engine.kill("n") == ("/usr/local/bin/container", "kill", "--signal", "KILL", "n")
    assert engine.remove("n") == ("/usr/local/bin/container", "delete", "--force", "n")


# --- the image ----------------------------------------------------------------------------------------------


def inspected(digest: str) -> str:
    return json.dumps([{"id": "1" * 64, "configuration": {}, "variants": [{"digest": digest}]}])


def test_an_image_that_is_there_is_not_loaded_again(tmp_path: Path) -> None:
    engine, program = an_engine(tmp_path, (["image", "inspect"], 0, inspected(IMAGE.manifest), ""))
    engine.load(IMAGE, lambda _: None)
    assert [call["argv"] for call in program.calls] == [["image", "inspect", apple.image_name(IMAGE)]]


def test_an_image_of_the_right_name_and_another_content_is_refused(tmp_path: Path) -> None:
    engine, program = an_engine(
        tmp_path,
        (["image", "inspect"], 0, inspected("sha256:" + "e" * 64), ""),
        (["image", "load"], 0, "a warning\ndocker.io/library/nanoclaw-sandbox:latest\n", ""),
        (["image", "tag"], 0, "", ""),
    )
    with pytest.raises(EngineError, match="but has no sha256:ccc"):
        engine.load(IMAGE, lambda _: None)
    assert [call["argv"][1] for call in program.calls] == ["inspect", "load", "tag", "inspect"]
    assert program.calls[2]["argv"][2:] == ["docker.io/library/nanoclaw-sandbox:latest", apple.image_name(IMAGE)]


@pytest.mark.parametrize(
    "said", ["", "{}", "[]", "[5]", '[{"variants": 5}]', '[{"variants": [5, {}]}]', "[" * 100_000, "[{}, {}]"]
)
def test_an_image_of_another_shape_is_not_ours(said: str) -> None:
    assert apple.digests(said) == set()


def test_services_that_hang_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apple, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(apple.Apple._ask, "__kwdefaults__", {"seconds": 0.2})
    program = Program(tmp_path, hang=["image"])
    with pytest.raises(EngineError, match="did not answer"):
        apple.Apple(str(program.path), macos="26.0").load(IMAGE, lambda _: None)


# --- hello --------------------------------------------------------------------------------------------------


def a_hello(mounts: dict[str, str]) -> Hello:
    checks = {**hello.REQUIRED, "uid": 1234, "gid": 5678}
    return Hello(VERSION, "b", checks, mounts)


def test_numbers_are_compared_where_the_kernel_is_the_same_and_places_everywhere() -> None:
    spec = a_spec(a_mount())
    right, wrong, none = {"/workspace/group": "1:2"}, {"/workspace/group": "3:4"}, dict[str, str]()
    more = {**wrong, "/workspace/extra/more": "5:6"}

    def fault(mounts: dict[str, str], *, same: bool) -> str:
        return hello.fault(a_hello(mounts), spec, "b", {}, frozenset(), same_kernel=same)

    assert not fault(right, same=True)
    assert fault(wrong, same=True)
    assert not fault(wrong, same=False)
    assert fault(none, same=False)
    assert "1 more mounts" in fault(more, same=False)
    assert Docker("docker").verifies_mounts
    assert Bubblewrap("bwrap", root=False).verifies_mounts
    assert not apple.Apple("container", macos="").verifies_mounts


def test_without_memory_files_a_descriptor_is_made_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    fd = base.readable(b"x" * 200_000)
    with os.fdopen(fd, "rb") as file:
        assert file.read() == b"x" * 200_000
        assert not os.get_inheritable(fd)


# --- its log ------------------------------------------------------------------------------------------------


KEY = "ANTHROPIC_API_KEY=sk-canary\n"


@pytest.mark.parametrize(
    ("missing", "accepted", "address", "says"),
    [
        (apple.MISSING, (), "http://127.0.0.1:9", "would be written to this machine's disk"),
        (apple.MISSING, ("no log on disk",), "http://127.0.0.1:9", "you said"),
        (apple.MISSING, (), "https://127.0.0.1:9", "you said"),
        ({}, (), "http://127.0.0.1:9", "you said"),
    ],
)
def test_a_key_that_its_log_would_hold_is_not_handed_over(
    tmp_path: Path, missing: dict[str, str], accepted: tuple[str, ...], address: str, says: str
) -> None:
    home = FakeHome(tmp_path, missing=missing, accept_not_enforced=accepted)
    try:
        (home.home.config / ".env").write_text(f"{KEY}ANTHROPIC_BASE_URL={address}\n")
        home.register("one")
        home.write("one", "hi")
        home.quiet()
        (said,) = home.said("one")
        assert says in said
    finally:
        home.close()


def test_without_a_key_there_is_nothing_to_keep_out_of_it(tmp_path: Path) -> None:
    home = FakeHome(tmp_path, missing=apple.MISSING)
    try:
        home.register("one")
        home.write("one", "hi")
        home.quiet()
        assert "you said" in home.said("one")[0]
    finally:
        home.close()
