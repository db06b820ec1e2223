"""The archive path: what a crash leaves behind, what rides along, and keyrings that keep changing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.kit.wal import WalWriter
from tests.kit.walmaker import MIB
from tests.simulation.test_archiver import LEDGER, NAME, assert_nothing_recorded, reader
from tests.simulation.test_depositor import assert_epochs_first
from tests.simulation.world import SYSTEM_ID, World, name_of, wal_file
from walarchiver import archiver as archiver_module
from walarchiver import scanner as scanner_module
from walarchiver.archiver import SEALINGS_MAX, Archived
from walarchiver.catalog import Catalog
from walarchiver.core.commits import scan_segment
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment
from walarchiver.errors import (
    EpochOutdated,
    ShuttingDown,
    StoreUnavailable,
)
from walarchiver.format.records import HorizonRecord, Record
from walarchiver.format.scans import ScanRecord, segment_scan
from walarchiver.scanner import Scanner


class Crash(BaseException):
    """The process is gone."""


STEPS = (
    "archive: start",
    "archive: sealed",
    "archive: put",
    "archive: deposited",
    "ledger: before put",
    "ledger: after put",
    "ledger: after apply",
    "archive: recorded",
)


def crash_at(wanted: str, nth: int = 1) -> Callable[[str], None]:
    seen = 0

    def observe(step: str) -> None:
        nonlocal seen
        if step == wanted:
            seen += 1
            if seen == nth:
                raise Crash(step)

    return observe


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_a_new_process_archives_the_same_file(
    tmp_path: Path, step: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(archiver_module, "PART_BYTES", 256 << 10)
    world = World()
    world.began()
    path = wal_file(tmp_path, NAME)
    catalog = tmp_path / "catalog.sqlite"

    async def dying() -> None:
        process = world.process(catalog=catalog)
        process.ledger.refresh()
        process.ledger._observe = process.observe = crash_at(
            step, 3 if large and "archive: put" in step else 1
        )
        async with process.archiving() as archiver:
            (done,) = await asyncio.gather(archiver.archive(NAME, path), return_exceptions=True)
            assert isinstance(done, Crash | ShuttingDown), "acknowledged by a process that had died"
        process.catalog.close()

    asyncio.run(dying())
    successor = world.process(catalog=catalog)
    successor.ledger.refresh()
    assert successor.archive(path)[0].bytes == MIB
    reading = reader(world)
    assert reading.plain(NAME) == path.read_bytes()
    assert reading.catalog.counts()["wal"] == 1
    assert reading.catalog.dump() == successor.catalog.dump()
    assert_epochs_first(world)


SAMPLE = HorizonRecord(CommitTime(1_795_348_800_000_000), Lsn(0x100100), 1)


def test_what_rides_along_is_reported_once_it_is_durable(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    heard: list[Record] = []
    world.store.fail(Fault("put_new", LEDGER))

    async def run() -> None:
        async with process.archiving(
            companions=lambda _file: (SAMPLE,), accompanied=heard.extend
        ) as archiver:
            with pytest.raises(StoreUnavailable):
                await archiver.archive(NAME, path)
            assert heard == [], "a sample counts as recorded although nothing was"
            await archiver.archive(NAME, path)
            assert heard == [SAMPLE]
            await archiver.archive(NAME, path)
            assert heard == [SAMPLE]

    asyncio.run(run())
    assert reader(world).catalog.horizons() == [SAMPLE]


def test_a_sample_that_rode_into_a_lost_race_rides_again(tmp_path: Path) -> None:
    world = World()
    rival, process = world.began(), world.began()
    rival.archive(wal_file(tmp_path, name_of(7)))
    heard: list[Record] = []

    async def run() -> None:
        async with process.archiving(
            companions=lambda _file: () if heard else (SAMPLE,), accompanied=heard.extend
        ) as archiver:
            await archiver.archive(NAME, wal_file(tmp_path, NAME))

    asyncio.run(run())
    assert reader(world).catalog.horizons() == [SAMPLE]


def written(number: int) -> WalWriter:
    """A segment with commits, and a last record that goes on in the next one."""
    wal = WalWriter(number, system=SYSTEM_ID, major=15)
    wal.commit(1_795_348_800_000_000)
    wal.pad_to(1000)
    wal.filler(3000)
    return wal


def scanned(tmp_path: Path, *, next_too: bool = True) -> tuple[World, ScanRecord | None]:
    world = World()
    process = world.began()
    segments = written(1).segments()
    path = wal_file(tmp_path, NAME, segments[1])
    if next_too:
        wal_file(tmp_path, name_of(2), segments[2])

    async def run() -> Archived:
        async with process.archiving(scanner=Scanner(MIB)) as archiver:
            return await archiver.archive(NAME, path)

    assert asyncio.run(run()) == Archived(NAME, MIB, fresh=True)
    reading = reader(world)
    assert reading.plain(NAME) == segments[1]
    record = reading.catalog.file(NAME)
    assert record is not None
    return world, reading.catalog.scan(NAME, record.digest)


def test_a_segments_scan_is_recorded_in_the_entry_of_the_segment(tmp_path: Path) -> None:
    world, record = scanned(tmp_path)
    expected, _ = scan_segment(Segment(1, 1), written(1).segments().get, segment_size=MIB)
    assert record is not None
    assert segment_scan(record, Segment(1, 1), system=SYSTEM_ID, magic=0xD110) == expected
    assert len(world.keys(LEDGER)) == 2, "the scan went into an entry of its own"


def test_a_segment_whose_last_record_is_not_written_yet_is_archived_without_a_scan(tmp_path: Path) -> None:
    assert scanned(tmp_path, next_too=False)[1] is None


def test_a_scan_that_fails_holds_no_segment_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_words: object, **_more: object) -> None:
        raise RuntimeError("a bug in the walk")

    monkeypatch.setattr(scanner_module, "scan_segment", failing)
    assert scanned(tmp_path)[1] is None


@pytest.mark.parametrize("changes", [SEALINGS_MAX - 1, SEALINGS_MAX])
def test_a_file_is_sealed_anew_while_keyrings_change_and_given_up_in_the_end(
    tmp_path: Path, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    truly = process.depositor.epoch_records_of_today
    left = [EpochOutdated("another keyring is in force")] * changes

    def outdated(catalog: Catalog, epochs: Iterable[str]) -> tuple[Record, ...]:
        if left:
            raise left.pop()
        return truly(catalog, epochs)

    monkeypatch.setattr(process.depositor, "epoch_records_of_today", outdated)
    if changes < SEALINGS_MAX:
        assert process.archive(path)[0].fresh
    else:
        with pytest.raises(EpochOutdated):
            process.archive(path)
        assert_nothing_recorded(world)
        assert process.archive(path)[0].fresh, "the next call does not begin anew"
    assert reader(world).plain(NAME) == path.read_bytes()
