"""The stage: an embedded PostgreSQL, an embedded S3 server, a repository, and `walarchiver serve`.

Everything lies below one folder and speaks over loopback or private sockets; `close` ends every
process. The demo plays on it, and so do the integration tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import walarchiver.hook
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.errors import ConfigError, RestoreFailed

SERVE_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Evidence:
    """The application's bucket, on the stage's own S3 server."""

    url: str
    references: str
    """The query that tells what the database refers to."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More lines of the section, as TOML values."""


@dataclass(slots=True)
class Stage:
    """Names and places of one play."""

    folder: Path
    url: str
    endpoint: str | None = None
    credentials_file: Path | None = None
    workers: int = 2
    cluster: EmbeddedCluster | None = None
    server: subprocess.Popen[bytes] | None = None
    extra_server_settings: Mapping[str, str] = field(default_factory=dict)
    evidence: Evidence | None = None
    """The application's bucket, if it has one."""

    @property
    def config(self) -> Path:
        return self.folder / "walarchiver.toml"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "wa.sock"

    @property
    def log_path(self) -> Path:
        return self.folder / "serve.log"

    @property
    def hook(self) -> Path:
        """The hook's launcher, installed where the database server's user can read it."""
        return self.folder / "hook" / "bin" / "walarchiver-hook"

    def archive_settings(self, *, timeout_s: int = 0) -> dict[str, str]:
        """What PostgreSQL needs in order to archive to this stage's server."""
        return {
            "archive_mode": "on",
            "archive_command": f'"{self.hook}" --socket "{self.socket}" push %p',
            "archive_timeout": str(timeout_s),
            "wal_level": "replica",
        }

    # --- repository ----------------------------------------------------------------------------

    def make_repository(self) -> None:
        """Write the configuration and run `keys init`, as a user would."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(root=None)
        self.run("keys", "init", "--out", str(self.keys), "--custodian", "ann", "--custodian", "bob")
        self.write_config(root=read_root(self.keys))

    def write_config(self, *, root: str | None) -> None:
        """The configuration of the archiving host; it names no custodian's key."""
        lines = ["[server]", f'socket = "{self.socket}"', f'state = "{self.folder / "state"}"']
        lines += [f"workers = {self.workers}"]
        lines += [f"{name} = {value}" for name, value in self.extra_server_settings.items()]
        lines += self._repository_lines()
        if root is not None:
            lines += [f'root = "{root}"', f'signing_key = "{self.keys / "writer.key"}"']
        lines += ["", "[cluster.main]", 'repository = "main"']
        if self.cluster is not None:
            lines += [f'dsn = "{self.cluster.dsn()}"', f'data_directory = "{self.cluster.data_dir}"']
        lines += self._evidence_lines()
        self.config.write_text("\n".join(lines) + "\n")

    def write_reader_config(self, path: Path, *, state: Path, custodian: str = "ann") -> Path:
        """What an empty machine needs to restore: the repository and one custodian's key file."""
        lines = ["[server]", f'state = "{state}"', *self._repository_lines()]
        lines += [f'identity = "{self.keys / f"custodian-{custodian}.key"}"', "", "[cluster.main]"]
        lines += self._evidence_lines()
        path.write_text("\n".join(lines) + "\n")
        return path

    def _repository_lines(self) -> list[str]:
        return ["", "[repository.main]", f'url = "{self.url}"', *self._reaching_lines()]

    def _reaching_lines(self) -> list[str]:
        lines = []
        if self.endpoint is not None:
            lines += [f'endpoint = "{self.endpoint}"', 'region = "us-east-1"']
        if self.credentials_file is not None:
            lines += [f'credentials_file = "{self.credentials_file}"']
        return lines

    def _evidence_lines(self) -> list[str]:
        if self.evidence is None:
            return []
        lines = ["", "[cluster.main.bucket]", f'url = "{self.evidence.url}"', *self._reaching_lines()]
        lines += [f"references = '{self.evidence.references}'"]
        return lines + [f"{name} = {value}" for name, value in self.evidence.settings.items()]

    def install_hook(self) -> None:
        """Copy launcher and hook as an installation lays them out.

        The database server may run as a user who cannot read this program's own folder.
        """
        launcher = find_launcher()
        library = self.folder / "hook" / "lib" / "python3" / "site-packages" / "walarchiver"
        library.mkdir(parents=True, exist_ok=True)
        self.hook.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(walarchiver.hook.__file__, library / "hook.py")
        copied = self.hook.with_name("new-hook")
        shutil.copyfile(launcher, copied)
        copied.chmod(0o755)
        copied.replace(self.hook)  # it may be running: a program's file cannot be written over

    # --- the program -----------------------------------------------------------------------------

    def command(self, *words: str, config: Path | None = None) -> list[str]:
        return [sys.executable, "-m", "walarchiver.cli.main", "--config", str(config or self.config), *words]

    def run(
        self,
        *words: str,
        config: Path | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run one walarchiver command to its end. Raises RestoreFailed when it fails and `check`."""
        done = subprocess.run(
            self.command(*words, config=config),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment(),
        )
        if check and done.returncode != 0:
            raise RestoreFailed(
                f"`walarchiver {' '.join(words)}` exited {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def serve(self, *words: str, program: Sequence[str] = ()) -> None:
        """Start the daemon and return once it is ready to archive. Raises RestoreFailed."""
        self.socket.parent.mkdir(mode=0o755, exist_ok=True)
        self.server = self.start_server(program or self.command("serve", *words))
        waited = threading.Event()
        for _ in range(int(SERVE_TIMEOUT_S / _POLL_S)):
            if self.server.poll() is not None:
                break
            if ask(self.socket, "/readyz"):
                return
            waited.wait(_POLL_S)
        tail = self.log_path.read_text(errors="replace").strip().splitlines()[-5:]
        raise RestoreFailed(f"`walarchiver serve` did not become ready: {' | '.join(tail)}")

    def start_server(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A process that writes into the daemon's log."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

    def stop_server(self, *, kill: bool = False) -> int | None:
        """End the daemon: SIGTERM, or SIGKILL; its exit status."""
        if self.server is None:
            return None
        if kill:
            self.server.kill()
        else:
            self.server.terminate()
        try:
            status = self.server.wait(timeout=SERVE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            status = self.server.wait(timeout=10)
        self.server = None
        return status

    def close(self) -> None:
        """End every process of the stage."""
        if self.cluster is not None:
            self.cluster.stop()
        self.stop_server()


def environment() -> dict[str, str]:
    """The environment for our own commands: they must find this very program."""
    source = str(Path(walarchiver.hook.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{inherited}" if inherited else source}


def read_root(keys: Path) -> str:
    """The root verification key that a key file names, in its textual form."""
    for line in (keys / "writer.key").read_text().splitlines():
        if line.startswith("root: "):
            return line.removeprefix("root: ").strip()
    raise ConfigError(f"{keys}/writer.key names no root key")


def find_launcher() -> Path:
    """The installed `walarchiver-hook`, or the one in a source tree. Raises ConfigError."""
    places = (
        Path(sys.executable).parent / "walarchiver-hook",
        Path(walarchiver.hook.__file__).parent.parent / "bin" / "walarchiver-hook",
    )
    for place in places:
        if place.is_file():
            return place
    raise ConfigError("walarchiver-hook is not installed beside this interpreter")


def ask(socket_path: Path, path: str) -> bool:
    """Whether a GET on the server's Unix socket answers 200."""
    import http.client
    import socket

    connection = http.client.HTTPConnection("localhost", timeout=5)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as channel:
        channel.settimeout(5)
        try:
            channel.connect(str(socket_path))
            connection.sock = channel
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
