"""Commands as the agent runs them: real bash, real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runner import children, protocol, shell
from runner.shell import Shell, ToolError

LIMITS = protocol.Limits(rounds=5, seconds=60, tokens=1000, command_seconds=20, output_bytes=10_000)


@pytest.fixture
def bash(tmp_path: Path) -> Shell:
    return Shell(shell.environment("Asia/Tokyo", ""), LIMITS, str(tmp_path))


def run(bash: Shell, command: str, seconds: int = 0, limit: int = 10_000) -> tuple[str, bool]:
    return bash.run(command, seconds, limit)


def test_output_and_errors_come_together(bash: Shell) -> None:
    assert run(bash, "echo out; echo err >&2; echo end") == ("out\nerr\nend\n", False)


def test_a_failure_is_told(bash: Shell) -> None:
    assert run(bash, "echo no; exit 3") == ("no\n(exit status 3)", True)
    assert run(bash, "kill -9 $$") == ("(ended by signal 9)", True)


def test_line_numbers_are_the_model_s_own(bash: Shell) -> None:
    assert "line 1: nosuchcommand" in run(bash, "nosuchcommand")[0]


def test_the_working_directory_carries_over_and_variables_do_not(bash: Shell, tmp_path: Path) -> None:
    run(bash, "mkdir -p 'a b/ü'; cd 'a b/ü'; X=1")
    assert run(bash, 'pwd; echo "<$X>"') == (f"{tmp_path}/a b/ü\n<>\n", False)
    run(bash, "cd /usr; exit 1")
    assert bash.cwd == "/usr"


def test_a_working_directory_that_is_gone(bash: Shell, tmp_path: Path) -> None:
    run(bash, "mkdir gone; cd gone")
    (tmp_path / "gone").rmdir()
    shown, is_error = run(bash, "pwd")
    assert "is gone; back in" in shown
    assert shown.endswith(f"{tmp_path}\n")
    assert not is_error


@pytest.mark.parametrize(
    "trick",
    [
        "ln -s /etc/passwd $note",
        "mkfifo $note",
        "mkdir $note",
        "printf 'relative' > $note",
        "head -c 100000 /dev/zero > $note",
        "ln -s /proc/self/environ $note",
    ],
)
def test_where_the_shell_was_is_read_with_care(bash: Shell, tmp_path: Path, trick: str) -> None:
    find = "note=$(tr '\\0' '\\n' < /proc/$$/cmdline | grep -o '/tmp/.cwd-[0-9a-f]*' | head -1)"
    run(bash, f"{find}; trap - EXIT; {trick}", 5)
    assert bash.cwd == str(tmp_path)
    run(bash, "rm -rf /tmp/.cwd-*")


def test_stdin_is_empty_and_nothing_else_is_open(bash: Shell) -> None:
    assert run(bash, "cat; ls /proc/self/fd")[0].split() == ["0", "1", "2", "3"]  # 3 is what ls reads with


def test_the_environment_is_clean(bash: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "NCC-leak")
    shown = run(bash, "env; date +%Z")[0]
    assert "NCC" not in shown
    assert "JST" in shown
    names = {line.partition("=")[0] for line in shown.splitlines()}
    assert {"PATH", "HOME", "LANG", "TZ", "TERM"} <= names
    assert not names & {"PYTHONPATH", "LD_LIBRARY_PATH", "http_proxy"}


def test_proxy_variables_where_there_is_a_proxy() -> None:
    env = shell.environment("UTC", "http://127.0.0.1:3128")
    assert {name for name, value in env.items() if value == "http://127.0.0.1:3128"} == set(shell.PROXY_VARIABLES)
    assert env["NO_PROXY"] == env["no_proxy"] == "127.0.0.1,localhost"


def test_a_command_is_stopped_at_its_time_with_all_that_it_started(bash: Shell, tmp_path: Path) -> None:
    before = time.monotonic()
    shown, is_error = run(bash, "echo begun; (sleep 60; touch late) & echo $! > pid; sleep 60", seconds=1)
    assert (shown, is_error) == ("begun\n(stopped: it took longer than 1 s)", True)
    assert time.monotonic() - before < 8
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_one_that_ignores_the_polite_signal_is_killed(bash: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE_SECONDS", 0.3)
    before = time.monotonic()
    assert run(bash, "trap '' TERM; while :; do sleep 1; done", seconds=1)[1]
    assert time.monotonic() - before < 8


def test_no_request_gets_more_time_than_the_limit(tmp_path: Path) -> None:
    limits = protocol.Limits(1, 1, 1, command_seconds=1, output_bytes=1000)
    assert "longer than 1 s" in Shell(shell.environment("UTC", ""), limits, str(tmp_path)).run("sleep 9", 500, 99)[0]


def test_something_in_the_background_does_not_hold_up_the_call(bash: Shell, tmp_path: Path) -> None:
    before = time.monotonic()
    assert run(bash, "(sleep 1.5; echo still; echo writing > done) & echo started")[0] == "started\n"
    assert time.monotonic() - before < 1.2
    while not (tmp_path / "done").exists():  # its output went nowhere, and did not kill it
        assert time.monotonic() - before < 10
        time.sleep(0.05)


def test_a_flood_from_the_background_does_not_hold_up_the_call_either(bash: Shell) -> None:
    before = time.monotonic()
    shown, is_error = run(bash, "echo first; yes & echo $! > pid; exit 3")
    assert time.monotonic() - before < 5
    assert shown.startswith("first\n")
    assert is_error
    run(bash, "kill $(cat pid)")


def test_one_that_closes_its_output_is_waited_for(bash: Shell, tmp_path: Path) -> None:
    assert run(bash, "exec >&- 2>&-; sleep 0.5; touch done") == ("", False)
    assert (tmp_path / "done").exists()


def test_a_long_output_is_cut_in_the_middle_and_the_cut_shown(bash: Shell) -> None:
    shown, _ = run(bash, "echo first; seq 300000; echo last", limit=1000)
    assert shown.startswith("first\n1\n2\n")
    assert shown.endswith("300000\nlast\n")
    assert "bytes cut here" in shown
    assert len(shown) < 1100


def test_a_flood_is_drained_in_bounded_memory(bash: Shell) -> None:
    shown, _ = run(bash, "head -c 300000000 /dev/zero", limit=1000)
    assert len(shown.encode()) < 4000


def test_bytes_that_are_no_text(bash: Shell) -> None:
    shown, _ = run(bash, r"printf 'a\0b\xff\xed\xa0\x80c\x1b[31m'")
    assert shown.replace("\ufffd", "?") == "a?b????c?[31m"


@pytest.mark.parametrize(
    "command", ["echo 'x", "if", "# only a comment", "", "cat <<E\nx\nE", "trap - EXIT; exec true"]
)
def test_odd_commands_end(bash: Shell, command: str) -> None:
    run(bash, command, 5)


def test_a_command_over_the_kernel_s_limit_is_refused_in_words(bash: Shell) -> None:
    with pytest.raises(ToolError, match="too long"):
        run(bash, "echo " + "x" * 200_000)


def test_the_kernel_would_end_the_command_before_the_runner(bash: Shell) -> None:
    assert run(bash, "cat /proc/self/oom_score_adj") == ("900\n", False)


def test_nothing_is_left_open(bash: Shell) -> None:
    run(bash, "true")
    time.sleep(0.2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run(bash, "echo x; sleep 0 &")
        bash.file_tool("glob", {"pattern": "*"}, 1000)
    time.sleep(0.5)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# --- the file tools' process ---


def test_a_file_tool_works_from_the_shell_s_directory(bash: Shell) -> None:
    run(bash, "mkdir sub; cd sub")
    assert bash.file_tool("write_file", {"path": "new/x.txt", "content": "häl\nlo"}, 1000) == (
        "Created new/x.txt (7 bytes).",
        False,
    )
    assert bash.file_tool("read_file", {"path": "new/x.txt"}, 1000) == ("     1\thäl\n     2\tlo", False)
    assert run(bash, "cat new/x.txt")[0] == "häl\nlo"


def test_a_file_tool_s_answer_is_cut_like_any_other(bash: Shell) -> None:
    bash.file_tool("write_file", {"path": "x", "content": "line\n" * 1000}, 1000)
    shown, is_error = bash.file_tool("read_file", {"path": "x"}, 500)
    assert "bytes cut here" in shown
    assert len(shown.encode()) <= 500
    assert not is_error


def test_a_file_tool_does_not_see_the_runner_s_own_process(bash: Shell) -> None:
    shown, _ = bash.file_tool("read_file", {"path": "/proc/self/cmdline"}, 1000)
    assert "binary" in shown or "filetool" in shown
    shown, _ = bash.file_tool("grep", {"pattern": "^Name", "path": "/proc/self/status"}, 1000)
    assert f":{os.getpid()}" not in shown


def test_a_search_that_never_ends_is_stopped(tmp_path: Path) -> None:
    limits = protocol.Limits(1, 1, 1, command_seconds=1, output_bytes=1000)
    bash = Shell(shell.environment("UTC", ""), limits, str(tmp_path))
    (tmp_path / "x").write_text("a" * 50 + "!")
    with pytest.raises(ToolError, match="longer than 1 s"):
        bash.file_tool("grep", {"pattern": "(a+)+$"}, 1000)


def test_a_file_tool_that_dies_is_told(bash: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("print('not JSON')")
    monkeypatch.setattr(shell, "FILETOOL", tmp_path / "broken.py")
    with pytest.raises(ToolError, match="without an answer"):
        bash.file_tool("glob", {"pattern": "*"}, 1000)


def test_odd_names_and_bytes_arrive(bash: Shell, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff\n.txt")).write_bytes(b"caf\xe9 x\n")
    shown, is_error = bash.file_tool("grep", {"pattern": "x"}, 1000)
    assert "caf" in shown
    assert not is_error
    shown.encode()
