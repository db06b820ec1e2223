"""Positions, moments and the four kinds of WAL file name: writing and reading are inverses."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core import moment
from walarchiver.core.lsn import MAX_LSN, Lsn, format_lsn, parse_lsn
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    WalFile,
    parse_wal_file,
    valid_segment_bytes,
    wal_file_name,
)
from walarchiver.errors import NotAWalFile, UsageError

SIZES = [SegmentBytes(1 << power) for power in range(20, 31)]
sizes = st.sampled_from(SIZES)
timelines = st.integers(1, 2**32 - 1)
lsns = st.integers(0, MAX_LSN).map(Lsn)


@st.composite
def wal_files(draw: st.DrawFn) -> tuple[WalFile, SegmentBytes]:
    size = draw(sizes)
    segment = Segment.at(draw(timelines), draw(lsns), size)
    kinds: list[WalFile] = [
        SegmentFile(segment),
        PartialFile(segment),
        BackupHistoryFile(segment, draw(st.integers(0, size - 1))),
        HistoryFile(draw(st.integers(2, 2**32 - 1))),
    ]
    return draw(st.sampled_from(kinds)), size


@given(lsns)
def test_an_lsn_survives_its_own_text(lsn: Lsn) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize(
    "text", ["", "0", "0/", "/0", "1/2/3", "0/123456789", "g/0", " 0/1", "0/1\n", "-1/0"]
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not an LSN"):
        parse_lsn(text)


@given(wal_files())
def test_a_wal_file_survives_its_own_name(drawn: tuple[WalFile, SegmentBytes]) -> None:
    file, size = drawn
    assert parse_wal_file(wal_file_name(file, size), size) == file


@given(timelines, lsns, sizes)
def test_a_segment_holds_the_byte_it_was_made_for(timeline: int, lsn: Lsn, size: SegmentBytes) -> None:
    segment = Segment.at(timeline, lsn, size)
    assert segment.start(size) <= lsn < segment.end(size)


@given(timelines, st.integers(0, 2**34 - 2), sizes)
def test_within_a_timeline_names_sort_like_addresses(timeline: int, number: int, size: SegmentBytes) -> None:
    here, there = Segment(timeline, number), Segment(timeline, number + 1)
    assert here.name(size) < there.name(size)


@pytest.mark.parametrize(
    ("size", "last", "following"),
    [
        (1 << 20, "000000010000000000000FFF", "000000010000000100000000"),
        (1 << 24, "0000000100000000000000FF", "000000010000000100000000"),
        (1 << 26, "00000001000000000000003F", "000000010000000100000000"),
        (1 << 30, "000000010000000000000003", "000000010000000100000000"),
    ],
)
def test_the_last_file_before_four_gib_depends_on_the_segment_size(
    size: SegmentBytes, last: str, following: str
) -> None:
    segment = Segment.parse(last, size)
    assert Segment(1, segment.number + 1).name(size) == following
    over = f"{last[:16]}{int(last[16:], 16) + 1:08X}"
    with pytest.raises(NotAWalFile, match="cannot exist"):
        Segment.parse(over, size)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000001000000000000000",
        "0000000100000000000000011",
        "00000001000000000000000a",
        "00000001000000000000000G",
        "00000001000000000000000:",
        "000000000000000000000001",
        "000000010000000000000001.PARTIAL",
        "000000010000000000000001.partial.partial",
        "000000010000000000000001\n",
        "000000010000000000000001.00000028.backup.partial",
        "000000010000000000000001.01000000.backup",
        "00000001.history",
        "00000000.history",
        "2.history",
        "../../00000002.history",
        "RECOVERYXLOG",
    ],
)
def test_a_name_postgresql_never_gives_is_refused(name: str) -> None:
    with pytest.raises(NotAWalFile):
        parse_wal_file(name, SegmentBytes(1 << 24))


def test_only_powers_of_two_from_one_mib_to_one_gib_are_segment_sizes() -> None:
    candidates = [n for power in range(19, 33) for n in (1 << power, (1 << power) + 512, 3 << power)]
    assert [n for n in candidates if valid_segment_bytes(n)] == SIZES


FIVE_HOURS_WEST = timezone(timedelta(hours=-5))


@given(st.integers(0, 253_370_764_800_000_000))
def test_an_instant_survives_its_own_text_to_the_microsecond(us: int) -> None:
    assert moment.parse_rfc3339(moment.format_rfc3339(us)) == us
    assert moment.micros(moment.as_datetime(us).astimezone(FIVE_HOURS_WEST)) == us


def test_a_datetime_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        moment.micros(datetime.fromisoformat("2026-11-22T12:00:00"))


@pytest.mark.parametrize(
    "text", ["2026-11-22T12:00:00Z", "2026-11-22 12:00:00.000000Z", "2026-02-30T12:00:00.000000Z"]
)
def test_only_the_one_form_of_an_instant_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-|day"):
        moment.parse_rfc3339(text)


def test_postgresql_counts_from_the_year_2000_in_utc() -> None:
    assert moment.format_postgres(moment.POSTGRES_EPOCH_US) == "2000-01-01 00:00:00.000000+00"
