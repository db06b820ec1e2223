"""Stream a base backup from a running server over the replication protocol.

Rules:
- Bytes go to the sink as they come; nothing is spooled. A slow sink slows the server down.
- The manifest is asked for with SHA-256: hashlib computes that with the interpreter lock released,
  so a restore checks files on all cores. CRC32C has no fast form in the standard library.
- WAIT false: whether the WAL of the backup is archived is for the caller to see to.
- TABLESPACE_MAP true, or tar streams of clusters with tablespaces could not be put back.
- The server's complaints are raised as BackupFailed with its words.

Source: PostgreSQL documentation, "Streaming Replication Protocol", BASE_BACKUP.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from psycopg import pq
from psycopg.pq import abc

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.errors import BackupFailed, DatabaseUnavailable
from walarchiver.postgres.backupindex import StreamIndex, TablespaceStream
from walarchiver.postgres.backuplabel import BackupLabel
from walarchiver.postgres.connection import connected, conninfo, one_line
from walarchiver.postgres.probe import server_clock
from walarchiver.postgres.tarstream import TarReader

__all__ = ["BackupResult", "BackupSink", "TablespaceStream", "stream_base_backup"]

BACKUP_LABEL = "backup_label"
TABLESPACE_MAP = "tablespace_map"
_WAIT_MS = 1000


class BackupSink(Protocol):
    """Takes the backup's bytes, on the calling thread. What it raises ends the backup."""

    def start_stream(self, stream: TablespaceStream) -> None:
        """The bytes of this stream follow; the one before is complete."""
        ...

    def data(self, chunk: bytes | memoryview) -> None:
        """The next bytes of the stream; the buffer must not be kept."""
        ...

    def manifest(self, chunk: bytes | memoryview) -> None:
        """The next bytes of backup_manifest; all streams are complete."""
        ...


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What the server and its backup_label say about a backup that has ended well."""

    timeline: int
    start_lsn: Lsn
    checkpoint_lsn: Lsn
    stop_lsn: Lsn
    stop_timeline: int
    start_time: CommitTime
    """Server clock before the backup was asked for."""
    stop_time: CommitTime
    """Server clock after the server had ended it."""
    from_standby: bool
    streams: tuple[StreamIndex, ...]
    backup_label: str
    notices: tuple[str, ...]


def stream_base_backup(
    dsn: str,
    *,
    label: str,
    checkpoint_fast: bool,
    sink: BackupSink,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
    on_start: Callable[[int], None] = lambda _timeline: None,
) -> BackupResult:
    """Take one full backup; blocks until it has ended.

    `progress(done, total)`: bytes, the total being the server's estimate. `on_start(timeline)` is
    called before the first byte. Raises DatabaseUnavailable when the server cannot be reached,
    BackupFailed with its message when it gives up, and whatever the sink raises.
    """
    with connected(dsn) as sql:
        start_time = server_clock(sql)
    connection = _connect(dsn)
    try:
        transfer = _Transfer(connection, sink, progress)
        connection.notice_handler = transfer.notice
        connection.send_query(_command(label, checkpoint_fast, connection.server_version).encode())
        transfer.run(on_start)
    except psycopg.Error as cause:
        raise BackupFailed(f"the connection to PostgreSQL broke: {one_line(str(cause))}") from cause
    finally:
        connection.finish()
    try:
        with connected(dsn) as sql:
            stop_time = server_clock(sql)
    except DatabaseUnavailable as cause:
        raise BackupFailed(f"the server was gone right after the backup: {cause.message}") from cause
    return transfer.result(start_time, stop_time)


def _connect(dsn: str) -> abc.PGconn:
    connection = pq.PGconn.connect(conninfo(dsn, replication=True).encode())
    if connection.status != pq.ConnStatus.OK:
        message = connection.get_error_message()
        connection.finish()
        raise DatabaseUnavailable(one_line(message))
    connection.nonblocking = 1
    return connection


def _command(label: str, checkpoint_fast: bool, server_version: int) -> str:
    quoted = "'" + label.replace("'", "''") + "'"
    if server_version < 150000:
        fast = " FAST" if checkpoint_fast else ""
        return (
            f"BASE_BACKUP LABEL {quoted} PROGRESS{fast} NOWAIT TABLESPACE_MAP "
            "MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"
        )
    speed = "fast" if checkpoint_fast else "spread"
    return (
        f"BASE_BACKUP (LABEL {quoted}, CHECKPOINT '{speed}', WAIT false, PROGRESS, TABLESPACE_MAP true, "
        "MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
    )


@dataclass(slots=True)
class _Stream:
    stream: TablespaceStream
    reader: TarReader = field(default_factory=lambda: TarReader((BACKUP_LABEL, TABLESPACE_MAP)))


class _Transfer:
    """One BASE_BACKUP from the first result to the last."""

    def __init__(
        self, connection: abc.PGconn, sink: BackupSink, progress: Callable[[int, int | None], None]
    ) -> None:
        self._connection = connection
        self._sink = sink
        self._progress = progress
        self._streams: list[_Stream] = []
        self._tablespaces: list[tuple[int, str | None]] = []
        self._total: int | None = None
        self._done = 0
        self._manifest_bytes = 0
        self._in_manifest = False
        self._start = self._stop = (Lsn(0), 0)
        self._notices: list[str] = []

    def notice(self, result: abc.PGresult) -> None:
        self._notices.append(one_line(result.get_error_message()))

    def run(self, on_start: Callable[[int], None]) -> None:
        self._start = self._position(self._rows())
        on_start(self._start[1])
        self._take_tablespaces(self._rows())
        if self._connection.server_version < 150000:
            self._copies_of_14()
        else:
            self._copy(self._message)
        self._finish_stream()
        self._stop = self._position(self._rows())
        while (result := self._result()) is not None:
            self._check(result, pq.ExecStatus.COMMAND_OK)
        self._progress(self._done, self._total)

    def result(self, start_time: CommitTime, stop_time: CommitTime) -> BackupResult:
        """Raises BackupFailed when the backup lacks a file without which it is none."""
        base = next((one for one in self._streams if one.stream.path is None), None)
        text = base.reader.kept.get(BACKUP_LABEL) if base is not None else None
        if text is None or self._manifest_bytes == 0:
            raise BackupFailed("PostgreSQL sent no backup_label or no backup manifest")
        label = BackupLabel.parse(text.decode("utf-8", "replace"))
        if (label.start_lsn, label.timeline) != self._start:
            raise BackupFailed(f"backup_label names another start than the server: {label}, {self._start}")
        return BackupResult(
            timeline=self._start[1],
            start_lsn=self._start[0],
            checkpoint_lsn=label.checkpoint_lsn,
            stop_lsn=self._stop[0],
            stop_timeline=self._stop[1],
            start_time=start_time,
            stop_time=stop_time,
            from_standby=label.from_standby,
            streams=tuple(
                StreamIndex(one.stream, one.reader.size, tuple(one.reader.members)) for one in self._streams
            ),
            backup_label=text.decode("utf-8", "replace"),
            notices=tuple(self._notices),
        )

    # --- results ---------------------------------------------------------------------------------

    def _result(self) -> abc.PGresult | None:
        while self._connection.flush() == 1:
            self._poll(select.POLLOUT)
        while self._connection.is_busy():
            self._wait()
        return self._connection.get_result()

    def _rows(self) -> abc.PGresult:
        return self._check(self._result(), pq.ExecStatus.TUPLES_OK)

    def _check(self, result: abc.PGresult | None, wanted: pq.ExecStatus) -> abc.PGresult:
        if result is not None and result.status == wanted:
            return result
        message = result.get_error_message() if result is not None else self._connection.get_error_message()
        raise BackupFailed(one_line(message) or "PostgreSQL ended the backup without saying why")

    def _position(self, rows: abc.PGresult) -> tuple[Lsn, int]:
        return parse_lsn(_cell(rows, 0, 0) or ""), int(_cell(rows, 0, 1) or 0)

    def _take_tablespaces(self, rows: abc.PGresult) -> None:
        """Rows are (oid, location, KiB or null); the data directory's row has no oid."""
        kib = 0
        for row in range(rows.ntuples):
            self._tablespaces.append((int(_cell(rows, row, 0) or 0), _cell(rows, row, 1)))
            kib += int(_cell(rows, row, 2) or 0)
        self._total = kib * 1024 or None

    # --- bytes -----------------------------------------------------------------------------------

    def _wait(self) -> None:
        if self._poll(select.POLLIN):
            self._connection.consume_input()

    def _poll(self, events: int) -> bool:
        poll = select.poll()  # unlike select() it takes descriptors above 1023
        poll.register(self._connection.socket, events)
        return bool(poll.poll(_WAIT_MS))

    def _copy(self, take: Callable[[memoryview], None]) -> None:
        """Hand every CopyData message of one COPY OUT to `take`."""
        self._check(self._result(), pq.ExecStatus.COPY_OUT)
        while True:
            length, data = self._connection.get_copy_data(1)
            if length > 0:
                take(memoryview(data))
            elif length == 0:
                self._wait()
            else:
                return

    def _message(self, message: memoryview) -> None:
        """PostgreSQL 15 and later: one COPY, the first byte of a message tells its kind."""
        kind, body = bytes(message[:1]), message[1:]
        if kind == b"d":
            self._data(body)
        elif kind == b"p":
            (self._done,) = struct.unpack(">Q", body)
            self._progress(self._done, self._total)
        elif kind == b"n":
            name, path, _rest = bytes(body).decode("utf-8", "surrogateescape").split("\0")
            oid = name.partition(".")[0]
            self._start_stream(int(oid) if path else 0, path or None)
        elif kind == b"m":
            self._start_manifest()
        else:
            raise BackupFailed(f"PostgreSQL sent a message of the unknown kind {kind!r}")

    def _copies_of_14(self) -> None:
        """PostgreSQL 14: one COPY for each tablespace in the order announced, one for the manifest."""
        for oid, path in self._tablespaces:
            self._start_stream(oid, path)
            self._copy(self._data_of_14)
        self._start_manifest()
        self._copy(self._data)

    def _data_of_14(self, body: memoryview) -> None:
        self._data(body)
        self._done += len(body)
        self._progress(self._done, self._total)

    def _data(self, body: memoryview) -> None:
        if self._in_manifest:
            self._manifest_bytes += len(body)
            self._sink.manifest(body)
        else:
            self._streams[-1].reader.feed(body)
            self._sink.data(body)

    def _start_stream(self, oid: int, path: str | None) -> None:
        self._finish_stream()
        stream = TablespaceStream(len(self._streams), oid, path)
        self._streams.append(_Stream(stream))
        self._sink.start_stream(stream)

    def _start_manifest(self) -> None:
        self._finish_stream()
        self._in_manifest = True

    def _finish_stream(self) -> None:
        if self._streams:
            self._streams[-1].reader.finish()


def _cell(rows: abc.PGresult, row: int, column: int) -> str | None:
    value = rows.get_value(row, column)
    return None if value is None else value.decode("utf-8", "surrogateescape")
