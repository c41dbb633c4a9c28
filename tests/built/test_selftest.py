"""The whole life of the built file on this machine, as `build/selftest.py` has it, and its updates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

SECONDS = 1200
pytestmark = pytest.mark.timeout(SECONDS + 60)


def checked(file: Path, *more: str) -> dict[str, str]:
    """Outcome by check; none of them failed."""
    argv = [sys.executable, str(ROOT / "build" / "selftest.py"), str(file), "--json", *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    results = json.loads(done.stdout)["results"]
    assert [(each["name"], each["why"]) for each in results if each["outcome"] == "FAILED"] == []
    assert done.returncode == 0
    return {each["name"]: each["outcome"] for each in results}


def test_the_built_file_passes_its_own_test(built: Path) -> None:
    outcomes = checked(built)
    skipped = {name for name, outcome in outcomes.items() if outcome == "skipped"}
    assert skipped <= {"update", "rollback"}, "what is skipped here has nobody looked at"
    assert len(outcomes) > 15


def test_a_built_file_updates_itself_to_a_later_one_and_back(built: Path, tmp_path: Path) -> None:
    """Two builds with a key of this test's, which differ in their version; what they carry is there already."""
    if not (ROOT / ".build" / os.uname().machine / "parcels" / "image.xz").is_file():
        missing("built", f"nothing was built in {ROOT}: run scripts/build")
    sign, key = str(ROOT / "scripts" / "sign-release"), str(tmp_path / "key")
    public = subprocess.check_output([sys.executable, sign, "--new-key", key], text=True).strip()
    older, newer = (made(tmp_path / version, public, version) for version in ("0.1.1", "0.1.2"))
    subprocess.run([sys.executable, sign, "--key", key, str(newer)], check=True, stdout=subprocess.DEVNULL)
    names = ("engines", "install", "update", "rollback", "uninstall")
    only = [word for name in names for word in ("--only", name)]
    assert checked(older, "--newer", str(newer), *only) == dict.fromkeys((*names, "nothing left"), "ok")


def made(folder: Path, key: str, version: str) -> Path:
    argv = [ROOT / "scripts" / "build", "--without-whatsapp", "--key", key, "--version", version, "--dist", folder]
    subprocess.run([str(word) for word in argv], check=True, timeout=SECONDS)
    (found,) = folder.glob("nanoclaw-linux-*-slim")
    return found
