"""What this process archived is not read again, unless anything about the file says that it may differ."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.test_archiver import reader
from tests.simulation.world import SYSTEM_ID, Process, World, name_of, segment_bytes, wal_file
from walarchiver.archivedmemory import SETTLED_US, ArchivedMemory, is_settled
from walarchiver.archiver import Archiver
from walarchiver.budget import ByteBudget
from walarchiver.clock import SystemClock
from walarchiver.core.segment import WalFile
from walarchiver.errors import SegmentConflict
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts, Stamp, stamp_of

NAME = name_of(1)
HOUR_US = 3_600_000_000


def an_hour_later() -> int:
    """As if every file had been lying there for an hour."""
    return SystemClock().now_us() + HOUR_US


def read_twice(
    process: Process,
    path: Path,
    between: Callable[[], object],
    *,
    memory: ArchivedMemory | None = None,
) -> bool:
    """Archive a file, do something, offer it again: whether it was read again for that."""
    reads = 0

    async def run() -> None:
        nonlocal reads
        with ThreadPoolExecutor(4) as pool:
            queue = LedgerQueue(process.ledger, pool)
            running = asyncio.create_task(queue.run())
            archiver = Archiver(
                cluster=ClusterFacts("main", SYSTEM_ID, 15, process.world.segment_size),
                depositor=process.depositor,
                queue=queue,
                cpu=pool,
                io=pool,
                budget=ByteBudget(64 << 20),
                memory=memory or ArchivedMemory(an_hour_later),
            )
            digest = archiver.digest

            def counted(file: WalFile, path: Path) -> tuple[str, int]:
                nonlocal reads
                reads += 1
                return digest(file, path)

            archiver.digest = counted  # type: ignore[method-assign]
            try:
                assert (await archiver.archive(NAME, path)).fresh
                between()
                assert not (await archiver.archive(NAME, path)).fresh
            finally:
                queue.close()
                await running

    asyncio.run(run())
    return reads > 0


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = wal_file(tmp_path, NAME)
    assert not read_twice(World().began(), path, lambda: None)


def test_a_file_as_new_as_its_reading_is_read_again(tmp_path: Path) -> None:
    path = wal_file(tmp_path, NAME)
    assert read_twice(World().began(), path, lambda: None, memory=ArchivedMemory(SystemClock().now_us))


@pytest.mark.parametrize("how", ["touched", "mode", "copied over", "written with its old times"])
def test_anything_new_about_a_file_has_it_read_again(tmp_path: Path, how: str) -> None:
    path = wal_file(tmp_path, NAME)

    def change() -> None:
        before = path.stat()
        match how:
            case "touched":
                os.utime(path)
            case "mode":
                path.chmod(0o600)
            case "copied over":
                wal_file(tmp_path / "copy", NAME).rename(path)
            case _:
                path.write_bytes(segment_bytes(NAME))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert read_twice(World().began(), path, change)


def test_other_bytes_of_the_same_size_and_time_are_refused(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, NAME)

    def change() -> None:
        before = path.stat()
        path.write_bytes(segment_bytes(NAME, seed=1))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(SegmentConflict):
        read_twice(world.began(), path, change)
    assert reader(world).plain(NAME) == segment_bytes(NAME)


def test_what_the_ledger_does_not_say_is_not_answered_from_memory(tmp_path: Path) -> None:
    """As after an administrator's record about the file: the ledger says another digest."""
    path = wal_file(tmp_path, NAME)
    memory = ArchivedMemory(an_hour_later)

    def change() -> None:
        memory.remember(NAME, path, stamp_of(path), "0" * 64, read_us=an_hour_later())

    assert read_twice(World().began(), path, change, memory=memory)


STAMP = Stamp(1, 2, 3, 4_000_000_000, 5_000_000_000)


def test_another_path_or_stamp_is_another_file() -> None:
    memory = ArchivedMemory(lambda: 0)
    here = Path("/wal") / NAME
    memory.remember(NAME, here, STAMP, "digest", read_us=HOUR_US)
    assert memory.digest(NAME, here, STAMP) == "digest"
    assert memory.digest(NAME, Path("/other") / NAME, STAMP) is None
    assert memory.digest(name_of(2), here, STAMP) is None
    for field in ("device", "inode", "size", "mtime_ns", "ctime_ns"):
        values = {one: getattr(STAMP, one) for one in Stamp.__slots__}
        assert memory.digest(NAME, here, Stamp(**{**values, field: 99})) is None


def test_few_names_are_remembered_and_the_oldest_goes() -> None:
    memory = ArchivedMemory(lambda: 0, names_max=2)
    here = Path("/wal")
    for number in (1, 2, 3):
        memory.remember(name_of(number), here, STAMP, str(number), read_us=HOUR_US)
    assert [memory.digest(name_of(number), here, STAMP) for number in (1, 2, 3)] == [None, "2", "3"]


@given(st.integers(0, 10**18), st.integers(0, 10**18), st.integers(0, 10**15))
def test_a_file_is_settled_when_both_its_times_are_clearly_older(mtime: int, ctime: int, read: int) -> None:
    settled = is_settled(Stamp(0, 0, 0, mtime, ctime), read)
    assert settled == all(time // 1000 + SETTLED_US < read for time in (mtime, ctime))
