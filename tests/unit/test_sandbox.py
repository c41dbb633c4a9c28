"""The sandbox actor's decisions, and what a launch becomes: the behaviour on engines is in tests/contract."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.hello import fault
from host.model import Image, Launch, Mount, Resources, Spec
from host.sandbox import explain_exit, spawn
from runner.protocol import VERSION, Hello

CHECKS = {
    "pid": 1, "uid": 1000, "gid": 1000, "dumpable": 0, "cap_eff": 0, "cap_bnd": 0, "no_new_privs": 1, "seccomp": 2,
    "core_limit": 0, "interfaces": 0, "nproc_limit": 256, "as_limit": -1, "fsize_limit": -1,
}  # fmt: skip
SPEC = Spec(
    name="n", install="i", group="main", image=Image("sha256:0", Path("/a"), Path("/b"), "build"),
    mounts=(Mount(Path("/data"), "/workspace/group", False, (5, 77)),), resources=Resources(), uid=1000, gid=1000,
    deadline_seconds=60,
)  # fmt: skip
HELLO = Hello(VERSION, "build", CHECKS, {"/workspace/group": "5:77"})


def judge(untrusted_hello: Hello, spec: Spec = SPEC) -> str:
    """By an engine that filters system calls and has scaffolding of its own."""
    return fault(untrusted_hello, spec, "build", {"seccomp": 2}, frozenset({"/workspace"}))


def test_the_hello_that_was_asked_for() -> None:
    assert judge(HELLO) == ""
    assert judge(replace(HELLO, mounts={**HELLO.mounts, "/workspace": "0:41"})) == ""


@pytest.mark.parametrize("name", ["pid", "uid", "gid", "dumpable", "cap_eff", "cap_bnd", "no_new_privs", "seccomp",
                                  "core_limit", "interfaces"])  # fmt: skip
def test_each_check_counts_and_none_may_be_left_out(name: str) -> None:
    assert name in judge(replace(HELLO, checks={**CHECKS, name: CHECKS[name] + 1}))
    assert f"{name} is not told" in judge(replace(HELLO, checks={k: v for k, v in CHECKS.items() if k != name}))


def test_root_is_refused_even_if_it_was_asked_for() -> None:
    assert "root" in judge(replace(HELLO, checks={**CHECKS, "uid": 0}), replace(SPEC, uid=0))


def test_another_version_or_build() -> None:
    assert "version" in judge(replace(HELLO, version=VERSION + 1))
    assert "build" in judge(replace(HELLO, build="other"))


@pytest.mark.parametrize(
    "mounts",
    [
        {},
        {"/workspace/group": "5:78"},
        {"/workspace/group": "6:77"},
        {"/workspace/group": "5:77 "},
        {"/workspace/group/": "5:77"},
        {"/workspace/group": "5:77", "/workspace/extra/more": "5:77"},
        {"/workspace/group": "5:77", "/workspace/extra": "1:1"},
    ],
)
def test_mounts_are_the_ones_that_were_judged_and_no_more(mounts: dict[str, str]) -> None:
    assert judge(replace(HELLO, mounts=mounts))


@given(
    st.dictionaries(st.sampled_from([*CHECKS, "more"]), st.integers(-2, 2000)),
    st.dictionaries(st.sampled_from(["/workspace/group", "/workspace", "/workspace/extra/x"]), st.text(max_size=6)),
)
def test_nothing_but_the_right_hello_passes(checks: dict[str, int], mounts: dict[str, str]) -> None:
    needed = {k: v for k, v in CHECKS.items() if not k.endswith("_limit") or k == "core_limit"}
    right = checks.items() >= needed.items() and mounts.get("/workspace/group") == "5:77"
    assert (judge(replace(HELLO, checks=checks, mounts=mounts)) == "") <= right


def test_the_end_is_explained_for_a_person() -> None:
    assert explain_exit("starting", 125, "x\ndocker: no space\n", SPEC, "docker") == (
        "engine", "docker did not start the sandbox (status 125): docker: no space",
    )  # fmt: skip
    tail = "docker: Error response: no such folder.\n\nRun 'docker run --help' for more information\n"
    assert explain_exit("starting", 125, tail, SPEC, "docker")[1].endswith("no such folder.")
    assert explain_exit("running", 125, tail, SPEC, "docker")[0] == "engine"
    kind, message = explain_exit("running", 137, "", SPEC, "docker")
    assert kind == "exited"
    assert "1024 MiB of memory" in message
    assert "\x1b" not in explain_exit("running", 1, "\x1b]0;evil\x07" + "x" * 9999, SPEC, "docker")[1]
    assert len(explain_exit("running", 1, "y" * 9999, SPEC, "docker")[1]) < 500


def run_to_end(launch: Launch) -> tuple[bytes, bytes]:
    process, stdin, stdout, stderr = spawn(launch)
    os.close(stdin)
    with os.fdopen(stdout, "rb") as out, os.fdopen(stderr, "rb") as err:
        result = out.read(), err.read()
    process.wait(10)
    return result


def test_inputs_arrive_by_the_descriptors_that_the_argv_names() -> None:
    show = "import os,sys; print(*[os.read(int(n), 99).decode() for n in sys.argv[1:]]); print('err', file=sys.stderr)"
    launch = Launch((sys.executable, "-c", show, "{fd:1}", "{fd:0}"), (b"first", b"second"))
    assert run_to_end(launch) == (b"second first\n", b"err\n")


def test_only_an_argument_that_is_a_place_holder_is_filled_in() -> None:
    launch = Launch((sys.executable, "-c", "import sys; print(sys.argv[1:])", "x{fd:0}", "{fd:0} "), (b"",))
    assert run_to_end(launch)[0] == b"['x{fd:0}', '{fd:0} ']\n"


def test_a_child_inherits_its_pipes_and_inputs_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    show = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[3:-1], sorted(os.environ), os.getcwd())"
    handle = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        out, _ = run_to_end(Launch((sys.executable, "-c", show)))
    finally:
        os.close(handle)
    assert out.startswith(b"[] ")
    assert b"ANTHROPIC" not in out
    assert out.endswith(b" /\n")


def test_it_runs_in_a_session_of_its_own() -> None:
    out, _ = run_to_end(Launch((sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())")))
    assert out == b"True\n"


def test_a_launch_that_fails_leaves_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="nowhere"):
        spawn(Launch(("/nowhere/bwrap",), (b"x",)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
