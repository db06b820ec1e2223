"""The archive path: what is refused, what is acknowledged when, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.chance import SteppingClock
from tests.kit.faultystore import Event, Fault
from tests.kit.wal import WalWriter
from tests.kit.walmaker import MIB, make_segment
from tests.simulation.test_depositor import assert_epochs_first
from tests.simulation.world import SYSTEM, SYSTEM_ID, Process, World, name_of, segment_bytes, wal_file
from walarchiver import archiver as archiver_module
from walarchiver import scanner as scanner_module
from walarchiver.archiver import SEALINGS_MAX, Archived
from walarchiver.catalog import Catalog
from walarchiver.clock import SystemRandom
from walarchiver.core.commits import scan_segment
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import (
    CorruptHistory,
    CorruptSegment,
    EpochOutdated,
    NotARegularFile,
    NotAWalFile,
    SegmentChanged,
    SegmentConflict,
    ShuttingDown,
    StoreUnavailable,
    WalarchiverError,
    WrongCluster,
)
from walarchiver.format.records import HorizonRecord, Record
from walarchiver.format.scans import ScanRecord, segment_scan
from walarchiver.offered import open_plainly
from walarchiver.scanner import Scanner
from walarchiver.storage.directory import DirectoryStore

NAME = name_of(1)
BODIES = f"v1/c/{SYSTEM}/wal/"
LEDGER = f"v1/c/{SYSTEM}/ledger/"
HISTORY = b"1\t0/3000000\tno recovery target specified\n"
LABEL = b"START WAL LOCATION: 0/100028 (file 000000010000000000000001)\n"


def reader(world: World) -> Process:
    process = world.process(write=False, identities=[world.identity()])
    process.ledger.refresh()
    return process


def assert_nothing_recorded(world: World) -> None:
    assert len(world.keys(LEDGER)) == 1
    assert world.keys("/history/") == world.keys("/label/") == []


# --- accepted ----------------------------------------------------------------------------------------


def test_an_archived_segment_opens_to_the_same_bytes(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, NAME)
    assert world.began().archive(path) == [Archived(NAME, MIB, fresh=True)]
    assert reader(world).plain(NAME) == path.read_bytes()
    record = reader(world).catalog.file(NAME)
    assert record is not None
    assert record.page.system == SYSTEM  # type: ignore[union-attr]
    assert record.objects[0].version_id is not None


@pytest.mark.parametrize("fresh_process", [False, True])
def test_the_same_bytes_again_succeed_without_writing(tmp_path: Path, fresh_process: bool) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    process.archive(path)
    before = world.keys("v1/")
    again = world.began() if fresh_process else process
    assert again.archive(path, path) == [Archived(NAME, MIB, fresh=False)] * 2
    assert world.keys("v1/") == before


def test_other_bytes_under_a_recorded_name_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    first = wal_file(tmp_path, NAME)
    process.archive(first)
    before = world.keys("v1/")
    other = wal_file(tmp_path / "clone", NAME, seed=1)
    for offering in (process, world.began()):
        with pytest.raises(SegmentConflict, match=NAME):
            offering.archive(other)
    assert world.keys("v1/") == before
    assert reader(world).plain(NAME) == first.read_bytes()


def test_a_stale_process_that_meets_other_bytes_at_the_ledger_is_refused(tmp_path: Path) -> None:
    world = World()
    stale, quick = world.began(), world.began()
    stale.ledger.refresh()
    first = wal_file(tmp_path, NAME)
    quick.archive(first)
    with pytest.raises(SegmentConflict):
        stale.archive(wal_file(tmp_path / "clone", NAME, seed=1))
    assert reader(world).plain(NAME) == first.read_bytes()


def test_a_segment_with_a_zero_tail_behind_a_switch_is_accepted(tmp_path: Path) -> None:
    world = World()
    content = make_segment(Segment(1, 1), system=SYSTEM_ID, used_pages=3)
    world.began().archive(wal_file(tmp_path, NAME, content))
    assert reader(world).plain(NAME) == content


def test_the_first_segment_of_a_new_timeline_may_begin_with_its_parents_pages(tmp_path: Path) -> None:
    world = World()
    name = name_of(3, timeline=2)
    content = make_segment(Segment(2, 3), system=SYSTEM_ID, page_timeline=1)
    world.began().archive(wal_file(tmp_path, name, content))
    assert reader(world).plain(name) == content


def test_all_four_kinds_of_file_are_archived(tmp_path: Path) -> None:
    world = World()
    partial = make_segment(Segment(1, 2), system=SYSTEM_ID)[: MIB // 2] + b"recycled" * (MIB // 16)
    paths = [
        wal_file(tmp_path, "00000002.history", HISTORY),
        wal_file(tmp_path, f"{name_of(2)}.partial", partial),
        wal_file(tmp_path, f"{NAME}.00000028.backup", LABEL),
        wal_file(tmp_path, NAME),
    ]
    process = world.began()
    assert [one.fresh for one in process.archive(*paths)] == [True] * 4
    assert [one.fresh for one in process.archive(*paths)] == [False] * 4
    reading = reader(world)
    assert [reading.plain(path.name) for path in paths] == [path.read_bytes() for path in paths]
    assert reading.catalog.histories()[2].path == (1, 2)
    assert reading.catalog.runs() == [(1, 1, 1)], "a partial segment is no segment"
    assert reading.catalog.file(name_of(2)) is None


@pytest.mark.parametrize("content", [b"", b"\0\xff rubbish", b"x" * 300_000])
def test_a_bad_backup_history_file_never_blocks(tmp_path: Path, content: bytes) -> None:
    world = World()
    name = f"{NAME}.00000028.backup"
    process = world.began()
    assert process.archive(wal_file(tmp_path, name, content))[0].fresh
    assert not process.archive(tmp_path / name)[0].fresh
    assert reader(world).plain(name) == content


def test_other_content_under_a_recorded_history_is_refused(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    process.archive(wal_file(tmp_path, "00000002.history", HISTORY))
    with pytest.raises(SegmentConflict):
        process.archive(wal_file(tmp_path / "b", "00000002.history", b"1\t0/4000000\tother\n"))


# --- refused -------------------------------------------------------------------------------------------

SEGMENT = Segment(1, 1)
GOOD = make_segment(SEGMENT, system=SYSTEM_ID)
STALE_PAGE = GOOD[: 40 * 8192] + make_segment(Segment(1, 9), system=SYSTEM_ID)[40 * 8192 :]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID + 1), WrongCluster, id="system identifier"),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, claimed_size=16 << 20), WrongCluster, id="claimed size"
        ),
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID, magic=0xD113), WrongCluster, id="another major"),
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID, magic=0xBEEF), CorruptSegment, id="magic"),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, page_timeline=2), CorruptSegment, id="newer timeline"
        ),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, address=7 << 20), CorruptSegment, id="page address"
        ),
        pytest.param(b"", CorruptSegment, id="empty"),
        pytest.param(GOOD[:39], CorruptSegment, id="shorter than a header"),
        pytest.param(GOOD[:-8192], CorruptSegment, id="short"),
        pytest.param(GOOD + b"\0", CorruptSegment, id="long"),
        pytest.param(GOOD * 3, CorruptSegment, id="huge"),
        pytest.param(bytes(MIB), CorruptSegment, id="zero"),
        pytest.param(STALE_PAGE, CorruptSegment, id="pages of a recycled segment"),
        pytest.param(GOOD[:8192] + bytes(8192) + GOOD[16384:], CorruptSegment, id="a zero page inside"),
    ],
)
def test_a_file_that_is_no_segment_of_this_cluster_is_refused_and_nothing_stored(
    tmp_path: Path, content: bytes, error: type[WalarchiverError]
) -> None:
    world = World()
    process = world.began()
    with pytest.raises(error):
        process.archive(wal_file(tmp_path, NAME, content))
    assert world.keys("/wal/") == []
    assert_nothing_recorded(world)
    assert process.archive(wal_file(tmp_path, NAME))[0].fresh, "the good file is taken afterwards"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000002.history", b""),
        ("00000002.history", b"# nothing but a comment\n"),
        ("00000002.history", b"2\t0/3000000\tits own parent\n"),
        ("00000003.history", b"2\t0/3000000\tx\n1\t0/4000000\ty\n"),
        ("00000002.history", b"x" * (2 << 20)),
        ("00000002.history", b"1\t0/30"),
        ("00000002.history", HISTORY[:-1]),
        ("00000002.history", b"\0\xff rubbish" * 500 + b"\n"),
        ("00000002.history", b"1\tFFFFFFFFFF/0\tx\n"),
        ("00000002.history", b"99999999999999999999999\t0/1\tx\n"),
        ("00000002.history", b"0\t0/1\tx\n"),
    ],
)
def test_a_history_that_makes_no_sense_is_refused_before_it_is_stored(
    tmp_path: Path, name: str, content: bytes
) -> None:
    world = World()
    with pytest.raises(CorruptHistory):
        world.began().archive(wal_file(tmp_path, name, content))
    assert_nothing_recorded(world)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "00000001.history", f"{NAME}.gz", NAME.lower() + "A", f"{NAME}.partial.partial"),
        *("RECOVERYXLOG", NAME[:-8] + "00001000"),
    ],
)
def test_a_name_that_no_wal_file_has_is_refused(tmp_path: Path, name: str) -> None:
    world = World()

    async def run() -> None:
        async with world.began().archiving() as archiver:
            await archiver.archive(name, tmp_path / "file")

    with pytest.raises(NotAWalFile):
        asyncio.run(run())
    assert_nothing_recorded(world)


def test_a_file_that_is_not_there_or_not_readable_is_refused(tmp_path: Path) -> None:
    process = World().began()
    with pytest.raises(CorruptSegment, match="No such file"):
        process.archive(tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    with pytest.raises(CorruptSegment, match="is not a regular file"):
        process.archive(tmp_path / NAME)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    process = World().began()
    os.mkfifo(tmp_path / NAME)
    other_end = os.open(tmp_path / NAME, os.O_RDWR)  # so that even who opens it does not hang
    try:
        with pytest.raises(NotARegularFile, match="is not a regular file"):
            process.archive(tmp_path / NAME)
    finally:
        os.close(other_end)


def test_what_stands_in_a_segments_place_by_then_is_not_followed_and_not_waited_for(tmp_path: Path) -> None:
    """Between the look at the path and its opening anybody may have changed it."""
    (tmp_path / "elsewhere").write_bytes(segment_bytes(NAME))
    (tmp_path / NAME).symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_plainly(tmp_path / NAME)
    process = World().began()
    with pytest.raises(NotARegularFile):
        process.archive(tmp_path / NAME)
    os.mkfifo(tmp_path / "pipe")
    with open_plainly(tmp_path / "pipe") as pipe:  # at once, although nobody writes
        assert pipe.fileno() >= 0


def replace_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def append_page(path: Path) -> None:
    with path.open("ab") as out:
        out.write(bytes(8192))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: os.truncate(path, 1 << 20), "shorter"),
        (append_page, "changed while it was read"),
        (lambda path: path.write_bytes(path.read_bytes()), "changed while it was read"),
        (replace_file, "changed while it was read"),
        (lambda path: path.unlink(), "went away"),
    ],
    ids=["cut short", "grown", "written again", "replaced", "removed"],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    world = World(segment_size=SegmentBytes(4 << 20))
    name = name_of(1, size=world.segment_size)
    content = make_segment(Segment(1, 1), system=SYSTEM_ID, size=world.segment_size)
    path = wal_file(tmp_path, name, content)
    once = [change]

    def changed(step: str) -> None:
        if step == "archive: sealed" and once:
            once.pop()(path)

    process = world.process(observe=changed)
    process.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archiver_module, "PART_BYTES", 1 << 20)
        with pytest.raises(SegmentChanged, match=says):
            process.archive(path)
    assert_nothing_recorded(world)
    path.write_bytes(content)
    assert process.archive(path)[0].fresh


# --- large files -----------------------------------------------------------------------------------------


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


# --- together --------------------------------------------------------------------------------------------


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


# --- when it is acknowledged -----------------------------------------------------------------------------


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


# --- crashes ---------------------------------------------------------------------------------------------


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


# --- riding along ----------------------------------------------------------------------------------------

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


# --- scans ------------------------------------------------------------------------------------------------


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


# --- keyrings that keep changing --------------------------------------------------------------------------


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
