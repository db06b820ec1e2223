"""Ask a running server what it is, where its WAL stands and how its recovery goes.

Rules:
- Every function opens its own connection and asks one snapshot of questions; HorizonSampler keeps
  one open. All block: shells call them in threads.
- The role needs REPLICATION and pg_monitor; what it may not see is None or left out, never guessed.
- Failures are DatabaseUnavailable with the server's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg.rows import TupleRow

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.errors import DatabaseUnavailable, WrongCluster
from walarchiver.format.records import BackupFacts, DatabaseFact, ExtensionFact, LimitFacts
from walarchiver.postgres.connection import connected, database_errors, open_connection

_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    mode: str
    command: str | None
    library: str
    """Empty on 14, which has none."""
    timeout_s: int
    wal_level: str


@dataclass(frozen=True, slots=True)
class ServerTablespace:
    oid: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server said about itself."""

    system: int
    """System identifier."""
    version: str
    """`server_version` as the server prints it."""
    version_num: int
    platform: str
    """The text of version()."""
    segment_size: int
    block_size: int
    wal_block_size: int
    data_checksums: bool
    timeline: int
    in_recovery: bool
    data_directory: str | None
    encoding: str
    archive: ArchiveSettings
    limits: LimitFacts
    databases: tuple[DatabaseFact, ...]
    extensions: tuple[ExtensionFact, ...]
    tablespaces: tuple[ServerTablespace, ...]
    """Without pg_default and pg_global."""
    outside_config: tuple[str, ...]
    """Configuration files that lie outside the data directory."""
    preload_libraries: str
    unread_databases: tuple[str, ...]
    """Databases that let this role not in: their extensions are not known."""

    @property
    def major(self) -> int:
        return self.version_num // 10000


@dataclass(frozen=True, slots=True)
class InsertPosition:
    """At `time` on the server's clock, WAL had been written up to `lsn` at least."""

    time: CommitTime
    lsn: Lsn
    timeline: int


@dataclass(frozen=True, slots=True)
class WrittenPosition:
    """How far a primary's WAL is safely written, and whether it is archived."""

    timeline: int
    lsn: Lsn
    archiving: bool
    """archive_mode is on or always."""


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """How far a server's recovery is."""

    in_recovery: bool
    pause_state: str | None
    """`not paused`, `pause requested` or `paused`; None when recovery has ended."""
    replay_lsn: Lsn | None
    """End of the last record replayed; it stays after promotion."""
    last_commit_time: CommitTime | None
    timeline: int
    """Timeline of the last checkpoint in pg_control; after promotion of the WAL now written."""


def probe_server(dsn: str) -> ServerFacts:
    """Everything worth knowing before a backup. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        settings = _settings(connection)
        system, timeline, in_recovery, platform = _row(
            connection,
            "SELECT (pg_control_system()).system_identifier, (pg_control_checkpoint()).timeline_id, "
            "pg_is_in_recovery(), version()",
        )
        if not in_recovery:  # pg_control knows the last checkpoint only
            timeline = insert_position_on(connection).timeline
        version_num = int(settings["server_version_num"])
        databases = _databases(connection, version_num)
        tablespaces = connection.execute(
            "SELECT oid::bigint, spcname, pg_tablespace_location(oid) FROM pg_tablespace "
            "WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid"
        ).fetchall()
        outside = outside_config_files(connection)
        names = _open_databases(connection)
    extensions, unread = _extensions(dsn, names)
    return ServerFacts(
        system=int(system),
        version=settings["server_version"],
        version_num=version_num,
        platform=str(platform),
        segment_size=int(settings["wal_segment_size"]),
        block_size=int(settings["block_size"]),
        wal_block_size=int(settings["wal_block_size"]),
        data_checksums=settings["data_checksums"] == "on",
        timeline=int(timeline),
        in_recovery=bool(in_recovery),
        data_directory=settings.get("data_directory"),
        encoding=settings["server_encoding"],
        archive=ArchiveSettings(
            mode=settings["archive_mode"],
            command=settings.get("archive_command"),
            library=settings.get("archive_library", ""),
            timeout_s=int(settings["archive_timeout"]),
            wal_level=settings["wal_level"],
        ),
        limits=LimitFacts(**{name: int(settings[name]) for name in LimitFacts.__slots__}),
        databases=databases,
        extensions=extensions,
        tablespaces=tuple(ServerTablespace(int(oid), name, path) for oid, name, path in tablespaces),
        outside_config=outside,
        preload_libraries=settings.get("shared_preload_libraries", ""),
        unread_databases=unread,
    )


def backup_facts(server: ServerFacts, *, packages: str = "") -> BackupFacts:
    """The part of a probe that a backup record keeps."""
    return BackupFacts(
        version=server.version,
        version_num=server.version_num,
        platform=server.platform,
        block_size=server.block_size,
        wal_block_size=server.wal_block_size,
        segment_size=server.segment_size,
        data_checksums=server.data_checksums,
        encoding=server.encoding,
        databases=server.databases,
        extensions=server.extensions,
        limits=server.limits,
        packages=packages,
    )


def server_clock(connection: Connection) -> CommitTime:
    """The server's clock now. Raises DatabaseUnavailable."""
    (now,) = _row(connection, f"SELECT {_CLOCK}")
    return CommitTime(int(now))


def insert_position(dsn: str) -> InsertPosition:
    """One sample. Raises DatabaseUnavailable, also when the server is in recovery."""
    with connected(dsn) as connection:
        return insert_position_on(connection)


def insert_position_on(connection: Connection) -> InsertPosition:
    """As `insert_position`, on an open connection."""
    # Evaluated left to right: the position is at or after what was inserted when the clock was read.
    time, lsn, name = _row(
        connection,
        f"SELECT {_CLOCK}, pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())",
    )
    return InsertPosition(CommitTime(int(time)), parse_lsn(str(lsn)), int(str(name)[:8], 16))


