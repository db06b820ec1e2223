"""The index against a bucket's true past: whatever was listed when, and in whatever order it came."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence.listings import marker, version
from tests.kit.naiveindex import NaiveIndex
from walarchiver.bucketports import KeyRange, VersionIndex
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.evidence.sqliteindex import SqliteIndex

KEYS = ("a", "b", "c/1", "c/2")
RANGES = (
    KeyRange(),
    KeyRange("b"),
    KeyRange("a", "b"),
    KeyRange("c/", "c/~"),
    *(KeyRange(k, k) for k in KEYS),
)
LAST = 60


@dataclass
class Bucket:
    """A versioned bucket with its whole past; something happens at most once a second."""

    entries: list[Entry] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    """When each version id was removed for ever, in seconds."""

    def write(self, second: int, key: str) -> None:
        self.entries.append(version(key, f"v{second}", second * 1000))

    def delete(self, second: int, key: str) -> None:
        self.entries.append(marker(key, f"m{second}", second * 1000))

    def purge(self, second: int, key: str, which: int) -> None:
        there = [entry for entry in self.at(second) if entry.key == key]
        if there:
            self.removed[there[which % len(there)].version_id] = second

    def at(self, second: float) -> list[Entry]:
        """What a listing shows: keys in order, each newest first."""
        there = [
            entry
            for entry in self.entries
            if entry.modified <= second * 1000 and self.removed.get(entry.version_id, LAST + 1) > second
        ]
        return sorted(there, key=lambda entry: (entry.key, -entry.modified))

    def current(self, key: str, second: float) -> str | None:
        newest = next((entry for entry in self.at(second) if entry.key == key), None)
        return newest.version_id if newest and newest.kind is EntryKind.VERSION else None


@st.composite
def pasts(draw: st.DrawFn) -> Bucket:
    bucket = Bucket()
    for second in sorted(draw(st.sets(st.integers(1, LAST - 1), max_size=14))):
        key = draw(st.sampled_from(KEYS))
        match draw(st.sampled_from(("write", "write", "delete", "purge"))):
            case "write":
                bucket.write(second, key)
            case "delete":
                bucket.delete(second, key)
            case _:
                bucket.purge(second, key, draw(st.integers(0, 3)))
    return bucket


Listed = list[tuple[int, KeyRange]]
listed_when = st.lists(st.tuples(st.integers(0, LAST), st.sampled_from(RANGES)), max_size=8)


def take_over(index: VersionIndex, bucket: Bucket, listed: Listed) -> None:
    for second, keys in listed:
        shown = [entry for entry in bucket.at(second + 0.5) if entry.key in keys]
        index.ingest(keys, shown, asked=StoreMs(second * 1000 + 500))


@settings(max_examples=150, deadline=None)
@given(pasts(), listed_when, st.booleans())
def test_what_the_index_is_certain_of_is_true(bucket: Bucket, listed: Listed, in_order: bool) -> None:
    index = NaiveIndex()
    take_over(index, bucket, sorted(listed, key=lambda one: one[0]) if in_order else listed)
    take_over(index, bucket, [(LAST, KeyRange())])
    for second in range(LAST):
        moment = StoreMs(second * 1000 + 500)
        doubtful = {one.key for one in index.uncertain(moment, band_ms=1)}
        told = {row.entry.key: row.entry.version_id for row in index.as_of(moment)}
        for key in KEYS:
            seen = {row.entry.version_id for row in index.history(key)}
            ever = {entry.version_id for entry in bucket.entries if entry.key == key}
            if key not in doubtful and seen == ever:
                assert told.get(key) == bucket.current(key, second + 0.5)


@settings(max_examples=100, deadline=None)
@given(pasts(), listed_when)
def test_after_a_listing_of_everything_the_index_is_that_listing(bucket: Bucket, listed: Listed) -> None:
    """Scenario 8: duplicate, late and reordered listings of single keys leave nothing behind."""
    index = NaiveIndex()
    take_over(index, bucket, [*listed, *listed, (LAST, KeyRange()), *listed])
    there = [row.entry for key in KEYS for row in index.history(key) if not row.is_gone]
    assert sorted({entry.version_id for entry in there}) == sorted(
        entry.version_id for entry in bucket.at(LAST + 0.5)
    )
    now = {row.entry.key: row.entry.version_id for row in index.as_of(StoreMs(LAST * 1000 + 500))}
    wanted = {key: bucket.current(key, LAST + 0.5) for key in KEYS}
    assert now == {key: one for key, one in wanted.items() if one is not None}


@settings(max_examples=50, deadline=None)
@given(pasts(), listed_when)
def test_when_nothing_is_removed_one_listing_tells_the_whole_past(bucket: Bucket, listed: Listed) -> None:
    bucket.removed.clear()
    with tempfile.TemporaryDirectory() as folder:
        index = SqliteIndex(Path(folder) / "index.db", rows_at_once=2)
        take_over(index, bucket, [*listed, (LAST, KeyRange())])
        for second in range(0, LAST, 3):
            moment = StoreMs(second * 1000 + 999)
            told = {row.entry.key: row.entry.version_id for row in index.as_of(moment)}
            truth = {key: bucket.current(key, second + 0.999) for key in KEYS}
            assert told == {key: one for key, one in truth.items() if one is not None}
        index.close()


def test_a_removal_seen_by_nobody_is_the_one_thing_that_stays_unknown() -> None:
    """Made and removed for ever between two listings: the index cannot know, and docs/bucket.md says so."""
    bucket, index = Bucket(), NaiveIndex()
    bucket.write(5, "a")
    bucket.write(10, "a")
    bucket.purge(20, "a", 0)
    take_over(index, bucket, [(7, KeyRange()), (30, KeyRange())])
    assert bucket.current("a", 15) == "v10"
    assert [row.entry.version_id for row in index.as_of(StoreMs(15_000))] == ["v5"]
