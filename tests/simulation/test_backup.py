"""Base backups: parts, their records, and what an interrupted one leaves. PostgreSQL is played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import walarchiver.backup
import walarchiver.backupparts
from restore.layers import backup_of, part_bytes
from restore.partsource import checked_part
from tests.kit.faultystore import Fault
from tests.simulation.test_depositor import epoch_of_body
from tests.simulation.world import SYSTEM, Process, World
from walarchiver import depositor
from walarchiver.assembly import Archive
from walarchiver.backup import BackupRequest, take_backup
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.objectname import ledger_key
from walarchiver.errors import (
    BackupFailed,
    ObjectDamaged,
    StoreDenied,
    StoreUnavailable,
    WalarchiverError,
)
from walarchiver.format.entry import ENTRY_BYTES_MAX, parse_entry
from walarchiver.format.records import BackupFacts, BackupRecord, EpochRecord, LimitFacts, PartRecord
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex, parse_index
from walarchiver.postgres.basebackup import BackupResult, BackupSink, TablespaceStream

PART = 4096
NOON = CommitTime(1_795_348_800_000_000)
FACTS = BackupFacts(
    version="15.8",
    version_num=150008,
    platform="x",
    block_size=8192,
    wal_block_size=8192,
    segment_size=1 << 20,
    data_checksums=True,
    encoding="UTF8",
    databases=(),
    extensions=(),
    limits=LimitFacts(100, 8, 10, 0, 64),
    packages="",
)
BASE, SPACE = TablespaceStream(1, 0, None), TablespaceStream(0, 16400, "/data/ts")
STREAMS = {SPACE: b"tablespace " * 1000, BASE: b"base " * 7000}
MANIFEST = b'{"PostgreSQL-Backup-Manifest-Version": 1}' * 300


def played(
    *, manifest: bytes = MANIFEST, between: Callable[[], None] = lambda: None
) -> Callable[..., BackupResult]:
    """A server that sends two streams in odd pieces."""

    def stream_base_backup(
        _dsn: str,
        *,
        label: str,
        checkpoint_fast: bool,
        sink: BackupSink,
        progress: Callable[[int, int | None], None],
        on_start: Callable[[int], None],
        prior_manifest: bytes | None,
        max_rate: int | None,
    ) -> BackupResult:
        assert label.startswith("walarchiver ")
        assert checkpoint_fast
        on_start(3)
        done = 0
        for stream, content in STREAMS.items():
            sink.start_stream(stream, ())
            for at in range(0, len(content), 1337):
                sink.data(memoryview(content)[at : at + 1337])
                done += len(content[at : at + 1337])
                progress(done, None)
                between()
        for at in range(0, len(manifest), 100):
            sink.manifest(manifest[at : at + 100])
        return BackupResult(
            timeline=3,
            start_lsn=Lsn(0x200028),
            checkpoint_lsn=Lsn(0x200060),
            stop_lsn=Lsn(0x200138),
            stop_timeline=3,
            start_time=NOON,
            stop_time=CommitTime(NOON + 5_000_000),
            from_standby=False,
            streams=tuple(StreamIndex(stream, len(content), ()) for stream, content in STREAMS.items()),
            backup_label="",
            notices=(),
        )

    return stream_base_backup


def take(process: Process, *, memory: int = 1 << 20, config: bytes = b"conf") -> BackupRecord:
    return take_backup(
        BackupRequest("dsn", workers=3, memory=memory),
        facts=FACTS,
        outside_configuration=config,
        depositor=process.depositor,
        ledger=process.ledger,
        clock=process.world.clock,
        random=process.world.random,
        part_bytes=PART,
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played())
    monkeypatch.setattr(walarchiver.backupparts, "PARTS_PER_RECORD", 3)


def read(world: World) -> Archive:
    process = world.process(write=False, identities=[world.identity()])
    process.ledger.refresh()
    return Archive(process.catalog.clusters()[0], process.repository, process.ledger)


@pytest.mark.usefixtures("server")
def test_a_backup_comes_back_byte_for_byte() -> None:
    world = World()
    record = take(world.began())
    archive = read(world)
    found, parts = backup_of(archive, record.backup)
    assert found == record
    for stream, content in STREAMS.items():
        plain = bytearray(len(content))
        for part in parts:
            if (part.role, part.stream) == ("tar", stream.number):
                piece = b"".join(checked_part(archive, record.backup, part))
                plain[part.offset : part.offset + part.raw] = piece
        assert bytes(plain) == content
    assert part_bytes(archive, record.backup, parts, "manifest") == MANIFEST
    assert part_bytes(archive, record.backup, parts, "config") == b"conf"
    index = parse_index(part_bytes(archive, record.backup, parts, "index"))
    assert isinstance(index, BackupIndex)
    assert index.stream(1).size == len(STREAMS[BASE])


@pytest.mark.usefixtures("server")
def test_the_closing_record_tells_what_a_restore_needs() -> None:
    record = take(World().began())
    assert (record.timeline, record.start_lsn, record.stop_lsn) == (3, 0x200028, 0x200138)
    assert record.raw == sum(map(len, STREAMS.values()))
    assert {(t.oid, t.stream, t.path) for t in record.tablespaces} == {(0, 1, None), (16400, 0, "/data/ts")}
    assert record.source == "primary"


@pytest.mark.usefixtures("server")
def test_no_part_is_recorded_before_the_record_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depositor, "EPOCH_OBJECTS_MAX", 2)
    world = World()
    take(world.began())
    known: set[str] = set()
    for seq in range(len(world.keys("/ledger/"))):
        raw = world.memory.get(ledger_key(SYSTEM, seq), bytes_max=ENTRY_BYTES_MAX)
        assert raw is not None
        for record in parse_entry(raw).records:
            if isinstance(record, EpochRecord):
                known.add(record.epoch)
            if isinstance(record, PartRecord):
                for part in record.parts:
                    body = world.memory.get(part.object.key, bytes_max=1 << 30)
                    assert body is not None
                    assert epoch_of_body(body) in known
    assert len(known) > 3


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("error", [StoreUnavailable, StoreDenied])
@pytest.mark.parametrize(("prefix", "skip"), [("base/", 0), ("base/", 5), ("ledger/", 1), ("keys/", 0)])
def test_a_backup_that_meets_a_failing_store_is_no_backup(
    prefix: str, skip: int, error: type[WalarchiverError]
) -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/{prefix}", skip=skip, error=lambda: error("no")))
    with pytest.raises(error):
        take(process)
    archive = read(world)
    assert archive.catalog.backups() == []
    record = take(process)
    assert [one.backup for one in read(world).catalog.backups()] == [record.backup]
    backup_of(read(world), record.backup)


@pytest.mark.usefixtures("server")
def test_a_closing_record_whose_answer_was_lost_is_found_later() -> None:
    world = World()
    process = world.began()
    expected = take(process)
    closing = [key for key in world.store.puts() if "/ledger/" in key]
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/ledger/", after=True, skip=len(closing) - 2))
    with pytest.raises(StoreUnavailable):
        take(process)
    archive = read(world)
    first, second = archive.catalog.backups()
    assert first == expected
    backup_of(archive, second.backup)


def test_a_server_that_gives_up_in_the_middle_leaves_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def give_up() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise BackupFailed("the server says no")

    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played(between=give_up))
    world = World()
    with pytest.raises(BackupFailed, match="says no"):
        take(world.began())
    assert read(world).catalog.backups() == []


def test_a_server_that_sends_no_manifest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played(manifest=b""))
    world = World()
    with pytest.raises(BackupFailed, match="no backup manifest"):
        take(world.began())
    assert read(world).catalog.backups() == []


@pytest.mark.usefixtures("server")
def test_uploads_wait_for_memory_and_slots() -> None:
    """With room for one part the server is read no faster than the store takes parts."""
    world = World()
    process = world.began()
    gate = world.store.hold("put_new", f"v1/c/{SYSTEM}/base/")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take, process, memory=1)
        gate.wait_reached()
        assert len(world.keys("/base/")) == 0
        assert not taking.done()
        gate.open()
        record = taking.result(20)
    assert record.parts == len(world.keys("/base/"))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("lost", ["part record", "object", "damage"])
def test_a_backup_that_lost_anything_is_not_restored_from(lost: str, tmp_path: Path) -> None:
    world = World()
    process = world.began()
    record = take(process)
    archive = read(world)
    _, parts = backup_of(archive, record.backup)
    if lost == "part record":
        archive.catalog._db.execute(
            "DELETE FROM record WHERE kind='part' AND seq=(SELECT max(seq) FROM record WHERE kind='part')"
        )
        with pytest.raises(ObjectDamaged, match="not those that it was closed with"):
            backup_of(archive, record.backup)
        return
    key = parts[2].object.key
    body = world.memory.get(key, bytes_max=1 << 30)
    assert body is not None
    world.replace(key, None if lost == "object" else body[:-20] + bytes(20))
    with pytest.raises(WalarchiverError, match=r"is not in|no version of"):
        checked_part(archive, record.backup, parts[2])


@pytest.mark.usefixtures("server")
def test_a_part_is_never_taken_for_another() -> None:
    from dataclasses import replace

    world = World()
    record = take(world.began())
    archive = read(world)
    _, parts = backup_of(archive, record.backup)
    with pytest.raises(ObjectDamaged):
        checked_part(archive, record.backup, replace(parts[1], object=parts[0].object))
    with pytest.raises(ObjectDamaged):
        checked_part(archive, "20261122T120000Z-00000000", parts[1])


@pytest.mark.usefixtures("server")
def test_an_unknown_backup_is_refused() -> None:
    world = World()
    take(world.began())
    with pytest.raises(ObjectDamaged):
        backup_of(read(world), "20261122T120000Z-00000000")
