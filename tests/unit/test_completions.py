"""Completions and the man page hold all that the parser knows, and the programs that read them can read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from host.cli import completions, manual
from host.cli.options import COMMANDS, parser
from host.cli.options_parser import Parser
from host.cli.tree import Command, tree
from host.config import ENGINES
from host.install.extras import MARK

TOP = tree()


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def command(*path: str) -> Command:
    (found,) = [each for each in TOP.walk() if each.path == path]
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completions")
    found = {}
    for shell, text in {**completions.all_shells(), "man": manual.page()}.items():
        found[shell] = folder / shell
        found[shell].write_text(text)
    return found


def test_the_tree_is_the_parsers() -> None:
    paths = {each.path for each in TOP.walk()}
    assert {(), ("chat",), ("groups", "add"), ("tasks", "pause"), ("mounts", "allow"), ("image", "build")} <= paths
    chat = command("chat")
    assert [each.flags for each in chat.options][-1] == ("--as",)
    assert [(each.value, each.optional) for each in chat.positions] == [("GROUP", True)]
    (needed,) = [each for each in command("update").options if each.flags == ("--from",)]
    assert (needed.value, needed.optional) == ("FILE", False)


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish", "man"])
def test_every_command_and_option_is_there_the_same_each_time(kind: str, files: dict[str, Path]) -> None:
    text = files[kind].read_text()
    plain = text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    assert MARK in text[:200]
    assert {**completions.all_shells(), "man": manual.page()}[kind] == text
    for each in TOP.walk():
        assert " ".join(each.path) in plain
        for option in each.options:
            shown = option.flags[-1] if kind != "fish" else f"-l {option.flags[-1][2:]}"
            assert shown in plain


def bash(files: dict[str, Path], *words: str) -> list[str]:
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nanoclaw; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    argv = [program("bash"), "--norc", "-c", script, "bash", str(files["bash"]), "nanoclaw", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout.split()


def fish(files: dict[str, Path], *words: str) -> list[str]:
    script = "source $argv[1]; complete -C (string join -- ' ' $argv[2..-1])"
    argv = [program("fish"), "--no-config", "-c", script, str(files["fish"]), "nanoclaw", *words]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    return [line.split("\t")[0] for line in out.splitlines()]


def zsh(files: dict[str, Path], *words: str) -> list[str]:
    """With the functions of its completion system in the place of a terminal: they print what they are given."""
    script = (
        '_describe() { print -rl -- ${(P)@[-1]} }; _files() { print -r -- FILES "$@" }; compadd() { print -rl -- $@ }\n'
        'file=$1; shift; words=("$@"); CURRENT=$#; f() { source $file }; f'
    )
    argv = [program("zsh"), "-f", "-c", script, "zsh", str(files["zsh"]), "nanoclaw", *words]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    return [line.split(":")[0] for line in out.splitlines() if line.startswith((words[-1], "FILES"))]


SHELLS = {"bash": bash, "fish": fish, "zsh": zsh}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell: str, files: dict[str, Path]) -> None:
    complete = SHELLS[shell]
    assert complete(files, "gro") == ["groups"]
    assert set(complete(files, "groups", "re")) == {each.path[-1] for each in command("groups").commands} & {
        "remove", "rename",
    }  # fmt: skip
    assert complete(files, "update", "--allow") == ["--allow-older"]
    assert complete(files, "--engine", "pod") == ["podman"], "the word after an option that takes one"
    assert complete(files, "--engine", "docker", "--json", "gro") == ["groups"], "options may come first"
    assert complete(files, "groups", "add", "--no-t") == ["--no-trigger"]
    assert complete(files, "chat", "--allow") == [], "another command's option is none of this one's"
    assert "docker" in ENGINES


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_files_where_one_is_meant(
    shell: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new nanoclaw").touch()
    monkeypatch.chdir(tmp_path)
    found = " ".join(SHELLS[shell](files, "update", "--from", "n"))
    assert found.replace("\\", "") == ("FILES" if shell == "zsh" else "new nanoclaw")


def test_man_shows_the_page_without_a_complaint(files: dict[str, Path]) -> None:
    argv = [program("man"), "--warnings", "-E", "UTF-8", "-l", str(files["man"])]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    if "minimized" in done.stdout:
        pytest.skip("this system's man shows no pages")
    assert done.stderr == ""
    assert "nanoclaw update" in done.stdout


def test_mandoc_reads_it_too(files: dict[str, Path]) -> None:
    argv = [program("mandoc"), "-T", "lint", "-W", "error", str(files["man"])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_no_text_of_the_page_is_taken_for_a_request() -> None:
    assert manual._line(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._line("'tis") == "\\(aqtis"
    assert manual._line("\\n(.x") == "\\en(.x"
    assert all(ord(c) < 128 for c in manual.page())


def test_every_command_is_known_by_its_name_before_its_options_are() -> None:
    assert {command.path[0] for command in TOP.commands} == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_that_stands_alone_has_the_options_that_it_has_beside_all_others(name: str) -> None:
    alone, beside = commands([name]), commands(["--quiet", name])
    assert list(alone) == [name]
    assert set(beside) == COMMANDS
    assert alone[name].format_help() == beside[name].format_help()


def commands(argv: list[str]) -> dict[str, Parser]:
    """As argparse holds them, for which it has no public name."""
    group = parser(argv)._subparsers
    assert group is not None
    return dict(group._group_actions[0].choices)  # type: ignore[arg-type]
