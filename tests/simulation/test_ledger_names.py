"""What stands at the ledger's names, read as it is: what goes while it is read, and junk beside the good."""

from __future__ import annotations

import hashlib

import pytest

from tests.simulation.test_rollups import BLOCK, rolled
from tests.simulation.world import SYSTEM, World
from walarchiver.core.objectname import ledger_key, roll_key
from walarchiver.entrystore import EntryStore
from walarchiver.errors import ObjectDamaged, ObjectMissing
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.ports import StoredVersion
from walarchiver.rollupstore import RollupStore
from walarchiver.storage.memory import MemoryStore

PIECE = 8 << 20
TOO_LONG = bytes(ENTRY_BYTES_MAX + 1)


class ShrinkingStore(MemoryStore):
    """Gives `whole` bytes of each object, then what `after` says: gone (None), or nothing more."""

    whole = 0
    after: bytes | None = None

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        if start < self.whole:
            return super().get_range(key, start=start, length=length, version_id=version_id)
        return self.after


def too_long(whole: int, after: bytes | None) -> tuple[EntryStore, StoredVersion]:
    store = ShrinkingStore(World().clock)
    store.whole, store.after = whole, after
    store.put_new(ledger_key(SYSTEM, 1), TOO_LONG)
    (version,) = store.list_versions(ledger_key(SYSTEM, 1))
    return EntryStore(store, SYSTEM), version


def test_an_object_too_long_for_an_entry_is_hashed_and_not_held() -> None:
    entries, version = too_long(len(TOO_LONG), None)
    content = entries.content(version)
    assert content is not None
    assert (content.sha256, content.body) == (hashlib.sha256(TOO_LONG).hexdigest(), None)


@pytest.mark.parametrize("whole", [0, PIECE])
def test_such_an_object_that_goes_while_it_is_hashed_is_nothing(whole: int) -> None:
    entries, version = too_long(whole, None)
    assert entries.content(version) is None
    assert entries.distinct([version]) == []


def test_such_an_object_that_ends_early_is_damage_and_never_another_content() -> None:
    entries, version = too_long(PIECE, b"")
    with pytest.raises(ObjectDamaged, match=f"gave {PIECE} of its {len(TOO_LONG)} bytes"):
        entries.content(version)


def test_an_entry_that_goes_between_listing_and_reading_is_nothing() -> None:
    world = World()
    world.began()
    (version,) = world.memory.list_versions(ledger_key(SYSTEM, 0))
    world.memory.delete_version(version.key, version_id=version.version_id)
    assert EntryStore(world.memory, SYSTEM).content(version) is None


def rollups(world: World) -> RollupStore:
    return RollupStore(world.memory, world.new.repo, SYSTEM, BLOCK)


def test_a_roll_up_that_goes_between_listing_and_reading_is_missing_and_not_empty() -> None:
    world = World()
    rolled(world, BLOCK)
    store = rollups(world)
    (version,) = store.at(0)
    world.memory.delete_version(version.key, version_id=version.version_id)
    assert store.at(0) == []
    with pytest.raises(ObjectMissing, match="listed but cannot be read"):
        store.unpacked(0, version)


def last_of(world: World) -> str:
    raw = world.memory.get(ledger_key(SYSTEM, BLOCK - 1), bytes_max=ENTRY_BYTES_MAX)
    assert raw is not None
    return hashlib.sha256(raw).hexdigest()


def test_a_block_ends_with_the_entry_that_its_roll_up_ends_with_and_no_other() -> None:
    world = World()
    rolled(world, 2 * BLOCK)
    store, last = rollups(world), last_of(world)
    assert store.ends_with(0, last)
    assert not store.ends_with(0, "0" * 64)
    assert not store.ends_with(0, None)
    assert not store.ends_with(BLOCK, last)
    assert not store.ends_with(2 * BLOCK, last), "there is no such roll-up"


@pytest.mark.parametrize("junk_is", ["newer", "older"])
def test_junk_beside_a_roll_up_neither_hides_it_nor_counts(junk_is: str) -> None:
    world = World()
    rolled(world, BLOCK)
    store, last = rollups(world), last_of(world)
    key = roll_key(SYSTEM, 0, BLOCK)
    (version,) = store.at(0)
    good = world.memory.get(key, bytes_max=1 << 26)
    assert good is not None
    if junk_is == "older":
        world.memory.delete_version(key, version_id=version.version_id)
        world.plant(key, b"junk")
        assert not store.ends_with(0, last), "junk alone ends with nothing"
        world.plant(key, good)
    else:
        world.plant(key, b"junk")
    assert len(store.at(0)) == 2
    assert store.ends_with(0, last)
