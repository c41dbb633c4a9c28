"""The floors of the house: imports point down only, decisions do no I/O, and the two sides share one module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    5: ("access", "app", "asking", "attempt", "calls", "check", "cli", "doctor", "drill", "extending", "house",
        "inbox", "install", "post", "sending", "service", "setup", "tasks", "terminals", "words",
        "work"),
    4: ("sandbox", "pool", "mounts", "gate", "link", "resolver", "control", "channels", "rehearsal",
        "images"),
    3: ("config", "store", "migrations", "allowlist", "beneath", "bundle", "credentials", "engines", "home", "lines",
        "loop", "log", "parcels", "release", "source", "unpacking"),
    2: ("hello", "intake", "names", "naming", "policy", "schedule", "text", "turns", "zones"),
    1: ("model", "errors", "carried"),
}  # fmt: skip
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}

# What touches the world. `os` is there whole: of what it holds, decisions need nothing.
IO = {"os", "socket", "subprocess", "sqlite3", "pathlib", "io", "shutil", "tempfile", "glob", "fcntl", "select",
      "selectors", "signal", "threading", "multiprocessing", "asyncio", "http", "urllib", "ssl", "ctypes",
      "mmap", "logging", "random", "secrets"}  # fmt: skip
IO_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def modules(package: str) -> dict[str, ast.Module]:
    """Dotted name → parsed source of everything in `package`."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text(), str(path))
    return found


def imports(name: str, tree: ast.Module, *, is_package: bool) -> set[str]:
    """Every module that it imports anywhere, also inside functions, in full. `from a import b` gives `a.b`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def imported(package: str) -> list[tuple[str, str]]:
    """(importer, imported) pairs of a whole package."""
    pairs = []
    for name, tree in modules(package).items():
        is_package = name.endswith(".__init__")
        own = name.removesuffix(".__init__")
        pairs += [(own, target) for target in sorted(imports(own, tree, is_package=is_package))]
    return pairs


def test_no_import_hides_from_this_test() -> None:
    source = "import a.b as c\nfrom . import d\nfrom ..e import f\ndef g():\n    from h import i\n"
    expected = {"a.b", "host.engines.d", "host.e.f", "h.i"}
    assert imports("host.engines.docker", ast.parse(source), is_package=False) == expected
    assert imports("host.engines", ast.parse("from . import d"), is_package=True) == {"host.engines.d"}


def part(module: str) -> str:
    """`host.engines.docker` → `engines`; the package itself → ``."""
    return [*module.split("."), ""][1]


def test_every_module_of_the_host_has_a_floor() -> None:
    homeless = {part(name) for name in modules("host")} - set(FLOOR) - {"__init__"}
    assert not homeless, f"give them a floor in FLOORS: {homeless}"


def edges() -> list[tuple[str, str, int, int]]:
    """Imports from one part of the host to another: importer, imported, and the floor of each."""
    pairs = [(importer, target) for importer, target in imported("host") if target.startswith("host.")]
    known = [(i, t) for i, t in pairs if part(i) != part(t) and part(i) in FLOOR and part(t) in FLOOR]
    return [(i, t, FLOOR[part(i)], FLOOR[part(t)]) for i, t in known]


def test_imports_point_down_only() -> None:
    wrong = [f"{i} (floor {here}) imports {t} (floor {there})" for i, t, here, there in edges() if there > here]
    assert not wrong, "\n".join(wrong)


def test_tools_do_not_import_each_other() -> None:
    wrong = [f"{i} imports {t}" for i, t, here, there in edges() if here == there == 3]
    wrong = [pair for pair in wrong if not pair.startswith("host.store imports host.migrations")]
    # What a tool needs may be carried in the program: that one place knows where.
    wrong = [pair for pair in wrong if not pair.endswith(" imports host.bundle") and "imports host.bundle." not in pair]
    wrong = [pair for pair in wrong if not pair.startswith("host.bundle imports host.unpacking")]
    wrong = [pair for pair in wrong if not pair.startswith("host.config imports host.home")]
    assert not wrong, "\n".join(wrong)


PURE = [name for name in (*FLOORS[2], *FLOORS[1]) if (ROOT / "host" / f"{name}.py").exists()]


@pytest.mark.parametrize("name", PURE)
def test_decisions_and_words_do_no_io(name: str) -> None:
    tree = ast.parse((ROOT / "host" / f"{name}.py").read_text())
    allowed = {"pathlib"} if name == "model" else set()  # a Path in a frozen value is a word, not an act
    used = {target.split(".")[0] for target in imports(f"host.{name}", tree, is_package=False)}
    assert not used & (IO - allowed)
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not calls & IO_CALLS


def test_the_protocol_does_no_io() -> None:
    tree = ast.parse((ROOT / "runner" / "protocol.py").read_text())
    used = {target.split(".")[0] for target in imports("runner.protocol", tree, is_package=False)}
    assert not used & IO
    assert used <= sys.stdlib_module_names | {"__future__"}


def test_the_runner_imports_nothing_of_the_host() -> None:
    wrong = [pair for pair in imported("runner") if pair[1].split(".")[0] in ("host", "nanoclaw", "build", "tests")]
    assert not wrong


PACKAGES = {"host.schedule": {"cronsim"}, "host.release": {"nacl"}, "host.cli.qr": {"segno"}}
"""Module → the packages of others that it alone may import."""


def test_the_host_imports_the_standard_library_and_of_the_others_only_what_they_share() -> None:
    wrong = []
    for importer, target in [*imported("host"), *(("nanoclaw", t) for t in _entry_point())]:
        top = target.split(".")[0]
        if top == "runner":
            if target != "runner.protocol" and not target.startswith("runner.protocol."):
                wrong.append(f"{importer} imports {target}")
        elif top == "channel":
            if not target.startswith("channel.wire"):
                wrong.append(f"{importer} imports {target}")
        elif top != "host" and top not in sys.stdlib_module_names and top not in PACKAGES.get(importer, ()):
            wrong.append(f"{importer} imports {target}, which is not in the standard library")
    assert not wrong, "\n".join(wrong)


def _entry_point() -> set[str]:
    return imports("nanoclaw", ast.parse((ROOT / "nanoclaw.py").read_text()), is_package=False)
