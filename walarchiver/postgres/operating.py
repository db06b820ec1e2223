"""What an operator has the server do or tell: switch WAL, mark a moment, say how it is set up.

Rules:
- Writing needs the primary, and a role that may: EXECUTE on these functions is granted to superusers
  only (PostgreSQL, "System Administration Functions"), so a refusal names the GRANT.
- `pg_switch_wal` does nothing at the start of a segment; a message is written first, so that a
  segment is completed by every call (pg_logical_emit_message, not transactional: it is never replayed).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import DatabaseUnavailable, ServerInRecovery
from walarchiver.postgres.connection import connected, one_line
from walarchiver.postgres.probe import Connection, insert_position_on, server_clock

_TOLD = (
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "wal_level",
    "full_page_writes",
    "fsync",
    "data_checksums",
    "max_wal_senders",
    "wal_segment_size",
    "summarize_wal",
    "track_commit_timestamp",
)
"""Settings that archiving and recovery depend on."""


@dataclass(frozen=True, slots=True)
class Switched:
    """A segment that was completed, with everything written so far in it or before it."""

    segment: Segment
    size: SegmentBytes

    @property
    def name(self) -> str:
        return self.segment.name(self.size)


@dataclass(frozen=True, slots=True)
class Marked:
    """A named restore point; recovery to it stops at `lsn`, the end of its record."""

    name: str
    lsn: Lsn
    timeline: int
    size: SegmentBytes

    @property
    def segment(self) -> Segment:
        """The segment that ends with, or holds, the mark's last byte."""
        return Segment.at(self.timeline, self.lsn - 1, self.size)


@dataclass(frozen=True, slots=True)
class ArchiverStats:
    """pg_stat_archiver. Failures by signal or above 125 are not counted there by PostgreSQL."""

    archived: int
    last_archived: str | None
    failed: int
    last_failed: str | None
    failing: bool
    """The last attempt was a failure."""


@dataclass(frozen=True, slots=True)
class ServerCondition:
    """What doctor asks of a server."""

    version: str
    system: int
    in_recovery: bool
    now: CommitTime
    settings: dict[str, str]
    """As pg_settings has them, in base units; only those that this version has and shows."""
    senders: int
    """Replication connections in use."""
    may_replicate: bool
    may_switch: bool
    pending_restart: tuple[str, ...]
    inactive_slots: tuple[tuple[str, int], ...]
    """Replication slots that nobody reads, and the bytes of WAL that each holds back."""


def force_switch(dsn: str) -> Switched:
    """Write a little and complete the current segment.

    Raises ServerInRecovery, DatabaseUnavailable.
    """
    with connected(dsn) as connection:
        _require_primary(connection)
        with _explained(connection, "pg_switch_wal()"):
            connection.execute("SELECT pg_logical_emit_message(false, 'walarchiver', 'check')")
            lsn = parse_lsn(str(_one(connection, "SELECT pg_switch_wal()::text")))
        size = _segment_size(connection)
        timeline = insert_position_on(connection).timeline
    return Switched(Segment.at(timeline, lsn - 1, size), size)


def mark_moment(dsn: str, name: str) -> Marked:
    """Write a named restore point. Raises ServerInRecovery, DatabaseUnavailable."""
    with connected(dsn) as connection:
        _require_primary(connection)
        with _explained(connection, "pg_create_restore_point(text)"):
            row = connection.execute("SELECT pg_create_restore_point(%s)::text", (name,)).fetchone()
        assert row is not None
        return Marked(
            name,
            parse_lsn(str(row[0])),
            insert_position_on(connection).timeline,
            _segment_size(connection),
        )


def archiver_stats(dsn: str) -> ArchiverStats:
    """How PostgreSQL thinks that archiving goes. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        row = connection.execute(
            "SELECT archived_count, last_archived_wal, failed_count, last_failed_wal, "
            "coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) "
            "FROM pg_stat_archiver"
        ).fetchone()
    assert row is not None
    archived, last_archived, failed, last_failed, failing = row
    return ArchiverStats(int(archived), last_archived, int(failed), last_failed, bool(failing))


def server_condition(dsn: str) -> ServerCondition:
    """Settings, rights and clock of a server. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        now = server_clock(connection)
        row = connection.execute(
            "SELECT current_setting('server_version'), (pg_control_system()).system_identifier, "
            "pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication), "
            "(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), "
            "has_function_privilege('pg_switch_wal()', 'execute')"
        ).fetchone()
        assert row is not None
        version, system, in_recovery, senders, may_replicate, may_switch = row
        settings = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_TOLD),)
        )
        told = {str(name): str(setting) for name, setting in settings}
        pending = connection.execute("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
        restarts = tuple(str(name) for (name,) in pending)
        slots = _inactive_slots(connection, in_recovery=bool(in_recovery))
    return ServerCondition(
        version=str(version),
        system=int(system) % 2**64,  # PostgreSQL shows it as a signed number
        in_recovery=bool(in_recovery),
        now=now,
        settings=told,
        senders=int(senders),
        may_replicate=bool(may_replicate),
        may_switch=bool(may_switch),
        pending_restart=restarts,
        inactive_slots=slots,
    )


def clock_of(dsn: str) -> CommitTime:
    """The server's clock now. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        return server_clock(connection)


def system_of(dsn: str) -> int:
    """The server's system identifier. Raises DatabaseUnavailable."""
    with connected(dsn) as connection:
        # PostgreSQL shows it as a signed number.
        return int(str(_one(connection, "SELECT (pg_control_system()).system_identifier"))) % 2**64


def _inactive_slots(connection: Connection, *, in_recovery: bool) -> tuple[tuple[str, int], ...]:
    position = "pg_last_wal_replay_lsn()" if in_recovery else "pg_current_wal_lsn()"
    rows = connection.execute(
        f"SELECT slot_name::text, coalesce({position} - restart_lsn, 0)::bigint FROM pg_replication_slots "  # noqa: S608 (constants)
        "WHERE NOT active ORDER BY slot_name"
    )
    return tuple((str(name), int(held)) for name, held in rows)


def _require_primary(connection: Connection) -> None:
    if _one(connection, "SELECT pg_is_in_recovery()"):
        raise ServerInRecovery("the server that `dsn` reaches is a standby and writes no WAL of its own")


@contextmanager
def _explained(connection: Connection, function: str) -> Iterator[None]:
    """Inside, a missing right is said with the GRANT that gives it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseUnavailable(
            one_line(str(error)),
            hint=f'As a superuser: GRANT EXECUTE ON FUNCTION {function} TO "{connection.info.user}".',
        ) from error


def _segment_size(connection: Connection) -> SegmentBytes:
    value = _one(connection, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")
    return SegmentBytes(int(str(value)))


def _one(connection: Connection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row[0]
