"""What goes wrong at a person's end: each has its message, a next step, its exit status, and loses nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cli import environment, nanoclaw, rows

KEY = "sk-ant-test-0123456789abcdef0123456789abcdef"


def says(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One `error:` line that holds all the words, with the exit status; hints count as part of it."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("nanoclaw: error:") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def configure(home: Path, name: str, text: str, mode: int = 0o600) -> None:
    (home / "config").mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "config" / name
    path.write_text(text)
    path.chmod(mode)


def test_no_engine(home: Path) -> None:
    env = environment(PATH="/nonexistent")
    says(nanoclaw(home, "docker", "ask", "help", env=env), 69, "docker", "nanoclaw: hint:")


def test_an_engine_that_does_not_answer(home: Path) -> None:
    env = environment(DOCKER_HOST="unix:///nonexistent/docker.sock")
    says(nanoclaw(home, "docker", "ask", "help", env=env), 69, "docker", "answer")


def test_an_unknown_engine(home: Path) -> None:
    says(nanoclaw(home, "dokcer", "ask", "help"), 2, "dokcer", "docker")


def test_no_image(tmp_path: Path, engine: str) -> None:
    says(nanoclaw(tmp_path / "fresh", engine, "ask", "help"), 69, "image", "nanoclaw: hint:")


def test_wrong_key(home: Path, engine: str, strict_model: str) -> None:
    configure(home, ".env", f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={strict_model}\n")
    done = nanoclaw(home, engine, "ask", "repeat x")
    says(done, 1, "key")
    assert KEY not in done.stderr
    assert rows(home, "SELECT text FROM messages") == [("repeat x",)]


def test_endpoint_down(home: Path, engine: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configure(home, ".env", f"ANTHROPIC_BASE_URL=http://127.0.0.1:{port}\n")
    done = nanoclaw(home, engine, "ask", "repeat x")
    says(done, 1, f"127.0.0.1:{port}")
    assert rows(home, "SELECT text FROM messages") == [("repeat x",)]


def test_env_file_that_others_can_read(home: Path, engine: str) -> None:
    configure(home, ".env", f"ANTHROPIC_API_KEY={KEY}\n", mode=0o644)
    done = nanoclaw(home, engine, "ask", "repeat x")
    says(done, 1, ".env", "chmod 600")
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('asistant = "Andy"', ("asistant", "assistant")),
        ("[limits]\nrounds = -1", ("rounds",)),
        ('[limits]\nseconds = "soon"', ("seconds",)),
        ("[limits\n", ("config.toml", "line")),
        ("[limits]\ncommand_seconds = 600\nseconds = 60", ("command_seconds", "seconds")),
    ],
)
def test_config_with_a_mistake(home: Path, engine: str, toml: str, words: tuple[str, ...]) -> None:
    configure(home, "config.toml", toml)
    says(nanoclaw(home, engine, "ask", "help"), 1, *words)


def test_a_message_of_one_megabyte(home: Path, engine: str) -> None:
    says(nanoclaw(home, engine, "ask", "-", stdin=b"x" * 1_000_000), 1, "256 KiB", "file")


def test_a_message_with_nul_bytes_is_kept_readable(home: Path, engine: str) -> None:
    done = nanoclaw(home, engine, "ask", "-", stdin=b"repeat a\0b")
    assert done.returncode == 0, done.stderr
    assert "\0" not in done.stdout
    assert rows(home, "SELECT instr(text, char(0)) FROM messages") == [(0,)]


@pytest.mark.parametrize("way", ["argument", "stdin"])
def test_a_message_that_is_not_utf8(home: Path, engine: str, way: str) -> None:
    bad = b"caf\xe9"
    args = ["ask", os.fsdecode(bad)] if way == "argument" else ["ask", "-"]
    says(nanoclaw(home, engine, *args, stdin=bad), 1, "UTF-8", "byte 3")


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_message(home: Path, engine: str, text: str) -> None:
    says(nanoclaw(home, engine, "ask", text), 2, "empty")


def test_an_unknown_group(home: Path, engine: str) -> None:
    says(nanoclaw(home, engine, "ask", "--group", "nobody", "help"), 1, "nobody", "main")


def test_a_database_that_is_damaged(home: Path, engine: str) -> None:
    assert nanoclaw(home, engine, "ask", "repeat x").returncode == 0
    database = home / "data/nanoclaw.db"
    database.write_bytes(b"not a database" * 1000)
    says(nanoclaw(home, engine, "ask", "repeat y"), 1, "nanoclaw.db")


def test_an_image_that_was_altered(home: Path, engine: str, image_copy: Path) -> None:
    """The unpacked copy is made anew, and what had been put into it runs in no sandbox; with an archive that is not
    what its digests say there is nothing to make it from."""
    altered = next(image_copy.glob("*/rootfs/opt/nanoclaw/runner/agent.py"))
    if engine == "docker":
        pytest.skip("docker keeps its own copy of the image, by digest")
    was = altered.read_bytes()

    def alter() -> None:
        altered.chmod(0o644)
        altered.write_bytes(b"print('hello')\n")

    alter()
    done = nanoclaw(home, engine, "ask", "repeat x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert "was altered" in done.stderr
    assert altered.read_bytes() == was

    alter()
    archive = next(image_copy.glob("*/image.tar"))
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    says(nanoclaw(home, engine, "ask", "repeat x"), 69, "altered")


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system: needs root")


@needs_root
def test_a_home_on_a_read_only_file_system(tmp_path: Path, engine: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    script = f"mount -t tmpfs -o ro none {home} && exec {sys.executable} nanoclaw.py --home {home} ask x"
    says(unshared(script), 1, str(home), "read-only")


@needs_root
def test_a_disk_that_is_full_at_commit(home: Path, engine: str) -> None:
    assert nanoclaw(home, engine, "ask", "repeat before").returncode == 0
    data = home / "data"
    kept = shutil.copytree(data, home / "kept")
    script = (
        f"mount -t tmpfs -o size=1m none {data} && cp -a {kept}/. {data} && chown -R 1000:1000 {data}/groups"
        f" && (dd if=/dev/zero of={data}/filler bs=4k 2>/dev/null; true)"
        f" && {sys.executable} nanoclaw.py --home {home} --engine {engine} ask 'repeat after'"
    )
    says(unshared(script), 1, "disk is full")


def unshared(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own."""
    argv = ["unshare", "--mount", "sh", "-c", script]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(argv, env=environment(), cwd=root, capture_output=True, text=True, timeout=120, check=False)
