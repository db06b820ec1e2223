"""Segments archived without a scan get one later, from a host that can open them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.kit.wal import MIB, WalWriter
from tests.simulation.world import SYSTEM_ID, Process, World
from walarchiver.assembly import Archive
from walarchiver.core.commits import scan_segment
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import KeyMissing
from walarchiver.format.scans import segment_scan
from walarchiver.operate.backfill import complete, unscanned

NOON = 1_795_348_800_000_000
SIZE = SegmentBytes(MIB)


@functools.cache
def written() -> WalWriter:
    """Segments 3 to 6; the last record of 5 ends in 6, that of 6 in 7."""
    wal = WalWriter(3, system=SYSTEM_ID)
    wal.commit(NOON)
    wal.switch()
    wal.commit(NOON + 1)
    wal.switch()
    for number in (5, 6):
        wal.commit(NOON + number)
        while wal.at // MIB == number:
            wal.filler(90_000)
    return wal


def archived(world: World, folder: Path, wal: WalWriter, numbers: tuple[int, ...]) -> None:
    process = world.began()
    paths = []
    for number in numbers:
        path = folder / Segment(1, number).name(SIZE)
        path.write_bytes(wal.segments()[number])
        paths.append(path)
    process.archive(*paths)


def archive_of(process: Process) -> Archive:
    process.ledger.refresh()
    return Archive(process.catalog.clusters()[-1], process.repository, process.ledger)


@pytest.fixture
def world() -> World:
    return World(segment_size=SIZE)


def test_segments_without_a_scan_are_opened_walked_and_recorded(world: World, tmp_path: Path) -> None:
    wal = written()
    archived(world, tmp_path, wal, (3, 4, 5, 6))
    process = world.process(identities=[world.identity()])
    archive = archive_of(process)
    assert [segment.number for segment in unscanned(archive)] == [3, 4, 5, 6]
    steps: list[int] = []
    done = complete(archive, unscanned(archive), steps.append)
    assert (done.scanned, steps) == (3, [1, 2, 3, 4])
    assert [name for name, _ in done.left] == [Segment(1, 6).name(SIZE)], "segment 7 is not archived"
    for number in (3, 4, 5):
        file = archive.catalog.file(Segment(1, number).name(SIZE))
        assert file is not None
        record = archive.catalog.scan(file.name, file.digest)
        assert record is not None
        known = segment_scan(record, Segment(1, number), system=SYSTEM_ID, magic=0xD110)
        assert known == scan_segment(Segment(1, number), wal.segments().get, segment_size=SIZE)[0]
    assert [segment.number for segment in unscanned(archive)] == [6], "what is recorded stays"


def test_what_two_hosts_scan_at_once_is_recorded_once(world: World, tmp_path: Path) -> None:
    archived(world, tmp_path, written(), (3, 4))
    first, second = (archive_of(world.process(identities=[world.identity()])) for _ in range(2))
    assert complete(first, unscanned(first)).scanned == 2
    complete(second, unscanned(second))
    first.ledger.refresh()
    assert first.catalog.counts()["scan"] == 2


def test_a_damaged_segment_is_told_and_holds_nothing_up(world: World, tmp_path: Path) -> None:
    archived(world, tmp_path, written(), (3, 4))
    (key,) = world.keys("000000010000000000000003")
    body = bytearray(world.memory.get(key, bytes_max=2 * MIB))
    body[len(body) // 2] ^= 1
    world.replace(key, bytes(body))
    archive = archive_of(world.process(identities=[world.identity()]))
    done = complete(archive, unscanned(archive))
    assert done.scanned == 1
    assert [name for name, _ in done.left] == [Segment(1, 3).name(SIZE)]


def test_it_takes_a_key_that_opens(world: World, tmp_path: Path) -> None:
    archived(world, tmp_path, written(), (3,))
    archive = archive_of(world.process())
    with pytest.raises(KeyMissing):
        complete(archive, unscanned(archive))
