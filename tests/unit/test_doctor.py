"""The doctor: each thing that it looks at, well and not well; nothing of it needs an engine here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host import control
from host.config import Home, load, prepare
from host.doctor import FAILURE, OK, WARNING, Finding, Subject, examine, record
from host.doctor import endpoint as endpoints
from host.doctor import engine as engines
from host.doctor import home as homes
from host.doctor import machine as machines
from host.doctor import outside as outsides
from host.errors import EngineError
from host.house import registered
from host.lines import encode_line
from host.model import Endpoint
from host.store import Store

KEY = "sk-ant-doctor-0123456789abcdef"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    home = Home(tmp_path / "config", tmp_path / "data", tmp_path / "cache")
    prepare(home)
    return Subject(home)


def found(findings: Any, name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return path


# --- folders and files --------------------------------------------------------------------------------------


def test_folders_that_are_closed_are_well(subject: Subject) -> None:
    assert [finding.state for finding in homes.folders(subject)] == [OK] * 3


def test_folders_that_are_not_there_yet_are_well(tmp_path: Path) -> None:
    none = Subject(Home(*(tmp_path / "none" / kind for kind in ("config", "data", "cache"))))
    assert [finding.state for finding in homes.folders(none)] == [OK] * 3


def test_a_folder_that_others_can_enter_is_a_failure(subject: Subject) -> None:
    subject.home.data.chmod(0o750)
    finding = found(homes.folders(subject), "data folder")
    assert finding.state == FAILURE
    assert finding.next == f"chmod 700 {subject.home.data}"


def test_a_step_to_take_is_said_as_a_shell_understands_it(tmp_path: Path) -> None:
    home = Home(*(tmp_path / "my home" / kind for kind in ("config", "data", "cache")))
    prepare(home)
    home.data.chmod(0o755)
    assert found(homes.folders(Subject(home)), "data folder").next == f"chmod 700 '{home.data}'"


def test_a_folder_of_another_user_is_a_failure(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert f"belongs to user {me}" in found(homes.folders(subject), "data folder").found


def test_a_folder_that_cannot_be_written_or_looked_at_is_a_failure(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    states = {finding.name: finding.state for finding in homes.folders(subject)}
    assert states == {"config folder": OK, "data folder": FAILURE, "cache folder": FAILURE}
    monkeypatch.setattr(Path, "lstat", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert {finding.state for finding in homes.folders(subject)} == {FAILURE}


def test_a_link_to_nowhere_in_the_place_of_a_folder_is_a_failure(subject: Subject) -> None:
    subject.home.cache.rmdir()
    subject.home.cache.symlink_to("nowhere")
    assert found(homes.folders(subject), "cache folder").state == FAILURE


def test_a_file_in_the_place_of_a_folder_is_a_failure(subject: Subject) -> None:
    subject.home.cache.rmdir()
    subject.home.cache.touch()
    assert found(homes.folders(subject), "cache folder").state == FAILURE


def test_a_key_is_told_of_and_never_told(subject: Subject) -> None:
    assert found(homes.key(subject), "key").state == WARNING
    write(subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\n")
    findings = list(homes.key(subject))
    assert found(findings, "key").state == OK
    assert KEY[:12] not in json.dumps(record(findings))


def test_a_key_that_others_can_read_is_a_failure_without_its_words(subject: Subject) -> None:
    write(subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\n", 0o644)
    findings = examine(subject, lambda text: None)
    assert found(findings, "key").state == FAILURE
    assert "chmod 600" in found(findings, "key").next
    assert found(findings, "model").state == WARNING
    assert KEY[:12] not in json.dumps(record(findings))


@pytest.mark.parametrize("name", ["config.toml", "mount-allowlist.json"])
def test_settings_that_others_can_change_are_a_failure(subject: Subject, name: str) -> None:
    path = write(subject.home.config / name, "", 0o664)
    findings = examine(subject, lambda text: None)
    assert found(findings, name).state == FAILURE
    assert found(findings, name).next == f"chmod go-w {path}"
    path.chmod(0o644)
    assert name not in {finding.name for finding in homes.settings(subject)}


def test_settings_that_are_not_understood_are_a_failure_and_the_rest_goes_on(subject: Subject) -> None:
    write(subject.home.config / "config.toml", "colour = 'red'")
    findings = examine(subject, lambda text: None)
    assert found(findings, "settings").state == FAILURE
    assert "colour" in found(findings, "settings").found
    assert found(findings, "clock").state == OK


def test_an_allowlist_is_none_or_good_or_a_failure(subject: Subject) -> None:
    assert found(homes.allowlist(subject), "allowlist").state == OK
    path = write(subject.home.config / "mount-allowlist.json", "{}")
    assert found(homes.allowlist(subject), "allowlist").state == FAILURE
    content = {
        "allowedRoots": [{"path": "/srv", "allowReadWrite": False}],
        "blockedPatterns": [],
        "nonMainReadOnly": True,
    }
    path.write_text(json.dumps(content))
    assert [finding.state for finding in homes.allowlist(subject)] == [OK]
    content["allowedRoots"] = [{"path": "/nowhere/at-all", "allowReadWrite": False}]
    path.write_text(json.dumps(content))
    assert [finding.state for finding in homes.allowlist(subject)] == [OK, WARNING]


# --- groups and the database -----------------------------------------------------------------------------------


@pytest.fixture
def store(subject: Subject) -> Iterator[Store]:
    made = Store(subject.home.data / "nanoclaw.db")
    registered(made)
    yield made
    made.close()


def test_a_database_is_none_or_whole(subject: Subject) -> None:
    assert found(homes.database(subject), "database").state == OK
    Store(subject.home.data / "nanoclaw.db").close()
    assert "no damage" in found(homes.database(subject), "database").found


def test_beside_a_host_that_writes(subject: Subject, store: Store) -> None:
    with store._transaction():
        assert found(homes.database(subject), "database").state == OK
    assert found(homes.groups(subject), "groups").found == "1"


def test_damage_is_a_failure(subject: Subject, store: Store) -> None:
    with store._transaction() as db:
        db.executemany(
            "INSERT INTO events (at, grp, turn, what, detail) VALUES (0, '', '', '', ?)", [("x" * 3000,)] * 200
        )
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = subject.home.data / "nanoclaw.db"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(20_000))
    findings = examine(subject, lambda text: None)
    assert found(findings, "database").state == FAILURE


def test_what_is_no_database_is_a_failure(subject: Subject) -> None:
    write(subject.home.data / "nanoclaw.db", "not a database, and longer than a header is" * 50)
    assert found(examine(subject, lambda text: None), "database").state == FAILURE


def test_a_newer_schema_is_a_failure(subject: Subject, store: Store) -> None:
    store._db.execute("PRAGMA user_version = 99")
    assert "newer" in found(homes.database(subject), "database").found


def test_a_database_that_others_can_read_is_a_failure(subject: Subject, store: Store) -> None:
    (subject.home.data / "nanoclaw.db").chmod(0o644)
    assert found(homes.database(subject), "database").state == FAILURE


@pytest.mark.parametrize("name", ["nanoclaw.db-wal", "nanoclaw.db.schema-2"])
def test_what_lies_beside_the_database_is_closed_too(subject: Subject, store: Store, name: str) -> None:
    write(subject.home.data / name, "", 0o640)
    assert any(name in finding.next for finding in homes.database(subject) if finding.state == FAILURE)


def test_an_older_schema_is_well_and_told(subject: Subject, store: Store) -> None:
    store._db.execute("PRAGMA user_version = 1")
    finding = found(homes.database(subject), "database")
    assert (finding.state, "brought to" in finding.found) == (OK, True)
    assert found(homes.groups(subject), "groups").found == "0"


def test_a_database_that_takes_too_long_is_doubtful(
    subject: Subject, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store._transaction() as db:
        db.executemany("INSERT INTO events (at, grp, turn, what, detail) VALUES (0, '', '', '', ?)", [("x",)] * 5000)
    monkeypatch.setattr(homes, "QUICK_SECONDS", -1.0)
    monkeypatch.setattr(homes, "QUICK_STEPS", 10)
    assert found(homes.database(subject), "database").state == WARNING


def test_a_group_whose_settings_mean_nothing_any_more_is_a_failure(subject: Subject, store: Store) -> None:
    assert [finding.state for finding in homes.groups(subject)] == [OK]
    store.registry.change("main", name="main", needs_trigger=False, settings={"timezone": "Mars/Base"})
    assert found(homes.groups(subject), "group main").state == FAILURE


def test_a_section_without_its_group_is_doubtful(subject: Subject, store: Store) -> None:
    write(subject.home.config / "config.toml", "[groups.choir]\nmodel = 'm'\n")
    list(homes.settings(subject))
    assert found(homes.groups(subject), "groups").state == WARNING


# --- the machine --------------------------------------------------------------------------------------------------


class Room:
    f_frsize = 4096

    def __init__(self, free: int, files: int = 1_000_000) -> None:
        self.f_bavail, self.f_files, self.f_favail = free // 4096, 2_000_000, files


@pytest.mark.parametrize(
    ("room", "state"),
    [(Room(10 << 30), OK), (Room(500 << 20), WARNING), (Room(50 << 20), FAILURE),
     (Room(10 << 30, files=5000), WARNING), (Room(10 << 30, files=50), FAILURE)],
)  # fmt: skip
def test_room_on_the_disk(subject: Subject, room: Room, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    assert [finding.state for finding in homes.room(subject)] == [state] * 2


def test_a_clock_that_was_never_set_is_a_failure(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(homes.clock(subject), "clock").state == OK
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert found(homes.clock(subject), "clock").state == FAILURE


def test_a_clock_that_was_set_back_is_doubtful(subject: Subject, store: Store) -> None:
    with store._transaction() as db:
        db.execute(
            "INSERT INTO messages (channel, id, chat, sender, sender_name, text, sent_at, arrived_at)"
            " VALUES ('console', '1', 'main', 'a', 'a', 'x', 0, ?)",
            (time.time() + 86_400,),
        )
    assert found(homes.clock(subject), "clock").state == WARNING


@pytest.mark.parametrize("kept", [None, True, False])
def test_whether_the_clock_is_kept_is_told_and_no_fault(
    subject: Subject, kept: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machines.clock_is_kept() in {None, True, False}
    monkeypatch.setattr(homes, "clock_is_kept", lambda: kept)
    finding = found(homes.clock(subject), "clock")
    assert (finding.state, "step" in finding.found, "knows of nothing" in finding.found) == (
        OK, kept is True, kept is False,
    )  # fmt: skip


def test_a_zone_that_this_machine_does_not_know_is_a_failure(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(homes.settings(subject), "time zone").state == OK
    monkeypatch.setattr(homes.values, "is_zone", lambda zone: False)
    assert found(homes.settings(subject), "time zone").state == FAILURE


def proc(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "state"),
    [({}, OK), ({"sys__user__max_user_namespaces": "0"}, WARNING),
     ({"sys__kernel__unprivileged_userns_clone": "0"}, WARNING),
     ({"sys__kernel__apparmor_restrict_unprivileged_userns": "1"}, WARNING),
     ({"sys__user__max_user_namespaces": "10000"}, OK)],
)  # fmt: skip
def test_user_namespaces(
    subject: Subject, tmp_path: Path, files: dict[str, str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "PROC", proc(tmp_path / "proc", **files))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert found(machines.namespaces(subject), "user namespaces").state == state


@pytest.mark.parametrize(
    ("controllers", "cgroups", "state"),
    [("cpu memory pids", "", OK), ("cpu pids", "", WARNING),
     (None, "#subsys h n enabled\ncpu 1 1 1\nmemory 2 1 1\n", OK), (None, "#s\nmemory 2 1 0\n", WARNING)],
)  # fmt: skip
def test_the_memory_cgroup(
    subject: Subject, tmp_path: Path, controllers: str | None, cgroups: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {} if controllers is None else {"fs__cgroup__cgroup.controllers": controllers}
    monkeypatch.setattr(machines, "SYS", proc(tmp_path / "sys", **files))
    monkeypatch.setattr(machines, "PROC", proc(tmp_path / "proc", cgroups=cgroups))
    assert found(machines.cgroups(subject), "memory cgroup").state == state


def test_a_kernel_without_filters_is_a_failure(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(machines.kernel(subject), "seccomp").state == OK
    monkeypatch.setattr(machines, "PROC", tmp_path)
    assert found(machines.kernel(subject), "seccomp").state == FAILURE


def test_a_kernel_without_landlock_is_well(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "landlock_version", lambda: 0)
    assert found(machines.kernel(subject), "landlock").state == OK


def test_an_older_kernel_opens_folders_in_another_way(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "has_openat2", lambda: False)
    assert "component by component" in found(machines.kernel(subject), "openat2").found


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening(subject: Subject) -> Iterator[socket.socket]:
    """A host's socket with nobody behind it, and its lock."""
    write(subject.home.data / "host.lock", "4711 1700000000\n")
    with socket.socket(socket.AF_UNIX) as server, control.reachable(subject.home.data / "host.sock") as name:
        server.bind(name)
        server.listen(1)
        yield server