def written_position(dsn: str) -> WrittenPosition | None:
    """None while the server is in recovery. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        (in_recovery,) = _row(connection, "SELECT pg_is_in_recovery()")
        if in_recovery:
            return None
        timeline = insert_position_on(connection).timeline
        lsn, mode = _row(
            connection, "SELECT pg_current_wal_flush_lsn()::text, current_setting('archive_mode')"
        )
    return WrittenPosition(timeline, parse_lsn(str(lsn)), archiving=mode != "off")


class HorizonSampler:
    """Samples the insert position again and again over one connection; not thread-safe.

    Each new connection must reach the expected cluster: another one's clock and positions would
    prove seconds that were never archived.
    """

    def __init__(self, dsn: str, *, system: int) -> None:
        self._dsn = dsn
        self._system = system
        self._connection: Connection | None = None

    def sample(self) -> InsertPosition | None:
        """The position now; None while the server is in recovery.

        Raises DatabaseUnavailable, or WrongCluster when the dsn reaches another cluster; the next
        call connects anew.
        """
        try:
            with database_errors():
                if self._connection is None:
                    self._connection = open_connection(self._dsn)
                    self._check_cluster(self._connection)
                (in_recovery,) = _row(self._connection, "SELECT pg_is_in_recovery()")
                return None if in_recovery else insert_position_on(self._connection)
        except (DatabaseUnavailable, WrongCluster):
            self.close()
            raise

    def _check_cluster(self, connection: Connection) -> None:
        (system,) = _row(connection, "SELECT (pg_control_system()).system_identifier")
        if (found := int(system) % 2**64) != self._system:  # PostgreSQL shows it as a signed number
            raise WrongCluster(
                f"the dsn reaches system {found}, the archive is of system {self._system}",
                hint="Let `dsn` and `data_directory` name the same cluster.",
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def switch_wal(dsn: str) -> Lsn:
    """Complete the current segment, so that it is archived; the position where it ended.

    Does nothing at the very start of a segment. Raises DatabaseUnavailable.
    """
    with connected(dsn) as connection:
        (lsn,) = _row(connection, "SELECT pg_switch_wal()::text")
        return parse_lsn(str(lsn))


def recovery_state(dsn: str) -> RecoveryState:
    """Raises DatabaseUnavailable while the server does not (yet) let anybody in."""
    with connected(dsn) as connection:
        in_recovery, pause, replay, last, timeline = _row(
            connection,
            "SELECT pg_is_in_recovery(), "
            "CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END, "
            "pg_last_wal_replay_lsn()::text, "
            "(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint, "
            "CASE WHEN pg_is_in_recovery() THEN (pg_control_checkpoint()).timeline_id "
            "ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END",
        )
    return RecoveryState(
        in_recovery=bool(in_recovery),
        pause_state=None if pause is None else str(pause),
        replay_lsn=None if replay is None else parse_lsn(str(replay)),
        last_commit_time=None if last is None else CommitTime(int(last)),
        timeline=int(timeline),
    )


def resume_recovery(dsn: str) -> None:
    """Let a paused recovery go on: at its target that means to promote. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        connection.execute("SELECT pg_wal_replay_resume()")


def outside_config_files(connection: Connection) -> tuple[str, ...]:
    """Configuration files outside the data directory, sorted; empty when that may not be seen."""
    found = {
        str(path)
        for (path,) in connection.execute(
            "SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') "
            "AND setting <> '' UNION SELECT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL"
        )
    }
    rows = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchall()
    if not rows:
        return ()
    inside = str(rows[0][0]).rstrip("/") + "/"
    return tuple(sorted(path for path in found if not path.startswith(inside)))


def _settings(connection: Connection) -> dict[str, str]:
    """Settings in their base unit (pg_settings.setting); wal_segment_size is in bytes there."""
    return {
        str(name): str(value) for name, value in connection.execute("SELECT name, setting FROM pg_settings")
    }


def _databases(connection: Connection, version_num: int) -> tuple[DatabaseFact, ...]:
    if version_num >= 150000:
        provider = "CASE datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' END"
        version = "datcollversion"
    else:
        provider, version = "'libc'", "NULL"
    rows = connection.execute(
        f"SELECT datname, oid::bigint, pg_encoding_to_char(encoding), datcollate, datctype, {provider}, "  # noqa: S608 (constants)
        f"{version} FROM pg_database ORDER BY oid"
    )
    return tuple(
        DatabaseFact(
            name=name,
            oid=oid,
            encoding=encoding,
            collate=collate,
            ctype=ctype,
            provider=provider_name or "unknown",
            collation_version=collation_version,
        )
        for name, oid, encoding, collate, ctype, provider_name, collation_version in rows
    )


def _open_databases(connection: Connection) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege(oid, 'CONNECT') "
        "ORDER BY oid"
    )
    return tuple(str(name) for (name,) in rows)


def _extensions(dsn: str, databases: tuple[str, ...]) -> tuple[tuple[ExtensionFact, ...], tuple[str, ...]]:
    found: list[ExtensionFact] = []
    unread: list[str] = []
    for database in databases:
        try:
            with connected(dsn, dbname=database) as connection:
                rows = connection.execute("SELECT extname, extversion FROM pg_extension ORDER BY extname")
                found += [ExtensionFact(database, name, version) for name, version in rows]
        except DatabaseUnavailable:
            unread.append(database)
    return tuple(found), tuple(unread)


def _row(connection: Connection, sql: str) -> TupleRow:
    with database_errors():
        row = connection.execute(sql).fetchone()
    if row is None:
        raise DatabaseUnavailable(f"PostgreSQL gave no row for {sql}")
    return row
