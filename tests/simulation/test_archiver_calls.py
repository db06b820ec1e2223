"""The archive path: large files, calls that meet, and when what is acknowledged."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.chance import SteppingClock
from tests.kit.faultystore import Event, Fault
from tests.kit.walmaker import MIB, make_segment
from tests.simulation.test_archiver import LEDGER, NAME, assert_nothing_recorded, reader
from tests.simulation.test_depositor import assert_epochs_first
from tests.simulation.world import SYSTEM, SYSTEM_ID, Process, World, name_of, segment_bytes, wal_file
from walarchiver import archiver as archiver_module
from walarchiver.archiver import Archived
from walarchiver.clock import SystemRandom
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import (
    CorruptSegment,
    SegmentConflict,
    ShuttingDown,
    StoreUnavailable,
)
from walarchiver.storage.directory import DirectoryStore

BODIES = f"v1/c/{SYSTEM}/wal/"


def test_a_large_segment_travels_in_parts_and_opens_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver_module, "PART_BYTES", 1 << 20)
    world = World(segment_size=SegmentBytes(8 << 20))
    name = name_of(5, size=world.segment_size)
    content = make_segment(Segment(1, 5), system=SYSTEM_ID, size=world.segment_size, used_pages=700)
    process = world.began()
    assert process.archive(wal_file(tmp_path, name, content)) == [Archived(name, 8 << 20, fresh=True)]
    record = process.catalog.file(name)
    assert record is not None
    assert [stored.key[-5:] for stored in record.objects] == [f".{part:04}" for part in range(8)]
    assert reader(world).plain(name) == content
    assert not process.archive(tmp_path / name)[0].fresh


def test_a_stale_page_in_a_later_part_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver_module, "PART_BYTES", 1 << 20)
    world = World(segment_size=SegmentBytes(4 << 20))
    name = name_of(5, size=world.segment_size)
    content = bytearray(make_segment(Segment(1, 5), system=SYSTEM_ID, size=world.segment_size))
    content[3 << 20 : (3 << 20) + 24] = b"\xaa" * 24
    with pytest.raises(CorruptSegment):
        world.began().archive(wal_file(tmp_path, name, bytes(content)))
    assert_nothing_recorded(world)


def test_memory_stays_at_one_part_whatever_the_segment_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the store is counted: bodies are as large as the noise in them."""
    monkeypatch.setattr(archiver_module, "PART_BYTES", 1 << 20)
    size = SegmentBytes(16 << 20)
    world = World(segment_size=size)
    names = [name_of(number, size=size) for number in range(1, 4)]
    paths = [
        wal_file(tmp_path, n, make_segment(Segment.parse(n, size), system=SYSTEM_ID, size=size))
        for n in names
    ]
    held = most = 0

    def count(step: str) -> None:
        nonlocal held, most
        held += {"archive: sealed": 1, "archive: put": -1}.get(step, 0)
        most = max(most, held)

    process = world.process(observe=count)
    process.begin()

    async def run() -> None:
        async with process.archiving(budget=2 << 20) as archiver:
            await asyncio.gather(*(archiver.archive(path.name, path) for path in paths))

    asyncio.run(run())
    assert 1 <= most <= 2
    assert reader(world).plain(names[2]) == paths[2].read_bytes()


def gathered(process: Process, *calls: tuple[str, Path]) -> list[Archived | BaseException]:
    async def run() -> list[Archived | BaseException]:
        async with process.archiving() as archiver:
            return await asyncio.gather(
                *(archiver.archive(name, path) for name, path in calls), return_exceptions=True
            )

    return asyncio.run(run())


def test_concurrent_calls_for_one_file_do_the_work_once(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, NAME)
    results = gathered(world.began(), *[(NAME, path)] * 5)
    assert results == [Archived(NAME, MIB, fresh=True)] * 5
    assert len(world.keys("/wal/")) == 1


