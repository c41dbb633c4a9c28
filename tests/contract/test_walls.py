"""What the agent finds when it looks around: on real engines, each time also with the wall taken away, to prove
that the test would see the leak."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from host.engines.base import find, replacing, without
from host.model import Launch
from runner.protocol import Input
from tests.contract.house import REAL, Edit, Edited, House, Watched

pytestmark = pytest.mark.parametrize("house", REAL, indirect=True)

CANARY = "NCC-k4n4ry"
DEVICES = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx")}


def nothing(launch: Launch) -> Launch:
    return launch


def inside(house: House, command: str, edit: Edit = nothing, **options: object) -> str:
    """What a command of the agent's prints in a sandbox of its own. A weakened one may differ in its claims."""
    return house.start("shell", edit=edit, claims=edit is nothing, **options).run(command)


def with_flags(launch: Launch, *flags: str) -> Launch:
    """The launch with more flags, before the sandbox's own (and inside the lifeline, where there is one)."""
    if "--clearenv" in launch.argv:
        at = launch.argv.index("--as-pid-1", launch.argv.index("--clearenv") - 6)
    else:
        at = launch.argv.index("run") + 1
    return replace(launch, argv=(*launch.argv[:at], *flags, *launch.argv[at:]))


def unfiltered(launch: Launch) -> Launch:
    """A container without a system call filter: podman's is named, and docker's is its own."""
    own = next((item for item in launch.argv if item.startswith("seccomp=")), "")
    launch = replacing(launch, ("--security-opt", own), ()) if own else launch
    return with_flags(launch, "--security-opt", "seccomp=unconfined")


# --- what it is told ----------------------------------------------------------------------------------