def test_no_host_is_well(subject: Subject) -> None:
    assert found(homes.host(subject), "host").state == OK
    assert not subject.host_runs


def test_a_host_that_answers_is_well_and_told_by_its_pid(subject: Subject, listening: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            if connection.recv(4096) == control.encode_request(control.Status()):
                connection.sendall(encode_line({"event": "status", "channels": {}}))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    finding = found(homes.host(subject), "host")
    thread.join(5)
    assert (finding.state, "(pid 4711)" in finding.found, subject.host_runs) == (OK, True, True)
    assert subject.status == {"event": "status", "channels": {}}


def test_a_host_that_hangs_is_a_failure(
    subject: Subject, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "HOST_SECONDS", 0.2)
    finding = found(homes.host(subject), "host")
    assert (finding.state, "kill 4711" in finding.next) == (FAILURE, True)


# --- the model's endpoint ---------------------------------------------------------------------------------------------


class Server:
    """Answers on loopback with these bytes, or takes a connection and says nothing; keeps what it was sent."""

    def __init__(self, answer: bytes | None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked = b""
        self._answer, self._open = answer, []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        self._open.append(connection)
        self.asked = connection.recv(4096)
        if self._answer is not None:
            connection.sendall(self._answer)
            connection.close()

    def close(self) -> None:
        self._thread.join(5)
        for connection in self._open:
            connection.close()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Any]:
    made: list[Server] = []

    def start(answer: bytes | None) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.close()


def ask(subject: Subject, port: int) -> Finding:
    return endpoints.ask(Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port, tls=False), subject, "it")


