"""P10: which modules of the host can reach a network at all, so that a new one is noticed."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "socketserver", "asyncio", "xmlrpc", "webbrowser"}

# module → why it needs sockets. Only `link` and `resolver` reach beyond this machine, and only for the
# gate; and the doctor, when a person runs it.
MAY = {
    "link": "connects to the address that the gate vetted",
    "resolver": "looks up the names that the gate was asked for",
    "control": "the Unix socket of this home",
    "channels.program": "a socket pair, one end of it a child's",
    "cli.session": "a socket pair within this process",
    "credentials.endpoint": "parses a URL (urllib.parse)",
    "credentials.scrub": "knows how URLs escape (urllib.parse)",
    "doctor.endpoint": "asks the configured endpoint, and no other, whether it answers",
    "setup.server": "asks the model server whose address the person gives it, and no other, whether it is one",
    "rehearsal.child": "listens on loopback",
    "rehearsal.server": "answers on loopback",
}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_only_these_modules_can_reach_a_network() -> None:
    found = {
        ".".join(path.relative_to(ROOT / "host").with_suffix("").parts)
        for path in (ROOT / "host").rglob("*.py")
        if imports(path) & NETWORK and "drill" not in path.parts  # the drill attacks from inside its own sandboxes
    }
    assert found == MAY.keys()