def test_its_environment_holds_three_values_and_none_of_the_host_s(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", CANARY)  # one that engines' programs are given
    show = "tr '\\0' '\\n' < /proc/1/environ"
    seen = inside(house, show, seal=False, checks={"dumpable": 0, "core_limit": 0})
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert {"PATH", "LANG", "HOME"} <= names <= {"PATH", "LANG", "HOME", "HOSTNAME", "PWD"}

    def leaky(launch: Launch) -> Launch:
        return with_flags(launch, "-e", "LOGNAME") if house.containers else without(launch, "--clearenv")

    assert CANARY in inside(house, show, leaky, seal=False, checks={"dumpable": 0, "core_limit": 0})


def test_the_docker_program_s_proxy_settings_stay_outside(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if house.engine.name != "docker":
        pytest.skip("only docker's program has such settings")
    proxies = {"default": {"httpProxy": f"http://me:{CANARY}@proxy:1", "noProxy": CANARY}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    show = {"seal": False, "checks": {"dumpable": 0, "core_limit": 0}}
    assert CANARY not in inside(house, "cat /proc/1/environ", **show)

    def leaky(launch: Launch) -> Launch:
        for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
            launch = replacing(launch, ("-e", name), ())
        return launch

    assert CANARY in inside(house, "cat /proc/1/environ", leaky, **show)


def test_no_descriptor_of_the_host_s_is_inherited(house: House, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text(CANARY)
    # Pipes are the runner's own; what else process 1 has open is shown with its content.
    show = (
        "for f in /proc/1/fd/*; do t=$(readlink $f); "
        "case $t in ''|pipe:*|/dev/null) ;; *) echo $t; head -c 20 $f;; esac; done"
    )
    unsealed = {"seal": False, "checks": {"dumpable": 0, "core_limit": 0}}
    handle = os.open(tmp_path / "canary", os.O_RDONLY)
    try:
        os.set_inheritable(handle, True)
        assert inside(house, show, **unsealed) == ""
    finally:
        os.close(handle)
    if house.containers:
        return  # its container is not a child of ours: there is no way to have it inherit one

    def leaky(launch: Launch) -> Launch:
        return replace(launch, inputs=(*launch.inputs, CANARY.encode()))  # an input that nothing reads and closes

    assert CANARY in inside(house, show, leaky, **unsealed)


def test_no_host_path_is_in_a_command_line(house: House) -> None:
    if house.containers:
        pytest.skip("the container's command line is the engine's own, and holds none")
    show = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"

    def look(edit: Edit) -> tuple[str, str]:
        w = house.start("shell", edit=edit)
        seen = w.run(show)
        assert w.sandbox._process is not None
        outside = Path(f"/proc/{w.sandbox._process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return seen, outside

    def inline(launch: Launch) -> Launch:
        options = launch.inputs[0].decode().split("\0")[:-1]
        return replacing(launch, ("--args", "{fd:0}"), options)

    here = str(house.folder)
    seen, outside = look(nothing)
    assert here not in seen + outside
    assert here in look(inline)[1]


def test_the_machine_s_name_and_its_resolver_are_not_told(house: House) -> None:
    seen = inside(house, "hostname; cat /etc/resolv.conf")
    assert seen.splitlines()[0] == "nanoclaw"
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        if line.startswith(("nameserver", "search", "domain")):
            assert line not in seen


# --- what it may do -----------------------------------------------------------------------------------


def test_hello_is_the_same_on_every_engine(house: House) -> None:
    w = house.start_with(house.spec(), house.engine, house.image.build)  # the image's own runner
    w.wait_ready()
    assert w.sandbox.hello is not None
    checks = w.sandbox.hello.checks
    expected = {
        "pid": 1, "uid": w.sandbox.spec.uid, "gid": w.sandbox.spec.gid, "dumpable": 0, "cap_eff": 0, "cap_bnd": 0,
        "no_new_privs": 1, "seccomp": 2, "core_limit": 0, "interfaces": 0, "fsize_limit": 64 << 20,
    }  # fmt: skip
    assert checks.items() >= expected.items()


def test_it_is_nobody_and_stays_so(house: House) -> None:
    seen = inside(house, "id -u; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status")
    lines = dict(line.split(":\t") for line in seen.splitlines()[1:])
    assert seen.splitlines()[0] != "0"
    assert {lines[name].strip("0") for name in lines if name.startswith("Cap")} == {""}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
    assert lines["Groups"].split() in ([], [seen.splitlines()[0]])  # docker lists the user's own group


def test_a_weaker_sandbox_is_noticed_at_hello(house: House) -> None:
    """The host's comparison is itself a wall: each of these is a control left out."""
    edits: dict[str, Edit] = {"seccomp": lambda launch: without(launch, "--seccomp", values=1)}
    if house.containers:
        edits = {
            "seccomp": unfiltered,
            "cap_": lambda launch: replacing(launch, ("--cap-drop", "ALL"), ()),
            "no_new_privs": lambda launch: replacing(launch, ("--security-opt", "no-new-privileges"), ()),
            "interfaces": lambda launch: replacing(launch, ("--network", "none"), ("--network", "host")),
        }
        if house.engine.name == "docker" or find("catatonit"):  # podman brings no init of its own
            edits["pid"] = lambda launch: replacing(launch, ("--init=false",), ("--init",))
    for word, edit in edits.items():
        gone = house.start("shell", edit=edit).wait_gone()
        assert gone.kind == "hello", word
        assert word in gone.message


def test_user_namespaces_and_mounts_are_refused(house: House) -> None:
    ask = "unshare -Ur true && echo made; mount -t tmpfs x /mnt && echo mounted; setpriv --help > /dev/null; echo end"
    seen = inside(house, ask)
    assert "made" not in seen and "mounted" not in seen and "end" in seen

    def leaky(launch: Launch) -> Launch:
        if house.containers:
            return unfiltered(launch)
        launch = without(launch, "--seccomp", values=1)
        return without(launch, "--disable-userns") if "--disable-userns" in launch.argv else launch

    assert "made" in inside(house, ask, leaky)


def test_the_file_system_is_read_only_but_for_its_places(house: House) -> None:
    show = (
        "find / -xdev -writable -not -type l -not -path '/proc/*' 2>/dev/null; "
        "find /dev /workspace -maxdepth 1 -type d -writable"
    )
    flags = "awk '$5 == \"/\" { print $6 }' /proc/self/mountinfo"
    assert inside(house, f"{flags}; touch /x /etc/x /opt/nanoclaw/x /workspace/x /dev/x 2>&1").count("Read-only") >= 4
    writable = set(inside(house, show).split())
    assert {p for p in writable if not p.startswith("/dev/")} <= {"/workspace/group", "/tmp"}
    assert {p for p in writable if p.startswith("/dev/")} <= {"/dev/shm", "/dev/mqueue", "/dev/pts"} | DEVICES

    def leaky(launch: Launch) -> Launch:
        if house.containers:
            return without(launch, "--read-only")
        return replace(launch, inputs=(launch.inputs[0].replace(b"--ro-bind", b"--bind", 1), *launch.inputs[1:]))

    assert inside(house, flags).startswith("ro")
    assert inside(house, flags, leaky).startswith("rw")


def test_what_is_written_in_tmp_cannot_be_run(house: House) -> None:
    run = "cp /bin/true /tmp/t && /tmp/t && echo ran"
    seen = inside(house, run)
    if not house.containers:
        assert "noexec /tmp" in house.engine.probe().missing  # said aloud, because it is so
        assert "ran" in seen
        return
    assert "ran" not in seen
    size = house.resources.tmp_bytes
    old = f"/tmp:rw,noexec,nosuid,nodev,size={size}"
    leaky = inside(house, run, lambda launch: replacing(launch, (old,), (old.replace("noexec", "exec"),)))
    assert "ran" in leaky


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of this machine's loopback, which the sandbox must not reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_there_is_no_network(house: House, listener: int) -> None:
    ask = (
        "tail -n +3 /proc/net/dev | cut -d: -f1; "
        f"timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{listener}' && echo connected"
    )
    seen = inside(house, ask)
    assert "connected" not in seen
    assert seen.split()[0] == "lo"

    def leaky(launch: Launch) -> Launch:
        if house.containers:
            return replacing(launch, ("--network", "none"), ("--network", "host"))
        return without(launch, "--unshare-net")

    assert "connected" in inside(house, ask, leaky, checks={"interfaces": 0})


def test_odd_sockets_and_new_calls_are_refused(house: House) -> None:
    ask = (
        'python3 -c "\nimport socket, ctypes, os\nfor f in (17, 38, 40, 31):\n'
        " try: socket.socket(f, 3 if f == 17 else 5 if f == 38 else 1); print('made', f)\n except OSError: pass\n"
        'ctypes.CDLL(None).syscall(425, 1, None); print(len(socket.if_nameindex()))"'
    )
    seen = inside(house, ask)
    assert seen.split()[-1].isdigit()
    if house.containers:
        return  # its profile is docker's, of whatever version, and allows some of these
    assert "made" not in seen
    assert "made" in inside(house, ask, lambda launch: without(launch, "--seccomp", values=1))


# --- what of the runner it can touch --------------------------------------------------------------------


def test_the_pipe_and_the_memory_of_process_1_are_closed_to_it(house: House) -> None:
    ask = "timeout 3 head -c 8 /proc/1/fd/0; : < /proc/1/mem && echo opened; ls /proc/1/fd > /dev/null && echo listed"
    seen = inside(house, ask)
    assert "opened" not in seen and "listed" not in seen and "frame" not in seen

    w = house.start("shell", seal=False, checks={"dumpable": 0, "core_limit": 0})
    w.hand_over(ask)
    # After the runner has read its payload, and before the thief's time is up.
    house.loop.call_later(1, lambda: w.sandbox.send(Input("meant for the runner")))
    w.until(lambda: w.frames)
    stolen = str(w.frames[0])
    assert "opened" in stolen and "listed" in stolen
    if house.containers:  # bwrap passes our own pipe on; where the host is root, others may not open it
        assert "frame" in stolen


def test_process_1_cannot_be_killed_from_inside(house: House) -> None:
    w = house.start("shell")
    assert w.run("kill -9 1; kill -TERM 1; kill -SEGV 1; echo tried").endswith("tried\n")
    assert w.run("echo still here") == "still here\n"
    sleeper = w.run("sleep 100 > /dev/null & kill -9 $!; wait $!; echo $?")
    assert sleeper.split()[-1] == "137"  # such a signal does kill what is not process 1


def test_an_agent_s_modules_do_not_run_in_the_next_turn_s_runner(house: House) -> None:
    group = house.mount("group").source
    for name in ("json", "ctypes", "resource", "sitecustomize", "usercustomize"):
        (group / f"{name}.py").write_text("open('/workspace/group/ran', 'w').write(__name__)\nraise SystemExit(9)\n")
    isolated = ("/usr/bin/python3", "-I", "-S", "-B")

    def tempted(launch: Launch) -> Launch:
        if house.containers:
            flags, after = ("-e", "PYTHONPATH=/workspace/group"), "run"
        else:
            flags, after = ("--setenv", "PYTHONPATH", "/workspace/group"), "--clearenv"  # type: ignore[assignment]
        at = launch.argv.index(after) + 1
        return replace(launch, argv=(*launch.argv[:at], *flags, *launch.argv[at:]))

    w = house.start_with(house.spec(), Edited(house.engine, tempted), house.image.build)
    w.wait_ready()
    w.sandbox.stop("seen enough", 0)
    w.wait_gone()
    assert not (group / "ran").exists()
    bare = Edited(house.engine, lambda launch: replacing(tempted(launch), isolated, isolated[:1]))
    house.start_with(house.spec(), bare, house.image.build).wait_gone()
    assert (group / "ran").exists()


def test_a_crash_leaves_no_core(house: House) -> None:
    unsealed = {"seal": False, "checks": {"dumpable": 0, "core_limit": 0}}
    assert inside(house, "ulimit -Hc", **unsealed).strip() == "0"
    old, new = (("core=0",), ("core=1048576",)) if house.containers else (("--core=0",), ("--core=1048576",))
    assert inside(house, "ulimit -Hc", lambda launch: replacing(launch, old, new), **unsealed).strip() not in {"0", ""}


def test_nothing_it_says_is_logged_by_the_engine(house: House) -> None:
    if not house.containers:
        pytest.skip("bubblewrap has no logs")

    def logged(edit: Edit) -> str:
        w: Watched = house.start("shell", edit=edit)
        w.run(f"echo {CANARY}")
        # The engine's own program, asked as the sandbox was asked for: podman may have a store of ours.
        argv = house.engine.launch(w.sandbox.spec).argv
        question = (*argv[: argv.index("run")], "logs", w.sandbox.spec.name)
        return subprocess.run(question, capture_output=True, text=True, timeout=20, check=False).stdout

    driver = "json-file" if house.engine.name == "docker" else "k8s-file"
    assert CANARY not in logged(nothing)
    assert CANARY in logged(lambda launch: replacing(launch, ("--log-driver", "none"), ("--log-driver", driver)))
