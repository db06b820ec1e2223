"""The files in deploy/ and the Dockerfile, as far as they can be checked without running them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.hook.conftest import REPOSITORY
from walarchiver.settings_schema import ServerSettings

DEPLOY = REPOSITORY / "deploy"
BOTH = ("walarchiver.service", "walarchiver-backup.service")


def check(step: str, **environment: str) -> str:
    """What deploy/check.sh says of one step; skips the test where the step's tool is missing."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [DEPLOY / "check.sh", step],
        env={**os.environ, "PATH": path, "WALARCHIVER_VENV": sys.prefix, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    if "skipped " in said and done.returncode == 0:
        pytest.skip(said.strip())
    assert (done.returncode == 0) == ("FAULT" not in said), said
    return said


@pytest.mark.parametrize("step", ["dockerfiles", "scripts", "units", "compose"])
def test_what_is_deployed_passes_its_checkers(step: str) -> None:
    assert "FAULT" not in check(step)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("WatchdogSec=60", "WatchDogSec=60"),
        ("Type=notify", "Type=notifying"),
        ("NoNewPrivileges=yes", "NoNewPrivileges=maybe"),
        ("CapabilityBoundingSet=\n", ""),
        ("ProtectSystem=strict\n", ""),
    ],
)
def test_a_fault_in_a_unit_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    shutil.copytree(DEPLOY / "systemd", tmp_path, dirs_exist_ok=True)
    unit = tmp_path / "walarchiver.service"
    assert right in unit.read_text()
    unit.write_text(unit.read_text().replace(right, wrong))
    assert "FAULT" in check("units", UNITS=str(tmp_path))


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / name)
    return parser


def test_a_stop_of_the_daemon_leaves_the_shared_memory_of_postgresql_alone() -> None:
    # With RemoveIPC=yes systemd removes what User= has in /dev/shm once its last unit ends, and Debian's
    # postgresql@.service names no user.
    for name in BOTH:
        service = unit(name)["Service"]
        assert (service["User"], service["RemoveIPC"]) == ("postgres", "no")


def test_the_backups_unit_has_the_daemons_secrets_state_and_program() -> None:
    text = {name: (DEPLOY / "systemd" / name).read_text().splitlines() for name in BOTH}
    wanted = ("LoadCredential=", "StateDirectory", "User=", "Group=", "UMask=")
    daemon, backup = ([line for line in lines if line.startswith(wanted)] for lines in text.values())
    assert sorted(daemon) == sorted(backup)
    programs = {unit(name)["Service"]["ExecStart"].split()[0] for name in BOTH}
    assert len(programs) == 1


def test_the_units_agree_with_the_defaults_of_the_configuration() -> None:
    server = ServerSettings()
    service, listening = unit("walarchiver.service")["Service"], unit("walarchiver.socket")["Socket"]
    assert listening["ListenStream"] == str(server.socket)
    assert f"/var/lib/{service['StateDirectory']}" == str(server.state)
    assert f"/run/{service['RuntimeDirectory']}" == str(server.socket.parent)
    assert service["RuntimeDirectoryPreserve"] == "yes", "else the daemon's end takes the socket along"
    assert timedelta(seconds=int(service["TimeoutStopSec"])) > 2 * server.drain


def test_the_image_installs_only_what_constraints_pin_by_hash() -> None:
    blocks = re.findall(r"(?m)^([A-Za-z0-9._-]+)==\S+ \\\n((?:    --hash=sha256:\S+(?: \\)?\n)+)", pins())
    assert {"pip", "setuptools", "aiohttp"} <= {name for name, _hashes in blocks}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[]", line)[0].lower() for line in project["dependencies"]}
    assert wanted <= {name.lower() for name, _hashes in blocks}
    lines = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    commands = [part for line in lines if line.startswith("RUN ") for part in line[4:].split("&&")]
    installs = [command for command in commands if re.search(r"^\s*pip .*install ", command)]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def pins() -> str:
    return (REPOSITORY / "constraints.txt").read_text()


# --- the image's health check ----------------------------------------------------------------------


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """A server that gives everyone the same answer; what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join(10)


def health(path: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", DEPLOY / "health.py", *words],
        env={"WALARCHIVER_SOCKET": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout.strip()


def test_the_health_check_passes_on_200_and_tells_what_was_said(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n") as asked:
        assert health(tmp_path / "s", "/readyz") == (0, "ok")
    assert asked[0].startswith(b"GET /readyz HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: main\n", b"", b"HTTP/1.1 2000 OK\r\n\r\n"]
)
def test_the_health_check_fails_on_every_other_answer(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer):
        status, said = health(tmp_path / "s")
    assert status == 1
    assert said == answer.partition(b"\r\n\r\n")[2].decode().strip()


def test_the_health_check_fails_without_a_server(tmp_path: Path) -> None:
    status, said = health(tmp_path / "s")
    assert status == 1
    assert said.startswith("no answer: ")
