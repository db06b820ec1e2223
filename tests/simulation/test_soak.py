"""A long run of the archive path: memory, open files and threads do not grow with what was archived."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.chance import SteppingClock
from tests.kit.walmaker import MIB, make_segment
from tests.simulation.test_lookahead import Server, serving
from tests.simulation.world import SYSTEM_ID, World, name_of
from walarchiver.clock import SystemRandom
from walarchiver.core.segment import Segment
from walarchiver.storage.directory import DirectoryStore

BATCH = 25
WARM = 50
"""Segments after which everything that is kept has been made once."""
GROWTH_MIB = 24
"""What a heap may wander; a segment that was kept would be one each."""


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    resident_mib: float
    files: int
    threads: int


def held() -> Held:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        pages * os.sysconf("SC_PAGESIZE") / MIB, len(os.listdir("/proc/self/fd")), threading.active_count()
    )


async def batch(server: Server, first: int) -> None:
    """A backlog appears, PostgreSQL asks for all of it, and recycles the files."""
    names = [name_of(number) for number in range(first, first + BATCH)]
    marks = server.pg_wal / "archive_status"
    marks.mkdir(exist_ok=True)
    for number, name in enumerate(names, first):
        content = make_segment(Segment(1, number), system=SYSTEM_ID, used_pages=8)
        (server.pg_wal / name).write_bytes(content)
        (marks / f"{name}.ready").touch()
    for name in names:
        assert (await server.ask(name)).fresh
    for name in names:
        (server.pg_wal / name).unlink()
        (marks / f"{name}.done").unlink()


@pytest.mark.parametrize(
    "segments", [150, pytest.param(10_000, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])]
)
def test_memory_files_and_threads_do_not_grow_with_what_was_archived(tmp_path: Path, segments: int) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "pg_wal").mkdir()
    clock = SteppingClock()
    world = World(clock=clock, plain_store=DirectoryStore(tmp_path / "repo", clock, SystemRandom()))
    process = world.process(catalog=tmp_path / "catalog.sqlite")
    process.begin()
    seen: list[Held] = []

    async def run() -> None:
        async with serving(process, tmp_path / "pg_wal") as server:
            for first in range(1, segments + 1, BATCH):
                await batch(server, first)
                clock.advance(10)
                world.store.events.clear()
                if first + BATCH > WARM:
                    seen.append(held())

    asyncio.run(run())
    assert len(process.catalog.names("wal")) == segments
    early, late = seen[0], seen[-1]
    print(f"{segments} segments: {early} at first, {late} at last")
    assert late.resident_mib - early.resident_mib < GROWTH_MIB
    assert max(one.files for one in seen) - early.files <= 2
    assert max(one.threads for one in seen) - early.threads <= 4
