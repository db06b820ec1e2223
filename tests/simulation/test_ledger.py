"""The ledger against races, strangers, and stores that do not say what happened."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.objectname import ledger_key
from walarchiver.errors import (
    LedgerBroken,
    LedgerContended,
    SegmentConflict,
    StoreUnavailable,
    WriterRevoked,
)
from walarchiver.format.chain import build_entry
from walarchiver.format.entry import ENTRY_BYTES_MAX, parse_entry
from walarchiver.format.records import (
    FirstPage,
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
