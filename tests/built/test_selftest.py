"""The whole life of the built file on this machine, as `build/selftest.py` has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SECONDS = 1200


def test_the_built_file_passes_its_own_test(built: Path) -> None:
    argv = [sys.executable, str(ROOT / "build" / "selftest.py"), str(built), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    results = json.loads(done.stdout)["results"]
    assert [(each["name"], each["why"]) for each in results if each["outcome"] == "FAILED"] == []
    assert done.returncode == 0
