"""What a killed `image build` leaves in an engine is known by its name: removed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from host.engines import builder

ROOT = Path(__file__).resolve().parents[2]
OF_ANOTHER = "from host.engines import builder; print(builder.new_tag())"
FAKE = """#!/bin/sh
echo "$*" >> '{log}'
case "$1" in ps) cat '{names}' ;; images) sed 's/$/:work/' '{names}' ;; esac
"""


def of_a_process_that_ended() -> str:
    done = subprocess.run([sys.executable, "-c", OF_ANOTHER], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_what_is_of_a_process_that_runs_stays() -> None:
    gone = of_a_process_that_ended()
    assert builder.abandoned(gone)
    assert builder.abandoned(f"localhost/{gone}"), "as podman shows it"
    assert not builder.abandoned(builder.new_tag())


def test_a_number_that_was_given_again_is_another_process() -> None:
    mine = builder.new_name().split("-")
    mine[4] = str(int(mine[4]) + 1)
    assert mine[3] == str(os.getpid())
    assert builder.abandoned("-".join(mine))


def test_what_is_not_ours_or_from_where_numbers_are_others_stays() -> None:
    gone = of_a_process_that_ended()
    elsewhere = gone.split("-")
    elsewhere[2] = "1"
    for name in ("-".join(elsewhere), f"my-{gone}", "nanoclaw-build-mine:work", "debian:12", gone + "x", "--all"):
        assert not builder.abandoned(name), name


def test_the_engine_is_told_to_remove_those_alone(tmp_path: Path) -> None:
    gone, mine = of_a_process_that_ended().removesuffix(":work"), builder.new_name()
    names, log, program = tmp_path / "names", tmp_path / "log", tmp_path / "docker"
    names.write_text(f"{gone}\n{mine}\n")
    program.write_text(FAKE.format(log=log, names=names))
    program.chmod(0o755)
    assert builder.Builder("docker", (str(program),)).reap() == [gone, f"{gone}:work"]
    said = log.read_text()
    assert f"rm --force {gone}\n" in said
    assert f"rmi {gone}:work\n" in said
    assert mine not in said
