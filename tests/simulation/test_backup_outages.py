"""Base backups in outages of the store and the connection, and what they build on. PostgreSQL is played."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import walarchiver.backup
import walarchiver.backupparts
from tests.format.test_backupchain import on
from tests.kit.chance import SteppingClock
from tests.kit.faultystore import Fault
from tests.simulation.test_backup import BASE, FACTS, MANIFEST, NOON, SPACE, played, read
from tests.simulation.test_status import backup as backup_record
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.assembly import Archive
from walarchiver.backup import BackupRequest, Prior, again_when_lost, take_backup
from walarchiver.backupparts import Patience
from walarchiver.backuproom import Room, SealedBytes
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.errors import (
    BackupConnectionLost,
    BackupStalled,
    DatabaseUnavailable,
    IncrementalUnavailable,
    KeyMissing,
    StoreDenied,
    StoreUnavailable,
    WalarchiverError,
)
from walarchiver.format.backupchain import chain_of
from walarchiver.format.records import BackupRecord, ForkFact, HistoryRecord, StoredObject
from walarchiver.incremental import ManifestShelf, choose_prior, newest_chain, or_none
from walarchiver.ledger import fact
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex, parse_index
from walarchiver.postgres.basebackup import BackupResult, BackupSink, TablespaceStream
from walarchiver.postgres.filedigests import DIGEST_CHUNK_BYTES, parse_digests, piece_digest
from walarchiver.postgres.tarstream import BLOCK, MemberKind, TarMember
from walarchiver.postgres.walsummaries import WalSummaries

PART = 4096
SUMMARIES = WalSummaries(180000, enabled=True, oldest=Lsn(0x100028), reached=Lsn(0x300000))


def take(
    process: Process,
    *,
    outage_s: float = 3600.0,
    prior: Prior | None = None,
    part_bytes: int = PART,
    keep: Callable[[str, bytes], None] = lambda _backup, _manifest: None,
    say: Callable[[str], None] = lambda _line: None,
) -> BackupRecord:
    return take_backup(
        BackupRequest("dsn", workers=3, memory=1 << 20, outage_s=outage_s, outage_pause_s=0.0),
        facts=FACTS,
        outside_configuration=b"",
        depositor=process.depositor,
        ledger=process.ledger,
        clock=process.world.clock,
        random=process.world.random,
        prior=prior,
        part_bytes=part_bytes,
        keep_manifest=keep,
        say=say,
    )


def content_of(archive: Archive, backup: str, role: str) -> bytes:
    """The plain bytes of a role that is no tar stream."""
    parts = [part for part in archive.catalog.backup_parts(backup) if part.role == role]
    return b"".join(
        bytes(piece)
        for part in parts
        for piece in archive.repository.plain_part(archive.system, backup, part)
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played())
    monkeypatch.setattr(walarchiver.backupparts, "PARTS_PER_RECORD", 3)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("prefix", "skip"), [("keys/", 0), ("base/", 0), ("base/", 7), ("ledger/", 1), ("ledger/", 3)]
)
def test_a_backup_waits_for_a_store_that_is_out_and_loses_nothing(
    prefix: str, skip: int, *, after: bool
) -> None:
    """Also where only the answer was lost: then nothing is recorded twice."""
    world = World()
    process = world.began()
    said: list[str] = []
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/{prefix}", after=after, times=5, skip=skip))
    record = take(process, say=said.append)
    archive = read(world)
    assert archive.catalog.backups() == [record]
    assert [part.n for part in archive.catalog.backup_parts(record.backup)] == list(range(record.parts))
    assert any("the store does not answer" in line for line in said)
    assert any("answers again" in line for line in said)


def test_the_wait_for_a_store_has_a_bound() -> None:
    clock = SteppingClock()
    tries = 0

    def act() -> None:
        nonlocal tries
        tries += 1
        clock.advance(25.0)
        raise StoreUnavailable("503")

    with pytest.raises(BackupStalled, match=r"out for 100 s.*503"):
        Patience(clock, 100.0, lambda _line: None, pause_s=0.0).hold(act)
    assert tries == 5


def test_an_outage_is_told_of_once_however_many_wait() -> None:
    said: list[str] = []
    patience = Patience(SteppingClock(), 100.0, said.append, pause_s=0.0)
    together = threading.Barrier(3)

    def waiting(tries: Iterator[int]) -> None:
        if next(tries) == 0:
            raise StoreUnavailable("503")
        together.wait(20)  # all of them have met it

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(patience.hold, partial(waiting, itertools.count())) for _ in range(3)]:
            done.result(20)
    told = [line.partition(",")[0] for line in said]
    assert told == ["the store does not answer", "the store answers again"]


def test_a_store_that_says_no_is_not_waited_for() -> None:
    def act() -> None:
        raise StoreDenied("no")

    with pytest.raises(StoreDenied):
        Patience(SteppingClock(), 100.0, lambda _line: None).hold(act)


def test_what_is_under_way_stays_within_the_memory() -> None:
    mib = 1 << 20
    assert Room.within(256 * mib, 16 * mib, 2) == Room(workers=2, plain=3, sealed_bytes=128 * mib)
    assert Room.within(256 * mib, 32 * mib, 16) == Room(workers=3, plain=3, sealed_bytes=160 * mib)
    assert Room.within(1, 32 * mib, 8) == Room(workers=1, plain=1, sealed_bytes=32 * mib)


def test_sealed_bytes_wait_for_room_and_one_part_never_does() -> None:
    room = SealedBytes(100)
    room.take(200)  # alone
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(room.take, 50) for _ in range(2)]
        assert not any(one.done() for one in waiting)
        room.give(200)
        for one in waiting:
            one.result(timeout=30)
        assert room.held == 100
        third = pool.submit(room.take, 1)
        room.give(50)
        third.result(timeout=30)
    assert room.held == 51


def test_a_broken_connection_begins_a_new_backup_under_a_new_id(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def break_once() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise BackupConnectionLost("the connection to PostgreSQL broke")

    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played(between=break_once))
    monkeypatch.setattr(walarchiver.backupparts, "PARTS_PER_RECORD", 1)
    world = World()
    process = world.began()
    said: list[str] = []
    record = again_when_lost(lambda: take(process), tries=2, pause_s=0.0, say=said.append)
    catalog = read(world).catalog
    assert catalog.backups() == [record]
    assert len({key.split("/base/")[1].split("/")[0] for key in world.keys("/base/")}) == 2
    assert len(said) == 1
    assert "a new backup is begun" in said[0]


def test_backups_are_not_begun_anew_forever() -> None:
    tries = 0

    def lost() -> BackupRecord:
        nonlocal tries
        tries += 1
        raise BackupConnectionLost("gone")

    with pytest.raises(BackupConnectionLost):
        again_when_lost(lost, tries=3, pause_s=0.0, say=lambda _line: None)
    assert tries == 3


def test_a_server_that_is_not_back_yet_costs_a_try_but_only_after_a_loss() -> None:
    record = backup_record(1, tag=1)
    answers: list[WalarchiverError | BackupRecord] = []

    def take_next() -> BackupRecord:
        answer = answers.pop(0)
        if isinstance(answer, WalarchiverError):
            raise answer
        return answer

    def again() -> BackupRecord:
        return again_when_lost(take_next, tries=3, pause_s=0.0, say=lambda _line: None)

    answers[:] = [BackupConnectionLost("it crashed"), DatabaseUnavailable("it recovers"), record]
    assert again() is record
    answers[:] = [DatabaseUnavailable("it is not there"), record]
    with pytest.raises(DatabaseUnavailable):
        again()


def file_server(sizes: list[int]) -> Callable[..., BackupResult]:
    """A server that sends one stream with files of these sizes; their content is the tar's bytes."""

    def stream_base_backup(
        _dsn: str, *, sink: BackupSink, on_start: Callable[[int], None], **_: object
    ) -> BackupResult:
        on_start(1)
        stream = TablespaceStream(0, 0, None)
        members: list[TarMember] = []
        sink.start_stream(stream, members)
        at = 0
        for number, size in enumerate(sizes):
            padded = -(-size // BLOCK) * BLOCK
            members.append(TarMember(f"f{number}", MemberKind.FILE, size, 0o600, at))
            content = bytes(BLOCK) + bytes([65 + number]) * size + bytes(padded - size)
            for start in range(0, len(content), 1 << 16):
                sink.data(memoryview(content)[start : start + (1 << 16)])
            at += BLOCK + padded
        sink.manifest(MANIFEST)
        return BackupResult(
            timeline=1,
            start_lsn=Lsn(0x200028),
            checkpoint_lsn=Lsn(0x200060),
            stop_lsn=Lsn(0x200138),
            stop_timeline=1,
            start_time=NOON,
            stop_time=CommitTime(NOON + 1),
            from_standby=False,
            streams=(StreamIndex(stream, at, tuple(members)),),
            backup_label="",
            notices=(),
        )

    return stream_base_backup


def test_the_digests_part_says_what_is_in_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [3, 0, DIGEST_CHUNK_BYTES + 700, 5 * (1 << 20), 1]
    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", file_server(sizes))
    world = World()
    record = take(world.began(), part_bytes=DIGEST_CHUNK_BYTES + (1 << 20))
    archive = read(world)
    parts = archive.catalog.backup_parts(record.backup)
    index = parse_index(content_of(archive, record.backup, "index"))
    digests = parse_digests(content_of(archive, record.backup, "digests"), index)
    for number, size in enumerate(sizes):
        content = bytes([65 + number]) * size
        assert digests.of(0, f"f{number}") == b"".join(
            piece_digest(content[at : at + DIGEST_CHUNK_BYTES]) for at in range(0, size, DIGEST_CHUNK_BYTES)
        )
    tar = [part for part in parts if part.role == "tar"]
    ends = [part.offset + part.raw for part in tar]
    assert [part.offset for part in tar] == [0, *ends[:-1]]
    torn = index.streams[0].members[2].data_offset
    assert any(part.offset == torn + DIGEST_CHUNK_BYTES or part.offset <= torn for part in tar)
    assert all(
        (part.offset - torn) % DIGEST_CHUNK_BYTES == 0 for part in tar if torn < part.offset < torn + sizes[2]
    )


@pytest.mark.usefixtures("server")
def test_an_incremental_backup_names_what_it_builds_on(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    shelf = ManifestShelf(tmp_path / "manifests", lambda _line: None)
    full = take(process, keep=shelf.keep)
    prior = choose_prior(
        (full,),
        summaries=SUMMARIES,
        recorded=process.catalog.backup_parts(full.backup),
        sources=(shelf.read,),
    )
    assert prior == Prior(full.backup, MANIFEST)
    record = take(process, prior=prior, keep=shelf.keep)
    assert (record.method, record.prior) == ("incremental", full.backup)
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == [record.backup]
    found = read(world).catalog.backups()
    assert found == [full, record]
    with pytest.raises(Exception, match="did not begin before"):  # the played server stands still
        chain_of(found, record.backup)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kept", [MANIFEST[:-1], MANIFEST + b" ", b"x" + MANIFEST[1:], None])
def test_a_manifest_that_is_not_the_recorded_one_is_not_built_on(kept: bytes | None) -> None:
    process = World().began()
    full = take(process)

    def denied(_backup: str) -> bytes:
        raise KeyMissing("no key")

    with pytest.raises(IncrementalUnavailable, match="is not kept on this host"):
        choose_prior(
            (full,),
            summaries=SUMMARIES,
            recorded=process.catalog.backup_parts(full.backup),
            sources=(lambda _backup: kept, or_none(denied)),
        )


def test_a_shelf_that_cannot_be_written_costs_no_backup(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    warned: list[str] = []
    shelf = ManifestShelf(tmp_path / "file" / "below", warned.append)
    shelf.keep("one", b"manifest")
    assert shelf.read("one") is None
    assert len(warned) == 1
    assert "will be a full one" in warned[0]


@pytest.mark.parametrize(
    ("summaries", "said"),
    [
        (WalSummaries(160004, enabled=False, oldest=None, reached=Lsn(0)), "from version 17 on"),
        (WalSummaries(180000, enabled=False, oldest=None, reached=Lsn(0)), "summarize_wal is off"),
        (
            WalSummaries(180000, enabled=True, oldest=Lsn(0x200100), reached=Lsn(0x300000)),
            "begin at 0/200100",
        ),
        (WalSummaries(180000, enabled=True, oldest=None, reached=Lsn(0x300000)), "there are none"),
        (WalSummaries(180000, enabled=True, oldest=None, reached=Lsn(0x100000)), None),
        (SUMMARIES, None),
    ],
)
def test_a_server_that_cannot_tell_what_changed_is_not_asked_to(
    summaries: WalSummaries, said: str | None
) -> None:
    found = summaries.lacking(Lsn(0x200028))
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")


def test_the_newest_backup_of_the_servers_own_history_is_built_on() -> None:
    process = World().began()
    first = backup_record(1, tag=1)
    there = on(first, "20261122T120002Z-00000000", parts=0)
    elsewhere = on(there, "20261122T120003Z-00000000", start_lsn=Lsn(0x500028), stop_lsn=Lsn(0x500138))
    lost = on(replace(first, backup="gone"), "20261122T120004Z-00000000", start_lsn=Lsn(0x600028))
    stored = StoredObject(f"v1/c/{SYSTEM}/history/x", 1, "ab" * 32)
    fork = HistoryRecord("00000002.history", "ab" * 32, 1, (stored,), (ForkFact(1, Lsn(0x400000)),))
    for number, record in enumerate((first, there, elsewhere, lost, fork)):
        process.ledger.commit([fact(f"test {number}", record)])
    assert newest_chain(process.catalog, 1) == (first, there, elsewhere)
    assert newest_chain(process.catalog, 2) == (first, there)
    with pytest.raises(IncrementalUnavailable, match="no base backup that one on timeline 3"):
        newest_chain(process.catalog, 3)


def test_an_index_of_nothing_has_no_digests() -> None:
    stream = TablespaceStream(1, 0, None)
    assert SPACE != BASE
    assert parse_digests(b"", BackupIndex((StreamIndex(stream, 1024, ()),))).by_file == {}
