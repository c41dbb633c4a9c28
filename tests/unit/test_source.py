"""The copy of the source that main's agent sees."""

from pathlib import Path

from host.source import KEEP_COPIES, snapshot


def checkout(root: Path, text: str = "print()\n") -> Path:
    for name in ("host/cli", "runner", ".git", ".venv", "tests"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "nanoclaw.py").write_text(text)
    (root / "host/cli/ask.py").write_text("1\n")
    (root / "runner/agent.py").write_text("2\n")
    (root / ".git/config").write_text("token\n")
    (root / ".env").write_text("ANTHROPIC_API_KEY=x\n")
    (root / "host/.env").write_text("ANTHROPIC_API_KEY=x\n")
    (root / "host/secret.key").write_text("x\n")
    if not (root / "host/link.py").is_symlink():
        (root / "host/link.py").symlink_to("/etc/passwd")
    return root


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_it_holds_the_source_and_nothing_else_that_lies_about(tmp_path: Path) -> None:
    copy = snapshot(tmp_path / "cache", checkout(tmp_path / "root"))
    assert names(copy) == ["host/cli/ask.py", "nanoclaw.py", "runner/agent.py"]


def test_others_can_read_it_and_nobody_write(tmp_path: Path) -> None:
    copy = snapshot(tmp_path / "cache", checkout(tmp_path / "root"))
    assert {p.stat().st_mode & 0o777 for p in copy.rglob("*") if p.is_file()} == {0o644}
    assert {p.stat().st_mode & 0o777 for p in copy.rglob("*") if p.is_dir()} == {0o755}


def test_the_same_source_is_copied_once_and_a_changed_one_anew(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    first = snapshot(tmp_path / "cache", root)
    assert snapshot(tmp_path / "cache", root) == first
    second = snapshot(tmp_path / "cache", checkout(root, "print(2)\n"))
    assert second != first
    assert (second / "nanoclaw.py").read_text() == "print(2)\n"


def test_old_copies_go(tmp_path: Path) -> None:
    for number in range(5):
        snapshot(tmp_path / "cache", checkout(tmp_path / "root", f"print({number})\n"))
    assert len(list((tmp_path / "cache/source").iterdir())) == KEEP_COPIES
