"""A hook as it is installed (launcher, interpreter, file), and servers that answer it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class InstalledHook:
    """A copy of the launcher and the hook in the layout that pip makes."""

    folder: Path
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def launcher(self) -> Path:
        return self.folder / "bin" / "walarchiver-hook"

    def start(self, *words: str | bytes, launcher: Path | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [launcher or self.launcher, *words],
            cwd=self.cwd,
            env={"PATH": "/usr/bin:/bin", **self.environment},
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str | bytes, launcher: Path | None = None) -> tuple[int, str]:
        process = self.start(*words, launcher=launcher)
        _out, err = process.communicate(timeout=60)
        return process.returncode, err.decode()


@pytest.fixture
def hook(tmp_path: Path) -> InstalledHook:
    folder = tmp_path / "installed"
    package = folder / "lib" / "python3.11" / "site-packages" / "walarchiver"
    package.mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(REPOSITORY / "walarchiver" / "hook.py", package)
    shutil.copy(REPOSITORY / "bin" / "walarchiver-hook", folder / "bin")
    (folder / "bin" / "python3").symlink_to(sys.executable)
    cwd = tmp_path / "data"
    (cwd / "pg_wal").mkdir(parents=True)
    installed = InstalledHook(folder, cwd)
    installed.environment["WALARCHIVER_SOCKET"] = str(tmp_path / "s")
    return installed


@dataclass
class FakeServer:
    """Answers every connection with the same bytes and keeps what it was sent."""

    path: Path
    answer: bytes | Callable[[socket.socket], None]
    requests: list[bytes] = field(default_factory=list)

    def serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                self.requests.append(read_request(connection))
                if callable(self.answer):
                    self.answer(connection)
                else:
                    connection.sendall(self.answer)


def read_request(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


ServerMaker = Callable[[bytes | Callable[[socket.socket], None]], FakeServer]


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[ServerMaker]:
    open_sockets: list[tuple[socket.socket, threading.Thread]] = []

    def make(answer: bytes | Callable[[socket.socket], None]) -> FakeServer:
        server = FakeServer(tmp_path / "s", answer)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(server.path))
        listening.listen()
        thread = threading.Thread(target=server.serve, args=(listening,), daemon=True)
        thread.start()
        open_sockets.append((listening, thread))
        return server

    yield make
    for listening, thread in open_sockets:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)
