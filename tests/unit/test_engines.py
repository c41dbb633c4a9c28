"""Engines as data: what they would run, what they make of an engine's answers, and that no question hangs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from host.engines import base, bubblewrap, choice, docker, oci
from host.errors import EngineError, UserError
from host.model import Image, Launch, Mount, Resources, Spec

FAKE = Path(__file__).parent.parent / "fakes" / "engine_program.py"
IMAGE = Image("sha256:" + "a" * 64, Path("/cache/image.tar"), Path("/cache/rootfs"), "b", "sha256:" + "c" * 64)
INFO = {
    "ServerVersion": "20.10.24",
    "KernelVersion": os.uname().release,
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
}


START = ["--unshare-ipc"]
STATUS = f"CapEff:\t{'0' * 16}\nNoNewPrivs:\t1\nSeccomp:\t2\n"


def a_spec(*mounts: Mount, **changes: Any) -> Spec:
    values: dict[str, Any] = {
        "name": "nanoclaw-x-1", "install": "x", "group": "main", "image": IMAGE, "mounts": mounts,
        "resources": Resources(), "uid": 1234, "gid": 5678, "deadline_seconds": 60,
    }  # fmt: skip
    return Spec(**{**values, **changes})


def a_mount(source: str = "/data/groups/main", readonly: bool = False) -> Mount:
    return Mount(Path(source), "/workspace/group", readonly, (1, 2))


class Program:
    """A fake engine program and what it was asked."""

    def __init__(self, folder: Path, *answers: tuple[list[str], int, str, str], hang: list[str] | None = None) -> None:
        self.path = folder / "engine"
        shutil.copy(FAKE, self.path)
        self.path.write_text(f"#!{sys.executable}\n" + self.path.read_text())
        self.path.chmod(0o755)
        self.log = folder / "log"
        script = {"answers": answers, "log": str(self.log), "hang": hang or ["-"]}
        self.path.with_suffix(".json").write_text(json.dumps(script))

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


# --- docker ---------------------------------------------------------------------------------------------


def pairs(argv: tuple[str, ...], flag: str) -> list[str]:
    return [argv[i + 1] for i, item in enumerate(argv) if item == flag]


def test_docker_s_command_line_is_the_one_that_was_argued_for() -> None:
    argv = docker.run_argv(a_spec(a_mount(), proxy=True))
    assert argv[:3] == ("docker", "run", "-i")
    for flag, value in {
        "--pull": "never", "--user": "1234:5678", "--cap-drop": "ALL", "--security-opt": "no-new-privileges",
        "--network": "none", "--ipc": "private", "--log-driver": "none", "--pids-limit": "256",
        "--memory": str(1 << 30), "--memory-swap": str(1 << 30), "--label": "nanoclaw.install=x",
        "--workdir": "/workspace/group", "--stop-timeout": "2",
        "--tmpfs": f"/tmp:rw,noexec,nosuid,nodev,size={256 << 20}",
    }.items():  # fmt: skip
        assert pairs(argv, flag) == [value], flag
    assert pairs(argv, "--ulimit") == ["core=0", f"fsize={1 << 30}", "nofile=4096"]
    assert {"--rm", "--read-only", "--init=false"} <= set(argv)
    assert not {"-v", "--volume", "--privileged", "-t", "--init", "--entrypoint"} & set(argv)
    at = argv.index(IMAGE.id)
    assert argv[at + 1 :] == (
        "/usr/bin/python3", "-I", "-S", "-B", "/opt/nanoclaw/runner/__main__.py", "--deadline", "60", "--proxy",
    )  # fmt: skip


def test_docker_s_environment_holds_no_values_but_three_and_hides_the_proxies() -> None:
    values = pairs(docker.run_argv(a_spec()), "-e")
    assert [v for v in values if "=" in v] == [
        "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp/home",
    ]  # fmt: skip
    assert {"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} <= set(values)


def test_docker_is_never_asked_for_more_cpus_than_there_are() -> None:
    argv = docker.run_argv(a_spec(resources=Resources(cpus=1000.0)))
    assert float(pairs(argv, "--cpus")[0]) == os.cpu_count()
    argv = docker.run_argv(a_spec(resources=Resources(cpus=0.5)))
    assert pairs(argv, "--cpus") == ["0.5"]


@pytest.mark.parametrize(
    "source",
    ["/plain", "/a,b", '/say "hi"', "/a,target=/etc,readonly", "/new\nline", "/co:lon", "/equal=s", '/",x="'],
)
def test_a_mount_says_its_path_and_no_other_field(source: str) -> None:
    (fields,) = csv.reader([oci.mount_value(a_mount(source, readonly=True))], strict=True)
    assert fields == [
        "type=bind", f"source={source}", "target=/workspace/group", "bind-propagation=rprivate",
        "bind-nonrecursive=true", "readonly",
    ]  # fmt: skip


def test_a_mount_is_writable_only_where_it_is_meant_to_be() -> None:
    assert "readonly" not in oci.mount_value(a_mount())


def test_probe_reads_limits_back(tmp_path: Path) -> None:
    program = Program(tmp_path, (["info"], 0, json.dumps(INFO), ""))
    found = docker.Docker(str(program.path)).probe()
    assert (found.engine, found.version, found.missing) == ("docker", "20.10.24", {})
    for field, control in {
        "MemoryLimit": "memory limit", "SwapLimit": "swap limit", "PidsLimit": "process limit",
        "CpuCfsQuota": "cpu limit", "SecurityOptions": "system call filter",
    }.items():  # fmt: skip
        missing = docker.missing_controls({**INFO, field: None})
        assert list(missing) == [control]
    unconfined = {**INFO, "SecurityOptions": ["name=seccomp,profile=unconfined"]}
    assert "system call filter" in docker.missing_controls(unconfined)


def test_a_daemon_without_a_filter_is_not_expected_to_have_one(tmp_path: Path) -> None:
    program = Program(tmp_path, (["info"], 0, json.dumps({**INFO, "SecurityOptions": []}), ""))
    engine = docker.Docker(str(program.path))
    assert engine.claims(a_spec())["seccomp"] == 2
    engine.probe()
    assert "seccomp" not in engine.claims(a_spec())


def test_a_new_docker_is_told_in_its_own_words(tmp_path: Path) -> None:
    program = Program(tmp_path, (["info"], 0, json.dumps({**INFO, "ClientInfo": {"Version": "28.2.2"}}), ""))
    engine = docker.Docker(str(program.path))
    engine.probe()
    (value,) = pairs(engine.launch(a_spec(a_mount())).argv, "--mount")
    assert "bind-recursive=disabled" in value
    assert "nonrecursive" not in value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((["info"], 1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?"),
         "does not answer: Cannot connect"),
        ((["info"], 1, '{"ServerErrors": ["Cannot connect to the Docker daemon"]}', ""), "does not answer: Cannot"),
        ((["info"], 1, "", "Got permission denied while trying to connect to the Docker daemon socket"),
         "may not use its socket"),
        ((["info"], 0, "garbage", ""), "does not answer"),
        ((["info"], 0, "[]", ""), "does not answer"),
        ((["info"], 0, json.dumps({**INFO, "KernelVersion": "6.6-linuxkit"}), ""), "another machine"),
        ((["info"], 0, json.dumps({**INFO, "SecurityOptions": ["name=rootless"]}), ""), "rootless"),
        ((["info"], 0, json.dumps({**INFO, "SecurityOptions": ["name=userns"]}), ""), "userns-remap"),
    ],
)  # fmt: skip
def test_each_way_of_not_working_is_told_apart(
    tmp_path: Path, answer: tuple[list[str], int, str, str], words: str
) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        docker.Docker(str(Program(tmp_path, answer).path)).probe()
    assert caught.value.hints


def test_docker_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not installed") as caught:
        docker.Docker(str(tmp_path / "nowhere")).probe()
    assert caught.value.hints


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "PROBE_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(EngineError, match="did not answer within"):
        docker.Docker(str(Program(tmp_path, hang=["info"]).path)).probe()
    assert time.monotonic() - started < 5


def test_an_image_that_is_there_is_not_loaded_again(tmp_path: Path) -> None:
    program = Program(tmp_path, (["image", "inspect"], 0, IMAGE.id + "\n", ""))
    docker.Docker(str(program.path)).load(IMAGE, lambda _: None)
    assert [call["argv"][0] for call in program.calls] == ["image"]


def test_a_daemon_that_knows_the_image_by_its_manifest_is_asked_for_that(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        (["image", "inspect", "--format", "{{.Id}}", IMAGE.id], 1, "", "No such image"),
        (["image", "inspect", "--format", "{{.Id}}", IMAGE.manifest], 0, IMAGE.manifest + "\n", ""),
    )
    engine = docker.Docker(str(program.path))
    engine.load(IMAGE, lambda _: None)
    assert IMAGE.manifest in engine.launch(a_spec()).argv


def test_loading_is_verified_by_the_id_and_shown(tmp_path: Path) -> None:
    no = (["image", "inspect"], 1, "", "No such image")
    program = Program(tmp_path, no, (["load", "--input", str(IMAGE.archive)], 0, "Loaded image ID: sha256:other", ""))
    said: list[str] = []
    with pytest.raises(EngineError, match="Loaded image ID: sha256:other"):
        docker.Docker(str(program.path)).load(IMAGE, said.append)
    assert said
    program = Program(tmp_path, no, (["load"], 1, "", "no space left on device"))
    with pytest.raises(EngineError, match="no space left"):
        docker.Docker(str(program.path)).load(IMAGE, said.append)


def test_orphans_and_reaping(tmp_path: Path) -> None:
    program = Program(tmp_path, (["ps"], 0, "one\ntwo\n", ""), (["rm"], 0, "", ""))
    engine = docker.Docker(str(program.path))
    assert engine.orphans("x") == ["one", "two"]
    assert engine.reap("x") == []  # the fake still lists them: they are not claimed to be gone
    removal = [call["argv"] for call in program.calls if call["argv"][0] == "rm"]
    assert removal == [["rm", "--force", "--volumes", "one", "two"]]
    assert program.calls[0]["argv"] == [
        "ps", "--all", "--filter", "label=nanoclaw.install=x", "--format", "{{.Names}}",
    ]  # fmt: skip


def test_the_engine_s_program_is_told_nothing_that_is_not_its_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "LD_LIBRARY_PATH", "_MEIPASS2", "HTTP_PROXY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere")
    program = Program(tmp_path, (["ps"], 0, "", ""))
    docker.Docker(str(program.path)).orphans("x")
    seen = set(program.calls[0]["env"])
    assert "DOCKER_HOST" in seen
    assert seen - {"LC_CTYPE", "PWD", "SHLVL", "_"} <= base.PASSED_ON  # Python and shells add these themselves


# --- bubblewrap -----------------------------------------------------------------------------------------


def test_bubblewrap_as_a_user_and_as_root() -> None:
    spec = a_spec(a_mount())
    user, root = bubblewrap.bwrap_argv(spec, root=False), bubblewrap.bwrap_argv(spec, root=True)
    for argv in (user, root):
        assert {"--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--as-pid-1"} <= set(argv)
        assert {"--clearenv", "--die-with-parent", "--new-session", "--seccomp"} <= set(argv)
        assert pairs(argv, "--cap-drop") == ["ALL"]
        assert "--core=0" in argv
        assert argv[-7:] == base.start_command(spec)
    assert {"--unshare-user", "--disable-userns"} <= set(user)
    assert "--unshare-user" not in root  # its one mapping would be to root
    assert "--reuid=1234" in root
    assert "--bounding-set=-all" in root
    assert "/usr/bin/setpriv" not in user
    assert root[: root.index("--") + 1] == bubblewrap.lifeline("bwrap")
    assert user[1] != "--dev-bind"


def test_no_host_path_is_on_bubblewrap_s_command_line() -> None:
    spec = a_spec(a_mount("/home/me/secret project"))
    launch = bubblewrap.Bubblewrap("bwrap", root=False).launch(spec)
    assert not any("secret" in item or "/cache" in item for item in launch.argv)
    options = launch.inputs[0].split(b"\0")
    assert options[-1] == b""
    assert options[options.index(b"--bind") : -1] == [b"--bind", b"/home/me/secret project", b"/workspace/group"]
    assert options[:3] == [b"--ro-bind", b"/cache/rootfs", b"/"]


def test_bubblewrap_says_any_path(tmp_path: Path) -> None:
    name = os.fsdecode(b'a,b:c\n"d" \xff --bind')
    options = bubblewrap.host_paths(a_spec(a_mount(f"/x/{name}", readonly=True))).split(b"\0")
    assert options[-4:-1] == [b"--ro-bind", b'/x/a,b:c\n"d" \xff --bind', b"/workspace/group"]


def test_as_root_the_process_limit_leaves_room_for_what_the_user_runs_already() -> None:
    assert "--nproc=256" in bubblewrap.limits(Resources(), 0)
    assert "--nproc=296" in bubblewrap.limits(Resources(), 40)
    assert bubblewrap.tasks_of(os.getuid()) >= 1
    assert bubblewrap.tasks_of(987654321) == 0


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(["--version"], 0, "bubblewrap 0.6.1", "")], "too old"),
        ([(["--version"], 0, "", "what?")], "does not tell"),
        ([(["--version"], 0, "bubblewrap 0.9.0", ""),
          (START, 1, "", "bwrap: setting up uid map: Permission denied\n")], "setting up uid map"),
        ([(["--version"], 0, "bubblewrap 0.9.0", ""), (START, 0, STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), "")],
         "do not hold: Seccomp"),
        ([(["--version"], 0, "bubblewrap 0.9.0", ""), (START, 0, "", "")], "do not hold"),
    ],
)  # fmt: skip
def test_bubblewrap_that_does_not_work(
    tmp_path: Path, answers: list[tuple[list[str], int, str, str]], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        bubblewrap.Bubblewrap(str(Program(tmp_path, *answers).path), root=False).probe()


def test_bubblewrap_that_works(tmp_path: Path) -> None:
    program = Program(tmp_path, (["--version"], 0, "bubblewrap 0.10.0", ""), (START, 0, STATUS, ""))
    found = bubblewrap.Bubblewrap(str(program.path), root=False).probe()
    assert found.version == "0.10.0"
    assert {"memory limit", "cpu limit"} <= set(found.missing)


def test_hints_name_the_setting_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_read", lambda path: "1" if "apparmor" in path else "")
    assert "Ubuntu" in bubblewrap._hints("setting up uid map: Permission denied")[0]
    monkeypatch.setattr(bubblewrap, "_read", lambda path: "")
    assert "container" in bubblewrap._hints("Can't mount proc")[0]
    assert bubblewrap._hints("something else") == []


def test_an_incomplete_image_is_refused(tmp_path: Path) -> None:
    image = Image(IMAGE.id, IMAGE.archive, tmp_path, "b")
    with pytest.raises(EngineError, match="python3"):
        bubblewrap.Bubblewrap("bwrap").load(image, lambda _: None)


# --- shared ----------------------------------------------------------------------------------------------


def test_auto_takes_the_first_that_works_and_says_why_when_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(docker.Docker):
        def probe(self) -> Any:
            raise EngineError("docker is asleep", "wake it")

    class Working(bubblewrap.Bubblewrap):
        def probe(self) -> Any:
            return "it works"

    monkeypatch.setattr(choice, "ENGINES", {"docker": Broken, "bubblewrap": Working})
    engine, found = choice.choose("auto")
    assert (engine.name, found) == ("bubblewrap", "it works")
    with pytest.raises(EngineError, match="asleep"):
        choice.choose("docker")
    monkeypatch.setattr(choice, "ENGINES", {"docker": Broken})
    with pytest.raises(EngineError, match="nothing here can run a sandbox: docker is asleep") as caught:
        choice.choose("auto")
    assert caught.value.hints == ("wake it",)
    with pytest.raises(UserError, match="no engine called 'chroot'") as wrong:
        choice.choose("chroot")
    assert wrong.value.status == 2


def test_the_sandbox_s_user_is_never_root() -> None:
    assert base.sandbox_user()[0] != 0


def test_a_launch_is_weakened_by_editing_its_items() -> None:
    launch = Launch(("run", "--read-only", "--network", "none", "-e", "A", "-e", "B"))
    assert base.without(launch, "--read-only").argv == ("run", "--network", "none", "-e", "A", "-e", "B")
    assert base.without(launch, "-e", values=1).argv == ("run", "--read-only", "--network", "none")
    bridged = base.replacing(launch, ("--network", "none"), ("--network", "bridge"))
    assert bridged.argv[2:4] == ("--network", "bridge")
    with pytest.raises(ValueError, match="not in the launch"):
        base.without(launch, "--seccomp", values=1)
    with pytest.raises(ValueError, match="not in the launch"):
        base.replacing(launch, ("--network", "host"), ())


def test_a_question_never_outlives_its_time_even_if_a_grandchild_holds_the_pipes() -> None:
    started = time.monotonic()
    script = "import subprocess, time; subprocess.Popen(['/bin/sleep', '8'], start_new_session=True); time.sleep(8)"
    answer = base.run((sys.executable, "-c", script), 0.7)
    assert answer.status is None
    assert time.monotonic() - started < 5


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="cannot run"):
        base.run(("/nowhere/docker",), 1)
