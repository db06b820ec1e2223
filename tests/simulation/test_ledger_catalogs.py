"""Catalogs as projections of a ledger: what they witness, share and are made again from."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_ledger import PLACE, archive, entry_at, names, same_everywhere, sample, wal
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.objectname import ledger_key
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import (
    LedgerRewound,
    StoreUnavailable,
)
from walarchiver.format.records import (
    FirstPage,
    ForkFact,
    GapRecord,
    HistoryRecord,
    HorizonRecord,
    Record,
)
from walarchiver.ledger import Proposal, fact


class Rewound:
    """A catalog file that stands at entry 4 of a chain with a segment in each, and its world."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.path = folder / "c.sqlite"
        process = self.process()
        process.begin()
        for number in range(1, 5):
            process.ledger.commit([archive(wal(number))])
        process.catalog.close()

    def process(self) -> Process:
        return self.world.process(catalog=self.path)

    def cut(self, *seqs: int) -> None:
        for seq in seqs:
            self.world.replace(ledger_key(SYSTEM, seq), None)

    def grow(self, *numbers: int) -> None:
        """Another host, which has nothing but the store, goes on."""
        host = self.world.process()
        for number in numbers:
            assert host.ledger.commit([archive(wal(number))]) == [None]


@pytest.fixture
def behind(tmp_path: Path) -> Rewound:
    return Rewound(tmp_path)


def refused(behind: Rewound, *, read_earlier: int = 4) -> None:
    """Each new process refuses, however often it asks, and forgets nothing of what it knows."""
    for _ in range(2):
        process = behind.process()
        for _ in range(2):
            with pytest.raises(LedgerRewound, match=f"entry {read_earlier} of system .*, read earlier"):
                process.ledger.refresh()
        with pytest.raises(LedgerRewound):
            process.ledger.commit([archive(wal(9))])
        assert names(process) == [wal(number).name for number in range(1, 5)]
        process.catalog.close()


def test_a_process_that_begins_on_a_chain_without_its_newest_entries_refuses_it(behind: Rewound) -> None:
    behind.cut(3, 4)
    refused(behind)
    assert behind.world.keys(f"{SYSTEM}/ledger/")[-1] == ledger_key(SYSTEM, 2), "something was appended"


def test_a_process_that_begins_where_others_went_on_from_a_shorter_chain_refuses_it(behind: Rewound) -> None:
    behind.cut(4)
    behind.grow(7)  # in the very place
    refused(behind)
    behind.grow(8)
    refused(behind)


def test_a_process_that_begins_on_an_empty_ledger_refuses_it(behind: Rewound) -> None:
    behind.cut(*range(5))
    refused(behind)


def test_entries_that_come_back_end_the_refusal(behind: Rewound) -> None:
    kept = {seq: entry_at(behind.world, seq) for seq in (3, 4)}
    behind.cut(3, 4)
    refused(behind)
    for seq, raw in kept.items():
        behind.world.memory.put_new(ledger_key(SYSTEM, seq), raw)
    process = behind.process()
    process.ledger.refresh()
    assert process.ledger.commit([archive(wal(5))]) == [None]
    same_everywhere(behind.world, process)


def test_a_rebuild_drops_only_what_somebody_names(behind: Rewound) -> None:
    behind.cut(3, 4)
    behind.grow(4, 7)  # one of the two files was archived again
    process = behind.process()
    for drop in (None, (3, 3), (2, 4), (0, 4)):
        with pytest.raises(LedgerRewound, match=r"with entry 4 and lacks entries 3\.\.4 \(2 wal") as said:
            process.ledger.rebuild(drop)
        assert f"recorded nowhere else: {wal(3).name}" in said.value.message
        assert wal(4).name not in said.value.message
        assert "--drop 3..4" in said.value.next_step
    refused(behind)
    lost = process.ledger.rebuild((3, 4))
    assert lost is not None
    assert (lost.range, lost.files, lost.head) == ((3, 4), (wal(3).name,), 4)
    same_everywhere(behind.world, process, behind.process())
    assert names(process) == [wal(number).name for number in (1, 2, 4, 7)]
    assert process.ledger.rebuild() is None, "nothing is left to be dropped"


