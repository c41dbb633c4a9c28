"""Who imports whom around the channels: they hold nothing of the host, and neonize has one door."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tests.unit.test_imports import imported
from tests.unit.test_reach import NETWORK, imports

ROOT = Path(__file__).resolve().parents[2]


def tops(package: str) -> set[tuple[str, str]]:
    return {(importer, target) for importer, target in imported(package) if target.split(".")[0] != "__future__"}


def test_a_channel_imports_the_standard_library_and_of_the_rest_only_the_wire() -> None:
    for importer, target in tops("channel") | tops("whatsapp"):
        top = target.split(".")[0]
        allowed = top in sys.stdlib_module_names or top in ("channel", importer.split(".")[0])
        allowed |= target.startswith("runner.protocol") or (top == "neonize" and importer == "whatsapp.library")
        assert allowed, f"{importer} imports {target}"
    assert not [pair for pair in tops("channel") if pair[1].startswith("whatsapp")]


def test_no_module_of_a_channel_reaches_a_network_by_itself() -> None:
    found = {p.name for place in ("channel", "whatsapp") for p in (ROOT / place).glob("*.py") if imports(p) & NETWORK}
    assert found == {"scripted.py", "speech.py", "__main__.py"}  # the socket that they are given


PURE = ("events", "identity", "markdown", "media", "pace", "recent", "split")


def test_what_decides_does_no_io() -> None:
    for name in PURE:
        used = imports(ROOT / "whatsapp" / f"{name}.py")
        assert not used & {"os", "socket", "threading", "time", "random", "pathlib", "subprocess", "logging"}, name


def recipe() -> ModuleType:
    path = ROOT / "build" / "whatsapp" / "build.py"
    spec = importlib.util.spec_from_file_location("whatsapp_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parcel_leaves_out_no_module_that_the_program_imports() -> None:
    left_out = recipe().LEFT_OUT
    used = {target.split(".")[0] for package in ("whatsapp", "channel") for _, target in tops(package)}
    tree = ast.parse((ROOT / "runner" / "protocol.py").read_text())
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not used & left_out


def test_the_librarys_own_record_names_its_parts() -> None:
    data = (
        b"\x00path\tgithub.com/x\nmod\tgithub.com/x\t(devel)\t\ndep\tgo.mau.fi/libsignal\tv0.2.2\th1:abc=\nbuild\tx\n"
    )
    assert recipe().go_modules(data) == [("go.mau.fi/libsignal", "v0.2.2")]
