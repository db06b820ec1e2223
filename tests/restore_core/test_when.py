"""The grammar of --at: what is understood, and what is refused instead of guessed."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore.core.model import AtLatest, AtLsn, AtName, AtTime, AtXid, Target
from restore.core.when import describe_target, parse_when
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, micros
from walarchiver.errors import (
    TimeAmbiguous,
    TimeInFuture,
    TimeNotUnderstood,
    TimeWithoutZone,
    UsageError,
)

NOW = micros(datetime(2026, 11, 22, 15, 0, 0, 123456, tzinfo=UTC))


def at(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, us: int = 0
) -> AtTime:
    return AtTime(CommitTime(micros(datetime(year, month, day, hour, minute, second, us, tzinfo=UTC))))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("2026-11-22T14:32:06Z", at(2026, 11, 22, 14, 32, 6)),
        ("2026-11-22 14:32:06Z", at(2026, 11, 22, 14, 32, 6)),
        ("  2026-11-22t14:32:06z ", at(2026, 11, 22, 14, 32, 6)),
        ("2026-11-22T14:32:06.5+01:00", at(2026, 11, 22, 13, 32, 6, 500_000)),
        ("2026-11-22 12:32:06.000001+00", at(2026, 11, 22, 12, 32, 6, 1)),
        ("2026-11-22 14:32:06 +0100", at(2026, 11, 22, 13, 32, 6)),
        ("2026-11-22 14:32 UTC", at(2026, 11, 22, 14, 32)),
        ("2026-11-22 14:32:06 Europe/Berlin", at(2026, 11, 22, 13, 32, 6)),
        ("2026-07-01 14:32:06 Europe/Berlin", at(2026, 7, 1, 12, 32, 6)),
        ("2026-11-22 14:32:06 utc", at(2026, 11, 22, 14, 32, 6)),
        ("10 minutes ago", at(2026, 11, 22, 14, 50, 0, 123456)),
        ("1 second ago", at(2026, 11, 22, 14, 59, 59, 123456)),
        ("2 days ago", at(2026, 11, 20, 15, 0, 0, 123456)),
        ("0 hours ago", at(2026, 11, 22, 15, 0, 0, 123456)),
        ("yesterday 14:32 UTC", at(2026, 11, 21, 14, 32)),
        ("today 9:00 Europe/Berlin", at(2026, 11, 22, 8, 0)),
        ("latest", AtLatest()),
        ("lsn:0/3000148", AtLsn(Lsn(0x3000148))),
        ("xid:739", AtXid(739)),
        ("xid:4294968035", AtXid(739)),
        ("before-xid:739", AtXid(739, before=True)),
        ("name:before_migration", AtName("before_migration")),
        ("name:a: b ", AtName("a: b ")),
    ],
)
def test_what_the_grammar_allows_means_exactly_one_target(text: str, target: Target) -> None:
    assert parse_when(text, now_us=NOW, timezone=None).target == target


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("2026-11-22 14:32:06", TimeWithoutZone, "in UTC it is 2026-11-22T14:32:06.000000Z"),
        ("2026-11-22 14:32:06", TimeWithoutZone, "in Europe/Berlin it is 2026-11-22T13:32:06.000000Z"),
        ("yesterday 14:32", TimeWithoutZone, "in Europe/Berlin it is 2026-11-21T13:32:00.000000Z"),
        ("2026-03-29 02:30:00", TimeWithoutZone, "does not name one instant"),
        ("2026-11-22T15:00:00.123457Z", TimeInFuture, "has not happened yet"),
        (
            "2026-10-25 02:30:00 Europe/Berlin",
            TimeAmbiguous,
            "2026-10-25T00:30:00.000000Z and 2026-10-25T01:30",
        ),
        (
            "2026-03-29 02:30:00 Europe/Berlin",
            TimeAmbiguous,
            "2026-03-29T00:30:00.000000Z and 2026-03-29T01:30",
        ),
        ("11/22/2026 14:32:06Z", TimeNotUnderstood, "slashes"),
        ("2026/11/22 14:32:06Z", TimeNotUnderstood, "slashes"),
        ("22.11.2026 14:32 UTC", TimeNotUnderstood, "year does not come first"),
        ("11-22-2026 14:32 UTC", TimeNotUnderstood, "year does not come first"),
        ("Nov 22 2026 14:32 UTC", TimeNotUnderstood, "year does not come first"),
        ("22 November 2026", TimeNotUnderstood, "year does not come first"),
        ("2026-11-22", TimeNotUnderstood, "a day, not a moment"),
        ("2016-12-31T23:59:60Z", TimeNotUnderstood, "60th second"),
        ("2026-11-21T24:00:00Z", TimeNotUnderstood, "hour 24"),
        ("2026-11-21T25:00:00Z", TimeNotUnderstood, "not a time of day"),
        ("2026-11-21T14:60:00Z", TimeNotUnderstood, "not a time of day"),
        ("2026-02-30T14:00:00Z", TimeNotUnderstood, "not a day of the calendar"),
        ("2026-11-21T14:00:00.1234567Z", TimeNotUnderstood, "finer than a microsecond"),
        ("2026-11-21T14:00:00+16:00", TimeNotUnderstood, "not an offset"),
        ("2026-11-21T14:00:00+01:60", TimeNotUnderstood, "not an offset"),
        ("2026-11-21 14:00:00 CEST", TimeNotUnderstood, "'CEST' is not a zone"),
        ("2026-11-21 14:00:00 EST", TimeNotUnderstood, "'EST' is not a zone"),
        ("2026-11-21 14:00:00 Europe/Berlim", TimeNotUnderstood, "is not a zone"),
        ("2026-11-21 14:00:00 ../../etc/passwd", TimeNotUnderstood, "that can be restored"),
        ("2026-11-21 14:00:00 a/../../passwd", TimeNotUnderstood, "is not a zone"),
        ("2026-11-21 14:00:00 America/", TimeNotUnderstood, "is not a zone"),
        ("0999-11-21T14:00:00Z", TimeNotUnderstood, "outside 1970 to 2999"),
        ("9999-12-31T23:59:59Z", TimeNotUnderstood, "outside 1970 to 2999"),
        ("3 fortnights ago", TimeNotUnderstood, "not a unit"),
        ("999999999 hours ago", TimeNotUnderstood, "before 1970"),
        ("tomorrow 14:00", TimeNotUnderstood, "that can be restored"),
        ("now", TimeNotUnderstood, "that can be restored"),
        ("", TimeNotUnderstood, "that can be restored"),
        ("lsn:3000148", TimeNotUnderstood, "is not an LSN"),
        ("xid:two", TimeNotUnderstood, "not a transaction id"),
        ("xid:\u0663\u0664", TimeNotUnderstood, "not a transaction id"),
        ("xid:2", TimeNotUnderstood, "reserved"),
        ("xid:18446744073709551616", TimeNotUnderstood, "not a transaction id"),
        ("name:", TimeNotUnderstood, "cannot be the name"),
        ("name:" + "n" * 64, TimeNotUnderstood, "cannot be the name"),
    ],
)
def test_what_could_mean_two_things_is_refused_with_its_reason(
    text: str, error: type[TimeNotUnderstood], said: str
) -> None:
    with pytest.raises(error) as caught:
        parse_when(text, now_us=NOW, timezone=None, host_timezone="Europe/Berlin")
    assert type(caught.value) is error
    assert said in caught.value.message


def test_a_configured_zone_reads_unzoned_times() -> None:
    understood = parse_when("2026-11-22 14:32:06", now_us=NOW, timezone="Europe/Berlin")
    assert understood.target == at(2026, 11, 22, 13, 32, 6)
    assert understood.utc == "2026-11-22T13:32:06.000000Z"
    assert understood.local == "2026-11-22 14:32:06.000000+01:00 Europe/Berlin"
    assert understood.text == ("2026-11-22T13:32:06.000000Z (2026-11-22 14:32:06.000000+01:00 Europe/Berlin)")


def test_yesterday_is_the_day_before_in_the_zone_that_is_asked() -> None:
    """Just after midnight in Tokyo the day there is not the day in UTC."""
    now = micros(datetime(2026, 11, 22, 15, 30, tzinfo=UTC))  # 00:30 on the 23rd in Tokyo
    tokyo = parse_when("yesterday 14:32 Asia/Tokyo", now_us=now, timezone=None)
    assert tokyo.utc == "2026-11-22T05:32:00.000000Z"


def test_a_configured_zone_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Middle/Earth"):
        parse_when("latest", now_us=NOW, timezone="Middle/Earth")


instants = st.integers(0, NOW)
offsets = st.integers(-15 * 60 - 59, 15 * 60 + 59)


@given(instants, offsets)
def test_every_instant_written_with_any_offset_is_read_back_exactly(us: int, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).astimezone(zone)
    if moment.year < 1970:
        return
    for text in (
        moment.isoformat(),
        moment.isoformat(sep=" "),
        moment.isoformat(sep=" ", timespec="microseconds"),
    ):
        assert parse_when(text, now_us=NOW, timezone=None).target == AtTime(CommitTime(us))


@given(
    instants, st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
)
def test_a_local_time_is_read_back_or_refused_as_ambiguous(us: int, name: str) -> None:
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).astimezone(ZoneInfo(name))
    if moment.year < 1970:
        return
    text = moment.replace(tzinfo=None).isoformat(sep=" ") + " " + name
    try:
        understood = parse_when(text, now_us=NOW, timezone=None)
    except TimeAmbiguous:
        other = moment.replace(fold=1 - moment.fold)
        assert other.utcoffset() != moment.utcoffset()
    else:
        assert understood.target == AtTime(CommitTime(us))


targets = st.one_of(
    st.builds(AtTime, instants),
    st.builds(AtLsn, st.integers(0, 2**64 - 1)),
    st.builds(AtXid, st.integers(3, 2**32 - 1), st.booleans()),
    st.builds(
        AtName, st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=63)
    ),
    st.just(AtLatest()),
)


@given(targets)
def test_a_described_target_is_read_back_as_itself(target: Target) -> None:
    if isinstance(target, AtName) and not target.name.strip():
        return
    assert parse_when(describe_target(target), now_us=NOW, timezone=None).target == target


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused_never_a_crash(text: str) -> None:
    with contextlib.suppress(TimeNotUnderstood):
        understood = parse_when(text, now_us=NOW, timezone=None)
        assert parse_when(describe_target(understood.target), now_us=NOW, timezone=None) == understood