def test_a_running_process_goes_on_once_another_accepted_the_loss(behind: Rewound) -> None:
    running = behind.process()
    running.ledger.refresh()
    behind.cut(4)
    for _ in range(2):
        with pytest.raises(LedgerRewound, match="entry 4"):
            running.ledger.refresh()
    assert behind.process().ledger.rebuild((4, 4)) is not None
    running.ledger.refresh()
    assert running.ledger.commit([archive(wal(5))]) == [None]
    same_everywhere(behind.world, running)


def test_void_entries_may_go_while_nobody_looks(behind: Rewound) -> None:
    for seq in (5, 6):
        behind.world.memory.put_new(ledger_key(SYSTEM, seq), b"junk")
    process = behind.process()
    process.ledger.refresh()
    process.catalog.close()
    behind.cut(5, 6)
    behind.grow(7)  # in the place of what was void
    again = behind.process()
    again.ledger.refresh()
    same_everywhere(behind.world, again)
    assert again.catalog.voids() == []


@pytest.mark.parametrize("how", ["deleted", "no database", "cut off"])
def test_a_catalog_file_that_is_gone_or_broken_is_no_witness(behind: Rewound, how: str) -> None:
    behind.cut(4)
    for tail in ("-wal", "-shm"):
        behind.path.with_name(behind.path.name + tail).unlink(missing_ok=True)
    match how:
        case "deleted":
            behind.path.unlink()
        case "no database":
            behind.path.write_bytes(b"junk" * 4096)
        case _:
            behind.path.write_bytes(behind.path.read_bytes()[:8192])
    process = behind.process()
    process.ledger.refresh()
    assert names(process) == [wal(number).name for number in range(1, 4)]
    same_everywhere(behind.world, process)


def test_a_rebuilt_catalog_equals_the_live_one(tmp_path: Path) -> None:
    world = World()
    process = world.process(catalog=tmp_path / "c.sqlite")
    process.begin()
    gap = GapRecord(wal(7).name, wal(8).name, "lost")
    world.memory.put_new(ledger_key(SYSTEM, 1), b"junk")
    for record in (wal(5), sample(0), wal(3), gap, wal(4), wal(6), sample(9), sample(9)):
        process.ledger.commit([fact("x", record)])
    live = process.catalog.dump()
    assert process.catalog.runs() == [(1, 3, 6)]
    process.ledger.rebuild()
    assert process.catalog.dump() == live
    assert process.ledger.commit([archive(wal(9))]) == [None]
    same_everywhere(world, process)


def test_a_rebuild_that_fails_leaves_the_old_catalog() -> None:
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    live = process.catalog.dump()
    world.store.fail(Fault("get", PLACE, skip=1))
    with pytest.raises(StoreUnavailable):
        process.ledger.rebuild()
    assert process.catalog.dump() == live


def test_a_rebuild_never_shows_others_a_catalog_that_lacks_what_is_archived(tmp_path: Path) -> None:
    world = World()
    daemon = world.process(catalog=tmp_path / "c.sqlite")
    daemon.begin()
    for number in range(30):
        daemon.ledger.commit([archive(wal(number))])
    tool = world.process(catalog=tmp_path / "c.sqlite")
    gate = world.store.hold("get", ledger_key(SYSTEM, 20))
    with ThreadPoolExecutor(1) as pool:
        rebuilding = pool.submit(tool.ledger.rebuild)
        gate.wait_reached()
        assert len(names(daemon)) == 30
        gate.open()
        rebuilding.result()
    assert len(names(daemon)) == 30


def test_two_catalogs_on_one_file_take_turns(tmp_path: Path) -> None:
    world = World()
    world.began()
    one = world.process(catalog=tmp_path / "c.sqlite")
    two = world.process(catalog=tmp_path / "c.sqlite")
    for number in range(10):
        process = one if number % 2 else two
        assert process.ledger.commit([archive(wal(number))]) == [None]
    assert one.catalog.dump() == two.catalog.dump()
    same_everywhere(world, one, two)


