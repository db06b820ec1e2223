"""Both hooks as they are installed (launcher, interpreter, file; compiled), and servers that answer them."""

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
    """A copy of the hook in the layout that pip makes."""

    folder: Path
    cwd: Path
    variant: str
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


PYTHON, COMPILED = "python", "compiled"


@pytest.fixture(scope="session")
def compiled_hook(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The compiled hook of this source; None where no compiler can make it."""
    out = tmp_path_factory.mktemp("hook") / "walarchiver-hook"
    command = [REPOSITORY / "bin" / "build-hook", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if shutil.which("cc") is not None:
        assert done.returncode == 0, done.stderr
    return out if done.returncode == 0 else None


def install_python(folder: Path) -> None:
    """Launcher, interpreter and hook.py, as pip lays them out."""
    package = folder / "lib" / "python3.11" / "site-packages" / "walarchiver"
    package.mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(REPOSITORY / "walarchiver" / "hook.py", package)
    shutil.copy(REPOSITORY / "bin" / "walarchiver-hook", folder / "bin")
    (folder / "bin" / "python3").symlink_to(sys.executable)


def install_compiled(folder: Path, built: Path) -> None:
    """The compiled hook and nothing else."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(built, folder / "bin" / "walarchiver-hook")


@pytest.fixture(params=[PYTHON, COMPILED])
def variant(request: pytest.FixtureRequest) -> str:
    """Which of the two hooks a test is about; both, if it does not say."""
    asked: str = request.param
    return asked


only_python = pytest.mark.parametrize("variant", [PYTHON], indirect=True)
only_compiled = pytest.mark.parametrize("variant", [COMPILED], indirect=True)


@pytest.fixture
def hook(tmp_path: Path, variant: str, compiled_hook: Path | None) -> InstalledHook:
    folder = tmp_path / "installed"
    if variant == PYTHON:
        install_python(folder)
    elif compiled_hook is None:
        pytest.skip("no C compiler here that can make the hook")
    else:
        install_compiled(folder, compiled_hook)
    cwd = tmp_path / "data"
    (cwd / "pg_wal").mkdir(parents=True)
    installed = InstalledHook(folder, cwd, variant)
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
