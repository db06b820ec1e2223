"""Run a restored cluster privately and tell where its recovery ended.

Rules:
- Nobody gets in but through a socket in a 0700 folder; no TCP, no archiving, no replication, no
  subscriptions: the copy has the original's identity and must not act as it.
- Those settings stand on the command line, so nothing that the backup contains overrides them.
- "Started" proves nothing: recovery is over when the server says so, and where it ended is read
  from the log and the new timeline's history file. A pause alone is no proof either: a raised
  limit pauses recovery short of its target, and then the log has no stop line.
- As root the server runs as the owner of the data directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from restore.recoverylog import HistoryEnd, RecoveryLog, parse_history_end, parse_log
from walarchiver.core.lsn import Lsn
from walarchiver.errors import BinariesMissing, DatabaseUnavailable, DeadlineExceeded, RestoreFailed
from walarchiver.ports import Clock
from walarchiver.postgres.process import (
    RunAs,
    ServerProcess,
    ServerState,
    StopMode,
    check_socket_folder,
    find_system_bin,
    program_major,
)

if TYPE_CHECKING:
    from walarchiver.postgres.probe import RecoveryState

_POLL_S = 0.2
_PORT = 5432

_PRIVATE = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "ssl": "off",
    "archive_mode": "off",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "max_logical_replication_workers": "0",
    "external_pid_file": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "lc_messages": "C",
}


class Outcome(StrEnum):
    PROMOTED = "promoted"
    """Recovery is over; the server takes writes on a new timeline."""
    PAUSED = "paused"
    STOPPED = "stopped"
    """The server has ended, by its recovery_target_action or because it failed."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a recovery ended."""

    outcome: Outcome
    log: RecoveryLog
    history: HistoryEnd | None
    """Of the new timeline, once promoted."""
    replay_lsn: Lsn | None
    """End of the last record replayed, when the server could be asked."""

    @property
    def met_target(self) -> bool:
        """Whether recovery stopped because of its target, not for want of WAL."""
        return self.log.stop is not None


