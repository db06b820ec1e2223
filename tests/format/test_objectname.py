"""Names: what is built is what is read, and what is not ours is nobody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core import objectname as names
from walarchiver.core.segment import BackupHistoryFile, PartialFile, Segment, SegmentBytes, SegmentFile

systems = st.integers(1, 2**64 - 1).map(names.system_text)
oids = st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}")
sizes = st.integers(20, 30).map(lambda log: SegmentBytes(1 << log))
SIZE = SegmentBytes(16 << 20)


@given(
    systems,
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    sizes,
    oids,
    st.booleans(),
    st.none() | st.integers(0, 9999),
)
def test_a_wal_name_says_what_it_was_built_from(
    system: str, timeline: int, lsn: int, size: SegmentBytes, oid: str, partial: bool, part: int | None
) -> None:
    segment = Segment(timeline, lsn // size)
    key = names.wal_key(system, segment, size, partial=partial, oid=oid, part=part)
    file = PartialFile(segment) if partial else SegmentFile(segment)
    assert names.parse_wal_key(key, size) == names.WalName(system, file, oid, part)
    assert names.cluster_of(key) == system
    assert key.startswith(names.wal_prefix(system))


def test_wal_names_are_spelled_as_the_format_says() -> None:
    segment = Segment(2, 0x1_07)
    assert (
        names.wal_key("42", segment, SIZE, partial=True, oid="0123456789abcdef", part=3)
        == "v1/c/42/wal/00000002/00000001/000000020000000100000007.partial.0123456789abcdef.0003"
    )
    assert names.history_key("42", 10, "0123456789abcdef") == "v1/c/42/history/0000000A.0123456789abcdef"
    assert (
        names.label_key("42", BackupHistoryFile(segment, 0x28), SIZE, "0123456789abcdef")
        == "v1/c/42/label/000000020000000100000007.00000028.backup.0123456789abcdef"
    )
    assert (
        names.base_part_key("42", "20261122T143206Z-1f2e3d4c", 7, "0123456789abcdef")
        == "v1/c/42/base/20261122T143206Z-1f2e3d4c/00000007.0123456789abcdef"
    )
    assert names.repo_key() == "v1/REPO"
    assert names.keyring_key(1) == "v1/keyring/0001.json"
    assert names.epoch_key_name("42", "e" * 16, 0) == "v1/c/42/keys/eeeeeeeeeeeeeeee.0000.json"
    assert names.ledger_key("42", 255) == "v1/c/42/ledger/00000000000000ff.json"
    assert names.roll_key("42", 4096) == "v1/c/42/roll/0000000000001000-0000000000001fff.zst"


@given(systems, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_ledger_names_sort_by_number(system: str, one: int, two: int) -> None:
    first, second = names.ledger_key(system, one), names.ledger_key(system, two)
    assert (first < second) == (one < two)
    assert names.parse_ledger_key(first) == names.LedgerName(system, one)


@given(systems, st.integers(1, 9999), oids, st.integers(0, 9999), st.integers(0, 2**40))
def test_the_other_names_survive_a_round_trip(system: str, n: int, epoch: str, rev: int, block: int) -> None:
    assert names.parse_keyring_key(names.keyring_key(n)) == n
    key = names.epoch_key_name(system, epoch, rev)
    assert names.parse_epoch_key_name(key) == names.EpochName(system, epoch, rev)
    assert key.startswith(names.epoch_key_prefix(system, epoch))
    first = block * names.ROLL_ENTRIES
    assert names.parse_roll_key(names.roll_key(system, first)) == names.RollName(system, first, first + 4095)
    base = names.base_part_key(system, "20261122T143206Z-1f2e3d4c", rev, epoch)
    assert names.parse_base_part_key(base) == names.BasePartName(
        system, "20261122T143206Z-1f2e3d4c", rev, epoch
    )


@pytest.mark.parametrize(
    "key",
    [
        "v1/c/42/wal/00000001/00000000/000000010000000000000007",  # no oid
        "v1/c/42/wal/00000001/00000001/000000010000000000000007.0123456789abcdef",  # wrong shard
        "v1/c/42/wal/00000002/00000000/000000010000000000000007.0123456789abcdef",  # wrong timeline
        "v1/c/42/wal/00000001/00000000/000000010000000000000107.0123456789abcdef",  # no such segment
        "v1/c/042/wal/00000001/00000000/000000010000000000000007.0123456789abcdef",
        "v1/c/18446744073709551616/wal/00000001/00000000/000000010000000000000007.0123456789abcdef",
        "v1/c/42/wal/00000001/00000000/000000010000000000000007.0123456789ABCDEF",
        "v1/c/42/wal/00000001/00000000/000000010000000000000007.0123456789abcdef\n",
        "x/v1/c/42/wal/00000001/00000000/000000010000000000000007.0123456789abcdef",
    ],
)
def test_a_name_that_is_almost_ours_is_skipped(key: str) -> None:
    assert names.parse_wal_key(key, SIZE) is None


@pytest.mark.parametrize(
    "key",
    [
        "v1/c/42/ledger/ff.json",
        "v1/c/42/ledger/00000000000000FF.json",
        "v1/keyring/0000.json",
        "v1/keyring/1.json",
        "v1/c/42/roll/0000000000000001-0000000000001000.zst",
        "v1/c/42/roll/0000000000000000-0000000000001000.zst",
        "v1/c/42/base/latest/00000007.0123456789abcdef",
        "v1/c/0/ledger/00000000000000ff.json",
    ],
)
def test_no_parser_takes_a_stranger(key: str) -> None:
    parsers = (
        names.parse_keyring_key,
        names.parse_ledger_key,
        names.parse_epoch_key_name,
        names.parse_roll_key,
        names.parse_base_part_key,
    )
    assert [parse(key) for parse in parsers] == [None] * len(parsers)


@pytest.mark.parametrize(
    "build",
    [
        lambda: names.ledger_key("0", 1),
        lambda: names.ledger_key("07", 1),
        lambda: names.ledger_key("1/../2", 1),
        lambda: names.ledger_key("1", -1),
        lambda: names.ledger_key("1", 2**64),
        lambda: names.keyring_key(0),
        lambda: names.keyring_key(10_000),
        lambda: names.roll_key("1", 1),
        lambda: names.history_key("1", 1, "0123456789abcdef"),
        lambda: names.history_key("1", 2, "../../etc/passwd"),
        lambda: names.base_part_key("1", "../x", 0, "0123456789abcdef"),
        lambda: names.system_text(2**64),
    ],
)
def test_a_name_that_cannot_be_is_never_built(build: object) -> None:
    with pytest.raises(ValueError):
        build()  # type: ignore[operator]
