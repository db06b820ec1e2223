"""Horizon samples: what WAL covers them, how many are kept, and when one is due alone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.kit.walmaker import MIB
from tests.simulation.world import SYSTEM, Process, World, name_of, wal_file
from walarchiver import horizon
from walarchiver.archiver import Archiver
from walarchiver.clusterservice import ClusterService, Lane, covered_sample, riding_samples, rode_along
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import parse_wal_file
from walarchiver.core.walpage import settled_lsn
from walarchiver.errors import (
    CatalogUnavailable,
    ConfigError,
    NotAWalFile,
    StoreDenied,
    StoreUnavailable,
    WalarchiverError,
)
from walarchiver.horizon import HorizonSamples, Sample
from walarchiver.settings import ClusterSettings

T0 = 1_795_348_800_000_000
SECOND = 1_000_000


def sample(seconds: int, lsn: int, timeline: int = 1) -> Sample:
    return Sample(CommitTime(T0 + seconds * SECOND), Lsn(lsn), timeline)


@pytest.mark.parametrize(
    ("lsn", "covered"),
    [
        (0x500000, 0x500000),
        (0x500000 + 1, 0x500000),
        (0x500000 + 40, 0x500000),  # directly behind a segment's long header
        (0x500000 + 41, 0x500000 + 41),
        (0x502000, 0x502000),
        (0x502000 + 24, 0x502000),  # directly behind a page's short header
        (0x502000 + 25, 0x502000 + 25),
        (0x502000 - 1, 0x502000 - 1),
        (0x502000 + 40, 0x502000 + 40),
    ],
)
def test_a_position_inside_a_page_header_counts_as_the_pages_start(lsn: int, covered: int) -> None:
    assert settled_lsn(Lsn(lsn), MIB) == covered


def test_a_sample_counts_once_the_archive_covers_its_position() -> None:
    samples = HorizonSamples(MIB)
    samples.add(sample(0, 0x500100))
    samples.add(sample(1, 0x600028))  # after a switch: behind the next segment's header
    samples.add(sample(2, 0x600200))
    assert samples.newest_covered(1, Lsn(0x500000)) is None
    found = samples.newest_covered(1, Lsn(0x600000))
    assert found is not None
    assert found.time == T0 + SECOND
    assert samples.newest_covered(2, Lsn(0x900000)) is None


def test_of_samples_with_one_position_the_newest_is_kept() -> None:
    samples = HorizonSamples(MIB)
    for second in range(100):
        samples.add(sample(second, 0x500100))
    found = samples.newest_covered(1, Lsn(0x600000))
    assert found is not None
    assert found.time == T0 + 99 * SECOND
    assert len(samples._samples) == 1


def test_too_many_samples_are_thinned_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "SAMPLES_MAX", 64)
    samples = HorizonSamples(MIB)
    for second in range(1000):
        samples.add(sample(second, 0x500100 + second * 0x1000))
    kept = [(one.time - T0) // SECOND for one in samples._samples]
    assert len(kept) <= 64
    assert kept == sorted(kept)
    assert kept[-32:] == list(range(1000 - 32, 1000))
    assert kept[0] < 500, "nothing old is left"


def test_what_is_recorded_is_not_offered_again() -> None:
    samples = HorizonSamples(MIB)
    for second in range(4):
        samples.add(sample(second, 0x500100 + second * 0x1000))
    middle = samples.newest_covered(1, Lsn(0x501100))
    assert middle is not None
    samples.recorded(middle, 0.0, alone=False)
    assert samples.newest_covered(1, Lsn(0x501100)) is None
    newest = samples.newest_covered(1, Lsn(0x600000))
    assert newest is not None
    assert newest.time == T0 + 3 * SECOND
    samples.recorded(newest, 0.0, alone=False)
    samples.recorded(middle, 0.0, alone=False)  # a slower append ends after the faster one
    assert samples.newest_covered(1, Lsn(0x600000)) is None


def test_an_idle_servers_samples_are_due_after_a_minute_then_at_doubling_intervals() -> None:
    samples = HorizonSamples(MIB)
    now_s, waits = 10_000.0, []
    for second in range(6):
        samples.add(sample(second, 0x500100))
        record = samples.newest_covered(1, Lsn(0x600000))
        assert record is not None
        samples.recorded(record, now_s, alone=second > 0)
        began_s = now_s
        while not samples.due(now_s):
            now_s += 1
        waits.append(now_s - began_s)
    assert waits == [60, 120, 240, 480, 600, 600]


# --- with a ledger -----------------------------------------------------------------------------------


class Service:
    """A cluster service with one lane, whose queue and archiver live while `during` runs."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.process: Process = self.world.began()
        self.samples = HorizonSamples(MIB)
        self.folder = folder

    async def lane(self, archiver: Archiver) -> ClusterService:
        lane = Lane("r", None, archiver, archiver._queue, self.samples, None, None, "w")  # type: ignore[arg-type]
        service = ClusterService(
            "main",
            ClusterSettings(repositories=("r",), data_directory=self.folder),
            open_lanes=lambda: [lane],
            executor=self.executor,
            clock=self.world.clock,
        )
        await service._open()
        return service

    def run(self, during: object) -> None:
        async def play() -> None:
            with ThreadPoolExecutor(2) as self.executor:
                async with self.process.archiving(
                    companions=riding_samples(self.samples, MIB),
                    accompanied=rode_along(self.samples, self.world.clock),
                ) as archiver:
                    await during(await self.lane(archiver), archiver)  # type: ignore[operator]

        asyncio.run(play())

    def horizons(self) -> list[int]:
        return [(record.time - T0) // SECOND for record in self.process.catalog.horizons()]


def test_the_newest_covered_sample_rides_with_the_segment_that_covers_it(tmp_path: Path) -> None:
    scene = Service(tmp_path)
    scene.samples.add(sample(1, 0x100100))
    scene.samples.add(sample(2, 0x1FF000))
    scene.samples.add(sample(3, 0x200028))
    scene.samples.add(sample(4, 0x200400))

    async def during(_service: ClusterService, archiver: Archiver) -> None:
        for number in (1, 2):
            await archiver.archive(name_of(number), wal_file(tmp_path, name_of(number)))

    scene.run(during)
    assert scene.horizons() == [3, 4]
    assert len(scene.world.keys("/ledger/")) == 3, "samples cost no entry of their own"


def test_files_that_are_no_segments_carry_no_sample() -> None:
    samples = HorizonSamples(MIB)
    samples.add(sample(1, 0x100100))
    companions = riding_samples(samples, MIB)
    for name in ("00000002.history", f"{name_of(1)}.partial", f"{name_of(1)}.00000028.backup"):
        assert companions(parse_wal_file(name, MIB)) == ()


def test_an_idle_server_is_proven_when_due_and_at_once_when_asked(tmp_path: Path) -> None:
    scene = Service(tmp_path)

    async def during(service: ClusterService, archiver: Archiver) -> None:
        await archiver.archive(name_of(1), wal_file(tmp_path, name_of(1)))
        scene.samples.add(sample(1, 0x200028))
        await service.prove_idle(at_once=True)
        assert scene.horizons() == [1]
        scene.samples.add(sample(2, 0x200028))
        await service.prove_idle(at_once=False)
        assert scene.horizons() == [1]
        scene.world.clock.advance(121)
        await service.prove_idle(at_once=False)
        assert scene.horizons() == [1, 2]
        scene.samples.add(sample(3, 0x200100))  # not archived yet
        await service.prove_idle(at_once=True)
        assert scene.horizons() == [1, 2]

    scene.run(during)


@pytest.mark.parametrize("error", [StoreUnavailable, StoreDenied])
def test_a_sample_that_cannot_be_recorded_stops_nothing_and_is_tried_again(
    tmp_path: Path, error: type[WalarchiverError]
) -> None:
    scene = Service(tmp_path)

    async def during(service: ClusterService, archiver: Archiver) -> None:
        await archiver.archive(name_of(1), wal_file(tmp_path, name_of(1)))
        scene.samples.add(sample(1, 0x200028))
        scene.world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/ledger/", error=lambda: error("no")))
        await service.prove_idle(at_once=True)
        assert scene.horizons() == []
        await service.prove_idle(at_once=True)
        assert scene.horizons() == [1]

    scene.run(during)


def test_a_catalog_that_cannot_be_read_stops_no_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Service(tmp_path)

    def unreadable() -> list[int]:
        raise CatalogUnavailable("disk I/O error")

    async def during(service: ClusterService, archiver: Archiver) -> None:
        await archiver.archive(name_of(1), wal_file(tmp_path, name_of(1)))
        scene.samples.add(sample(1, 0x200028))
        with monkeypatch.context() as patch:
            patch.setattr(archiver.catalog, "timelines", unreadable)
            await service.prove_idle(at_once=True)
        assert scene.horizons() == []
        await service.prove_idle(at_once=True)
        assert scene.horizons() == [1]

    scene.run(during)


def test_nothing_is_covered_before_a_segment_is_archived(tmp_path: Path) -> None:
    scene = Service(tmp_path)
    scene.samples.add(sample(1, 0x100028))

    async def during(_service: ClusterService, archiver: Archiver) -> None:
        assert covered_sample(scene.samples, archiver) is None

    scene.run(during)


# --- what the service takes from outside -------------------------------------------------------------


def test_a_push_is_read_from_pg_wal_only(tmp_path: Path) -> None:
    scene = Service(tmp_path)
    inside = wal_file(tmp_path / "pg_wal", name_of(1))
    outside = wal_file(tmp_path / "elsewhere", name_of(2))
    link = tmp_path / "pg_wal" / name_of(3)
    link.symlink_to(outside)

    async def during(service: ClusterService, _archiver: Archiver) -> None:
        assert (await service.push(inside))[0].fresh
        around = tmp_path / "pg_wal" / ".." / "elsewhere" / name_of(2)
        endless = tmp_path / "pg_wal" / ("0" * 300)  # no file system has such a name
        for path in (outside, link, around, endless, Path(name_of(1))):
            with pytest.raises(NotAWalFile):
                await service.push(path)
        with pytest.raises(ConfigError):
            await service.fetch(name_of(1), tmp_path / "pg_wal" / "RECOVERYXLOG")

    scene.run(during)
    assert len(scene.world.keys("/wal/")) == 1


def test_a_push_before_everything_is_open_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def play() -> None:
        opened = 0

        def open_lanes() -> list[Lane]:
            nonlocal opened
            opened += 1
            raise StoreUnavailable("the store is not there yet")

        wal_file(tmp_path / "pg_wal", name_of(1))
        with ThreadPoolExecutor(1) as executor:
            service = ClusterService(
                "main",
                ClusterSettings(repositories=("r",), data_directory=tmp_path),
                open_lanes=open_lanes,
                executor=executor,
                clock=World().clock,
            )
            with pytest.raises(WalarchiverError, match="still being opened"):
                await service.push(tmp_path / "pg_wal" / name_of(1))
            running = asyncio.create_task(service.run())
            while not opened:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            with pytest.raises(StoreUnavailable, match="not there yet"):
                await service.push(tmp_path / "pg_wal" / name_of(1))
            assert not service.ready
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(play())