class Instance:
    """One restored data directory with its private server."""

    def __init__(
        self,
        bin_dir: Path,
        data_dir: Path,
        work_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`work_dir` gets socket, log and access rules; it is made if need be, and must be
        reachable by the data directory's owner. `settings` win over everything.

        Raises UsageError when the socket path is too long or the owner is root.
        """
        self.bin_dir = bin_dir
        self.data_dir = data_dir.absolute()
        self.work_dir = work_dir.absolute()
        self.socket_dir = self.work_dir / "socket"
        check_work_dir(self.work_dir)
        self.run_as = RunAs.owner_of(self.data_dir) if os.geteuid() == 0 else None
        options = {
            **_PRIVATE,
            "data_directory": str(self.data_dir),  # a configuration file may name the original's
            "unix_socket_directories": str(self.socket_dir),
            "hba_file": str(self.work_dir / "hba.conf"),
            "ident_file": str(self.work_dir / "ident.conf"),
        }
        if not (self.data_dir / "postgresql.conf").exists():  # it lay outside the data directory
            options["config_file"] = str(self.work_dir / "postgresql.conf")
        self._options = {**options, **(settings or {})}
        self._server = ServerProcess(
            bin_dir,
            self.data_dir,
            log_path=self.work_dir / "server.log",
            run_as=self.run_as,
            options=self._options,
            environment=environment,
        )
        self._log_from = 0
        self._last_state: RecoveryState | None = None

    @property
    def log_path(self) -> Path:
        return self._server.log_path

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def dsn(self, *, user: str = "postgres", dbname: str = "postgres") -> str:
        """A libpq connection string through the private socket; any role may be named."""
        host = str(self.socket_dir).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{host}' port={_PORT} user={user} dbname={dbname}"

    def prepare(self) -> Mapping[str, str]:
        """Make the folder for socket and access rules; the settings that a private start takes.

        Raises RestoreFailed.
        """
        try:
            self._make_work_dir()
        except OSError as cause:
            raise RestoreFailed(f"{self.work_dir} could not be prepared: {cause}") from cause
        return self._options

    def start(self) -> Self:
        """Start the server and return at once. Raises DatabaseUnavailable, RestoreFailed."""
        self.prepare()
        self._log_from = len(self._server.log_text())
        self._last_state = None
        self._server.launch()
        return self

    def watch(
        self,
        clock: Clock,
        *,
        timeout_s: float,
        user: str = "postgres",
        progress: Callable[[RecoveryState], None] = lambda _state: None,
    ) -> Reached:
        """Wait until recovery has ended one way or the other.

        `progress` is told how far replay is, when the server lets us in (hot_standby = on).
        Raises DeadlineExceeded; the server goes on then. Raises RestoreFailed when the cluster has no
        role `user`.
        """
        from walarchiver.postgres.probe import recovery_state  # who only places files needs no client

        deadline = clock.monotonic_s() + timeout_s
        while clock.monotonic_s() < deadline:
            state = self._server.state()
            if state is ServerState.STOPPED:
                return self._reached(Outcome.STOPPED)
            if state in (ServerState.READY, ServerState.STANDBY):
                try:
                    self._last_state = recovery_state(self.dsn(user=user))
                except DatabaseUnavailable as refusal:  # just ending, or full: ask again
                    if f'role "{user}" does not exist' in refusal.message:
                        raise RestoreFailed(
                            f"the restored cluster has no role {user!r} to watch its recovery with",
                            hint="Name one that was there at that moment with --user.",
                        ) from refusal
                else:
                    progress(self._last_state)
                    if not self._last_state.in_recovery:
                        return self._reached(Outcome.PROMOTED)
                    if self._last_state.pause_state == "paused":
                        return self._reached(Outcome.PAUSED)
            self._server.rest(_POLL_S)
        raise DeadlineExceeded(
            f"recovery in {self.data_dir} has not ended after {timeout_s} s",
            hint=f"It goes on; its log is {self.log_path}.",
        )

    def stop(self, mode: StopMode = StopMode.FAST, *, timeout_s: float = 60) -> None:
        """End the server and wait; nothing happens when it does not run."""
        self._server.stop(mode, timeout_s=timeout_s)

    def kill(self) -> None:
        self._server.kill()

    def detach(self) -> None:
        """Let the server run on after this process has ended."""
        self._server.detach()

    def log_text(self) -> str:
        """The log of the last start."""
        return self._server.log_text()[self._log_from :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(StopMode.IMMEDIATE)

    def _reached(self, outcome: Outcome) -> Reached:
        log = parse_log(self.log_text())
        return Reached(
            outcome=outcome,
            log=log,
            history=self._history(log) if outcome is Outcome.PROMOTED else None,
            replay_lsn=self._last_state.replay_lsn if self._last_state is not None else None,
        )

    def _history(self, log: RecoveryLog) -> HistoryEnd | None:
        if log.new_timeline is None:
            return None
        path = self.data_dir / "pg_wal" / f"{log.new_timeline:08X}.history"
        try:
            return parse_history_end(log.new_timeline, path.read_bytes())
        except OSError as cause:
            raise RestoreFailed(
                f"timeline {log.new_timeline} has no readable history file: {cause}"
            ) from cause

    def _make_work_dir(self) -> None:
        self.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        files = {
            "hba.conf": "local all all trust\n",
            "ident.conf": "",
            "postgresql.conf": "# the backup's own lay outside its data directory\n",
        }
        for name, content in files.items():
            (self.work_dir / name).write_text(content, "utf-8")
        if self.run_as is not None:
            self.run_as.take(self.work_dir)


def check_work_dir(work_dir: Path) -> None:
    """Raises UsageError when the path is too long for a socket below it."""
    check_socket_folder(work_dir / "socket", _PORT)


def find_server_programs(
    data_dir: Path,
    *,
    bin_dir: Path | None = None,
    search: Sequence[Callable[[int], Path | None]] = (find_system_bin,),
) -> Path:
    """The folder with a `postgres` of the data directory's major version.

    `bin_dir` is the operator's choice and must fit; else each of `search` is asked in order.
    Raises BinariesMissing, naming the version wanted; RestoreFailed when there is no cluster.
    """
    try:
        major = int((data_dir / "PG_VERSION").read_text("ascii").strip())
    except (OSError, ValueError) as cause:
        raise RestoreFailed(f"{data_dir} has no readable PG_VERSION: {cause}") from cause
    return find_programs(major, bin_dir=bin_dir, search=search)


def find_programs(
    major: int,
    *,
    bin_dir: Path | None = None,
    search: Sequence[Callable[[int], Path | None]] = (find_system_bin,),
) -> Path:
    """As `find_server_programs`, for a known major version."""
    if bin_dir is not None:
        found = program_major(bin_dir)
        if found != major:
            what = "no postgres program" if found is None else f"PostgreSQL {found}"
            raise BinariesMissing(f"{bin_dir} has {what}, but the backup is of PostgreSQL {major}")
        return bin_dir
    for find in search:
        if (place := find(major)) is not None:
            return place
    raise BinariesMissing(f"no programs of PostgreSQL {major} were found on this host")