def test_an_endpoint_that_answers_is_well_and_is_not_told_the_key(subject: Subject, serve: Any) -> None:
    server = serve(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    write(
        subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL=http://127.0.0.1:{server.port}/x\n"
    )
    (finding,) = endpoints.model(subject)
    assert (finding.state, "HTTP 401" in finding.found) == (OK, True)
    assert server.asked.startswith(b"GET /x/v1/models ")
    assert KEY.encode() not in server.asked


def test_an_endpoint_that_hangs_is_a_failure(subject: Subject, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "SECONDS", 0.3)
    assert "did not answer" in ask(subject, serve(None).port).found


def test_an_endpoint_that_speaks_something_else_is_a_failure(subject: Subject, serve: Any) -> None:
    assert ask(subject, serve(b"SSH-2.0-none\r\n").port).state == FAILURE


def test_an_endpoint_that_is_not_there_is_a_failure(subject: Subject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert ask(subject, port).state == FAILURE


def test_offline_nothing_is_asked_and_what_is_needed_is_said(subject: Subject) -> None:
    write(subject.home.config / ".env", "ANTHROPIC_BASE_URL=http://127.0.0.1:9\n")
    subject.offline = True
    (finding,) = endpoints.model(subject)
    assert (finding.state, "127.0.0.1:9; not asked" in finding.found) == (OK, True)


# --- offline ------------------------------------------------------------------------------------------------


def outside(subject: Subject) -> list[str]:
    subject.offline = True
    return [finding.found for finding in outsides.needs(subject)]


def test_offline_names_all_that_is_needed_from_outside(subject: Subject) -> None:
    assert list(outsides.needs(subject)) == [], "it is for --offline"
    assert outside(subject)[:2] == [
        "for the model: nothing, a rehearsal script answers",
        "for groups' tools: nothing, no group has allow_hosts",
    ]
    write(subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\n")
    assert outside(subject)[0] == "for the model: api.anthropic.com:443, and it alone"
    write(subject.home.config / ".env", "ANTHROPIC_BASE_URL=http://127.0.0.1:11434\n")
    assert outside(subject)[0] == "for the model: 127.0.0.1:11434, which is this machine"
    with contextlib.closing(Store(subject.home.data / "nanoclaw.db")) as store:
        registered(store)
    settings = '[groups.main]\nallow_hosts = ["a.example", "*.b.example:8443"]\n'
    write(subject.home.config / "config.toml", 'grantable_hosts = ["c.example"]\n' + settings)
    subject.config = load(subject.home)
    assert outside(subject)[1:3] == [
        "for groups' tools: main: a.example, *.b.example:8443",
        "and what main may grant to groups: c.example",
    ]
    write(subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\n", 0o644)
    assert KEY[:12] not in json.dumps(outside(subject))


def test_offline_asks_nobody(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **more: Any) -> Any:
        raise AssertionError("a network was used")

    write(subject.home.config / ".env", f"ANTHROPIC_API_KEY={KEY}\n")
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    subject.offline = True
    found = next(endpoints.model(subject))
    assert (found.state, "not asked, as you said" in found.found) == (OK, True)


def test_offline_asks_no_docker_of_another_machine(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "docker").write_text(f"#!/bin/sh\n: >{asked}\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    subject.engine_flag = "docker"
    subject.offline = True
    assert [(f.state, "192.0.2.1" in f.found) for f in engines.engine(subject)] == [(WARNING, True)]
    subject.engine_flag = "auto"
    with pytest.raises(EngineError):
        list(engines.engine(subject))
    subject.engine_flag = "bubblewrap"
    assert "192.0.2.1" in found(engines.others(subject), "also: docker").found
    assert not asked.exists()
    subject.offline = False
    list(engines.others(subject))
    assert asked.exists(), "so it would have been asked"


def test_which_machine_docker_is_on_is_known_as_its_program_knows_it(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert outsides.remote_docker(environ) == ""
    assert outsides.remote_docker({**environ, "DOCKER_HOST": "unix:///run/docker.sock"}) == ""
    assert outsides.remote_docker({**environ, "DOCKER_HOST": "ssh://pi"}) == "ssh://pi"
    folder = tmp_path / ".docker" / "contexts" / "meta" / hashlib.sha256(b"pi").hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text('{"Endpoints": {"docker": {"Host": "tcp://pi:2376"}}}')
    assert outsides.remote_docker({**environ, "DOCKER_CONTEXT": "pi"}) == "tcp://pi:2376"
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "pi"}')
    assert outsides.remote_docker(environ) == "tcp://pi:2376"
    assert outsides.remote_docker({**environ, "DOCKER_CONTEXT": "default"}) == ""
    (tmp_path / ".docker" / "config.json").write_text("[")
    assert outsides.remote_docker(environ) == ""
