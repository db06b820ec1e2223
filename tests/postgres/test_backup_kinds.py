"""Base backups of a real server besides the plain one: incremental, throttled, of damaged pages, cut off."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from tests.kit.postgres import PostgresFactory, as_server_user
from tests.postgres.taken import MemorySink
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.errors import (
    BackupConnectionLost,
    BackupFailed,
    IncrementalUnavailable,
    PageChecksumFailed,
)
from walarchiver.postgres.backupindex import TablespaceStream
from walarchiver.postgres.basebackup import (
    RATE_KIB_MAX,
    RATE_KIB_MIN,
    BackupResult,
    _command,
    stream_base_backup,
)
from walarchiver.postgres.tarstream import TarMember
from walarchiver.postgres.walsummaries import wal_summaries

SUMMARIZED = {"summarize_wal": "on"}


def take(
    cluster: EmbeddedCluster, *, prior: bytes | None = None, max_rate: int | None = None
) -> tuple[MemorySink, BackupResult]:
    sink = MemorySink()
    result = stream_base_backup(
        cluster.dsn(),
        label="a test",
        checkpoint_fast=True,
        sink=sink,
        prior_manifest=prior,
        max_rate=max_rate,
    )
    return sink, result


def test_an_incremental_backup_holds_what_changed_since_the_one_before(postgres: PostgresFactory) -> None:
    cluster = postgres(18, settings=SUMMARIZED)
    cluster.psql("CREATE TABLE t AS SELECT g, repeat('x', 500) AS pad FROM generate_series(1, 20000) g")
    cluster.psql("VACUUM FREEZE t")  # else the scan below would write hints into every page
    path = cluster.psql("SELECT pg_relation_filepath('t')")
    full, began = take(cluster)
    cluster.psql("UPDATE t SET pad = 'y' WHERE g = 1")
    summaries = wal_summaries(cluster.dsn(), timeline=1)
    assert summaries.lacking(began.start_lsn) is None
    changed, result = take(cluster, prior=bytes(full.backup_manifest), max_rate=1 << 30)
    folder, _, name = path.rpartition("/")
    members = {member.path: member for member in result.streams[-1].members}
    assert path not in members
    assert members[f"{folder}/INCREMENTAL.{name}"].size < 1 << 17
    assert f"INCREMENTAL FROM LSN: {began.start_lsn >> 32:X}/{began.start_lsn & 0xFFFFFFFF:X}" in (
        result.backup_label
    )
    listed = {one["Path"] for one in json.loads(bytes(changed.backup_manifest))["Files"]}
    assert f"{folder}/INCREMENTAL.{name}" in listed


def test_a_server_that_summarizes_nothing_refuses_an_incremental_backup(postgres: PostgresFactory) -> None:
    cluster = postgres(18)
    full, began = take(cluster)
    assert "summarize_wal is off" in (wal_summaries(cluster.dsn(), timeline=1).lacking(began.start_lsn) or "")
    with pytest.raises(IncrementalUnavailable, match="summar"):
        take(cluster, prior=bytes(full.backup_manifest))


def test_another_clusters_manifest_is_not_built_on(postgres: PostgresFactory) -> None:
    full, _ = take(postgres(18))
    other = postgres(18, settings=SUMMARIZED, fresh=True)
    with pytest.raises(IncrementalUnavailable, match="manifest"):
        take(other, prior=bytes(full.backup_manifest))
    with pytest.raises(IncrementalUnavailable, match="manifest"):
        take(other, prior=b"{}")


def test_an_older_server_is_not_asked_for_an_incremental_backup(postgres: PostgresFactory) -> None:
    cluster = postgres(15)
    assert "from version 17 on" in (
        wal_summaries(cluster.dsn(), timeline=1).lacking(take(cluster)[1].start_lsn) or ""
    )
    with pytest.raises(IncrementalUnavailable, match="from version 17 on"):
        take(cluster, prior=b"{}")


def test_a_damaged_page_is_named_and_the_backup_is_none(postgres: PostgresFactory) -> None:
    cluster = postgres(18)
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT")
    name = cluster.psql("SELECT pg_relation_filepath('t')")
    path = cluster.data_dir / name
    cluster.stop()
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    cluster.start()
    with pytest.raises(PageChecksumFailed, match=f'checksum verification failed in file ".*{name}", block 0'):
        take(cluster)


@pytest.mark.parametrize("major", [pytest.param(14, marks=pytest.mark.nightly), 15])
def test_an_error_in_the_middle_of_a_file_is_told_in_the_servers_words(
    postgres: PostgresFactory, major: int
) -> None:
    """A name that these releases send, and then cannot make out."""
    cluster = postgres(major)
    note = cluster.data_dir / "base" / "1" / "1.note"
    note.write_text("a word")
    as_server_user(cluster, note)
    with pytest.raises(BackupFailed, match="invalid segment number") as told:
        take(cluster)
    assert told.type is BackupFailed


def test_a_session_that_is_ended_is_told_from_a_refusal(postgres: PostgresFactory) -> None:
    cluster = postgres(18)
    ended = threading.Event()

    class Ending(MemorySink):
        def start_stream(self, stream: TablespaceStream, members: Sequence[TarMember]) -> None:
            super().start_stream(stream, members)
            assert cluster.psql("SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_replication") == "t"
            ended.set()

    with pytest.raises(BackupConnectionLost):
        stream_base_backup(cluster.dsn(), label="ended", checkpoint_fast=True, sink=Ending())
    assert ended.is_set()


@pytest.mark.parametrize(
    ("rate", "kib"), [(1, RATE_KIB_MIN), (100 << 20, 100 << 10), (1 << 50, RATE_KIB_MAX)]
)
@pytest.mark.parametrize("version", [140000, 180000])
def test_a_rate_is_asked_for_within_what_the_protocol_takes(version: int, rate: int, kib: int) -> None:
    command = _command("it's", version, checkpoint_fast=True, incremental=False, max_rate=rate)
    assert f"MAX_RATE {kib}" in command
    assert "LABEL 'it''s'" in command
    assert "INCREMENTAL" not in command
    assert "MAX_RATE" not in _command("x", version, checkpoint_fast=True, incremental=False, max_rate=None)
