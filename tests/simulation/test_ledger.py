"""The ledger against races, strangers, and stores that do not say what happened."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.objectname import ledger_key
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import (
    LedgerBroken,
    LedgerContended,
    LedgerRewound,
    ObjectMissing,
    SegmentConflict,
    StoreUnavailable,
    WriterRevoked,
)
from walarchiver.format.chain import build_entry
from walarchiver.format.entry import ENTRY_BYTES_MAX, parse_entry
from walarchiver.format.records import (
    FirstPage,
    ForkFact,
    GapRecord,
    HistoryRecord,
    HorizonRecord,
    Record,
    StoredObject,
    WalRecord,
)
from walarchiver.format.signed import Signer
from walarchiver.ledger import Proposal, fact

PLACE = f"v1/c/{SYSTEM}/ledger/"


def wal(number: int, content: str = "") -> WalRecord:
    """The record of a made-up segment."""
    name = f"0000000100000000{number:08X}"
    digest = hashlib.sha256(f"{name} {content}".encode()).hexdigest()
    stored = StoredObject(f"v1/c/{SYSTEM}/wal/00000001/00000000/{name}.{digest[:16]}", 100, digest)
    page = FirstPage(0xD110, SYSTEM, 1, Lsn(number << 20), 1 << 20)
    return WalRecord(name, digest, 1 << 20, (stored,), page)


def archive(record: WalRecord) -> Proposal:
    """Record a segment unless it is there; refuse other content. As the archiver does."""

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        there = catalog.file(record.name)
        if there is None:
            return (record,)
        if there.digest != record.digest:
            raise SegmentConflict(f"{record.name} is there with other content")
        return ()

    return Proposal(record.name, decide)


def sample(at: int) -> HorizonRecord:
    return HorizonRecord(CommitTime(1_795_000_000_000_000 + at), Lsn(0x3000148), 1)


def names(process: Process) -> list[str]:
    return [record.name for record in process.catalog._records("wal") if isinstance(record, WalRecord)]


def entry_at(world: World, seq: int) -> bytes:
    raw = world.memory.get(ledger_key(SYSTEM, seq), bytes_max=ENTRY_BYTES_MAX)
    assert raw is not None
    return raw


def same_everywhere(world: World, *processes: Process) -> None:
    """Every process, and one that has only the store, sees the same ledger."""
    fresh = world.process(write=False)
    fresh.ledger.refresh()
    for process in processes:
        process.ledger.refresh()
        assert process.catalog.dump() == fresh.catalog.dump()


# --- the ordinary ----------------------------------------------------------------------------------


def test_the_first_entry_says_which_cluster_and_keyring() -> None:
    world = World()
    process = world.began()
    (cluster,) = process.catalog.clusters()
    assert (cluster.name, cluster.system) == ("main", SYSTEM)
    assert [ring.n for ring in process.catalog.keyrings()] == [1]
    assert parse_entry(entry_at(world, 0)).prev == "0" * 64


def test_two_processes_that_begin_together_begin_once() -> None:
    world = World()
    one, two = world.process(), world.process()
    gate = world.store.hold("put_new", PLACE)
    with ThreadPoolExecutor(2) as pool:
        beginnings = [pool.submit(one.begin), pool.submit(two.begin)]
        gate.wait_reached()
        gate.open()
        for beginning in beginnings:
            beginning.result()
    assert len(world.keys(PLACE)) == 1
    same_everywhere(world, one, two)


def test_entries_chain_by_hash() -> None:
    world = World()
    process = world.began()
    for number in range(3):
        assert process.ledger.commit([archive(wal(number))]) == [None]
    for seq in range(1, 4):
        assert parse_entry(entry_at(world, seq)).prev == hashlib.sha256(entry_at(world, seq - 1)).hexdigest()
    same_everywhere(world, process)


def test_a_host_without_a_signing_key_cannot_append() -> None:
    world = World()
    world.began()
    reader = world.process(write=False)
    with pytest.raises(LedgerBroken, match="no signing key"):
        reader.ledger.commit([archive(wal(1))])
    assert len(world.keys(PLACE)) == 1


def test_a_key_that_is_no_writers_is_refused_before_anything_is_sent() -> None:
    world = World()
    world.began()
    stranger = world.process(signer=Signer.from_seed(b"s" * 32))
    with pytest.raises(WriterRevoked, match="neither writer nor admin"):
        stranger.ledger.commit([archive(wal(1))])
    assert len(world.keys(PLACE)) == 1


def test_a_refusal_concerns_only_its_own_proposal() -> None:
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    outcomes = process.ledger.commit([archive(wal(2)), archive(wal(1, "other")), archive(wal(3))])
    assert [type(outcome) for outcome in outcomes] == [type(None), SegmentConflict, type(None)]
    assert names(process) == [wal(n).name for n in (1, 2, 3)]
    assert len(world.keys(PLACE)) == 3


def test_proposals_about_one_subject_are_decided_one_after_the_other() -> None:
    world = World()
    process = world.began()
    outcomes = process.ledger.commit([archive(wal(1)), archive(wal(1)), archive(wal(1, "other"))])
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), SegmentConflict]
    assert names(process) == [wal(1).name]


def test_many_proposals_about_one_subject_are_no_contention() -> None:
    world = World()
    process = world.began()
    assert process.ledger.commit([fact("horizon", sample(n)) for n in range(80)]) == [None] * 80
    assert process.ledger.commit([archive(wal(1)) for _ in range(80)]) == [None] * 80
    assert len(process.catalog.horizons()) == 80
    assert len(names(process)) == 1


def test_more_records_than_an_entry_holds_go_into_several() -> None:
    world = World()
    process = world.began()
    proposals = [archive(wal(number)) for number in range(600)]
    assert process.ledger.commit(proposals) == [None] * 600
    sizes = [len(parse_entry(entry_at(world, seq)).records) for seq in (1, 2, 3)]
    assert sizes == [256, 256, 88]
    same_everywhere(world, process)


# --- races -----------------------------------------------------------------------------------------


def test_a_lost_race_over_the_same_bytes_succeeds_without_a_second_record() -> None:
    world = World()
    one, two = world.began(), world.began()
    assert one.ledger.commit([archive(wal(1))]) == [None]
    assert two.ledger.commit([archive(wal(1))]) == [None]
    assert names(two) == [wal(1).name]
    assert len(world.keys(PLACE)) == 2
    same_everywhere(world, one, two)


def test_a_lost_race_over_other_bytes_is_a_conflict() -> None:
    world = World()
    one, two = world.began(), world.began()
    one.ledger.commit([archive(wal(1, "one"))])
    (outcome,) = two.ledger.commit([archive(wal(1, "two"))])
    assert isinstance(outcome, SegmentConflict)
    assert len(world.keys(PLACE)) == 2
    assert two.catalog.file(wal(1).name) == wal(1, "one")


def test_what_a_lost_race_does_not_touch_is_recorded_at_the_next_place() -> None:
    world = World()
    one, two = world.began(), world.began()
    one.ledger.commit([archive(wal(1))])
    assert two.ledger.commit([archive(wal(1)), archive(wal(2))]) == [None, None]
    assert [record.kind for record in parse_entry(entry_at(world, 2)).records] == ["wal"]
    same_everywhere(world, one, two)


def test_a_writer_that_always_loses_gives_up_in_the_end() -> None:
    world = World()
    rival, loser = world.began(), world.began()
    turn = iter(range(1, 1000))

    def overtake(step: str) -> None:
        if step == "ledger: before put":
            rival.ledger.refresh()
            rival.ledger.commit([archive(wal(next(turn)))])

    slow = world.process(observe=overtake)
    slow.ledger.refresh()
    with pytest.raises(LedgerContended, match="64 times"):
        slow.ledger.commit([archive(wal(5000))])
    same_everywhere(world, rival, loser)
    assert wal(5000).name not in names(rival)


def test_forty_concurrent_writers_record_every_fact_exactly_once() -> None:
    world = World()
    world.began()
    processes = [world.process() for _ in range(40)]

    def work(index: int) -> None:
        process = processes[index]
        for step in range(3):
            shared, own = archive(wal(step)), archive(wal(100 + index * 3 + step))
            for _ in range(50):
                try:
                    assert process.ledger.commit([shared, own]) == [None, None]
                    break
                except LedgerContended:
                    continue
            else:
                pytest.fail("never got a place")

    with ThreadPoolExecutor(40) as pool:
        for done in [pool.submit(work, index) for index in range(40)]:
            done.result()
    same_everywhere(world, *processes)
    found = names(processes[0])
    assert sorted(found) == sorted({*found})
    assert len(found) == 3 + 120


# --- open outcomes ---------------------------------------------------------------------------------


def test_an_append_whose_answer_was_lost_is_not_done_and_is_found_at_the_next_try() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", PLACE, after=True))
    with pytest.raises(StoreUnavailable):
        process.ledger.commit([archive(wal(1))])
    assert process.catalog.file(wal(1).name) is None
    assert process.ledger.commit([archive(wal(1))]) == [None]
    assert names(process) == [wal(1).name]
    assert len(world.keys(PLACE)) == 2
    same_everywhere(world, process)


def test_an_append_that_never_arrived_is_made_again() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", PLACE))
    with pytest.raises(StoreUnavailable):
        process.ledger.commit([archive(wal(1))])
    assert process.ledger.commit([archive(wal(1))]) == [None]
    assert len(world.keys(PLACE)) == 2
    same_everywhere(world, process)


def test_an_append_that_lands_after_we_gave_up_counts_once() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", PLACE, late=True))
    with pytest.raises(StoreUnavailable):
        process.ledger.commit([archive(wal(1))])
    world.store.land_late()
    assert process.ledger.commit([archive(wal(1)), archive(wal(2))]) == [None, None]
    assert names(process) == [wal(1).name, wal(2).name]
    same_everywhere(world, process)


def test_a_late_append_that_finds_its_place_taken_changes_nothing() -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", PLACE, late=True))
    with pytest.raises(StoreUnavailable):
        process.ledger.commit([archive(wal(1, "withdrawn"))])
    assert process.ledger.commit([archive(wal(2))]) == [None]
    world.store.land_late()
    assert names(process) == [wal(2).name]
    same_everywhere(world, process)


def test_a_retry_inside_the_store_that_finds_our_own_entry_is_success() -> None:
    """The adapter sent the bytes twice: the second create says `KeyTaken`, by ourselves."""
    world = World()
    process = world.began()
    proposed = fact("horizon", sample(1))  # nothing in it would notice that it is there already

    def landed_already(step: str) -> None:
        if step == "ledger: before put":
            raw = build_entry(
                twice.ledger.state(),
                [sample(1)],
                time_us=world.clock.now_us(),
                boot=twice.ledger._writer.boot,  # type: ignore[union-attr]
                signer=twice.signer,
            )
            world.memory.put_new(ledger_key(SYSTEM, 1), raw)

    twice = world.process(observe=landed_already)
    assert twice.ledger.commit([proposed]) == [None]
    assert len(world.keys(PLACE)) == 2
    same_everywhere(world, process, twice)


@pytest.mark.parametrize("seed", range(12))
def test_a_store_that_fails_at_random_never_loses_or_doubles_a_fact(seed: int) -> None:
    world = World()
    world.began()
    world.store = type(world.store)(world.memory, seed=seed, rate=0.0)
    processes = [world.process() for _ in range(3)]
    world.store.rate = 0.3
    acknowledged: list[str] = []
    for step in range(60):
        process = processes[step % 3]
        record = wal(step // 2)  # every segment is offered by two hosts
        try:
            (outcome,) = process.ledger.commit([archive(record)])
            assert outcome is None
            acknowledged.append(record.name)
        except StoreUnavailable:
            continue
    world.store.rate = 0.0
    same_everywhere(world, *processes)
    found = names(processes[0])
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert acknowledged, "with this seed nothing ever worked"


# --- strangers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [b"", b"junk", b"{}\n" + b"0" * 128 + b"\n"])
def test_a_void_entry_is_named_by_the_next_writer_and_blocks_nothing(junk: bytes) -> None:
    world = World()
    one, two = world.began(), world.began()
    world.memory.put_new(ledger_key(SYSTEM, 1), junk)
    assert one.ledger.commit([archive(wal(1))]) == [None]
    (mark,) = parse_entry(entry_at(world, 2)).void
    assert (mark.seq, mark.sha256) == (1, hashlib.sha256(junk).hexdigest())
    assert two.ledger.commit([archive(wal(2))]) == [None]
    assert parse_entry(entry_at(world, 3)).void == ()
    assert one.catalog.voids() == [1]
    same_everywhere(world, one, two)


def test_an_entry_by_a_key_outside_the_keyring_is_void() -> None:
    world = World()
    process = world.began()
    stranger = Signer.from_seed(b"s" * 32)
    raw = build_entry(process.ledger.state(), [wal(1, "forged")], time_us=0, boot="00" * 8, signer=stranger)
    world.memory.put_new(ledger_key(SYSTEM, 1), raw)
    assert process.ledger.commit([archive(wal(1))]) == [None]
    assert process.catalog.file(wal(1).name) == wal(1)
    same_everywhere(world, process)


def test_an_object_too_long_to_be_an_entry_is_void_and_does_not_wedge_the_chain() -> None:
    world = World()
    process = world.began()
    long = bytes(ENTRY_BYTES_MAX + 1)
    world.memory.put_new(ledger_key(SYSTEM, 1), long)
    assert process.ledger.commit([archive(wal(1))]) == [None]
    (mark,) = parse_entry(entry_at(world, 2)).void
    assert mark.sha256 == hashlib.sha256(long).hexdigest()
    same_everywhere(world, process)


def test_a_catalog_whose_head_is_such_an_object_is_not_thrown_away(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    process.catalog.close()
    first = world.process(catalog=tmp_path / "c.sqlite")
    world.memory.put_new(ledger_key(SYSTEM, 1), bytes(ENTRY_BYTES_MAX + 1))
    first.ledger.refresh()
    first.catalog.close()
    world.store.events.clear()
    again = world.process(catalog=tmp_path / "c.sqlite")
    again.ledger.refresh()
    gets = [event.key for event in world.store.events if event.operation == "get" and PLACE in event.key]
    assert gets == [ledger_key(SYSTEM, 0)], "more is read again than the last valid entry"
    assert again.catalog.voids() == [1]


def test_a_strangers_object_far_ahead_is_passed_over() -> None:
    world = World()
    process = world.began()
    world.memory.put_new(ledger_key(SYSTEM, 0xFFFF_FFFF_FFFF), b"junk")
    world.memory.put_new(ledger_key(SYSTEM, 3), bytes(ENTRY_BYTES_MAX + 1))
    for number in range(4):
        assert process.ledger.commit([archive(wal(number))]) == [None]
    assert process.catalog.voids() == [3]
    assert parse_entry(entry_at(world, 4)).void[0].seq == 3
    same_everywhere(world, process)


def test_names_below_the_ledger_that_are_no_entries_are_skipped() -> None:
    world = World()
    process = world.began()
    world.memory.put_new(f"{PLACE}README", b"hello")
    world.memory.put_new(f"{PLACE}0000000000000001.json.bak", b"hello")
    assert process.ledger.commit([archive(wal(1))]) == [None]
    same_everywhere(world, process)


def test_a_genuine_entry_is_found_below_a_planted_newer_version() -> None:
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    world.plant(ledger_key(SYSTEM, 1), b"junk")
    fresh = world.process()
    fresh.ledger.refresh()
    assert fresh.catalog.dump() == process.catalog.dump()
    assert fresh.catalog.voids() == []


def test_an_entry_that_was_hidden_by_a_delete_marker_still_counts() -> None:
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    world.memory.add_delete_marker(ledger_key(SYSTEM, 1))
    fresh = world.process()
    fresh.ledger.refresh()
    assert fresh.catalog.file(wal(1).name) == wal(1)
    assert fresh.ledger.commit([archive(wal(2))]) == [None]
    same_everywhere(world, process, fresh)


def test_two_different_versions_that_verify_break_the_ledger() -> None:
    world = World()
    process = world.began()
    raw = [
        build_entry(process.ledger.state(), [wal(1, text)], time_us=0, boot="00" * 8, signer=process.signer)
        for text in ("one", "two")
    ]
    world.memory.put_new(ledger_key(SYSTEM, 1), raw[0])
    world.plant(ledger_key(SYSTEM, 1), raw[1])
    with pytest.raises(LedgerBroken, match="2 different versions that verify"):
        world.process().ledger.refresh()
    with pytest.raises(LedgerBroken):
        process.ledger.commit([archive(wal(3))])


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_entry_breaks_the_ledger(lost: int) -> None:
    world = World()
    process = world.began()
    for number in range(3):
        process.ledger.commit([archive(wal(number))])
    world.replace(ledger_key(SYSTEM, lost), None)
    reader = world.process()
    with pytest.raises(
        LedgerBroken, match=f"entry {lost} of system {SYSTEM} is missing before entry {lost + 1}"
    ):
        reader.ledger.refresh()
    with pytest.raises(LedgerBroken):
        reader.ledger.commit([archive(wal(9))])
    assert world.keys(PLACE).count(ledger_key(SYSTEM, lost)) == 0, "the hole was filled"


def test_an_entry_that_was_written_while_the_listing_ran_is_no_gap() -> None:
    """A folder can be listed while it grows: the newer of two names may show without the older."""
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    process.ledger.commit([archive(wal(2))])
    reader = world.process()
    hidden = ledger_key(SYSTEM, 1)
    shown: list[str] = []
    list_versions = world.memory.list_versions

    def listing(prefix: str, *, start_after: str = "") -> object:
        first = prefix == PLACE and PLACE not in shown
        shown.append(prefix)
        return iter(
            [v for v in list_versions(prefix, start_after=start_after) if v.key != hidden or not first]
        )

    world.memory.list_versions = listing  # type: ignore[method-assign, assignment]
    reader.ledger.refresh()
    assert shown.count(PLACE) > 1, "the listing with the hole was never looked at"
    assert names(reader) == [wal(1).name, wal(2).name]


@pytest.mark.parametrize("hidden", ["every entry", "the newest entry"])
def test_a_listing_without_the_entry_read_last_proves_no_end(hidden: str) -> None:
    """Another bucket behind the same endpoint, or an emptied one, answers every listing with nothing."""
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    process.ledger.commit([archive(wal(2))])
    newest = ledger_key(SYSTEM, 2)
    list_versions = world.memory.list_versions

    def listing(prefix: str, *, start_after: str = "") -> object:
        found = list_versions(prefix, start_after=start_after)
        return iter([v for v in found if hidden != "every entry" and v.key != newest])

    world.memory.list_versions = listing  # type: ignore[method-assign, assignment]
    with pytest.raises(LedgerBroken, match=r"entry 2 of system .*, read earlier, is no longer in"):
        process.ledger.refresh()
    with pytest.raises(LedgerBroken):
        process.ledger.commit([archive(wal(3))])
    world.memory.list_versions = list_versions  # type: ignore[method-assign]
    process.ledger.commit([archive(wal(3))])
    assert names(process) == [wal(1).name, wal(2).name, wal(3).name]


def test_a_void_entry_at_the_head_does_not_let_an_empty_listing_pass_for_the_end() -> None:
    """A stranger's object behind our entries, and then another bucket: nothing read from that is absence."""
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    for seq in (2, 3):
        world.memory.put_new(ledger_key(SYSTEM, seq), b"junk")
    process.ledger.refresh()
    assert process.catalog.voids() == [2, 3]
    list_versions = world.memory.list_versions
    world.memory.list_versions = lambda _prefix, **_options: iter([])  # type: ignore[method-assign]
    with pytest.raises(LedgerBroken, match=r"entry 1 of system .*, read earlier, is no longer in"):
        process.ledger.refresh()
    world.memory.list_versions = list_versions  # type: ignore[method-assign]
    world.replace(ledger_key(SYSTEM, 3), None)  # whoever put it there took it away again
    process.ledger.refresh()
    assert names(process) == [wal(1).name]


def test_an_entry_listed_but_unreadable_is_an_error_and_not_void() -> None:
    world = World()
    process = world.began()
    process.ledger.commit([archive(wal(1))])
    reader = world.process()
    get = world.memory.get
    world.memory.get = lambda key, **options: None if key.startswith(PLACE) else get(key, **options)  # type: ignore[method-assign]
    with pytest.raises(ObjectMissing, match="no readable version"):
        reader.ledger.refresh()
    assert reader.catalog.voids() == []


@pytest.mark.parametrize("operation", ["list_versions", "get"])
def test_a_failed_reading_leaves_a_catalog_that_can_go_on(operation: str) -> None:
    world = World()
    process = world.began()
    for number in range(4):
        process.ledger.commit([archive(wal(number))])
    reader = world.process()
    world.store.fail(Fault(operation, PLACE, skip=2 if operation == "get" else 0))
    with pytest.raises(StoreUnavailable):
        reader.ledger.refresh()
    same_everywhere(world, process, reader)


# --- catalogs --------------------------------------------------------------------------------------


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