def test_processes_that_share_a_file_may_open_and_read_it_at_once(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    for number in range(40):
        process.ledger.commit([archive(wal(number))])
    start = threading.Barrier(6)

    def reader() -> dict[str, list[tuple[object, ...]]]:
        start.wait(20)
        mine = world.process(catalog=tmp_path / "c.sqlite")
        mine.ledger.refresh()
        return mine.catalog.dump()

    with ThreadPoolExecutor(6) as pool:
        dumps = [done.result() for done in [pool.submit(reader) for _ in range(6)]]
    assert all(dump == process.catalog.dump() for dump in dumps)


def test_a_state_read_while_another_process_applies_entries_is_of_one_moment(tmp_path: Path) -> None:
    world = World()
    world.began()
    one = world.process(catalog=tmp_path / "c.sqlite")
    two = world.process(catalog=tmp_path / "c.sqlite")
    one.ledger.refresh()
    rows, number = one.catalog._rows, iter(range(100))

    def interrupted(sql: str, *values: object) -> list[tuple[object, ...]]:
        found = rows(sql, *values)
        two.ledger.commit([archive(wal(next(number)))])
        return found

    one.catalog._rows = interrupted  # type: ignore[method-assign]
    state = one.ledger.state()
    assert next(number) > 3, "nothing happened between the readings"
    assert state.prev == hashlib.sha256(entry_at(world, state.next_seq - 1)).hexdigest()
    assert state.voids == ()


@pytest.mark.parametrize("text", ["", "other"])
def test_what_another_process_applies_to_a_shared_file_between_decision_and_append_is_seen(
    tmp_path: Path, text: str
) -> None:
    world = World()
    world.began()
    one = world.process(catalog=tmp_path / "c.sqlite")
    two = world.process(catalog=tmp_path / "c.sqlite")
    one.ledger.refresh()
    overtaken: list[object] = []
    decide = archive(wal(1)).decide

    def interrupted(catalog: Catalog) -> tuple[Record, ...]:
        records = decide(catalog)
        if not overtaken:
            overtaken.append(two.ledger.commit([archive(wal(1, text))]))
        return records

    (outcome,) = one.ledger.commit([Proposal("x", interrupted)])
    assert overtaken == [[None]]
    assert (outcome is None) == (text == "")
    assert names(one) == [wal(1).name]
    same_everywhere(world, one, two)


def test_a_file_that_is_no_catalog_is_made_again(tmp_path: Path) -> None:
    world = World()
    world.began().ledger.commit([archive(wal(1))])
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database, " * 1000)
    process = world.process(catalog=path)
    process.ledger.refresh()
    assert names(process) == [wal(1).name]


@pytest.mark.parametrize(
    "odd",
    [
        replace(wal(1), name="0000000100000000FFFFFFFF"),
        replace(wal(1), name="rubbish"),
        replace(wal(1), name="x" * 24),
        replace(wal(1), page=FirstPage(0xD110, SYSTEM, 1, Lsn(0), 0)),
        replace(wal(1), page=FirstPage(0xD110, SYSTEM, 1, Lsn(0), 12345)),
        HorizonRecord(CommitTime(0), Lsn(2**64 - 1), 1),
        HistoryRecord("rubbish", "00" * 32, 1, wal(1).objects, (ForkFact(1, Lsn(1)),)),
        HistoryRecord("00000002.history", "00" * 32, 1, wal(1).objects, (ForkFact(7, Lsn(1)),)),
        HistoryRecord("00000002.history", "00" * 32, 1, wal(1).objects, ()),
    ],
)
def test_a_record_that_makes_no_sense_stops_nobody(odd: Record) -> None:
    """A signer can write what no server could have meant; readers must live with it."""
    world = World()
    process = world.began()
    assert process.ledger.commit([archive(wal(3)), fact("odd", odd)]) == [None, None]
    assert process.ledger.commit([archive(wal(4))]) == [None]
    same_everywhere(world, process)
    assert process.catalog.runs() == [(1, 3, 4)]
    assert process.catalog.newest_segment(SegmentBytes(1 << 20)) == Segment(1, 4)
    assert process.catalog.histories() == {}
    assert process.catalog.timelines() == [1]


def test_of_two_histories_under_one_name_the_first_counts() -> None:
    process = World().began()
    for switch in (0x300000, 0x400000):
        record = HistoryRecord("00000002.history", "00" * 32, 1, wal(1).objects, (ForkFact(1, Lsn(switch)),))
        process.ledger.commit([fact("x", record)])
    assert process.catalog.histories()[2].begin(2) == 0x300000


def test_a_catalog_of_another_release_is_made_again(tmp_path: Path) -> None:
    world = World()
    process = world.process(catalog=tmp_path / "c.sqlite")
    process.begin()
    process.catalog._db.execute("PRAGMA user_version=999")
    process.catalog._db.execute("DROP TABLE horizon")
    process.catalog.close()
    again = world.process(catalog=tmp_path / "c.sqlite")
    again.ledger.refresh()
    same_everywhere(world, again)
