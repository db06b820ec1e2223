"""A service manager as the daemon sees one: it holds the socket, starts programs, hears them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.conftest import scenes
from walarchiver.demo.stage import environment

__all__ = ["scenes"]

PATIENCE_S = 120.0

_START = """
import os, sys
for place in range(3, 3 + int(sys.argv[2])):
    os.dup2(int(sys.argv[1]), place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES="walarchiver.socket")
os.execv(sys.argv[3], sys.argv[3:])
"""
"""What systemd does between fork and exec: sockets from descriptor 3 on, and whose they are."""


@dataclass
class Manager:
    """Plays systemd: `listening` outlives the programs that it is passed to."""

    folder: Path
    path: Path
    listening: socket.socket
    notified: socket.socket
    programs: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, command: list[str], *, passed: socket.socket | None = None, count: int = 1, **extra: str
    ) -> subprocess.Popen[str]:
        fd = (passed or self.listening).fileno()
        program = subprocess.Popen(
            [sys.executable, "-c", _START, str(fd), str(count), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), "NOTIFY_SOCKET": str(self.folder / "notify"), **extra},
            pass_fds=(fd,),
        )
        self.programs.append(program)
        return program

    def hear(self, wanted: str) -> str:
        """The next message that holds `wanted`; the test fails when none comes."""
        self.notified.settimeout(PATIENCE_S)
        said = ""
        while wanted not in said:
            try:
                said = self.notified.recv(4096).decode()
            except TimeoutError:
                status = self.programs[-1].poll()
                err = (
                    self.programs[-1].stderr.read() if status is not None and self.programs[-1].stderr else ""
                )
                pytest.fail(f"{wanted} was never said; the program's exit status is {status}: {err}")
        return said

    def close(self) -> None:
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            with contextlib.suppress(ValueError):  # a test that read it to the end has closed it
                program.communicate(timeout=PATIENCE_S)
        self.listening.close()
        self.notified.close()


@pytest.fixture
def manager(pg_folder: Path) -> Iterator[Manager]:
    path = pg_folder / "wa.sock"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o666)
    listening.listen(128)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(pg_folder / "notify"))
    made = Manager(pg_folder, path, listening, notified)
    yield made
    made.close()


@pytest.fixture
def serve(manager: Manager) -> list[str]:
    """`walarchiver serve` on the manager's socket, with a repository and nothing to archive."""
    config = manager.folder / "walarchiver.toml"
    config.write_text(
        f'[server]\nsocket = "{manager.path}"\nstate = "{manager.folder / "state"}"\n'
        f'[repository.main]\nurl = "file://{manager.folder}/repository"\n[cluster.main]\n'
    )
    return [sys.executable, "-m", "walarchiver.cli.main", "--config", str(config), "serve"]
