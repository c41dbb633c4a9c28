"""Completions for bash, zsh and fish, made from the parser. Static: nothing runs while a person types."""

from __future__ import annotations

import re
from typing import Final

from host.cli.tree import Argument, Command, tree
from host.config import ENGINES
from host.install.extras import MARK

FILES: Final = {"FILE", "DOCKERFILE"}
FOLDERS: Final = {"DIR", "PATH", "FOLDER"}


def all_shells() -> dict[str, str]:
    """Shell → the text of its file."""
    top = tree()
    return {"bash": bash(top), "zsh": zsh(top), "fish": fish(top)}


def _name(command: Command) -> str:
    return " ".join(command.path)


def _valued(top: Command) -> list[str]:
    """Options that take a value: the word after one is no command."""
    return sorted({flag for command in top.walk() for each in command.options if each.value for flag in each.flags})


def _kind(argument: Argument) -> str:
    """What its value is: `files`, `folders`, `engines`, or nothing that could be known here."""
    if "--engine" in argument.flags:
        return "engines"
    return "files" if argument.value in FILES else "folders" if argument.value in FOLDERS else ""


def _by_kind(top: Command) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for command in top.walk():
        for each in command.options:
            if each.value:
                found.setdefault(_kind(each), set()).update(each.flags)
    return {kind: sorted(flags) for kind, flags in sorted(found.items())}


def _position_kind(command: Command) -> str:
    return next((kind for each in command.positions if (kind := _kind(each))), "")


# --- bash -------------------------------------------------------------------------------------------------------

_BASH: Final = """\
# bash completion for nanoclaw; {mark}
_nanoclaw() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} at="" skip="" word words="" kind="" i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ -n $skip ]]; then skip=""; continue; fi
        case $word in
        {valued}) skip=1 ;;
        -*) ;;
        *) case "${{at:+$at }}$word" in
            {commands}) at="${{at:+$at }}$word" ;;
            esac ;;
        esac
    done
    if [[ -n $skip ]]; then
        case $prev in
{values}
        esac
    else
        case $at in
{cases}
        esac
    fi
    local IFS=$'\\n'
    [[ -z $words ]] || COMPREPLY+=($(IFS=' '; compgen -W "$words" -- "$cur"))
    [[ $kind != files ]] || {{ compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")); }}
    [[ $kind != folders ]] || {{ compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- "$cur")); }}
}}
complete -F _nanoclaw nanoclaw
"""


def bash(top: Command) -> str:
    cases = []
    for command in top.walk():
        words = [*(each.path[-1] for each in command.commands), *(f for o in command.options for f in o.flags)]
        kind = _position_kind(command)
        cases.append(f'        "{_name(command)}") words="{" ".join(words)}"{f" kind={kind}" if kind else ""} ;;')
    values = [
        f"        {'|'.join(flags)}) "
        + (f'words="{" ".join(ENGINES)}"' if kind == "engines" else f"kind={kind}")
        + " ;;"
        for kind, flags in _by_kind(top).items()
        if kind
    ]
    return _BASH.format(
        mark=MARK,
        valued="|".join(_valued(top)),
        commands="|".join(f'"{_name(command)}"' for command in top.walk() if command.path),
        values="\n".join(values),
        cases="\n".join(cases),
    )


# --- zsh --------------------------------------------------------------------------------------------------------

_ZSH: Final = """\
#compdef nanoclaw
# {mark}
local at= skip= word i
local -a commands options
for ((i = 2; i < CURRENT; i++)); do
    word=$words[i]
    if [[ -n $skip ]]; then skip=; continue; fi
    case $word in
    ({valued}) skip=1 ;;
    (-*) ;;
    (*) case "${{at:+$at }}$word" in
        ({commands}) at="${{at:+$at }}$word" ;;
        esac ;;
    esac
done
if [[ -n $skip ]]; then
    case $words[CURRENT-1] in
{values}
    esac
    return
fi
case $at in
{cases}
esac
(( $#commands )) && _describe -t commands command commands
_describe -o -t options option options
"""


def zsh(top: Command) -> str:
    cases = []
    for command in top.walk():
        commands = " ".join(_zsh_word(each.path[-1], each.summary) for each in command.commands)
        options = " ".join(_zsh_word(flag, each.help) for each in command.options for flag in each.flags)
        kind = _position_kind(command)
        files = f"; {_ZSH_VALUES[kind]}" if kind else ""
        cases.append(f"('{_name(command)}') commands=({commands}); options=({options}){files} ;;")
    values = [f"    ({'|'.join(flags)}) {_ZSH_VALUES[kind]} ;;" for kind, flags in _by_kind(top).items() if kind]
    return _ZSH.format(
        mark=MARK,
        valued="|".join(_valued(top)),
        commands="|".join(f"'{_name(command)}'" for command in top.walk() if command.path),
        values="\n".join(values),
        cases="\n".join(cases),
    )


_ZSH_VALUES: Final = {"files": "_files", "folders": "_files -/", "engines": f"compadd {' '.join(ENGINES)}"}


def _zsh_word(word: str, about: str) -> str:
    return _quoted(f"{word}:{_short(about)}".replace("\\", "\\\\"))


# --- fish -------------------------------------------------------------------------------------------------------

_FISH: Final = """\
# fish completion for nanoclaw; {mark}
function __nanoclaw_at
    set -l at
    set -l skip
    for word in (commandline -opc)[2..-1]
        if test -n "$skip"
            set skip
            continue
        end
        switch $word
            case {valued}
                set skip 1
            case '-*'
            case '*'
                if contains -- (string join ' ' $at $word) {commands}
                    set -a at $word
                end
        end
    end
    test "$at" = "$argv[1]"
end
complete -c nanoclaw -f
{lines}
"""


def fish(top: Command) -> str:
    lines = []
    for command in top.walk():
        here = f"complete -c nanoclaw -n {_quoted(f'__nanoclaw_at {_quoted(_name(command), double=True)}')}"
        lines += [f"{here} -a {each.path[-1]} -d {_quoted(_short(each.summary))}" for each in command.commands]
        lines += [f"{here} {_fish_option(each)}" for each in command.options]
        if kind := _position_kind(command):
            lines.append(f"{here} {_FISH_VALUES[kind]}")
    return _FISH.format(
        mark=MARK,
        valued=" ".join(_valued(top)),
        commands=" ".join(_quoted(_name(command)) for command in top.walk() if command.path),
        lines="\n".join(lines),
    )


_FISH_VALUES: Final = {
    "files": "-F", "folders": "-a '(__fish_complete_directories)'", "engines": f"-a '{' '.join(ENGINES)}'", "": "",
}  # fmt: skip


def _fish_option(option: Argument) -> str:
    names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    value = f" -r {_FISH_VALUES[_kind(option)]}".rstrip() if option.value else ""
    return f"{names}{value} -d {_quoted(_short(option.help))}"


# --- all ----------------------------------------------------------------------------------------------------------


def _short(text: str) -> str:
    """The first clause of a help text."""
    return re.split(r"[;:(]|, ", text, maxsplit=1)[0].strip()[:70]


def _quoted(text: str, *, double: bool = False) -> str:
    """For a shell. Doubly: within single quotes; what is quoted so are names of commands."""
    if double:
        return f'"{text}"'
    return "'" + text.replace("'", "'\\''") + "'"
