"""Commands in processes of their own that need not import the program: forked from one that has.

An interpreter's start and imports cost more than most commands do. So a helper imports everything once, and
forks for each command: the very same `main`, on its own pipes, environment, folder and session, with its own
exit status. What a test itself starts, interrupts or measures it starts as users do: `Stage.command`.

The helper has one thread, runs no command itself, and ends when our end of its pipe is closed.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from walarchiver.demo.stage import COMMAND_TIMEOUT_S, Stage, environment
from walarchiver.errors import RestoreFailed

_TIMEOUT_S = 120.0
_HELPER: list[Helper] = []
_STARTING = threading.Lock()


class ReadyStage(Stage):
    """A stage whose commands and daemon are forked from the helper."""

    def run(
        self,
        *words: str,
        config: Path | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        done = helper().run(["--config", str(config or self.config), *words], timeout_s)
        if check and done.returncode != 0:
            raise RestoreFailed(
                f"`walarchiver {' '.join(words)}` exited {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def start_server(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        if list(command[:3]) != self.command()[:3]:
            return super().start_server(command)
        with self.log_path.open("ab") as log:
            return helper().start(command[3:], log.fileno(), log.fileno())


def helper() -> Helper:
    """The one of this process, started when first asked for."""
    with _STARTING:
        if not _HELPER:
            _HELPER.append(Helper())
    return _HELPER[0]


class Helper:
    """The process that has imported everything; it ends with ours."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="wa-ready-", dir="/tmp"))
        self._path = self._folder / "socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.readyhelper", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )
        atexit.register(self.close)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the helper did not start"

    def close(self) -> None:
        """End it and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_TIMEOUT_S)
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(
        self, words: Sequence[str], out: int, err: int, *, program: str = "walarchiver.cli.main"
    ) -> Forked:
        """One command under way; it writes to copies of these descriptors. `program` has a `main`."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(_TIMEOUT_S)
        channel.connect(str(self._path))
        given = {"program": program, "words": list(words), "cwd": os.getcwd(), "env": environment()}
        asked = json.dumps(given).encode()
        socket.send_fds(channel, [len(asked).to_bytes(4, "big")], [out, err])
        channel.sendall(asked)
        return Forked(words, channel)

    def run(self, words: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """One command to its end. Raises subprocess.TimeoutExpired, after it was killed."""
        out, err = Reading(), Reading()
        program = self.start(words, out.theirs, err.theirs)
        out.begin()
        err.begin()
        try:
            status = program.wait(timeout_s)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            raise subprocess.TimeoutExpired(words, timeout_s, out.end(), err.end()) from None
        return subprocess.CompletedProcess(words, status, out.end(), err.end())


class Forked(subprocess.Popen[bytes]):
    """A process that is not our child: whoever attends to it tells its end."""

    _child_created = False  # nothing for Popen to wait for

    def __init__(self, words: Sequence[str], channel: socket.socket) -> None:
        self.args = list(words)
        self.stdin = self.stdout = self.stderr = None
        self.returncode: int | None = None
        self._channel = channel
        self.pid = self._told()

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._channel.settimeout(timeout)
            try:
                self.returncode = self._told()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._channel.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _told(self) -> int:
        raw = self._channel.recv(4, socket.MSG_WAITALL)
        assert len(raw) == 4, "the helper is gone"
        return int.from_bytes(raw, "big", signed=True)


class Reading:
    """One end of a pipe that is read to its end, beside whoever writes."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        self._read = b""
        self._thread = threading.Thread(target=self._follow)

    def begin(self) -> None:
        """Read; whoever writes has its own copy of the other end by now."""
        os.close(self.theirs)
        self._thread.start()

    def end(self) -> str:
        """All of it, once everybody who could write has ended."""
        self._thread.join()
        return self._read.decode()

    def _follow(self) -> None:
        with os.fdopen(self._ours, "rb") as stream:
            self._read = stream.read()
