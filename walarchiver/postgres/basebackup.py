"""Stream a base backup from a running server over the replication protocol.

Rules:
- Bytes go to the sink as they come; nothing is spooled. A slow sink slows the server down.
- The manifest is asked for with CRC-32C, which costs the server next to nothing: what proves a file is
  our own `digests` part (filedigests.py, ADR 0025).
- An incremental backup is asked for by handing the server the manifest of the one before it (17 and later).
- The server checks every page's checksum while it sends, where the cluster has them; it goes on to the end,
  says which files, and then fails.
- WAIT false: whether the WAL of the backup is archived is for the caller to see to.
- TABLESPACE_MAP true, or tar streams of clusters with tablespaces could not be put back.
- The server's complaints are raised as BackupFailed, or what it is more exactly, with its words.

Source: PostgreSQL documentation, "Streaming Replication Protocol", BASE_BACKUP and UPLOAD_MANIFEST.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from psycopg import pq
from psycopg.pq import abc

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.errors import (
    BackupConnectionLost,
    BackupFailed,
    DatabaseUnavailable,
    IncrementalUnavailable,
    MalformedObject,
    PageChecksumFailed,
)
from walarchiver.postgres.backupindex import StreamIndex, TablespaceStream
from walarchiver.postgres.backuplabel import BackupLabel
from walarchiver.postgres.connection import connected, conninfo, one_line
from walarchiver.postgres.probe import server_clock
from walarchiver.postgres.tarstream import TarMember, TarReader

__all__ = ["BackupResult", "BackupSink", "TablespaceStream", "stream_base_backup"]

BACKUP_LABEL = "backup_label"
TABLESPACE_MAP = "tablespace_map"
INCREMENTAL_VERSION = 170000
_WAIT_MS = 1000
_UPLOAD_BYTES = 1 << 16
_SHUT_DOWN = ("57P01", "57P02", "57P03")
"""SQLSTATE of a session that the server ends: shutdown, crash, not accepting yet."""
_CORRUPTED = "XX001"
_NOT_IN_STATE = "55000"
_NOTICES_KEPT = 200
RATE_KIB_MIN, RATE_KIB_MAX = 32, 1 << 20
"""What MAX_RATE takes, in KiB a second (PostgreSQL documentation, BASE_BACKUP)."""
_DATA, _PROGRESS, _ARCHIVE, _MANIFEST = b"dpnm"


class BackupSink(Protocol):
    """Takes the backup's bytes, on the calling thread. What it raises ends the backup."""

    def start_stream(self, stream: TablespaceStream, members: Sequence[TarMember]) -> None:
        """The bytes of this stream follow; the one before is complete. `members` grows: it has every
        member whose header has passed, before `data` gets the header's last byte."""
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
    prior_manifest: bytes | None = None,
    max_rate: int | None = None,
) -> BackupResult:
    """Take one backup; blocks until it has ended.

    `progress(done, total)`: bytes, the total being the server's estimate. `on_start(timeline)` is
    called before the first byte. `prior_manifest`: of the backup that an incremental one is to build on.
    `max_rate`: bytes a second that the server may send at most. Raises DatabaseUnavailable when the server
    cannot be reached, BackupConnectionLost when it goes away, PageChecksumFailed, IncrementalUnavailable,
    BackupFailed with its message when it gives up otherwise, and whatever the sink raises.
    """
    with connected(dsn) as sql:
        start_time = server_clock(sql)
    connection = _connect(dsn)
    try:
        transfer = _Transfer(connection, sink, progress)
        connection.notice_handler = transfer.notice
        if prior_manifest is not None:
            transfer.upload_manifest(prior_manifest)
        command = _command(
            label,
            connection.server_version,
            checkpoint_fast=checkpoint_fast,
            incremental=prior_manifest is not None,
            max_rate=max_rate,
        )
        transfer.run(command, on_start)
    except psycopg.Error as cause:
        raise BackupConnectionLost(f"the connection to PostgreSQL broke: {one_line(str(cause))}") from cause
    finally:
        connection.finish()
    try:
        with connected(dsn) as sql:
            stop_time = server_clock(sql)
    except DatabaseUnavailable as cause:
        raise BackupConnectionLost(f"the server was gone right after the backup: {cause.message}") from cause
    return transfer.result(start_time, stop_time)


def _connect(dsn: str) -> abc.PGconn:
    connection = pq.PGconn.connect(conninfo(dsn, replication=True).encode())
    if connection.status != pq.ConnStatus.OK:
        message = connection.get_error_message()
        connection.finish()
        raise DatabaseUnavailable(one_line(message))
    connection.nonblocking = 1
    return connection