def test_concurrent_calls_for_the_same_bytes_on_two_paths_record_them_once(tmp_path: Path) -> None:
    world = World()
    one, two = wal_file(tmp_path / "a", NAME), wal_file(tmp_path / "b", NAME)
    results = gathered(world.began(), (NAME, one), (NAME, two))
    assert sorted(result.fresh for result in results if isinstance(result, Archived)) == [False, True]
    reading = reader(world)
    assert reading.plain(NAME) == one.read_bytes()
    assert reading.catalog.counts()["wal"] == 1


def test_of_concurrent_calls_with_other_bytes_exactly_one_wins(tmp_path: Path) -> None:
    world = World()
    paths = [wal_file(tmp_path / str(seed), NAME, seed=seed) for seed in range(4)]
    results = gathered(world.began(), *((NAME, path) for path in paths))
    winners = [path for path, result in zip(paths, results, strict=True) if isinstance(result, Archived)]
    assert len(winners) == 1
    assert sum(isinstance(result, SegmentConflict) for result in results) == 3
    assert reader(world).plain(NAME) == winners[0].read_bytes()


def test_a_call_for_a_path_whose_file_was_replaced_meanwhile_is_judged_by_its_own_bytes(
    tmp_path: Path,
) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    gate = world.store.hold("put_new", BODIES)

    async def run() -> tuple[object, object]:
        async with process.archiving() as archiver:
            first = asyncio.create_task(archiver.archive(NAME, path))
            await asyncio.to_thread(gate.wait_reached)
            other = wal_file(tmp_path / "restored", NAME, seed=1)
            other.rename(path)
            second = asyncio.create_task(archiver.archive(NAME, path))
            gate.open()
            one, two = await asyncio.gather(first, second, return_exceptions=True)
            return one, two

    one, two = asyncio.run(run())
    results = {type(one), type(two)}
    assert results == {Archived, SegmentConflict}, "both were told that their bytes are safe"
    kept = segment_bytes(NAME, seed=0 if isinstance(one, Archived) else 1)
    assert reader(world).plain(NAME) == kept


def test_two_hosts_that_archive_the_same_file_at_once_record_it_once(tmp_path: Path) -> None:
    world = World()
    processes = [world.began() for _ in range(3)]
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, 6)]

    async def host(process: Process) -> list[Archived]:
        async with process.archiving() as archiver:
            return await asyncio.gather(*(archiver.archive(path.name, path) for path in paths))

    async def run() -> list[list[Archived]]:
        return await asyncio.gather(*(host(process) for process in processes))

    results = asyncio.run(run())
    for index in range(len(paths)):
        assert [result[index].fresh for result in results].count(True) == 1
    assert reader(world).catalog.counts()["wal"] == len(paths)
    assert_epochs_first(world)


def test_hosts_that_share_a_folder_archive_into_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    clock = SteppingClock()
    world = World(clock=clock, plain_store=DirectoryStore(tmp_path / "repo", clock, SystemRandom()))
    world.began()
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, 13)]

    def host(seed: int) -> None:
        store = DirectoryStore(tmp_path / "repo", clock, SystemRandom())
        process = world.process(store=store, catalog=tmp_path / f"{seed % 2}.sqlite")
        process.archive(*(paths if seed % 2 else reversed(paths)))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(host, seed) for seed in range(4)]:
            done.result()
    reading = reader(world)
    assert reading.catalog.counts()["wal"] == len(paths)
    assert reading.catalog.voids() == []
    assert [reading.plain(path.name) for path in paths] == [path.read_bytes() for path in paths]


def test_waiting_facts_share_an_entry_and_nothing_lingers(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    gate = world.store.hold("put_new", LEDGER)
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, 10)]

    async def run() -> None:
        async with process.archiving(threads=16) as archiver:
            first = asyncio.create_task(archiver.archive(paths[0].name, paths[0]))
            await asyncio.to_thread(gate.wait_reached)
            others = [asyncio.create_task(archiver.archive(path.name, path)) for path in paths[1:]]
            while len(archiver._queue._waiting) < len(others):
                await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(first, *others)

    asyncio.run(run())
    assert len(world.keys(LEDGER)) == 3, "the beginning, the first alone, all that waited together"


