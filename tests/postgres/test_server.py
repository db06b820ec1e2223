"""What a real server tells: facts, positions, configuration, a streamed base backup."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from tests.kit.postgres import PostgresFactory, as_server_user
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.errors import BackupFailed, ConfigError, DatabaseUnavailable, UsageError, WrongCluster
from walarchiver.format.records import LimitFacts
from walarchiver.postgres.basebackup import BackupResult, TablespaceStream, stream_base_backup
from walarchiver.postgres.outsideconf import FILE_BYTES_MAX, read_outside_configuration
from walarchiver.postgres.probe import (
    HorizonSampler,
    backup_facts,
    insert_position,
    probe_server,
    recovery_state,
    switch_wal,
)
from walarchiver.postgres.process import StopMode
from walarchiver.postgres.tarstream import TarMember


class CollectingSink:
    """Keeps everything in memory."""

    def __init__(self) -> None:
        self.streams: dict[int, bytearray] = {}
        self.started: list[TablespaceStream] = []
        self.backup_manifest = bytearray()

    def start_stream(self, stream: TablespaceStream, members: Sequence[TarMember]) -> None:
        self.started.append(stream)
        self.streams[stream.number] = bytearray()

    def data(self, chunk: bytes | memoryview) -> None:
        self.streams[self.started[-1].number] += chunk

    def manifest(self, chunk: bytes | memoryview) -> None:
        self.backup_manifest += chunk


def take(cluster: EmbeddedCluster) -> tuple[CollectingSink, BackupResult]:
    sink = CollectingSink()
    return sink, stream_base_backup(cluster.dsn(), label="it's a test", checkpoint_fast=True, sink=sink)


def test_a_probe_tells_what_the_server_is(postgres: PostgresFactory, major: int, pg_folder: Path) -> None:
    cluster = postgres(settings={"max_prepared_transactions": "7"})
    space = pg_folder / "space with blank"
    space.mkdir(mode=0o700)
    as_server_user(cluster, space)
    cluster.psql(f"CREATE TABLESPACE extra LOCATION '{space}'")
    cluster.psql("CREATE DATABASE shop")
    cluster.psql("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    cluster.psql("CREATE EXTENSION pg_trgm", dbname="shop")
    facts = probe_server(cluster.dsn())
    assert facts.major == major
    assert str(facts.system) == cluster.psql("SELECT system_identifier FROM pg_control_system()")
    assert f"PostgreSQL {facts.version} on " in facts.platform
    assert (facts.segment_size, facts.block_size, facts.wal_block_size) == (MIB, 8192, 8192)
    assert facts.data_checksums
    assert facts.timeline == 1
    assert not facts.in_recovery
    assert facts.data_directory == str(cluster.data_dir)
    assert facts.encoding == "UTF8"
    assert facts.archive.mode == "off"
    assert facts.archive.wal_level == "replica"
    assert facts.limits == LimitFacts(100, 8, 10, 7, 64)
    assert {one.name for one in facts.databases} == {"template0", "template1", "postgres", "shop", "closed"}
    shop = next(one for one in facts.databases if one.name == "shop")
    assert (shop.encoding, shop.collate, shop.provider) == ("UTF8", "C.UTF-8", "libc")
    assert ("shop", "pg_trgm") in {(one.database, one.name) for one in facts.extensions}
    assert [(one.name, one.path) for one in facts.tablespaces] == [("extra", str(space))]
    assert facts.outside_config == ()
    assert facts.unread_databases == ()
    assert backup_facts(facts).segment_size == MIB


def test_a_database_that_lets_us_not_in_is_named(postgres: PostgresFactory) -> None:
    cluster = postgres()
    cluster.psql("CREATE DATABASE locked")
    hba = cluster.data_dir / "pg_hba.conf"
    hba.write_text("local locked all reject\n" + hba.read_text())
    cluster.restart()
    assert probe_server(cluster.dsn()).unread_databases == ("locked",)


def test_a_server_without_checksums_says_so(postgres: PostgresFactory, major: int) -> None:
    assert not probe_server(postgres(data_checksums=False).dsn()).data_checksums


def test_a_sample_proves_what_was_written_before_it(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    with HorizonSampler(cluster.dsn(), system=probe_server(cluster.dsn()).system) as sampler:
        first = sampler.sample()
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        second = sampler.sample()
    assert first is not None
    assert second is not None
    assert first.time < second.time
    assert first.lsn < second.lsn
    assert second.timeline == 1
    assert insert_position(cluster.dsn()).lsn >= second.lsn


def test_a_sampler_connects_again_after_a_restart(postgres: PostgresFactory) -> None:
    cluster = postgres()
    with HorizonSampler(cluster.dsn(), system=probe_server(cluster.dsn()).system) as sampler:
        assert sampler.sample() is not None
        cluster.stop(StopMode.IMMEDIATE)
        with pytest.raises(DatabaseUnavailable):
            sampler.sample()
        cluster.start()
        assert sampler.sample() is not None


def test_a_sampler_refuses_another_cluster(postgres: PostgresFactory) -> None:
    cluster = postgres()
    other = probe_server(cluster.dsn()).system + 1
    with HorizonSampler(cluster.dsn(), system=other) as sampler, pytest.raises(WrongCluster, match="reaches"):
        sampler.sample()


def test_a_switch_completes_the_segment(postgres: PostgresFactory) -> None:
    cluster = postgres()
    cluster.psql("CREATE TABLE t ()")
    before = insert_position(cluster.dsn()).lsn
    switch_wal(cluster.dsn())
    assert insert_position(cluster.dsn()).lsn // MIB == before // MIB + 1


def test_a_standby_has_no_insert_position(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres(start=False)
    signal_file = cluster.data_dir / "standby.signal"
    signal_file.touch()
    as_server_user(cluster, signal_file)
    cluster.start()
    assert recovery_state(cluster.dsn()).in_recovery
    assert recovery_state(cluster.dsn()).pause_state == "not paused"
    assert probe_server(cluster.dsn()).in_recovery
    with HorizonSampler(cluster.dsn(), system=probe_server(cluster.dsn()).system) as sampler:
        assert sampler.sample() is None
    with pytest.raises(DatabaseUnavailable, match="recovery is in progress"):
        insert_position(cluster.dsn())


def test_a_server_that_is_down_is_unavailable_and_a_wrong_dsn_is_a_usage_error(
    postgres: PostgresFactory,
) -> None:
    cluster = postgres(start=False)
    with pytest.raises(DatabaseUnavailable):
        probe_server(cluster.dsn())
    with pytest.raises(ConfigError):
        probe_server("not a dsn")


def test_configuration_outside_the_data_directory_is_collected(
    postgres: PostgresFactory, major: int, pg_folder: Path
) -> None:
    cluster = postgres(start=False)
    etc = pg_folder / "etc"
    etc.mkdir()
    (etc / "hba.conf").write_text("local all all trust\nlocal replication all trust\n")
    (etc / "more.conf").write_text("work_mem = '7MB'\n")
    with (cluster.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"include '{etc}/more.conf'\nhba_file = '{etc}/hba.conf'\n")
    cluster.start()
    found = read_outside_configuration(cluster.dsn())
    assert found.files == (f"{etc}/hba.conf", f"{etc}/more.conf")
    assert found.missing == ()
    with tarfile.open(fileobj=io.BytesIO(found.archive)) as tar:
        handle = tar.extractfile(f"{etc}/more.conf".lstrip("/"))
        assert handle is not None
        assert handle.read() == b"work_mem = '7MB'\n"
    assert read_outside_configuration(cluster.dsn()).archive == found.archive


def test_a_configuration_file_goes_in_whole_or_is_named_and_left_out(
    postgres: PostgresFactory, pg_folder: Path
) -> None:
    cluster = postgres(start=False)
    etc = pg_folder / "etc"
    etc.mkdir()
    comments = "# a comment\n" * (FILE_BYTES_MAX // 12)
    for name, setting, size in (("fits", "work_mem", 0), ("too-large", "maintenance_work_mem", 1)):
        whole = f"{setting} = '7MB'\n{comments}"[: FILE_BYTES_MAX + size - 1] + "\n"
        (etc / f"{name}.conf").write_text(whole)
    with (cluster.data_dir / "postgresql.conf").open("a") as conf:
        conf.write("".join(f"include '{etc}/{name}.conf'\n" for name in ("fits", "too-large")))
    cluster.start()
    found = read_outside_configuration(cluster.dsn())
    assert (found.files, found.missing) == ((f"{etc}/fits.conf",), ())
    assert found.too_large == (f"{etc}/too-large.conf",)
    with tarfile.open(fileobj=io.BytesIO(found.archive)) as tar:
        assert [member.size for member in tar] == [FILE_BYTES_MAX]


def test_a_cluster_with_all_configuration_inside_needs_no_archive(postgres: PostgresFactory) -> None:
    assert read_outside_configuration(postgres().dsn()).archive == b""


@pytest.mark.parametrize("version", [14, 15, 18])
def test_a_base_backup_is_what_python_reads_as_tar(
    postgres: PostgresFactory, pg_folder: Path, version: int
) -> None:
    cluster = postgres(version)
    space = pg_folder / "space"
    space.mkdir(mode=0o700)
    as_server_user(cluster, space)
    cluster.psql(f"CREATE TABLESPACE extra LOCATION '{space}'")
    cluster.psql("CREATE TABLE here AS SELECT g, repeat('x', 500) FROM generate_series(1, 3000) g")
    cluster.psql("CREATE TABLE there TABLESPACE extra AS SELECT generate_series(1, 1000)")
    sink, result = take(cluster)

    assert [one.stream for one in result.streams] == sink.started
    assert [one.path for one in sink.started] == [str(space), None]
    for one in result.streams:
        content = bytes(sink.streams[one.stream.number])
        assert one.size == len(content)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            expected = [(entry.name, entry.size, entry.offset) for entry in tar.getmembers()]
        assert [(member.path, member.size, member.header_offset) for member in one.members] == expected
    base = result.streams[-1]
    assert base.members[-1].path == "global/pg_control"
    assert {"backup_label", "tablespace_map"} <= {member.path for member in base.members}
    assert "LABEL: it's a test" in result.backup_label
    assert (result.timeline, result.stop_timeline, result.from_standby) == (1, 1, False)
    assert result.start_lsn <= result.checkpoint_lsn < result.stop_lsn
    assert result.start_time < result.stop_time
    assert b'"Manifest-Checksum"' in sink.backup_manifest
    assert b'"CRC32C"' in sink.backup_manifest


def test_progress_ends_near_the_announced_total(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    seen: list[tuple[int, int | None]] = []
    timelines: list[int] = []
    stream_base_backup(
        cluster.dsn(),
        label="progress",
        checkpoint_fast=True,
        sink=CollectingSink(),
        progress=lambda done, total: seen.append((done, total)),
        on_start=timelines.append,
    )
    assert timelines == [1]
    done, total = seen[-1]
    assert total is not None
    assert 0.8 * total < done < 1.2 * total
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)


def test_a_role_with_replication_and_pg_monitor_is_enough(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    cluster.psql("CREATE ROLE archiver LOGIN REPLICATION IN ROLE pg_monitor")
    dsn = cluster.dsn().replace("user=postgres", "user=archiver")
    assert probe_server(dsn) == probe_server(cluster.dsn())
    assert insert_position(dsn).timeline == 1
    assert read_outside_configuration(dsn).missing == ()
    sink = CollectingSink()
    stream_base_backup(dsn, label="as archiver", checkpoint_fast=True, sink=sink)
    assert sink.backup_manifest


def test_a_role_that_may_see_little_still_gives_a_probe(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    cluster.psql("CREATE ROLE plain LOGIN")
    facts = probe_server(cluster.dsn().replace("user=postgres", "user=plain"))
    assert facts.data_directory is None
    assert facts.outside_config == ()
    assert facts.segment_size == MIB


def test_a_backup_from_a_standby_says_so(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres(start=False)
    signal_file = cluster.data_dir / "standby.signal"
    signal_file.touch()
    as_server_user(cluster, signal_file)
    cluster.start()
    _, result = take(cluster)
    assert result.from_standby
    assert result.timeline == 1
    assert "standby.signal" in {member.path for member in result.streams[-1].members}


def test_a_cluster_with_the_default_segment_size_says_so(postgres: PostgresFactory) -> None:
    assert probe_server(postgres(segment_bytes=16 * MIB).dsn()).segment_size == 16 * MIB


def test_the_servers_refusal_is_told_in_its_words(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    cluster.psql("CREATE ROLE weak LOGIN")
    with pytest.raises((BackupFailed, DatabaseUnavailable), match=r"(?i)replication"):
        stream_base_backup(
            cluster.dsn().replace("user=postgres", "user=weak"),
            label="no",
            checkpoint_fast=True,
            sink=CollectingSink(),
        )


def test_a_damaged_page_fails_the_backup_with_postgresqls_words(
    postgres: PostgresFactory, major: int
) -> None:
    cluster = postgres()
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT")
    path = cluster.data_dir / cluster.psql("SELECT pg_relation_filepath('t')")
    cluster.stop()
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    cluster.start()
    with pytest.raises(BackupFailed, match="checksum verification failure"):
        take(cluster)


def test_a_server_that_dies_during_the_backup_fails_it(postgres: PostgresFactory, major: int) -> None:
    cluster = postgres()
    cluster.psql("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 40000) g")

    class Killing(CollectingSink):
        def data(self, chunk: bytes | memoryview) -> None:
            super().data(chunk)
            cluster.kill()

    with pytest.raises(BackupFailed):
        stream_base_backup(cluster.dsn(), label="dies", checkpoint_fast=True, sink=Killing())


def test_what_the_sink_raises_ends_the_backup_on_the_server_too(postgres: PostgresFactory) -> None:
    cluster = postgres()

    class Full(CollectingSink):
        def data(self, chunk: bytes | memoryview) -> None:
            raise BackupFailed("no room")

    with pytest.raises(BackupFailed, match="no room"):
        stream_base_backup(cluster.dsn(), label="full", checkpoint_fast=True, sink=Full())
    _, result = take(cluster)
    assert result.stop_lsn > result.start_lsn


def test_a_killed_cluster_leaves_no_process_and_comes_back_whole(postgres: PostgresFactory) -> None:
    cluster = postgres(settings={"synchronous_commit": "on"})
    cluster.psql("CREATE TABLE t AS SELECT 42 AS n; CHECKPOINT")
    with psycopg.connect(cluster.dsn()) as connection:
        backend = connection.info.backend_pid
        cluster.kill()
        state = Path(f"/proc/{backend}/stat")
        assert not state.exists() or " Z " in state.read_text()  # gone, or dead and not yet collected
    assert not cluster.running
    cluster.start()
    assert cluster.psql("SELECT n FROM t") == "42"


def test_a_server_that_cannot_start_says_why(postgres: PostgresFactory) -> None:
    cluster = postgres(start=False)
    cluster.configure({"max_connections": "many"})
    with pytest.raises(DatabaseUnavailable, match="max_connections"):
        cluster.start()


def test_a_socket_path_that_is_too_long_is_refused_at_once(pg_folder: Path) -> None:
    with pytest.raises(UsageError, match="at most 107"):
        EmbeddedCluster(15, pg_folder / ("x" * 100))
