"""The host's clock is set forward and back: labels change, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.world import SYSTEM, World, name_of, wal_file
from walarchiver.archiver import Archived
from walarchiver.core.coverage import Run
from walarchiver.format.entry import split_entry

YEAR = 365 * 86_400
JUMPS = (-86_400, 10 * YEAR, -30 * YEAR, 3600, -1)


@pytest.mark.parametrize("fresh", [False, True], ids=["one process", "a process each"])
def test_segments_are_acknowledged_in_order_whatever_the_clock_says(tmp_path: Path, fresh: bool) -> None:
    world = World()
    process = world.began()
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, len(JUMPS) + 2)]
    for path, jump in zip(paths, (0, *JUMPS), strict=True):
        world.clock.jump(jump)
        process = world.began() if fresh else process
        assert process.archive(path) == [Archived(path.name, 1 << 20, fresh=True)]

    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    assert reader.catalog.voids() == []
    assert [Run(*run) for run in reader.catalog.runs()] == [Run(1, 1, len(paths))]
    assert [reader.plain(path.name) for path in paths] == [path.read_bytes() for path in paths]
    keys = world.keys(f"{SYSTEM}/ledger/")
    entries = [split_entry(world.memory.get(key, bytes_max=1 << 20) or b"")[0] for key in keys]
    assert [entry.seq for entry in entries] == list(range(len(entries)))
    times = [entry.time for entry in entries]
    assert times != sorted(times), "the labels did follow the clock"
    epochs = {record.epoch for entry in entries for record in entry.records if record.kind == "epoch"}
    assert len(epochs) == (len(paths) if fresh else 1), "a key's age is counted on a clock that nobody sets"


def test_the_same_file_offered_again_under_another_clock_is_known(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, name_of(1))
    world.began().archive(path)
    for jump in JUMPS:
        world.clock.jump(jump)
        assert world.began().archive(path) == [Archived(path.name, 1 << 20, fresh=False)]
