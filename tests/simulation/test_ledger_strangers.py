"""What others put at the ledger's names, and entries that are hidden, doubled or gone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.test_ledger import PLACE, archive, entry_at, names, same_everywhere, wal
from tests.simulation.world import SYSTEM, World
from walarchiver.core.objectname import ledger_key
from walarchiver.errors import (
    LedgerBroken,
    ObjectMissing,
    StoreUnavailable,
)
from walarchiver.format.chain import build_entry
from walarchiver.format.entry import ENTRY_BYTES_MAX, parse_entry
from walarchiver.format.signed import Signer


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
