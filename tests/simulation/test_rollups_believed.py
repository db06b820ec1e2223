"""Roll-ups that are not believed, and what may be pruned."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_ledger import archive, sample, wal
from tests.simulation.test_rollups import (
    BLOCK,
    ROLL,
    asked,
    cold,
    entries_of,
    grown,
    process,
    prune,
    rolled,
    rollup_of,
    stored,
)
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.core.objectname import ledger_key, roll_key
from walarchiver.errors import (
    LedgerBroken,
    StoreUnavailable,
)
from walarchiver.format.chain import Accepted, ChainState, accept, build_entry
from walarchiver.rollups import RollupWriter

BAD = (
    *("junk", "cut", "the first block's", "the last is void"),
    *("one is missing", "two changed places", "all void"),
)


def bad_rollups(world: World, good: Sequence[bytes]) -> dict[str, bytes]:
    """Roll-ups of the second block that are none, by what is wrong with them."""
    return {
        "junk": b"junk",
        "cut": rollup_of(world, good, BLOCK)[:-1],
        "the first block's": rollup_of(world, entries_of(world, 0), 0),
        "the last is void": rollup_of(world, [*good[:-1], b"junk"], BLOCK),
        "one is missing": rollup_of(world, [*good[:3], b"", *good[4:]], BLOCK),
        "two changed places": rollup_of(world, [good[1], good[0], *good[2:]], BLOCK),
        "all void": rollup_of(world, [b"junk"] * BLOCK, BLOCK),
    }


@pytest.mark.parametrize("kind", BAD)
def test_a_roll_up_that_is_not_valid_is_reported_and_the_entries_are_read(kind: str) -> None:
    world = World()
    writer = rolled(world, 3 * BLOCK + 2)
    key = roll_key(SYSTEM, BLOCK, BLOCK)
    world.replace(key, bad_rollups(world, entries_of(world, BLOCK))[kind])
    reader = cold(world)
    assert reader.catalog.dump() == writer.catalog.dump()
    assert list(reader.ledger.refused_rollups) == [BLOCK]
    assert asked(world)["get ledger"] == 1 + BLOCK + 1 + 2, "the other two blocks come from their roll-ups"
    reader.ledger.refresh()
    assert asked(world)["get roll"] == 0
    prune(world, BLOCK + 3)
    with pytest.raises(LedgerBroken):
        cold(world)


def test_a_good_version_under_a_bad_one_counts() -> None:
    world = World()
    writer = rolled(world, 2 * BLOCK)
    world.plant(roll_key(SYSTEM, 0, BLOCK), b"junk")
    prune(world, *range(BLOCK))
    assert cold(world).catalog.dump() == writer.catalog.dump()


def another_end(world: World, writer: Process, first: int) -> list[bytes]:
    """A block as a member could sign it in vain: the last entry is another one."""
    good = entries_of(world, first)
    state = ChainState(world.new.repo, SYSTEM)
    for seq in range(first + BLOCK - 1):
        verdict = accept(state, seq, stored(world, ledger_key(SYSTEM, seq)), writer.repository.known())
        assert isinstance(verdict, Accepted)
        state = verdict.state
    forged = build_entry(
        state, [sample(999)], time_us=world.clock.now_us(), boot="ab" * 8, signer=writer.signer
    )
    return [*good[:-1], forged]


@pytest.mark.parametrize("behind", [0, 3])
def test_a_members_roll_up_that_ends_otherwise_than_the_ledger_is_not_believed(behind: int) -> None:
    world = World()
    writer = grown(world, 2 * BLOCK + behind)
    world.memory.put_new(
        roll_key(SYSTEM, BLOCK, BLOCK), rollup_of(world, another_end(world, writer, BLOCK), BLOCK)
    )
    reader = cold(world)
    assert reader.catalog.dump() == writer.catalog.dump()
    assert reader.catalog.voids() == []


def test_a_members_roll_up_of_numbers_to_come_is_not_believed_while_the_block_is_not_whole() -> None:
    """It ends validly and nothing stands at its last number; but other names of the block are there."""
    real = World()
    writer = grown(real, BLOCK - 3)
    copy = World()
    copy.new, copy.root = real.new, real.root
    for version in list(real.memory.list_keys("v1/")):
        key = version.key
        copy.replace(key, stored(real, key))
    rival = process(copy)
    rival.ledger.refresh()
    while (number := rival.ledger.state().next_seq) < BLOCK:
        rival.ledger.commit([archive(wal(number + 100))])
    real.memory.put_new(roll_key(SYSTEM, 0, BLOCK), rollup_of(copy, entries_of(copy, 0), 0))
    assert cold(real).catalog.dump() == writer.catalog.dump()


def test_a_strangers_roll_up_behind_the_head_says_nothing() -> None:
    world = World()
    writer = grown(world, 3)
    world.memory.put_new(roll_key(SYSTEM, BLOCK, BLOCK), rollup_of(world, [b"junk"] * BLOCK, BLOCK))
    world.memory.put_new(roll_key(SYSTEM, 5 * BLOCK, BLOCK), b"junk")
    reader = cold(world)
    assert reader.catalog.dump() == writer.catalog.dump()
    assert sorted(reader.ledger.refused_rollups) == [BLOCK, 5 * BLOCK]
    asked(world)
    reader.ledger.refresh()
    assert asked(world)["get roll"] == 0


def test_pruned_entries_are_no_damage_while_their_roll_ups_are_there() -> None:
    world = World()
    writer = rolled(world, 3 * BLOCK + 2)
    whole = writer.catalog.dump()
    prune(world, *range(2 * BLOCK))
    assert cold(world).catalog.dump() == whole
    prune(world, *range(2 * BLOCK, 2 * BLOCK + 5))
    assert cold(world).catalog.dump() == whole, "the oldest of a block first"
    assert writer.ledger.commit([archive(wal(700))]) == [None]


def test_a_chain_pruned_to_its_very_end_goes_on() -> None:
    world = World()
    writer = rolled(world, 2 * BLOCK)
    whole = writer.catalog.dump()
    prune(world, *range(2 * BLOCK))
    reader = cold(world)
    assert reader.catalog.dump() == whole
    assert reader.ledger.refresh() == writer.ledger.refresh(), "those that read it before, too"
    again = process(world)
    again.ledger.refresh()
    assert again.ledger.commit([archive(wal(700))]) == [None]
    reader.ledger.refresh()
    assert reader.catalog.file(wal(700).name) == wal(700)


def test_a_pruned_block_without_its_roll_up_is_damage() -> None:
    world = World()
    writer = rolled(world, 2 * BLOCK + 2)
    prune(world, *range(BLOCK))
    world.replace(roll_key(SYSTEM, 0, BLOCK), None)
    with pytest.raises(LedgerBroken, match=r"entry 0 .* is missing"):
        cold(world)
    prune(world, *range(BLOCK, 2 * BLOCK + 2))
    with pytest.raises(LedgerBroken, match=r"entry 0 .* is missing before entry 8"):
        cold(world)
    with pytest.raises(LedgerBroken, match="no longer in"):
        writer.ledger.refresh()


def test_the_newest_entry_gone_from_a_rolled_block_with_others_left_is_damage() -> None:
    world = World()
    writer = rolled(world, 2 * BLOCK)
    prune(world, 2 * BLOCK - 1)
    with pytest.raises(LedgerBroken, match="no longer in"):
        writer.ledger.refresh()


def test_a_reader_that_was_away_while_entries_were_pruned_catches_up() -> None:
    world = World()
    writer = grown(world, 5)
    reader = cold(world)
    while (number := writer.ledger.state().next_seq) < 2 * BLOCK + 1:
        writer.ledger.commit([archive(wal(number))])
    assert RollupWriter(writer.ledger).write_missing() == 2
    prune(world, *range(2 * BLOCK))
    reader.ledger.refresh()
    assert reader.catalog.dump() == writer.catalog.dump()


@pytest.mark.parametrize("operation", ["list_versions", "get"])
def test_a_roll_up_that_cannot_be_asked_for_is_no_absence(operation: str) -> None:
    world = World()
    rolled(world, BLOCK + 2)
    reader = process(world, write=False)
    world.store.fail(Fault(operation, ROLL))
    with pytest.raises(StoreUnavailable):
        reader.ledger.refresh()
    assert reader.ledger.state().next_seq == 0
    reader.ledger.refresh()
    assert reader.ledger.state().next_seq == BLOCK + 2
