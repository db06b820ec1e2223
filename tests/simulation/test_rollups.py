"""Roll-ups in the ledger: what they save, what is not believed, and what pruning may take away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_ledger import archive, sample, wal
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.core.objectname import ledger_key, roll_key
from walarchiver.errors import (
    ObjectMissing,
    ShuttingDown,
    StoreUnavailable,
    Untrusted,
)
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.format.rollup import encode_rollup, split_rollup
from walarchiver.ledger import Ledger, Writer, fact
from walarchiver.rollups import RollupWriter

BLOCK = 8
LEDGER, ROLL = f"v1/c/{SYSTEM}/ledger/", f"v1/c/{SYSTEM}/roll/"


def process(world: World, *, write: bool = True, block: int = BLOCK) -> Process:
    """A process whose roll-ups are short."""
    made = world.process(write=write)
    writer = Writer(made.signer, world.random.token(8).hex(), world.clock) if write else None
    made.ledger = Ledger(
        store=made.store,
        repo=made.repository.repo,
        system=SYSTEM,
        catalog=made.catalog,
        keyrings=made.repository,
        writer=writer,
        block=block,
    )
    return made


def grown(world: World, entries: int, *, block: int = BLOCK) -> Process:
    """A chain of so many entries, and its writer."""
    writer = process(world, block=block)
    writer.begin()
    while (number := writer.ledger.state().next_seq) < entries:
        writer.ledger.commit([archive(wal(number)), fact("sample", sample(number))])
    return writer


def rolled(world: World, entries: int) -> Process:
    """The same with a roll-up for every whole block."""
    writer = grown(world, entries)
    assert RollupWriter(writer.ledger).write_missing() == entries // BLOCK
    return writer


def stored(world: World, key: str) -> bytes:
    body = world.memory.get(key, bytes_max=1 << 30)
    assert body is not None
    return body


def entries_of(world: World, first: int) -> list[bytes]:
    return [stored(world, ledger_key(SYSTEM, seq)) for seq in range(first, first + BLOCK)]


def rollup_of(world: World, entries: Sequence[bytes], first: int) -> bytes:
    return encode_rollup(entries, repo=world.new.repo, system=SYSTEM, first=first, block=BLOCK)


def prune(world: World, *seqs: int) -> None:
    for seq in seqs:
        world.replace(ledger_key(SYSTEM, seq), None)


def asked(world: World) -> Counter[str]:
    """Requests for the ledger since the last question."""
    found = Counter(
        f"{event.operation} {'roll' if event.key.startswith(ROLL) else 'ledger'}"
        for event in world.store.events
        if event.key.startswith((LEDGER, ROLL))
    )
    world.store.events.clear()
    return found


def cold(world: World) -> Process:
    """A reader that has nothing but the store; what it asks is counted from here on."""
    reader = process(world, write=False)
    world.store.events.clear()
    reader.ledger.refresh()
    return reader


# --- what they are for -------------------------------------------------------------------------------


def test_a_cold_catalog_takes_a_get_for_each_block_and_for_each_entry_behind() -> None:
    world = World()
    writer = grown(world, 340, block=64)
    assert RollupWriter(writer.ledger).write_missing() == 5
    reader = process(world, write=False, block=64)
    world.store.events.clear()
    reader.ledger.refresh()
    tail = 340 - 5 * 64
    assert asked(world) == {
        "list_versions roll": 1,
        "get roll": 5,
        "list_versions ledger": 1,
        "get ledger": tail + 1,  # and the last entry of the last block, to compare
    }
    assert reader.catalog.dump() == writer.catalog.dump()
    assert reader.ledger.refresh() == writer.ledger.state()
    assert asked(world) == {"list_versions roll": 1, "list_versions ledger": 1}


def test_a_chain_that_ends_with_a_block_is_read_from_roll_ups_alone() -> None:
    world = World()
    writer = rolled(world, 2 * BLOCK)
    reader = cold(world)
    assert asked(world) == {
        "list_versions roll": 1,
        "get roll": 2,
        "list_versions ledger": 1,
        "get ledger": 1,
    }
    assert reader.catalog.dump() == writer.catalog.dump()


def test_void_entries_are_rolled_up_as_they_stand_and_change_nothing() -> None:
    world = World()
    writer = grown(world, 3)
    world.memory.put_new(ledger_key(SYSTEM, 3), b"\njunk\n")
    world.memory.put_new(ledger_key(SYSTEM, 4), b"")
    while (number := writer.ledger.state().next_seq) < BLOCK:
        writer.ledger.commit([archive(wal(number))])
    assert RollupWriter(writer.ledger).write_missing() == 1
    prune(world, *range(BLOCK))
    assert cold(world).catalog.dump() == writer.catalog.dump()
    assert writer.catalog.voids() == [3, 4]


def test_a_reader_inside_a_block_goes_on_with_its_roll_up() -> None:
    world = World()
    writer = grown(world, 5)
    reader = cold(world)
    while (number := writer.ledger.state().next_seq) < 2 * BLOCK + 3:
        writer.ledger.commit([archive(wal(number))])
    assert RollupWriter(writer.ledger).write_missing() == 2
    world.store.events.clear()
    reader.ledger.refresh()
    assert asked(world)["get ledger"] == 1 + 3
    assert reader.catalog.dump() == writer.catalog.dump()


# --- writing ------------------------------------------------------------------------------------------


def test_a_block_is_rolled_up_once_it_is_whole_and_never_again() -> None:
    world = World()
    writer = grown(world, BLOCK - 1)
    rollups = RollupWriter(writer.ledger)
    assert not rollups.due()
    assert rollups.write_missing() == 0
    writer.ledger.commit([archive(wal(BLOCK))])
    assert rollups.due()
    assert rollups.write_missing() == 1
    assert world.keys(ROLL) == [roll_key(SYSTEM, 0, BLOCK)]
    made = split_rollup(
        stored(world, roll_key(SYSTEM, 0, BLOCK)), repo=world.new.repo, system=SYSTEM, first=0, block=BLOCK
    )
    assert list(made) == entries_of(world, 0)
    asked(world)
    assert not rollups.due()
    assert rollups.write_missing() == 0
    assert asked(world) == {}
    assert RollupWriter(writer.ledger).write_missing() == 0, "another process finds it there"
    assert asked(world) == {"list_versions roll": 1}


def test_what_fails_is_left_for_the_next_time_and_holds_no_block_behind_it_up() -> None:
    world = World()
    writer = grown(world, 3 * BLOCK)
    rollups = RollupWriter(writer.ledger)
    world.store.fail(Fault("get", ledger_key(SYSTEM, 2)))
    with pytest.raises(StoreUnavailable):
        rollups.write_missing()
    assert len(world.keys(ROLL)) == 2
    assert rollups.write_missing() == 1
    assert len(world.keys(ROLL)) == 3


def test_a_create_whose_answer_was_lost_is_found_to_be_done() -> None:
    world = World()
    rollups = RollupWriter(grown(world, BLOCK).ledger)
    world.store.fail(Fault("put_new", ROLL, after=True))
    with pytest.raises(StoreUnavailable):
        rollups.write_missing()
    assert rollups.write_missing() == 0
    assert not rollups.due()


def test_two_writers_that_roll_up_the_same_block_agree() -> None:
    world = World()
    one = RollupWriter(grown(world, BLOCK).ledger)
    other = process(world)
    other.ledger.refresh()
    gate = world.store.hold("put_new", ROLL)
    gate.open()
    theirs = rollup_of(world, entries_of(world, 0), 0)
    listed = one._shelf.listed

    def then_lost(seq: int = 0) -> object:
        found = listed(seq)
        world.memory.put_new(roll_key(SYSTEM, 0, BLOCK), theirs)
        return found

    object.__setattr__(one, "_shelf", _Overtaken(one, then_lost))
    assert one.write_missing() == 0
    assert cold(world).ledger.state() == other.ledger.state()


class _Overtaken:
    """A shelf on which another puts something right after it was listed."""

    def __init__(self, rollups: RollupWriter, listed: object) -> None:
        self._shelf = rollups._shelf
        self.listed = listed

    def __getattr__(self, name: str) -> object:
        return getattr(self._shelf, name)


@pytest.mark.parametrize("junk", [b"junk", "another block"])
def test_a_name_that_another_took_for_something_else_is_reported_and_left_alone(junk: bytes | str) -> None:
    world = World()
    writer = grown(world, 2 * BLOCK)
    rollups = RollupWriter(writer.ledger)
    body = junk if isinstance(junk, bytes) else rollup_of(world, [b"x"] * BLOCK, 0)
    listed = rollups._shelf.listed

    def then_lost(seq: int = 0) -> object:
        found = listed(seq)
        world.memory.put_new(roll_key(SYSTEM, 0, BLOCK), body)
        return found

    object.__setattr__(rollups, "_shelf", _Overtaken(rollups, then_lost))
    with pytest.raises(Untrusted):
        rollups.write_missing()
    assert stored(world, roll_key(SYSTEM, 0, BLOCK)) == body
    assert len(world.keys(ROLL)) == 2


def test_a_writer_that_is_stopped_leaves_the_block_for_later() -> None:
    world = World()
    writer = grown(world, BLOCK)
    with pytest.raises(ShuttingDown):
        RollupWriter(writer.ledger, stopping=lambda: True).write_missing()
    assert world.keys(ROLL) == []
    assert RollupWriter(writer.ledger).write_missing() == 1


def test_a_block_that_lost_an_entry_is_not_rolled_up() -> None:
    world = World()
    rollups = RollupWriter(grown(world, BLOCK + 1).ledger)
    raw = stored(world, ledger_key(SYSTEM, 3))
    for body in (None, b"other"):
        world.replace(ledger_key(SYSTEM, 3), body)
        with pytest.raises(ObjectMissing):
            rollups.write_missing()
    world.replace(ledger_key(SYSTEM, 3), raw)
    assert rollups.write_missing() == 1


@pytest.mark.parametrize("junk", [b"junk", bytes(ENTRY_BYTES_MAX + 1)])
@pytest.mark.parametrize("at", [3, BLOCK - 1])
def test_a_block_that_cannot_be_rolled_up_is_read_by_its_names(junk: bytes, at: int) -> None:
    """The last entry is void, or one is too long to be embedded."""
    world = World()
    writer = grown(world, at)
    world.memory.put_new(ledger_key(SYSTEM, at), junk)
    while (number := writer.ledger.state().next_seq) < 2 * BLOCK:
        writer.ledger.commit([archive(wal(number))])
    rollups = RollupWriter(writer.ledger)
    first_too = at == 3 and junk == b"junk"
    assert rollups.write_missing() == (2 if first_too else 1)
    assert not rollups.due()
    assert cold(world).catalog.dump() == writer.catalog.dump()
