"""A private PostgreSQL cluster in one folder: for the demo, rehearsals and the tests.

Rules:
- Only a Unix socket in a 0700 folder lets anybody in; TCP is off. Trust on it is thereby trust in
  the folder's owner (and root).
- Encoding UTF8, locale C.UTF-8, whatever the host says.
- The folder holds `data`, `socket`, `server.log`; settings of ours are in `data/embedded.conf`.
- As root the cluster belongs to an ordinary user (`nobody` unless told), who must be able to
  reach the folder.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from walarchiver.embedded.binaries import postgres_bin
from walarchiver.errors import DatabaseUnavailable, UsageError
from walarchiver.postgres.process import (
    RunAs,
    ServerProcess,
    ServerState,
    StopMode,
    check_socket_folder,
    run_program,
)

MIB = 1024 * 1024
_INITDB_TIMEOUT_S = 300
_CONF = "embedded.conf"
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_LEAVES_NOTHING = {"dynamic_shared_memory_type": "mmap"}
"""A killed server's dynamic shared memory goes with its data directory, instead of staying in /dev/shm."""


class EmbeddedCluster:
    """A cluster that exists after `create` and serves between `start` and `stop`."""

    def __init__(
        self,
        major: int,
        directory: Path,
        *,
        port: int = 5432,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        user: str = "nobody",
        bin_dir: Path | None = None,
        durable: bool = True,
    ) -> None:
        """`port` only names the socket file. `user`: who runs it when we are root.

        `durable=False` turns fsync off: for tests, where a power cut is not what is tested.
        Raises BinariesMissing, UsageError (path too long, user unknown or shut out).
        """
        self.major = major
        self.directory = directory.absolute()
        self.data_dir = self.directory / "data"
        self.socket_dir = self.directory / "socket"
        self.port = port
        self.durable = durable
        self.bin_dir = bin_dir or postgres_bin(major)
        self.run_as = RunAs.named(user) if os.geteuid() == 0 else None
        check_socket_folder(self.socket_dir, port)
        self._settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "port": str(port),
            "log_line_prefix": "%m [%p] ",
            "log_timezone": "UTC",
            "timezone": "UTC",
            **_LEAVES_NOTHING,
            **({} if durable else _NOT_DURABLE),
            **(settings or {}),
        }
        self._server = ServerProcess(
            self.bin_dir,
            self.data_dir,
            log_path=self.directory / "server.log",
            run_as=self.run_as,
            environment=environment,
        )

    @property
    def log_path(self) -> Path:
        return self._server.log_path

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._server.pid

    @property
    def running(self) -> bool:
        return self._server.pid is not None

    def create(
        self, *, segment_bytes: int = 16 * MIB, data_checksums: bool = True, template: Path | None = None
    ) -> Self:
        """Run initdb, or copy `template` (the data directory of a stopped cluster of this major).

        A copy has its template's system identifier, segment size and checksums. Does nothing when
        the data directory is there already. Raises DatabaseUnavailable when initdb fails.
        """
        self._make_folders()
        if not (self.data_dir / "PG_VERSION").exists():
            if template is None:
                self._initdb(segment_bytes, data_checksums)
            else:
                shutil.copytree(template, self.data_dir, symlinks=True)
                if self.run_as is not None:
                    self.run_as.take(self.data_dir)
            with (self.data_dir / "postgresql.conf").open("a", encoding="utf-8") as conf:
                conf.write(f"\ninclude_if_exists = '{_CONF}'\n")
        self._write_conf()
        return self

    def configure(self, settings: Mapping[str, str]) -> None:
        """Add or replace settings in our file; they count from the next start or reload."""
        self._settings.update(settings)
        if self.data_dir.exists():
            self._write_conf()

    def start(self, *, timeout_s: float = 60) -> Self:
        """Return once connections are let in. Raises DatabaseUnavailable with the log's end."""
        self._server.launch()
        state = self._server.wait_until(ServerState.READY, ServerState.STANDBY, timeout_s=timeout_s)
        if state is ServerState.STOPPED:
            why = self._server.complaint()
            raise DatabaseUnavailable(f"PostgreSQL {self.major} in {self.data_dir} did not start: {why}")
        return self

    def stop(self, mode: StopMode = StopMode.FAST, *, timeout_s: float = 60) -> None:
        """End it (and wait); nothing happens when it does not run."""
        self._server.stop(mode, timeout_s=timeout_s)

    def kill(self) -> None:
        """SIGKILL every process of the server."""
        self._server.kill()

    def restart(self, mode: StopMode = StopMode.FAST) -> None:
        self.stop(mode)
        self.start()

    def reload(self) -> None:
        """Have the settings files read again."""
        self.program("pg_ctl", "reload", "-D", str(self.data_dir))

    def wait_until_stopped(self, *, timeout_s: float = 60) -> int | None:
        """For a server that ends by itself (a recovery that failed): its exit code."""
        self._server.wait_until(ServerState.STOPPED, timeout_s=timeout_s)
        return self._server.exit_code

    def log_text(self) -> str:
        return self._server.log_text()

    def dsn(self, dbname: str = "postgres") -> str:
        """A libpq connection string for the superuser `postgres`."""
        host = str(self.socket_dir).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{host}' port={self.port} user=postgres dbname={dbname}"

    def psql(self, sql: str, *, dbname: str = "postgres", timeout_s: float = 120) -> str:
        """What `psql -At` prints for these statements, without the last line end.

        Raises DatabaseUnavailable with psql's complaint at the first statement that fails.
        """
        arguments = ("-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname), "-c", sql)
        return self.program("psql", *arguments, timeout_s=timeout_s).rstrip("\n")

    def program(self, name: str, *arguments: str, timeout_s: float = 120) -> str:
        """Run one of this version's programs as the cluster's user; its output.

        Raises DatabaseUnavailable when it fails.
        """
        done = run_program(
            self.bin_dir, name, *arguments, run_as=self.run_as, cwd=self.directory, timeout_s=timeout_s
        )
        if done.returncode != 0:
            raise DatabaseUnavailable(f"{name} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(StopMode.IMMEDIATE)

    def _make_folders(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        if self.run_as is None:
            return
        for place in self.directory.parents:
            if not place.stat().st_mode & stat.S_IXOTH:
                raise UsageError(f"{place} is closed to the ordinary user that PostgreSQL must run as")
        for place in (self.directory, self.socket_dir):
            os.chown(place, self.run_as.uid, self.run_as.gid)

    def _initdb(self, segment_bytes: int, data_checksums: bool) -> None:
        arguments = ["-D", str(self.data_dir), "-U", "postgres", "--auth-local=trust", "--auth-host=reject"]
        arguments += ["--encoding=UTF8", "--locale=C.UTF-8", f"--wal-segsize={segment_bytes // MIB}"]
        if data_checksums:
            arguments.append("--data-checksums")
        elif self.major >= 18:  # there the default turned to on
            arguments.append("--no-data-checksums")
        if not self.durable:
            arguments.append("--no-sync")
        self.program("initdb", *arguments, timeout_s=_INITDB_TIMEOUT_S)

    def _write_conf(self) -> None:
        lines = (f"{name} = {quoted(value)}\n" for name, value in self._settings.items())
        path = self.data_dir / _CONF
        path.write_text("".join(lines), "utf-8")
        if self.run_as is not None:
            os.chown(path, self.run_as.uid, self.run_as.gid)


def quoted(value: str) -> str:
    """A value as postgresql.conf wants it: quotes and backslashes doubled."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
