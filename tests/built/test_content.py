"""What is in the built file: nothing of the machine that built it, and all of it listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(600)


def test_nothing_of_the_builders_is_in_it(built: Path) -> None:
    """That the search finds what is hidden, in each kind of archive, is shown by tests/unit/test_build_bundle.py."""
    argv = [sys.executable, str(ROOT / "build" / "bundle" / "search.py"), str(built)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 finds\n"), done.stdout + done.stderr


def test_what_it_carries_is_listed_as_in_its_sbom(built: Path, tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "HOME": str(tmp_path)}
    said = subprocess.check_output([built, "licenses", "--json"], text=True, env=env)
    own = {(each["name"], each["version"]) for each in json.loads(said)["components"]}
    sbom = json.loads(built.with_name(f"{built.name}.cdx.json").read_text())
    assert own == {(each["name"], each["version"]) for each in sbom["components"]}
    assert {name for name, _ in own} >= {"CPython", "OpenSSL", "SQLite", "bubblewrap", "git"}