def test_nothing_is_acknowledged_before_object_and_entry_are_durable(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    world.store.events.clear()
    path = wal_file(tmp_path, NAME)

    gates = [world.store.hold("put_new", f"v1/c/{SYSTEM}/{place}/") for place in ("keys", "wal", "ledger")]

    async def run() -> None:
        async with process.archiving() as archiver:
            call = asyncio.create_task(archiver.archive(NAME, path))
            for gate in gates:
                await asyncio.to_thread(gate.wait_reached)
                assert not call.done()
                gate.open()
            await call
            world.store.events.append(Event("acknowledged", NAME))

    asyncio.run(run())
    done = [event for event in world.store.events if event.operation in ("put_new", "acknowledged")]
    assert [event.key.split("/")[-2] for event in done[:1]] == ["keys"]
    assert [BODIES in done[1].key, LEDGER in done[2].key] == [True, True]
    assert [event.operation for event in done] == ["put_new"] * 3 + ["acknowledged"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", ["keys/", "wal/", "ledger/"])
def test_a_store_failure_is_not_acknowledged_and_the_next_try_succeeds(
    tmp_path: Path, place: str, after: bool
) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    world.store.fail(Fault("put_new", f"v1/c/{SYSTEM}/{place}", after=after))
    with pytest.raises(StoreUnavailable):
        process.archive(path)
    assert process.archive(path)[0].bytes == MIB
    assert reader(world).plain(NAME) == path.read_bytes()
    assert reader(world).catalog.counts()["wal"] == 1


def test_a_caller_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    gate = world.store.hold("put_new", BODIES)

    async def run() -> Archived:
        async with process.archiving() as archiver:
            call = asyncio.create_task(archiver.archive(NAME, path))
            await asyncio.to_thread(gate.wait_reached)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            gate.open()
            await archiver.drain()
            return await archiver.archive(NAME, path)

    assert asyncio.run(run()) == Archived(NAME, MIB, fresh=False)
    assert len(world.keys("/wal/")) == 1


def test_a_failure_that_nobody_waits_for_any_more_is_no_bug_report(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    gate = world.store.hold("put_new", BODIES)
    world.store.fail(Fault("put_new", BODIES))
    reported: list[object] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        async with process.archiving() as archiver:
            call = asyncio.create_task(archiver.archive(NAME, path))
            await asyncio.to_thread(gate.wait_reached)
            call.cancel()
            gate.open()
            await asyncio.wait([call])
            await archiver.drain()

    asyncio.run(run())
    import gc

    gc.collect()
    assert reported == []


def test_work_that_ends_with_its_loop_is_no_bug_report_and_can_be_asked_for_again(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    gate = world.store.hold("put_new", BODIES)
    reported: list[object] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        async with process.archiving() as archiver:
            call = asyncio.create_task(archiver.archive(NAME, path))
            await asyncio.to_thread(gate.wait_reached)
            for work, _place in archiver._running.values():  # as asyncio.run does to whatever is left
                work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            gate.open()

    asyncio.run(run())
    assert reported == []
    assert process.archive(path) == [Archived(NAME, MIB, fresh=True)]


def test_a_queue_that_stops_leaves_nobody_waiting(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    gate = world.store.hold("put_new", LEDGER)
    paths = [wal_file(tmp_path, name_of(number)) for number in (1, 2)]

    async def run() -> list[Archived | BaseException]:
        with ThreadPoolExecutor(4) as io:
            async with process.archiving() as archiver:
                from walarchiver.ledgerqueue import LedgerQueue

                queue = archiver._queue = LedgerQueue(process.ledger, io)
                running = asyncio.create_task(queue.run())
                calls = [asyncio.create_task(archiver.archive(path.name, path)) for path in paths]
                await asyncio.to_thread(gate.wait_reached)
                running.cancel()
                found = await asyncio.gather(*calls, return_exceptions=True)
                gate.open()
                with pytest.raises(ShuttingDown):
                    await archiver.archive(name_of(3), wal_file(tmp_path, name_of(3)))
                return found

    assert {type(result) for result in asyncio.run(run())} == {ShuttingDown}