def _command(
    label: str, server_version: int, *, checkpoint_fast: bool, incremental: bool, max_rate: int | None
) -> str:
    quoted = "'" + label.replace("'", "''") + "'"
    kib = None if max_rate is None else min(max(max_rate // 1024, RATE_KIB_MIN), RATE_KIB_MAX)
    if server_version < 150000:
        fast = " FAST" if checkpoint_fast else ""
        rate = "" if kib is None else f" MAX_RATE {kib}"
        return (
            f"BASE_BACKUP LABEL {quoted} PROGRESS{fast} NOWAIT{rate} TABLESPACE_MAP "
            "MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        )
    speed = "fast" if checkpoint_fast else "spread"
    further = ("" if kib is None else f", MAX_RATE {kib}") + (", INCREMENTAL" if incremental else "")
    return (
        f"BASE_BACKUP (LABEL {quoted}, CHECKPOINT '{speed}', WAIT false, PROGRESS, TABLESPACE_MAP true, "
        f"MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'{further})"
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
        self._incremental = False
        self._reader = TarReader()
        self._readable = select.poll()  # unlike select() it takes descriptors above 1023
        self._readable.register(connection.socket, select.POLLIN)

    def notice(self, result: abc.PGresult) -> None:
        if len(self._notices) < _NOTICES_KEPT:
            self._notices.append(one_line(result.get_error_message()))

    def upload_manifest(self, manifest: bytes) -> None:
        """Tell the server what the backup before this one held. Raises IncrementalUnavailable."""
        if self._connection.server_version < INCREMENTAL_VERSION:
            raise IncrementalUnavailable("PostgreSQL takes incremental backups from version 17 on")
        self._incremental = True
        self._connection.send_query(b"UPLOAD_MANIFEST")
        self._check(self._result(), pq.ExecStatus.COPY_IN)
        view = memoryview(manifest)
        for at in range(0, len(view), _UPLOAD_BYTES):
            while self._connection.put_copy_data(bytes(view[at : at + _UPLOAD_BYTES])) == 0:
                self._flush()
        while self._connection.put_copy_end() == 0:
            self._flush()
        while (result := self._result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise IncrementalUnavailable(
                    f"PostgreSQL does not take the manifest of the backup before: {self._complaint(result)}"
                )

    def run(self, command: str, on_start: Callable[[int], None]) -> None:
        self._connection.send_query(command.encode())
        self._start = self._position(self._rows())
        on_start(self._start[1])
        self._take_tablespaces(self._rows())
        if self._connection.server_version < 150000:
            self._copies_of_14()
        else:
            self._one_copy()
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

    def _flush(self) -> None:
        while self._connection.flush() == 1:
            self._poll(select.POLLOUT)

    def _result(self) -> abc.PGresult | None:
        self._flush()
        while self._connection.is_busy():
            self._wait()
        return self._connection.get_result()

    def _rows(self) -> abc.PGresult:
        return self._check(self._result(), pq.ExecStatus.TUPLES_OK)

    def _check(self, result: abc.PGresult | None, wanted: pq.ExecStatus) -> abc.PGresult:
        if result is not None and result.status == wanted:
            return result
        raise self._failure(result)

    def _complaint(self, result: abc.PGresult | None) -> str:
        message = result.get_error_message() if result is not None else self._connection.get_error_message()
        return one_line(message) or "PostgreSQL ended the backup without saying why"

    def _failure(self, result: abc.PGresult | None) -> BackupFailed:
        """What it means that PostgreSQL answers with an error."""
        message = self._complaint(result)
        raw = None if result is None else result.error_field(pq.DiagnosticField.SQLSTATE)
        state = (raw or b"").decode("ascii", "replace")
        if self._connection.status == pq.ConnStatus.BAD or state in _SHUT_DOWN:
            return BackupConnectionLost(message)
        if state == _CORRUPTED:
            return PageChecksumFailed("; ".join([message, *self._notices]))
        if state == _NOT_IN_STATE and self._incremental and self._start[1] == 0:
            return IncrementalUnavailable("; ".join([message, *self._notices]))
        return BackupFailed(message)

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
        if self._readable.poll(_WAIT_MS):
            self._connection.consume_input()

    def _poll(self, events: int) -> None:
        poll = select.poll()
        poll.register(self._connection.socket, events)
        poll.poll(_WAIT_MS)

    def _messages(self) -> Iterator[memoryview]:
        """Every CopyData message of one COPY OUT."""
        self._check(self._result(), pq.ExecStatus.COPY_OUT)
        receive, wait = self._connection.get_copy_data, self._wait
        while True:
            length, message = receive(1)
            if length > 0:
                yield memoryview(message)
            elif length == 0:
                wait()
            else:
                return

    def _one_copy(self) -> None:
        """PostgreSQL 15 and later: one COPY, the first byte of a message tells its kind."""
        for message in self._messages():
            kind, body = message[0], message[1:]
            if kind == _DATA:
                self._data(body)
            elif kind == _PROGRESS:
                (self._done,) = struct.unpack(">Q", body)
                self._progress(self._done, self._total)
            elif kind == _ARCHIVE:
                name, path, _rest = bytes(body).decode("utf-8", "surrogateescape").split("\0")
                oid = name.partition(".")[0]
                self._start_stream(int(oid) if path else 0, path or None)
            elif kind == _MANIFEST:
                self._start_manifest()
            else:
                raise BackupFailed(f"PostgreSQL sent a message of the unknown kind {chr(kind)!r}")

    def _copies_of_14(self) -> None:
        """PostgreSQL 14: one COPY for each tablespace in the order announced, one for the manifest."""
        for oid, path in self._tablespaces:
            self._start_stream(oid, path)
            for body in self._messages():
                self._data(body)
                self._done += len(body)
                self._progress(self._done, self._total)
        self._start_manifest()
        for body in self._messages():
            self._data(body)

    def _data(self, body: memoryview) -> None:
        if self._in_manifest:
            self._manifest_bytes += len(body)
            self._sink.manifest(body)
        else:
            self._reader.feed(body)
            self._sink.data(body)

    def _start_stream(self, oid: int, path: str | None) -> None:
        self._finish_stream()
        stream = TablespaceStream(len(self._streams), oid, path)
        started = _Stream(stream)
        self._streams.append(started)
        self._reader = started.reader
        self._sink.start_stream(stream, self._reader.members)

    def _start_manifest(self) -> None:
        self._finish_stream()
        self._in_manifest = True

    def _finish_stream(self) -> None:
        try:
            self._reader.finish()
        except MalformedObject:  # an error of the server's cuts off what it was sending
            if (result := self._result()) is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                raise self._failure(result) from None
            raise


def _cell(rows: abc.PGresult, row: int, column: int) -> str | None:
    value = rows.get_value(row, column)
    return None if value is None else value.decode("utf-8", "surrogateescape")
